"""Supervised fine-tuning of the policy on prompt-completion lines: LoRA with TRL, merged checkpoint out.

The M-step of `seal train`, as a program of its own for data that `seal build-sft` wrote. It runs in one
process, or in every process that `accelerate launch` or `torchrun` starts:

    accelerate launch --num_processes 2 -m seal.recipes.train_sft --data sft.jsonl --model M --output-dir OUT

With DeepSpeed ZeRO-3 (`zero3.yaml`) the base is cut up over the GPUs; the adapter is gathered and merged
into a fresh copy of the base in the first process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from seal.data.formats import read_text
from seal.errors import ConfigError, DataError, ModelError, SealError
from seal.records import TrainingConfig
from seal.restem import (
    PAPER_SFT,
    Pair,
    Progress,
    ReSTEMOptimizer,
    UpdateResult,
    completion_sequences,
    save_merged,
    train_on_sequences,
    window,
)

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

ZERO3 = Path(__file__).with_name("zero3.yaml")


@dataclass(frozen=True, slots=True)
class SFTJob:
    """What to train on what; the defaults are the paper's."""

    data: str
    """JSON lines with "prompt" and "completion"."""
    model: str
    """The policy: Hugging Face id, folder, .gguf file or built-in name."""
    output_dir: str
    """Folder of the merged checkpoint; new or empty."""
    rank: int = PAPER_SFT.rank
    alpha: float = PAPER_SFT.alpha
    dropout: float = PAPER_SFT.dropout
    targets: str = "all"
    """Layers with LoRA, by commas: all, attention, mlp or suffixes of module names."""
    learning_rate: float = PAPER_SFT.learning_rate
    epochs: int = PAPER_SFT.epochs
    batch_size: int = PAPER_SFT.batch_size
    """Pairs that one update of the weights sees, over all processes."""
    micro_batch: int = 1
    """Pairs in one forward pass of one process."""
    schedule: str = PAPER_SFT.schedule
    warmup_ratio: float = PAPER_SFT.warmup_ratio
    weight_decay: float = PAPER_SFT.weight_decay
    seed: int = 42
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Raises `ConfigError` for the first value out of range."""
        for name in ("rank", "epochs", "batch_size", "micro_batch"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("alpha", "learning_rate"):
            _require(0 < getattr(self, name) < float("inf"), name, getattr(self, name), "a number above 0")
        for name in ("dropout", "warmup_ratio"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more and below 1")
        _require(0 <= self.weight_decay < float("inf"), "weight_decay", self.weight_decay, "0 or more")
        known = ("constant", "linear", "cosine")
        _require(self.schedule in known, "schedule", self.schedule, ", ".join(known))

    def training(self) -> TrainingConfig:
        """The LoRA recipe of this job."""
        return TrainingConfig(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=tuple(filter(None, self.targets.split(","))),
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedule=self.schedule,  # type: ignore[arg-type]
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
        )

    def arguments(self) -> list[str]:
        """The job as arguments of `python -m seal.recipes.train_sft`."""
        pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in asdict(self).items())
        return [word for pair in pairs for word in pair]


def train_sft(job: SFTJob, progress: Progress | None = None) -> UpdateResult:
    """Train, merge and save; `training.json` in the checkpoint's folder tells how.

    In several processes each gets the result, and only the first writes.

    Raises:
        DataError, ConfigError, ModelError: with the cause; nothing is written then.
    """
    pairs = read_pairs(job.data)
    _require_new(Path(job.output_dir))
    loaded = _load(job)
    if _world() == 1:
        optimizer = ReSTEMOptimizer(job.training(), micro_batch=job.micro_batch)
        result = optimizer.update(loaded, pairs, job.output_dir, job.seed, progress=progress)
    else:
        result = _train_together(job, loaded, pairs, progress)
    if _rank() == 0:
        told = {**asdict(job), "n": result.n, "base": loaded.version, "version": result.version}
        text = json.dumps({**told, "processes": _world(), "losses": result.losses}, indent=2)
        (Path(job.output_dir) / "training.json").write_text(text + "\n", "utf-8")
    return result


def _train_together(
    job: SFTJob, loaded: LoadedModel, pairs: Sequence[Pair], progress: Progress | None
) -> UpdateResult:
    """One of several processes: train with the others, and save if it is the first."""
    from accelerate import PartialState

    from seal.models.load import load_model

    training = job.training()
    rows = completion_sequences(loaded.tokenizer, pairs, window(loaded.model))
    shown = progress if _rank() == 0 else None
    factors, losses = train_on_sequences(
        loaded, rows, training, job.seed, micro_batch=job.micro_batch, progress=shown
    )
    version = ""
    if _rank() == 0:
        # A fresh copy on the CPU: ZeRO-3 may have cut up the one that trained.
        whole = load_model(job.model, "cpu", str(loaded.model.dtype).removeprefix("torch."))
        version = save_merged(whole, factors, training, job.output_dir)
    PartialState().wait_for_everyone()
    return UpdateResult(version, job.output_dir, tuple(losses), len(rows), True)


def launch(job: SFTJob, processes: int, zero3: bool = False) -> None:
    """Train in `processes` processes of this machine, started by accelerate (torchrun without a GPU).

    Raises:
        ModelError: DeepSpeed is asked for and cannot be used here, or a process failed.
    """
    on_cpu = job.device == "cpu" or not _has_gpu()
    if zero3 and on_cpu:
        raise ModelError(
            "ZeRO-3 cuts the base up over GPUs, and there is none",
            "leave --zero3 out (in the scripts: SEAL_SFT_ZERO3=0)",
        )
    if zero3 and importlib.util.find_spec("deepspeed") is None:
        raise ModelError("ZeRO-3 needs DeepSpeed, which is not installed", "run: pip install deepspeed")
    read_pairs(job.data)  # what can be said at once is not said by every process
    _require_new(Path(job.output_dir))
    environment = dict(os.environ)
    if on_cpu:
        # accelerate's own --cpu starts a single process
        starter = ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-addr", "127.0.0.1"]
        starter += ["--master-port", str(_free_port())]
        environment |= {"ACCELERATE_USE_CPU": "true"}
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    else:
        starter = ["accelerate.commands.launch", "--num_processes", str(processes)]
        starter += ["--config_file", str(ZERO3)] if zero3 else ["--num_machines", "1", "--multi_gpu"]
    command = [sys.executable, "-m", *starter, "-m", "seal.recipes.train_sft", *job.arguments()]
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode != 0:
        raise ModelError(
            f"training in {processes} processes failed (exit {done.returncode})", "see its messages above"
        )


def read_pairs(path: str | Path) -> list[Pair]:
    """The prompt-completion pairs of a JSON-lines file.

    Raises:
        DataError: naming file and line.
    """
    pairs = []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: {error.msg}", "every line must be one JSON object") from error
        pair = record if isinstance(record, dict) else {}
        prompt, completion = pair.get("prompt"), pair.get("completion")
        if not isinstance(prompt, str) or not isinstance(completion, str):
            raise DataError(
                f'{where}: no "prompt" and "completion" strings', "use what `seal build-sft` wrote"
            )
        pairs.append((prompt, completion))
    if not pairs:
        raise DataError(f"{path}: there is nothing to train on", "use what `seal build-sft` wrote")
    return pairs


def print_progress(step: int, steps: int) -> None:
    """A line on stderr about every tenth of the way."""
    if step == steps or step % max(1, steps // 10) == 0:
        print(f"step {step} of {steps}", file=sys.stderr, flush=True)


def _load(job: SFTJob) -> LoadedModel:
    from seal.models.load import load_model

    device = job.device
    if _world() > 1 and device in ("auto", "cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if _has_gpu() else "cpu"
    return load_model(job.model, device, job.dtype)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU") != "true"


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _free_port() -> int:
    import socket

    with socket.socket() as eval_prompt:
        eval_prompt.bind(("127.0.0.1", 0))
        return int(eval_prompt.getsockname()[1])


def _require(fine: bool, name: str, value: object, expected: str) -> None:
    if not fine:
        raise ConfigError(f"{name.replace('_', '-')} is {value}", f"use {expected}")


def _require_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty", "choose a new --output-dir")


def main(argv: Sequence[str] | None = None) -> int:
    """The program `python -m seal.recipes.train_sft`: one option for every field of `SFTJob`."""
    parser = argparse.ArgumentParser(prog="seal.recipes.train_sft", description=SFTJob.__doc__)
    for field in fields(SFTJob):
        kind = {"int": int, "float": float}.get(str(field.type), str)
        required = field.name in ("data", "model", "output_dir")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            required=required,
            default=None if required else field.default,
            help=None if required else "default: %(default)s",
        )
    try:
        result = train_sft(SFTJob(**vars(parser.parse_args(argv))), print_progress)
    except SealError as error:
        if _rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    if _rank() == 0:
        print(result.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
