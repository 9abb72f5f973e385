"""Supervised fine-tuning of the policy on prompt-completion lines: LoRA with TRL, merged checkpoint out.

The M-step of `seal train`, as a program of its own for data that `seal build-sft` wrote. It runs in one
process, or in every process that `accelerate launch` or `torchrun` starts:

    accelerate launch --num_processes 2 -m seal train-sft sft.jsonl --model M --output-dir OUT

With FSDP2 (`seal/launch/fsdp2.yaml`) or DeepSpeed ZeRO-3 (`zero3.yaml`) the base is cut up over the
processes; the adapter is gathered and merged into a fresh copy of the base in the first one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from seal import launch
from seal.data.files import check_text, parse_lines, read_text
from seal.errors import ConfigError, DataError
from seal.launch import Together
from seal.models.checkpoint import TRAINING
from seal.models.sharding import is_cut_up
from seal.models.window import window
from seal.restem import (
    Progress,
    ReSTEMOptimizer,
    UpdateResult,
    completion_sequences,
    save_merged,
    train_on_sequences,
)
from seal.sections import SFT_FIELDS
from seal.selection import Pair
from seal.training_config import PAPER_SFT, TrainingConfig

if TYPE_CHECKING:
    from seal.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class SFTJob:
    """What to train on what; the defaults are the paper's."""

    data: str
    """JSON lines with "prompt" and "completion"."""
    model: str
    """The policy: Hugging Face id, folder, .gguf file or built-in name."""
    output_dir: str
    """Folder of the merged checkpoint; new or empty."""
    training: TrainingConfig = PAPER_SFT
    """`batch_size` pairs make one update of the weights, over all processes."""
    micro_batch: int = 1
    """Pairs in one forward pass of one process."""
    seed: int = 42
    device: str = "auto"
    dtype: str = "auto"

    def arguments(self) -> list[str]:
        """The job as arguments of `seal train-sft`."""
        training = asdict(self.training) | {"targets": ",".join(self.training.targets)}
        values = {name: training[name] for name in SFT_FIELDS}
        values |= {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("data", "training")}
        pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in values.items())
        return [self.data, *(word for pair in pairs for word in pair)]


def train_sft(job: SFTJob, progress: Progress | None = None) -> UpdateResult:
    """Train, merge and save; `training.json` in the checkpoint's folder tells how.

    In several processes each gets the result, and only the first writes.

    Raises:
        DataError, ConfigError, ModelError: with the cause; nothing is written then.
    """
    pairs = read_pairs(job.data)
    _require_new(Path(job.output_dir))
    loaded = _load(job)
    if launch.world() == 1:
        optimizer = ReSTEMOptimizer(job.training, micro_batch=job.micro_batch)
        result, cut_up = optimizer.update(loaded, pairs, job.output_dir, job.seed, progress=progress), False
    else:
        result, cut_up = _train_together(job, loaded, pairs, progress)
    if launch.rank() == 0:
        told = {**asdict(job), "n": result.n, "base": loaded.version, "version": result.version}
        told |= {"processes": launch.world(), "sharded": cut_up, "losses": result.losses}
        text = json.dumps(told, indent=2)
        (Path(job.output_dir) / TRAINING).write_text(text + "\n", "utf-8")
    return result


def _train_together(
    job: SFTJob, loaded: LoadedModel, pairs: Sequence[Pair], progress: Progress | None
) -> tuple[UpdateResult, bool]:
    """One of several processes: train with the others, and save if it is the first.

    Also tells whether the base was really cut up.
    """
    from accelerate import PartialState

    from seal.models.load import load_model

    training = job.training
    rows = completion_sequences(loaded.tokenizer, pairs, window(loaded.model))
    factors, losses = train_on_sequences(
        loaded, rows, training, job.seed, micro_batch=job.micro_batch, progress=progress
    )
    version, cut_up = "", is_cut_up(loaded.model)
    if launch.rank() == 0:
        # A fresh copy on the CPU: the one that trained may have been cut up.
        whole = load_model(job.model, "cpu", str(loaded.model.dtype).removeprefix("torch."))
        version = save_merged(whole, factors, training, job.output_dir)
    PartialState().wait_for_everyone()
    return UpdateResult(version, job.output_dir, tuple(losses), len(rows), True), cut_up


def launch_sft(job: SFTJob, together: Together) -> None:
    """Run `train_sft` in several processes of this machine.

    Raises:
        DataError, ConfigError: what can be said at once.
        ModelError, MissingExtra: see `seal.launch.run`.
    """
    read_pairs(job.data)  # what can be said at once is not said by every process
    _require_new(Path(job.output_dir))
    launch.run(together, ["seal", "train-sft", *job.arguments()], cpu=job.device == "cpu")


def read_pairs(path: str | Path) -> list[Pair]:
    """The prompt-completion pairs of a JSON-lines file.

    Raises:
        DataError: naming file and line.
    """
    pairs = []
    for where, record in parse_lines(read_text(Path(path)), Path(path)):
        pair = record if isinstance(record, dict) else {}
        prompt, completion = pair.get("prompt"), pair.get("completion")
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise DataError(
                f'{where}: no "prompt" and "completion" strings', "use what `seal build-sft` wrote"
            )
        pairs.append(Pair(check_text(prompt, where), check_text(completion, where)))
    if not pairs:
        raise DataError(f"{path}: there is nothing to train on", "use what `seal build-sft` wrote")
    return pairs


def print_progress(step: int, steps: int) -> None:
    """A line on stderr about every tenth of the way."""
    if launch.rank() == 0 and (step == steps or step % max(1, steps // 10) == 0):
        print(f"step {step} of {steps}", file=sys.stderr, flush=True)


def _load(job: SFTJob) -> LoadedModel:
    from seal.models.load import load_model

    return load_model(job.model, launch.own_device(job.device), job.dtype)


def _require_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty", "choose a new --output-dir")
