"""What the steps of `benchmarks.gpu` share: how much is measured, the jobs, peaks of memory, deadlines."""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from seal.models.load import LoadedModel
from seal.records import AdaptJob, TrainingConfig, TrainingSequence

#: The paper's inner loop: sequences a job, their shortest and longest, questions, tokens of an answer.
SEQUENCES, SHORTEST, LONGEST, QUESTIONS, ANSWER = 9, 25, 75, 5, 48


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    device: torch.device
    quick: bool
    counts: tuple[tuple[int, int], ...] = ((1, 32), (8, 32), (24, 32), (32, 32), (64, 8))
    """(adapters at once, rank)."""
    rounds: int = 6
    rows: int = 32
    epochs: int = 10


@dataclass(slots=True)
class State:
    """What the steps hand on."""

    plan: Plan
    shape: LoadedModel | None = None
    peak: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> LoadedModel:
        """The model of the long measures. Raises where its step failed."""
        if self.shape is None:
            raise RuntimeError("there is no model: its step did not end well")
        return self.shape


def make_jobs(n: int, config: TrainingConfig, vocabulary: int, sequences: int = SEQUENCES) -> list[AdaptJob]:
    rng = random.Random(0)
    top = min(vocabulary, 250)
    return [
        AdaptJob(
            str(i),
            tuple(
                TrainingSequence(tuple(rng.randrange(4, top) for _ in range(rng.randint(SHORTEST, LONGEST))))
                for _ in range(sequences)
            ),
            config,
            (),
            i,
        )
        for i in range(n)
    ]


def dtype_of(plan: Plan) -> torch.dtype:
    return torch.float32 if plan.device.type == "cpu" else torch.bfloat16


def plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def guarded(work: Callable[[], dict[str, Any]], limit: int = 0) -> dict[str, Any]:
    """What `work` gives; where it fails, the first line of why."""
    try:
        with _deadline(limit):
            return work()
    except torch.OutOfMemoryError as error:
        return {"failed": f"out of memory: {str(error).splitlines()[0] if str(error) else ''}"}
    except Exception as error:  # noqa: BLE001 (a report with a hole is worth more than none)
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


@contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Raises `TimeoutError` in the block after so many seconds; 0: never."""
    if not seconds:
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    was = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, was)
