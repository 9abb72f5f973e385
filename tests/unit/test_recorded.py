"""A pass that is filled up to a shape, over buffers that stay, writes what the pass as it is writes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from double_precision import DoublePrecision, tiny_double
from seal.inner import varlen
from seal.inner.adapt import train
from seal.inner.fit import Trained
from seal.inner.recorded import Recording, Recordings, Rows
from seal.inner.runtime import Runtime
from seal.models.load import load_model
from seal.records import AdaptJob, TrainingConfig, TrainingSequence


def jobs(n: int = 5, **options: object) -> list[AdaptJob]:
    """Rows of all lengths, some of which are learned in part; jobs that end at different rounds."""
    rng, made = random.Random(0), []
    for i in range(n):
        settings = {"rank": 8, "alpha": 16.0, "epochs": 4 + i % 2, "batch_size": 1 + i % 2, **options}
        rows = []
        for k in range(6):
            ids = tuple(rng.randrange(4, 250) for _ in range(rng.randint(3, 40)))
            rows.append(TrainingSequence(ids, ((len(ids) // 2, len(ids)),) if k % 2 else ()))
        made.append(AdaptJob(str(i), tuple(rows), TrainingConfig(learning_rate=1e-3, **settings), (), i))  # type: ignore[arg-type]
    return made


def trained(runtime: Runtime, given: list[AdaptJob], budget: int = 256) -> list[Trained]:
    done = sorted(train(runtime, given, 4, budget), key=lambda t: t.job.id)
    assert [t.error for t in done] == [None] * len(given)
    return done


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, scale: float, window: int | None
) -> Tensor:
    """`varlen.attend` without its kernel."""
    out = torch.zeros_like(q)
    for a, b in zip(offsets.tolist(), offsets.tolist()[1:], strict=False):
        if a < b:
            assert b - a <= longest
            own = (x[a:b].transpose(0, 1)[None] for x in (q, k, v))
            found = F.scaled_dot_product_attention(*own, is_causal=True, scale=scale, enable_gqa=True)
            out = out.index_copy(0, torch.arange(a, b), found[0].transpose(0, 1))
    return out


@pytest.mark.parametrize("scales", [{}, {"alpha": 3.0}])
def test_what_is_filled_in_changes_nothing(scales: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def play(self: Recording, rows: Rows, pool: Callable[[], object]) -> Tensor:
        nonlocal taken
        taken += 1
        self.load(rows)
        return self.take()

    given = jobs()
    given[2] = jobs(3, **scales)[2]
    with DoublePrecision():
        plain = trained(Runtime(tiny_double("llama").model), given)
        monkeypatch.setattr(varlen, "usable", lambda *_: True)
        monkeypatch.setattr(varlen, "attend", one_by_one)
        monkeypatch.setattr(Recording, "play", play)
        runtime = Runtime(tiny_double("llama").model)
        runtime.recordings.usable = True
        filled = trained(runtime, given)
    assert taken > 10
    for a, b in zip(plain, filled, strict=True):
        assert a.adapter is not None
        assert b.adapter is not None
        assert b.losses == pytest.approx(a.losses, rel=1e-10)
        assert float((a.adapter.weights - b.adapter.weights).norm()) < 1e-9 * float(a.adapter.weights.norm())


def test_a_model_whose_attention_pads_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Recording, "play", lambda self, rows, pool: (self.load(rows), self.take())[1])
    with DoublePrecision():
        plain = trained(Runtime(tiny_double("llama").model), jobs())
        runtime = Runtime(tiny_double("llama").model)
        runtime.recordings.usable = True
        found = trained(runtime, jobs())
    assert "goes on without CUDA graphs" in caplog.text
    assert not runtime.recordings.usable
    assert [t.losses for t in found] == [t.losses for t in plain]


def test_a_cpu_records_nothing() -> None:
    assert not Recordings(
        Runtime(load_model("tiny-random-llama", device="cpu", dtype="bfloat16").model)
    ).usable


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_gpu_plays_passes_that_train_as_launches_do(family: str) -> None:
    def learned(usable: bool) -> tuple[list[Trained], int]:
        runtime = Runtime.of(load_model(f"tiny-random-{family}", device="cuda", dtype="bfloat16").model)
        runtime.recordings.usable = runtime.recordings.usable and usable
        return trained(runtime, jobs(8, epochs=8), 8192), runtime.recordings.played

    launched, none = learned(False)
    played, some = learned(True)
    assert none == 0
    assert some > 20
    for a, b in zip(launched, played, strict=True):
        assert a.adapter is not None
        assert b.adapter is not None
        assert b.losses == pytest.approx(a.losses, rel=5e-3)
        assert float((a.adapter.weights - b.adapter.weights).norm()) < 0.02 * float(a.adapter.weights.norm())
