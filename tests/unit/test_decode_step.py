"""A step over fixed buffers writes what the plain step writes, and depends on its buffers alone."""

from __future__ import annotations

import pytest
import torch

from double_precision import DoublePrecision, tiny_double
from seal.inner import decode_step
from seal.inner.adapter import Adapter
from seal.inner.counter import uniform
from seal.inner.decode import Decoder, Request, TokenCompletion
from seal.inner.decode_step import DecodeStep
from seal.inner.runtime import Runtime
from seal.inner.sampling import _NUCLEUS_GUESS, RowSampler
from seal.models.load import load_model
from seal.records import Sampling, TrainingConfig


def requests(runtime: Runtime, **sampling: object) -> list[Request]:
    """Rows of two adapters and of the base, of all lengths, that end at different steps."""
    adapters: list[Adapter | None] = [Adapter(runtime, TrainingConfig(rank=4, alpha=64), i) for i in (1, 2)]
    for adapter in adapters:
        assert adapter is not None
        draw = torch.Generator().manual_seed(adapter.seed)
        adapter.weights.copy_(0.05 * torch.randn(adapter.weights.shape, generator=draw))
    out = []
    for i in range(9):
        options = Sampling(**{"temperature": 0.0, "max_new_tokens": 3 + 5 * (i % 4), **sampling})  # type: ignore[arg-type]
        out.append(Request(tuple(range(5 + i, 12 + 7 * i)), (*adapters, None)[i % 3], options, i))
    return out


def decoded(runtime: Runtime, asked: list[Request], static: bool, rows: int = 4) -> list[TokenCompletion]:
    decoder = Decoder(runtime, lambda ids: "", frozenset((77,)), max_rows=rows, token_budget=128)
    decoder.static = static
    return decoder.run(asked)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2"])
def test_fixed_buffers_change_no_token(family: str) -> None:
    """Windows, capped logits, rows that leave and join; in fp64, where a wider cache moves no argmax."""
    with DoublePrecision():
        runtime = Runtime(tiny_double(family).model)
        asked = requests(runtime)
        plain, fixed = (decoded(runtime, asked, static) for static in (False, True))
    assert [c.ids for c in fixed] == [c.ids for c in plain]
    assert [c.finish for c in fixed] == [c.finish for c in plain]


def test_a_step_is_a_function_of_its_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a recording of it can be played: same places, and the same numbers in give the same numbers out."""
    runtime = Runtime(tiny_double("llama").model)
    seen = 0
    call = DecodeStep.__call__

    def twice(self: DecodeStep) -> list[int]:
        nonlocal seen
        stores = [*self.cache.keys, *self.cache.values]
        buffers = [self.chosen_2R, self.positions_R, *stores]
        if self.sampler.counters_2R is not None:
            buffers.append(self.sampler.counters_2R)
        before, places = [b.clone() for b in buffers], [b.data_ptr() for b in buffers]
        self.take()
        first = [b.clone() for b in buffers]
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
        found = call(self)
        assert [b.data_ptr() for b in buffers] == places
        assert all(torch.equal(a, b) for a, b in zip(first, buffers, strict=True))
        assert all(a is b for a, b in zip([*self.cache.keys, *self.cache.values], stores, strict=True))
        seen += 1
        return found

    monkeypatch.setattr(DecodeStep, "__call__", twice)
    decoded(runtime, requests(runtime, temperature=0.8, top_p=0.9), static=True)
    assert seen > 10


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.9}])
@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", "float32"), ("qwen2", "bfloat16"), ("gemma2", "float32")]
)
def test_a_gpu_plays_recordings_that_write_what_launches_write(
    family: str, dtype: str, sampling: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime.of(load_model(f"tiny-random-{family}", device="cuda", dtype=dtype).model)
    recorded: list[object] = []
    record = decode_step._recorded

    def kept(step: DecodeStep) -> torch.cuda.CUDAGraph | None:
        recorded.append(record(step))
        return recorded[-1]  # type: ignore[return-value]

    monkeypatch.setattr(decode_step, "_recorded", kept)
    played = decoded(runtime, requests(runtime, **sampling), static=True)
    assert recorded
    assert None not in recorded
    monkeypatch.setattr(decode_step, "_recorded", lambda step: None)
    launched = decoded(runtime, requests(runtime, **sampling), static=True)
    assert [c.ids for c in played] == [c.ids for c in launched]


def test_a_rows_draws_do_not_depend_on_its_neighbours() -> None:
    runtime = Runtime(tiny_double("llama").model)
    asked = requests(runtime, temperature=1.0, top_p=0.95)
    together = decoded(runtime, asked, static=True, rows=9)
    alone = [decoded(runtime, [request], static=True)[0] for request in asked]
    assert [c.ids for c in together] == [c.ids for c in alone]
    assert len({tuple(c.ids) for c in together}) > 5


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 0.95), (0.7, 0.9)])
def test_draws_on_the_device_follow_the_nucleus_distribution(temperature: float, top_p: float) -> None:
    logits, n = torch.tensor([0.3, 2.0, -1.0, 1.1, 0.0, 0.9, -2.0, 1.9]), 20_000
    sampler = RowSampler([(Sampling(temperature, top_p), seed, 0) for seed in range(n)], torch.device("cpu"))
    p = (logits.double() / temperature).softmax(0)
    order = p.argsort(descending=True)
    kept = p[order].cumsum(0) - p[order] < top_p
    expected = torch.zeros(8, dtype=torch.float64)
    expected[order[kept]] = p[order[kept]] / p[order[kept]].sum()
    for _ in range(3):  # one step after the other
        counts = torch.bincount(torch.tensor(sampler.read(sampler(logits.repeat(n, 1)))), minlength=8)
        assert int(counts[expected == 0].sum()) == 0
        possible = expected > 0
        gap = (counts - n * expected)[possible].square() / (n * expected)[possible]
        assert float(gap.sum()) < 26.1  # upper 0.05 % of chi-square with 8 degrees of freedom and more


def test_a_flat_row_is_drawn_again_from_all_tokens() -> None:
    vocabulary, n = 4 * _NUCLEUS_GUESS, 600
    logits = torch.zeros(n, vocabulary)
    logits[:, : vocabulary // 2] = 4.0
    logits[::2, 7] = 40.0  # sure of one
    rows = [(Sampling(1.0, 0.9), seed, 0) for seed in range(n)]
    sampler = RowSampler(rows, torch.device("cpu"))
    chosen = sampler(logits)
    tokens = sampler.read(chosen)
    assert tokens == chosen[0].tolist(), "the device goes on with what the host has read"
    assert set(tokens[::2]) == {7}
    assert max(tokens) < vocabulary // 2
    assert max(tokens) > _NUCLEUS_GUESS


def test_numbers_of_a_counter_are_even() -> None:
    keys = torch.arange(200, dtype=torch.int32)[:, None]
    x = uniform(torch.arange(500, dtype=torch.int32).expand(200, 500), keys)
    assert x.shape == (200, 500)
    assert float(x.min()) >= 0
    assert float(x.max()) < 1
    counts = torch.histc(x, 50, 0, 1)
    assert float((counts - 2000).square().sum() / 2000) < 85.4  # upper 0.1 % of chi-square with 49
    assert abs(float(torch.corrcoef(torch.stack([x[:, :-1].flatten(), x[:, 1:].flatten()]))[0, 1])) < 0.015
