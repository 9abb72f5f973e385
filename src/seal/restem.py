"""ReST-EM's M-step (paper section 3.1): train the policy to write self-edits like those that helped.

`ReSTEMOptimizer.update` is supervised fine-tuning on prompt → completion with the prompt masked, through TRL,
merged into the next checkpoint. Which self-edits helped is decided in `seal.selection`.

Differences from the paper's code: a round in which nothing is kept leaves the policy as it is; the loss of a
step is a mean over its completion tokens, whatever the micro-batches.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError, DataError, ModelError
from seal.extras import install
from seal.launch import ALONE, Together
from seal.launch.sft import train_together
from seal.models import sharding
from seal.models.checkpoint import save_checkpoint
from seal.models.lora import Factors, LoRAWrapper
from seal.models.merge import merged
from seal.models.stacked import adapter_of, save_stacked
from seal.models.window import window
from seal.prompt import PromptContract, contract_of
from seal.records import TrainingConfig, TrainingSequence
from seal.scratch import scratch_folder
from seal.seeds import derive
from seal.selection import Pair
from seal.thoughts import without_thoughts
from seal.training_config import PAPER_SFT

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seal.models.load import LoadedModel

#: Below this many updates of the weights an M-step hardly moves a policy.
FEW_UPDATES = 40


Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The policy after an M-step."""

    version: str
    """Version of the policy now in force; the old one when nothing was learned."""
    folder: str
    """The new checkpoint; empty without an update."""
    losses: tuple[float, ...]
    """Mean loss of every optimiser step, in nats a learned token."""
    n: int
    """Self-edits trained on."""
    updated: bool
    why: str = ""
    """Why there was no update."""


class ReSTEMOptimizer:
    """The M-step.

    Args:
        sft: training config; `batch_size` × `accumulation` self-edits make one update of the weights.
        micro_batch: self-edits in one forward pass of one process; changes memory, not the result.
        together: in how many processes of this machine, and how they share the base.
        adapters: whether all changes since the first policy are also saved as a LoRA adapter, beside each
            checkpoint (see `seal.models.stacked`).
    """

    def __init__(
        self,
        sft: TrainingConfig = PAPER_SFT,
        *,
        micro_batch: int = 1,
        together: Together = ALONE,
        adapters: bool = False,
    ) -> None:
        self.sft = sft
        self.micro_batch, self.together, self.adapters = micro_batch, together, adapters

    def update(
        self,
        loaded: LoadedModel,
        pairs: Sequence[Pair],
        out_folder: str | Path,
        seed: int = 0,
        *,
        progress: Progress | None = None,
    ) -> UpdateResult:
        """Train on the kept (prompt, completion) pairs and save the next policy in `out_folder`.

        `loaded` is left as it is: load the new checkpoint to go on with it. Equal input, seed and number of
        threads give an equal checkpoint. `progress(step, steps)` is called after every step.

        Raises:
            DataError: a pair does not fit into the model's window, or has no text to learn.
            ModelError: the loss is not finite, the checkpoint cannot be written, or one of several processes
            failed.
        """
        if not pairs:
            why = "no self-edit was kept, so the policy stays as it is"
            return UpdateResult(loaded.version, "", (), 0, False, why)
        rows = completion_sequences(loaded.tokenizer, pairs, window(loaded.model))
        factors, losses = self._fit(loaded, rows, seed, progress)
        if self.adapters:
            before = adapter_of(loaded.source)
            scale = self.sft.alpha / self.sft.rank
            known = before if before.is_dir() else None
            save_stacked(loaded.model, factors, scale, adapter_of(out_folder), known)
        version = save_merged(loaded, factors, self.sft, out_folder)
        return UpdateResult(version, str(out_folder), tuple(losses), len(rows), True)

    def _fit(
        self, loaded: LoadedModel, rows: Sequence[TrainingSequence], seed: int, progress: Progress | None
    ) -> tuple[Factors, list[float]]:
        train: Callable[..., tuple[Factors, list[float]]] = train_on_sequences
        if not self.together.alone:
            train = partial(train_together, together=self.together)
        return train(loaded, rows, self.sft, seed, micro_batch=self.micro_batch, progress=progress)


def save_merged(loaded: LoadedModel, factors: Factors, sft: TrainingConfig, folder: str | Path) -> str:
    """Save `loaded` with the trained factors merged in, as a checkpoint; its version."""
    model, scale = loaded.model, sft.alpha / sft.rank
    with _as_it_was(model), merged(model, factors, scale) as policy:
        return save_checkpoint(policy, loaded.tokenizer, folder)


def completion_sequences(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], limit: int | None = None
) -> list[TrainingSequence]:
    """One row a pair: the prompt, masked; the completion without thoughts, and its end, learned.

    Of a completion that was given but for some choices, these alone are learned.
    A completion that was cut short gets no end token, or the policy would learn to stop in mid-sentence. A
    prompt is complete text (chat template already applied); see `seal.prompt`.

    Raises:
        DataError: a row is longer than `limit` tokens, or its completion is empty.
    """
    contract = contract_of(tokenizer)
    return [_completion_sequence(contract, pair, limit, n) for n, pair in enumerate(pairs, 1)]


def _completion_sequence(
    contract: PromptContract, pair: Pair, limit: int | None, number: int
) -> TrainingSequence:
    prompt, completion, truncated, choices = Pair(*pair)
    completion = completion if choices else without_thoughts(completion)
    if not completion.strip():
        raise DataError(f"completion {number} of the SFT data is empty", "drop it from the data")
    row = contract.pair(prompt, completion, limit, truncated=truncated, choices=choices)
    if limit is not None and len(row.ids) > limit:
        raise DataError(
            f"prompt and completion {number} have {len(row.ids)} tokens and the model's window is {limit}",
            "shorten the passage or lower generation.max_new_tokens",
        )
    return row


