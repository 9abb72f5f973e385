"""One job in training: its rows step by step, its optimiser step, and what it leaves with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seal.errors import AdaptError, SealError
from seal.inner.adapter import Adapter, SlotLayout
from seal.inner.adapter_files import load_adapter
from seal.inner.optimiser import SlotStep
from seal.inner.runtime import Runtime
from seal.inner.stack import Slot
from seal.records import AdaptJob, TrainingSequence
from seal.schedule import learning_rate, step_sequences, total_steps
from seal.seeds import derive


@dataclass(slots=True)
class Trained:
    """A job that has left training: its adapter (None: baseline only), or the error that ended it."""

    job: AdaptJob
    adapter: Adapter | None
    losses: tuple[float, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    error: SealError | None = None


@dataclass(slots=True)
class Row:
    """A row in a round: its job, tokens, and the weight of each labelled token in the job's loss."""

    fit: Fit
    row: TrainingSequence
    weight: float
    dropout_seed: int
    anchor: bool = False
    """Whether its loss is the KL from the model without the adapter, see `AdaptJob.anchors`."""


class Fit:
    """One job in training, in a slot of a stack."""

    def __init__(self, runtime: Runtime, job: AdaptJob, place: Slot, start: Tensor | None = None) -> None:
        self.job, self.place = job, place
        stack, slot = place
        self.adapter = stack.begin(runtime, slot, job.training, job.seed)
        if start is not None:
            self.adapter.weights.copy_(start)
        stack.put(slot, self.adapter)
        training = job.training
        self._steps = step_sequences(len(job.sequences), training, job.seed)
        self.total = total_steps(len(job.sequences), training)
        self._anchors = step_sequences(
            len(job.anchors), replace(training, steps=self.total), derive(job.seed, "anchors")
        )
        self.losses: list[float] = []
        self.tokens, self.seconds = 0, 0.0

    @property
    def done(self) -> bool:
        """Whether every optimiser step has been taken."""
        return len(self.losses) == self.total

    def next_rows(self) -> list[Row]:
        """Rows of the next optimiser step; the loss is the mean over all their labelled tokens, and that of
        the anchors is added to it."""
        job, step = self.job, len(self.losses)
        learned = [job.sequences[i] for i in next(self._steps)]
        anchors = [job.anchors[i] for i in next(self._anchors)] if job.anchors else []
        self.tokens += sum(len(row.ids) for row in (*learned, *anchors))
        found: list[Row] = []
        for rows, share, anchor in ((learned, 1.0, False), (anchors, job.anchor_weight, True)):
            weight = share / max(1, sum(len(row.labelled()) for row in rows))
            for row in rows:
                seed = derive(job.seed, "dropout", step, len(found))
                found.append(Row(self, row, weight, seed, anchor))
        return found

    def next_step(self) -> SlotStep:
        """The optimiser step that is due."""
        training, taken = self.job.training, len(self.losses)
        rate = learning_rate(training, taken, self.total)
        return SlotStep(
            self.place.slot, taken + 1, rate, training.weight_decay, training.max_grad_norm or 0.0
        )

    def stepped(self, loss: float, norm: float) -> None:
        """Take note of a step's loss and gradient norm.

        Raises:
            AdaptError: one of them is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AdaptError(
                f"the loss became {loss} at step {len(self.losses) + 1} of {self.total}"
                f" (learning rate {self.job.training.learning_rate:g})",
                "lower the learning rate",
            )
        self.losses.append(loss)

    def finish(self, error: SealError | None = None) -> Trained:
        """Leave the slot, with the weights."""
        adapter = None if error else self.adapter
        self.adapter.weights = self.adapter.weights.clone() if adapter else torch.empty(0)
        return Trained(self.job, adapter, tuple(self.losses), self.tokens, self.seconds, error)


def check_rows(rows: Sequence[TrainingSequence], runtime: Runtime) -> None:
    """Refuse rows that cannot be trained on.

    Raises:
        AdaptError: a row is longer than the model's window, holds no labelled token or an unknown one.
    """
    for i, row in enumerate(rows, 1):
        if len(row.ids) > runtime.max_tokens:
            raise AdaptError(
                f"training sequence {i} has {len(row.ids)} tokens; the model reads {runtime.max_tokens}",
                "split the text, or lower max_length",
            )
        if not row.labelled():
            raise AdaptError(f"training sequence {i} has no token to learn", "give it at least two tokens")
        runtime.check_tokens(row.ids)


def start_weights(runtime: Runtime, job: AdaptJob, layout: SlotLayout) -> Tensor | None:
    """The weights that `job` begins with, (layout.size,); None where the seed gives them.

    Raises:
        ModelError: there is no such adapter, or it does not fit the model.
        AdaptError: its rank or its layers are not the job's.
    """
    if not job.start_from:
        return None
    adapter = load_adapter(runtime, job.start_from)
    if adapter.layout is not layout or adapter.training.rank != job.training.rank:
        raise AdaptError(
            f"the adapter in {job.start_from} has rank {adapter.training.rank} on"
            f" {len(adapter.layout.layers)} layers, the job rank {job.training.rank} on {len(layout.layers)}",
            "train on with the rank and the targets that it was made with",
        )
    return adapter.weights
