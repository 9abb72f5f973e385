"""The peers: the official procedure (PEFT and Trainer, padded), and PEFT tuned as far as it goes alone."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.nn import functional as F

from seal.models.load import LoadedModel, load_model
from seal.models.lora import target_modules
from seal.records import AdaptJob, TrainingConfig, TrainingSequence
from seal.schedule import learning_rate, step_sequences, total_steps

OFFICIAL_LENGTH = 2048


class TunedPeft:
    """PEFT with one model kept for all jobs: no padding, labelled logits only, fused AdamW, batch 1.

    Args:
        loaded: is changed for good: the adapter stays attached.
        low_precision: adapter weights in the model's type instead of fp32.
    """

    def __init__(self, loaded: LoadedModel, recipe: TrainingConfig, low_precision: bool = False) -> None:
        self.device, self.pad = loaded.model.device, int(loaded.tokenizer.pad_token_id or 0)
        self.model = _attach(loaded, recipe, autocast_adapter_dtype=not low_precision)
        self.factors = [p for p in self.model.parameters() if p.requires_grad]
        self.model.generation_config.eos_token_id = None  # every answer has the full length
        self.model.generation_config.pad_token_id = self.pad

    def fit(self, job: AdaptJob) -> int:
        """Train the adapter from new start values; returns the tokens that went through."""
        self._reset(job.seed)
        recipe, tokens, total = job.training, 0, total_steps(len(job.sequences), job.training)
        optimizer = torch.optim.AdamW(self.factors, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
        for step, chosen in enumerate(step_sequences(len(job.sequences), recipe, job.seed)):
            for row in (job.sequences[i] for i in chosen):
                self._loss(row).backward()  # type: ignore[no-untyped-call, unused-ignore]
                tokens += len(row.ids)
            torch.nn.utils.clip_grad_norm_(self.factors, recipe.max_grad_norm)
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, step, total)
            optimizer.step()
            optimizer.zero_grad()
        return tokens

    def _loss(self, row: TrainingSequence) -> torch.Tensor:
        ids = torch.tensor([row.ids], device=self.device)
        labelled = torch.tensor(row.labelled(), device=self.device)
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=labelled - 1).logits[0]
        return F.cross_entropy(logits.float(), ids[0, labelled])

    @torch.no_grad()
    def _reset(self, seed: int) -> None:
        torch.manual_seed(seed)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.zero_() if "lora_B" in name else torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)

    def answer(self, prompts: Sequence[Sequence[int]], n: int, ends: Collection[int] = ()) -> int:
        """Greedy answers of `n` tokens, or up to one of `ends`, in one padded batch; returns how many."""
        return generate(self.model, prompts, n, self.pad, ends)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The model without the adapter."""
        with self.model.disable_adapter():
            yield


def _attach(loaded: LoadedModel, recipe: TrainingConfig, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=int(recipe.alpha),
        target_modules=target_modules(loaded.model, recipe.targets),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(loaded.model, config, **options)


@torch.no_grad()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], n: int, pad: int, ends: Collection[int] = ()
) -> int:
    """transformers' own greedy decoding, padded on the left; returns the number of prompts."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    stop = {"eos_token_id": sorted(ends)} if ends else {}
    out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=n, **stop)
    assert ends or out.shape[1] == longest + n
    return len(prompts)


class Processes:
    """Several processes of one thread each, every one a `TunedPeft` with its share of the jobs."""

    def __init__(self, n: int, model: str, dtype: str, recipe: TrainingConfig, low_precision: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for _ in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, model, dtype, recipe, low_precision), daemon=True
            )
            process.start()
            self._ends.append(ours)
            self._processes.append(process)
        for end in self._ends:
            end.recv()

    def fit(self, jobs: Sequence[AdaptJob]) -> int:
        """Train all jobs, shared out by size; returns the tokens that went through."""
        shares: list[list[AdaptJob]] = [[] for _ in self._ends]
        for job in sorted(jobs, key=lambda j: -sum(len(r.ids) for r in j.sequences)):
            min(shares, key=lambda s: sum(len(r.ids) for j in s for r in j.sequences)).append(job)
        for end, share in zip(self._ends, shares, strict=True):
            end.send(share)
        return sum(end.recv() for end in self._ends)

    def close(self) -> None:
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(None)
            process.join(30)


def _serve(end: Connection, model: str, dtype: str, recipe: TrainingConfig, low_precision: bool) -> None:
    torch.set_num_threads(1)
    peer = TunedPeft(load_model(model, "cpu", dtype), recipe, low_precision)
    end.send(0)
    while (jobs := end.recv()) is not None:
        end.send(sum(peer.fit(job) for job in jobs))


def official_step_seconds(loaded: LoadedModel, job: AdaptJob, steps: int) -> list[float]:
    """Seconds of single optimiser steps of the official procedure, after one to warm up.

    PEFT and transformers' Trainer, batch 1, every sequence padded to 2,048 tokens whose pads carry labels.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    model = _attach(loaded, job.training)
    pad = int(loaded.tokenizer.pad_token_id or 0)
    rows = [list(row.ids) + [pad] * (OFFICIAL_LENGTH - len(row.ids)) for row in job.sequences]
    data = [{"input_ids": r, "labels": r, "attention_mask": [1] * OFFICIAL_LENGTH} for r in rows]
    begun: list[float] = []
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - begun[-1])

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            max_steps=steps + 1,
            learning_rate=job.training.learning_rate,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=loaded.model.device.type == "cpu",
            dataloader_pin_memory=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(model=model, args=settings, train_dataset=data, callbacks=[Clock()])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    model.unload()
    return seconds[1:]