def train_on_sequences(
    loaded: LoadedModel,
    rows: Sequence[TrainingSequence],
    training: TrainingConfig,
    seed: int,
    *,
    micro_batch: int = 1,
    progress: Progress | None = None,
) -> tuple[Factors, list[float]]:
    """Fit LoRA factors with TRL's `SFTTrainer`, in this process or in every one that `accelerate` started.

    The loaded model comes back as it was (but for DeepSpeed ZeRO-3, which cuts its weights up for good).

    Returns:
        The factors (whole, on the CPU, equal in every process) and the mean loss of every step.

    Raises:
        ModelError: TRL is not installed, or the loss is not finite.
        ConfigError: the batch cannot be shared by the processes.
    """
    model = loaded.model
    with scratch_folder("sft") as scratch, _as_it_was(model):
        # Before the adapter: these tell PEFT and transformers whether DeepSpeed is in charge.
        arguments = _arguments(model, training, seed, micro_batch, str(scratch))
        with LoRAWrapper.from_config(model, training) as adapter:
            adapter.reset(derive(seed, "sft"))
            with _fitted(adapter.peft, loaded.tokenizer, rows, arguments, progress) as losses:
                return adapter.factors(), losses


def finetune(
    loaded: LoadedModel, rows: Sequence[TrainingSequence], training: TrainingConfig, seed: int
) -> list[float]:
    """Train every weight of `loaded` in place with TRL's `SFTTrainer`; the mean loss of every step.

    Raises:
        ModelError: TRL is not installed, a row is longer than the model's window, or the loss not finite.
    """
    model, limit = loaded.model, window(loaded.model)
    longest = max(len(row.ids) for row in rows)
    if limit is not None and longest > limit:
        raise ModelError(f"a row has {longest} tokens, the model's window is {limit}", "split the passage")
    with scratch_folder("sft") as scratch, _as_it_was(model):
        arguments = _arguments(model, training, seed, training.batch_size, str(scratch))
        model.requires_grad_(True)
        try:
            with _fitted(model, loaded.tokenizer, rows, arguments) as losses:
                return losses
        finally:
            model.requires_grad_(False).eval()


@contextlib.contextmanager
def _fitted(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TrainingSequence],
    arguments: Any,
    progress: Progress | None = None,
) -> Iterator[list[float]]:
    """Train `model`; inside, DeepSpeed's shards can still be gathered. The mean loss of every step."""
    try:
        from trl import SFTTrainer
    except ImportError as error:
        raise ModelError("the M-step needs TRL, which is not installed", f"run: {install()}") from error
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    columns = {"input_ids": [list(row.ids) for row in rows], "labels": [_labels(row) for row in rows]}
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=copy.deepcopy(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    if progress is not None:
        trainer.add_callback(_on_step(progress))
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    bad = next((loss for loss in losses if not math.isfinite(loss)), None)
    if bad is not None:
        raise ModelError(f"the training loss became {bad}", "lower the learning rate (sft.learning_rate)")
    yield losses
    trainer.accelerator.free_memory()


def _labels(row: TrainingSequence) -> list[int]:
    """Token ids where the loss counts, −100 elsewhere."""
    counted = set(row.labelled())
    return [token if i in counted else -100 for i, token in enumerate(row.ids)]


def _arguments(
    model: PreTrainedModel, training: TrainingConfig, seed: int, micro_batch: int, scratch: str
) -> Any:
    """TRL's settings: one log a step, no file, no tracker, no bar."""
    import torch
    from transformers.trainer_utils import SchedulerType
    from trl import SFTConfig

    micro, accumulation = _share(training, micro_batch)
    schedule = {"constant": "constant_with_warmup"}.get(training.schedule, training.schedule)
    sharded = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    arguments = SFTConfig(
        output_dir=scratch,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=training.epochs,
        max_steps=training.steps or -1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=SchedulerType(schedule),
        warmup_steps=training.warmup_ratio,  # below 1: a share of the steps
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim="adamw_torch",
        train_sampling_strategy="random" if training.shuffle else "sequential",
        seed=derive(seed, "order") % 2**32,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=sharded and model.dtype == torch.bfloat16,
        activation_checkpointing=sharded,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    sharding.set_up(model.device)  # the arguments have cleared accelerate's state
    return arguments


def _share(training: TrainingConfig, micro_batch: int) -> tuple[int, int]:
    """Rows in one forward pass of one process, and how many passes make a step."""
    total = training.batch_size * training.accumulation
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if total % processes:
        raise ConfigError(
            f"a batch of {total} self-edits cannot be shared by {processes} processes",
            "make the batch size a multiple of the number of processes",
        )
    each = total // processes
    micro = max(n for n in range(1, each + 1) if each % n == 0 and n <= max(1, micro_batch))
    return micro, each // micro


def _on_step(progress: Progress) -> Any:
    from transformers import TrainerCallback

    class OnStep(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

    return OnStep()


@contextlib.contextmanager
def _as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Undo what training and saving leave behind: a patched forward, entries of the configs, global seeds."""
    import numpy
    import torch

    own = {name: model.__dict__.get(name) for name in ("forward", "model_tags")}
    configs = [c for c in (model.config, model.generation_config) if c is not None]
    settings = [copy.deepcopy(vars(config)) for config in configs]
    device, python, numbers = model.device, random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, value in own.items():
                model.__dict__.pop(name, None)
                if value is not None:
                    setattr(model, name, value)
            for config, before in zip(configs, settings, strict=True):
                vars(config).clear()
                vars(config).update(before)
            random.setstate(python)
            numpy.random.set_state(numbers)
