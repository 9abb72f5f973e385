"""When memory runs out, passes get shorter and no job is lost; layers computed again change no result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from double_precision import SAME, DoublePrecision, tiny_double
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.decode import Decoder, Request
from seal.inner.fit import Trained
from seal.inner.memory import ENOUGH_ELSEWHERE, Capacity, capacity, fitting, footprint
from seal.inner.packing import Pack
from seal.inner.runtime import Runtime
from seal.inner.stack import AdapterStack
from seal.models.load import load_model
from seal.records import AdaptJob, Sampling, TrainingConfig, TrainingSequence

CONFIG = TrainingConfig(rank=4, alpha=8, epochs=2, batch_size=2, dropout=0.2)


def jobs(*lengths: int) -> list[AdaptJob]:
    rows = [
        tuple(TrainingSequence(tuple(5 + (7 * i + k) % 200 for i in range(n))) for k in (0, 1))
        for n in lengths
    ]
    return [AdaptJob(str(i), own, CONFIG, (), i) for i, own in enumerate(rows)]


def weights(done: Trained) -> Tensor:
    assert done.adapter is not None
    return done.adapter.weights


@contextmanager
def memory_for(runtime: Runtime, tokens: int) -> Iterator[list[int]]:
    """A device that holds passes of so many tokens; gives those that went through."""
    passed: list[int] = []
    hidden = runtime.hidden

    def limited(pack: Pack) -> Tensor:
        n = pack.input_ids.shape[1]
        if n > tokens:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n} tokens")
        passed.append(n)
        return hidden(pack)

    runtime.hidden = limited  # type: ignore[method-assign]
    try:
        yield passed
    finally:
        del runtime.hidden


def test_passes_get_shorter_and_every_job_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    with DoublePrecision():
        loaded = tiny_double("llama")
        plenty = {t.job.id: t for t in train(Runtime(loaded.model), jobs(40, 30, 50, 20), 4, 1024)}
        runtime = Runtime(loaded.model)
        with memory_for(runtime, 130) as passed, caplog.at_level(logging.WARNING, "seal"):
            found = {t.job.id: t for t in train(runtime, jobs(40, 30, 50, 20), 4, 400)}
    assert set(found) == set(plenty)
    for name, done in found.items():
        assert float((weights(done) - weights(plenty[name])).norm()) <= SAME * float(
            weights(plenty[name]).norm()
        )
        assert done.losses == pytest.approx(plenty[name].losses, rel=1e-10)
    said = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert len(said) == 2  # 400 → 200 → 100, and what fits is kept
    assert max(passed) <= 100


def test_only_the_job_that_does_not_fit_ends() -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    runtime = Runtime(loaded.model)
    with memory_for(runtime, 70):
        found = {t.job.id: t for t in train(runtime, jobs(40, 90, 20), 3, 256)}
    assert "does not hold this adapter" in str(found["1"].error)
    assert [found[name].error for name in ("0", "2")] == [None, None]
    assert [len(found[name].losses) for name in ("0", "2")] == [2, 2]


def test_fewer_adapters_at_once_where_their_state_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    init = AdapterStack.__init__

    def limited(self: AdapterStack, runtime: Runtime, layout: Any, n: int, **options: Any) -> None:
        if sum(made) + n > 3:
            raise torch.OutOfMemoryError
        made.append(n)
        init(self, runtime, layout, n, **options)

    monkeypatch.setattr(AdapterStack, "__init__", limited)
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    found = list(train(Runtime(loaded.model), jobs(*[20] * 7), 5, 256))
    assert sorted(t.job.id for t in found) == [str(i) for i in range(7)]
    assert all(t.error is None for t in found)
    assert sum(made) <= 3


def test_fewer_rows_are_answered_at_once() -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    runtime = Runtime(loaded.model)
    requests = [Request(tuple(range(5, 20 + i)), None, Sampling(0.0, max_new_tokens=6), i) for i in range(6)]

    def decoder() -> Decoder:
        return Decoder(
            runtime, lambda ids: " ".join(map(str, ids)), frozenset(), max_rows=8, token_budget=512
        )

    expected = [w.text for w in decoder().run(requests)]
    forward = runtime.forward

    def limited(pack: Pack, keep: Tensor) -> Tensor:
        if len(keep) > 2:
            raise torch.OutOfMemoryError
        return forward(pack, keep)

    runtime.forward = limited  # type: ignore[method-assign]
    answering = decoder()
    assert [w.text for w in answering.run(requests)] == expected
    assert answering.max_rows == 2


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"])
def test_layers_computed_again_give_the_same_bits(family: str) -> None:
    found = []
    for recompute in (False, True):
        loaded = load_model(f"tiny-random-{family}", device="cpu", dtype="float32")
        runtime = Runtime(loaded.model)
        runtime.recompute = recompute
        kept = 0

        def keep(x: Tensor) -> Tensor:
            nonlocal kept
            kept += x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            done = {t.job.id: t for t in train(runtime, jobs(40, 30), 2, 256)}
        found.append((done, kept))
        assert all("forward" not in vars(block) for block in runtime._blocks)
    (plain, much), (again, little) = found
    for name, done in again.items():
        assert done.losses == plain[name].losses
        assert torch.equal(weights(done), weights(plain[name]))
    assert little < much / 5  # what is left is the head, and a layer at a time


def test_a_small_card_computes_layers_again() -> None:
    """A 1.5B shape on 8 GB and on 80: only the small one needs to."""
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    config = loaded.model.config
    config.update({"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28})
    with torch.device("meta"):
        model = type(loaded.model)(config)
    device, training = torch.device("cuda"), TrainingConfig(rank=32)
    need = footprint(model, training, device, torch.bfloat16)
    assert need.recomputed < need.token / 15
    small = fitting(need, 5 << 30, device)
    assert small.recompute
    assert need.total(small) <= 0.8 * (5 << 30)
    assert not fitting(need, 80 << 30, device).recompute
    assert not capacity(need, 5 << 30, device, "auto", "auto", recompute=False).recompute
    forced = capacity(need, 80 << 30, device, "auto", "auto", recompute=True)
    assert forced == Capacity(*ENOUGH_ELSEWHERE, recompute=True)


def test_an_adapter_of_the_stand_in_is_untouched() -> None:
    """Patching for another pass leaves the model as it was."""
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    runtime = Runtime(loaded.model)
    runtime.recompute = True
    Adapter(runtime, CONFIG, 0)
    with pytest.raises(ZeroDivisionError), runtime.active():
        1 / 0  # noqa: B018
    assert all("forward" not in vars(block) for block in runtime._blocks)
