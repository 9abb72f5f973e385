"""One tiny fp32 job on two devices: how far apart its losses, its adapter and its answers come out."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from seal.inner.adapt import train
from seal.inner.decode import Decoder, Request, TokenCompletion
from seal.inner.runtime import Runtime
from seal.models.load import load_model
from seal.records import AdaptJob, Sampling, TrainingConfig, TrainingSequence

#: How far apart a GPU and a CPU may be, relatively.
CLOSE = 1e-4


@dataclass(frozen=True, slots=True)
class Apart:
    """The largest relative differences between two devices."""

    losses: float
    weights: float
    log_likelihoods: float
    same_texts: bool

    @property
    def equal(self) -> bool:
        """Whether all of it agrees to `CLOSE`."""
        return max(self.losses, self.weights, self.log_likelihoods) <= CLOSE and self.same_texts


def compare(device: str, family: str = "llama", reference: str = "cpu") -> Apart:
    """Train three jobs of different ranks at once, with dropout and clipping, and answer, on both devices."""
    (ours, said), (theirs, reference_said) = (_trained(where, family) for where in (device, reference))
    pairs = [
        (a, b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(*(mine[0], other[0]), strict=True)
    ]
    scores = [
        (a.log_likelihood or 0.0, b.log_likelihood or 0.0) for a, b in zip(said, reference_said, strict=True)
    ]
    weights = [float((a - b).norm() / b.norm()) for (_, a), (_, b) in zip(ours, theirs, strict=True)]
    return Apart(
        max(abs(a - b) / abs(b) for a, b in pairs),
        max(weights),
        max(abs(a - b) / abs(b) for a, b in scores),
        [a.ids for a in said] == [b.ids for b in reference_said],
    )


def _trained(
    device: str, family: str
) -> tuple[list[tuple[tuple[float, ...], Tensor]], list[TokenCompletion]]:
    """Losses and adapter of each job, and what it answers greedily with and without its adapter."""
    runtime = Runtime.of(load_model(f"tiny-random-{family}", device=device, dtype="float32").model)
    rng = random.Random(0)

    def row(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(4, 250) for _ in range(n))

    jobs = []
    for i, rank in enumerate((4, 8, 8)):
        config = TrainingConfig(
            rank=rank, alpha=16, epochs=3, batch_size=2, learning_rate=1e-3, dropout=0.1 * (i == 1),
            max_grad_norm=0.5, weight_decay=0.01 * i, schedule="cosine", warmup_ratio=0.2,
        )  # fmt: skip
        rows = tuple(TrainingSequence(row(rng.randint(5, 40))) for _ in range(5))
        jobs.append(AdaptJob(str(i), rows, config, (), i))
    done = sorted(train(runtime, jobs, 3, 256), key=lambda t: t.job.id)
    greedy = Sampling(temperature=0.0, max_new_tokens=8)
    prompts = [row(rng.randint(5, 30)) for _ in range(4)]
    requests = [
        Request(p, adapter, greedy, reference=row(4))
        for adapter in (*(t.adapter for t in done), None)
        for p in prompts
    ]
    decoder = Decoder(runtime, lambda ids: "", frozenset(), max_rows=8, token_budget=256)
    weights = [t.adapter.weights.cpu() if t.adapter is not None else torch.empty(0) for t in done]
    return [(t.losses, w) for t, w in zip(done, weights, strict=True)], decoder.run(requests)
