"""Batched answers equal transformers' and PEFT's own, whatever shares the batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seal.errors import AdaptError
from seal.inner.adapter import Adapter
from seal.inner.adapter_files import save_adapter
from seal.inner.attention import NAME
from seal.inner.decode import Decoder, Request, TokenCompletion, _tail
from seal.inner.grouped import GroupOffsets
from seal.inner.loop import stop_ids
from seal.inner.packing import Pack, pack
from seal.inner.runtime import Runtime
from seal.inner.stack import split_segments, stack_up
from seal.models.load import LoadedModel
from seal.models.lora import LoRAWrapper
from seal.models.merge import merged
from seal.records import Sampling, TrainingConfig

# PEFT still asks transformers for this name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: Around and above Gemma's window of 64 positions.
LENGTHS = (3, 150, 17, 66, 40, 63, 64, 65)


def lively(loaded: LoadedModel) -> LoadedModel:
    """The model, with Gemma's normed block outputs large beside its embeddings, so that it does not just
    repeat its last token whatever an adapter says."""
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if ".post_" in name and loaded.model.config.model_type.startswith("gemma"):
                parameter.add_(7)
    return loaded


@pytest.fixture
def loaded(tiny_family: LoadedModel) -> LoadedModel:
    return lively(tiny_family)


def greedy(n: int = 24, *stop: str) -> Sampling:
    return Sampling(temperature=0.0, max_new_tokens=n, stop=stop)


def prompts(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(4, 250) for _ in range(n)) for n in lengths]


def letters(ids: Sequence[int]) -> str:
    """One character a token, so that a text says exactly which tokens it was made of."""
    return "".join(chr(0x100 + i) for i in ids)


def decoder(
    loaded: LoadedModel, max_rows: int = 64, budget: int = 256, stops: frozenset[int] | None = None
) -> Decoder:
    ends = stop_ids(loaded) if stops is None else stops
    return Decoder(Runtime.of(loaded.model), letters, ends, max_rows=max_rows, token_budget=budget)


def adapter(loaded: LoadedModel, seed: int, rank: int, targets: tuple[str, ...] = ("all",)) -> Adapter:
    """An adapter as training might leave it: B is not zero, and it changes the answers."""
    made = Adapter(Runtime.of(loaded.model), TrainingConfig(rank=rank, alpha=2 * rank, targets=targets), seed)
    generator = torch.Generator().manual_seed(seed)
    for _, b_OR in made.factors.values():
        b_OR.copy_(torch.randn(b_OR.shape, generator=generator) * 0.2)
    return made


def three_adapters(loaded: LoadedModel) -> list[Adapter]:
    """Different ranks and different layers in one batch."""
    gpt2 = loaded.model.config.model_type == "gpt2"
    second = ("attn.c_attn",) if gpt2 else ("q_proj", "v_proj")
    return [adapter(loaded, 0, 2), adapter(loaded, 1, 8, second), adapter(loaded, 2, 3, ("mlp",))]


def with_peft(base: LoadedModel, own: Adapter, loaded: LoadedModel, folder: Path) -> Any:
    """The model that PEFT makes of the saved adapter; `base` is used up."""
    from peft import PeftModel

    save_adapter(own, loaded, folder)
    return PeftModel.from_pretrained(base.model, str(folder)).eval()


def generate(model: Any, ids: Sequence[int], n: int, ends: frozenset[int]) -> list[int]:
    """What transformers writes after one prompt alone, without the token that ends it."""
    prompt = torch.tensor([ids])
    out: list[int] = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=n,
        eos_token_id=sorted(ends),
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    return out[:-1] if out[-1] in ends else out


def spy(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> list[Pack]:
    """Every stream that goes through the model from now on."""
    seen: list[Pack] = []
    forward = runtime.forward

    def recorded(packed: Pack, keep: Tensor) -> Tensor:
        seen.append(packed)
        return forward(packed, keep)

    monkeypatch.setattr(runtime, "forward", recorded)
    return seen


def test_greedy_equals_generate_one_by_one(
    loaded: LoadedModel, tiny: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """Bare rows and rows of three adapters (other ranks, other layers, unequal counts) in one batch."""
    kinds = [None, *three_adapters(loaded)]
    owners = [kinds[i] for i in (0, 1, 1, 2, 3, 1, 0, 2)]
    texts = prompts(LENGTHS)
    ours = decoder(loaded).run([Request(p, a, greedy()) for p, a in zip(texts, owners, strict=True)])
    family = loaded.source.removeprefix("tiny-random-")
    models = [
        with_peft(lively(tiny(family)), a, loaded, tmp_path / str(a.seed)) for a in kinds if a is not None
    ]
    references = dict(zip(map(id, kinds), [loaded.model, *models], strict=True))
    ends = stop_ids(loaded)
    for mine, prompt, owner in zip(ours, texts, owners, strict=True):
        expected = generate(references[id(owner)], prompt, 24, ends)
        assert mine.ids == expected
        assert mine.text == letters(expected)
        assert mine.finish == ("length" if len(expected) == 24 else "stop")
    bare = decoder(loaded).run([Request(p, None, greedy()) for p in texts])
    assert sum(a.ids != b.ids for a, b in zip(ours, bare, strict=True)) >= 5


def test_more_rows_than_fit_are_admitted_as_others_leave(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [None, *three_adapters(loaded)]
    texts = prompts([5, 70, 9, 31, 80, 12, 3, 66, 8, 20, 40, 7, 90])
    lengths = [1, 30, 4, 9, 12, 2, 25, 17, 3, 8, 21, 5, 14]
    requests = [
        Request(p, kinds[i % 4], greedy(n)) for i, (p, n) in enumerate(zip(texts, lengths, strict=True))
    ]
    alone = [decoder(loaded).run([r])[0] for r in requests]
    seen = spy(monkeypatch, Runtime.of(loaded.model))
    together = decoder(loaded, max_rows=4, budget=64).run(requests)
    assert together == alone
    steps = [p.input_ids.shape[1] for p in seen if p.decoding]
    assert max(steps) == 4
    assert sum(steps) < 1.5 * sum(len(w.ids) for w in alone)
    first_step = next(i for i, p in enumerate(seen) if p.decoding)
    assert any(not p.decoding for p in seen[first_step:]), "no row was admitted mid-flight"


def test_finished_rows_leave_the_batch(
    tiny: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny()
    seen = spy(monkeypatch, Runtime.of(loaded.model))
    requests = [Request(p, None, greedy(2 if i < 6 else 20)) for i, p in enumerate(prompts([4] * 8))]
    written = decoder(loaded, stops=frozenset()).run(requests)
    steps = [p.input_ids.shape[1] for p in seen if p.decoding]
    assert steps == [8] + [2] * 18
    assert [len(w.ids) for w in written] == [2] * 6 + [20] * 2


def continuation(loaded: LoadedModel, prompt: tuple[int, ...], n: int = 24) -> list[int]:
    return generate(loaded.model, prompt, n, frozenset())


def test_stop_tokens_end_a_row_and_are_not_part_of_it(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny()
    texts = prompts([10, 20, 30])
    full = [continuation(loaded, p) for p in texts]
    end = full[0][7]
    written = decoder(loaded, stops=frozenset({end})).run([Request(p, None, greedy()) for p in texts])
    for mine, ids in zip(written, full, strict=True):
        expected = ids[: ids.index(end)] if end in ids else ids
        assert (mine.ids, mine.text) == (expected, letters(expected))
        assert mine.finish == ("stop" if end in ids else "length")
    assert written[0].finish == "stop"


def test_stop_strings_are_cut_off_the_text(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny()
    (prompt,) = prompts([12])
    text = letters(continuation(loaded, prompt))
    stops = [(text[5:8],), ("no such", text[9:11], text[6]), (text[0],), ("no such",)]
    requests = [Request(prompt, None, greedy(24, *s)) for s in stops]
    written = decoder(loaded, stops=frozenset()).run(requests)
    for mine, stop in zip(written, stops, strict=True):
        at = min((i for s in stop if (i := text.find(s)) >= 0), default=24)
        assert mine.text == text[:at]
        assert mine.finish == ("length" if at == 24 else "stop")
    assert len(written[0].ids) == text.find(text[5:8]) + 3


@pytest.mark.parametrize("n", [0, 1, 5])
def test_no_more_than_max_new_tokens(tiny: Callable[..., LoadedModel], n: int) -> None:
    loaded = tiny()
    (prompt,) = prompts([12])
    (mine,) = decoder(loaded, stops=frozenset()).run([Request(prompt, None, greedy(n))])
    assert mine == TokenCompletion(
        continuation(loaded, prompt)[:n], letters(continuation(loaded, prompt)[:n]), "length"
    )


def short_window(family: str, window: int) -> LoadedModel:
    """A tiny model with real positions for `window` tokens only."""
    from transformers import AutoModelForCausalLM

    from seal.models.load import load_model

    loaded = load_model(f"tiny-random-{family}", device="cpu")
    config = loaded.model.config
    config.max_position_embeddings = window
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    return replace(loaded, model=model)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_row_ends_where_the_window_ends(family: str) -> None:
    """The full row waits in the batch beside a longer one without asking for a position that is not there."""
    loaded = short_window(family, 32)
    texts = prompts([28, 4, 31, 5, 6])
    requests = [Request(p, None, greedy(26)) for p in texts]
    written = decoder(loaded, stops=frozenset()).run(requests)
    assert [len(w.ids) for w in written] == [4, 26, 1, 26, 26]
    assert {w.finish for w in written} == {"length"}
    for mine, prompt in zip(written, texts, strict=True):
        assert mine.ids == generate(loaded.model, prompt, len(mine.ids), frozenset())


def test_prompts_that_cannot_be_read_are_refused(tiny: Callable[..., LoadedModel]) -> None:
    loaded = short_window("llama", 32)
    ours = decoder(loaded)
    with pytest.raises(AdaptError, match="a prompt has 32 tokens; the model reads 32"):
        ours.run([Request((5,) * 32, None, greedy())])
    with pytest.raises(AdaptError, match="a prompt has 30 tokens; the model reads 32"):
        ours.run([Request((5,) * 30, None, greedy(0), reference=(5, 6, 7))])
    with pytest.raises(AdaptError, match="empty"):
        ours.run([Request((), None, greedy())])
    for token in (260, -1):
        with pytest.raises(AdaptError, match=f"token {token} is not among the model's 260"):
            ours.run([Request((5, token), None, greedy())])
        with pytest.raises(AdaptError, match=f"token {token} is not among the model's 260"):
            ours.run([Request((5, 6), None, greedy(0), reference=(token,))])


def likelihood(model: Any, ids: Sequence[int], reference: Sequence[int]) -> float:
    """Sum of the reference's log-probabilities after `ids`, from transformers' logits."""
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *reference]])).logits[0, len(ids) - 1 : -1]
    target = torch.tensor(reference)[:, None]
    return float(logits.double().log_softmax(-1).gather(1, target).sum())


def test_likelihood_of_references_equals_transformers(
    loaded: LoadedModel, tiny: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    own = three_adapters(loaded)[0]
    family = loaded.source.removeprefix("tiny-random-")
    adapted = with_peft(lively(tiny(family)), own, loaded, tmp_path / "adapter")
    texts, references = prompts([5, 70, 3, 30]), prompts([1, 9, 100, 40], seed=1)
    requests = [
        Request(p, a, greedy(6), reference=r)
        for p, r in zip(texts, references, strict=True)
        for a in (own, None)
    ]
    written = decoder(loaded).run(requests)
    for mine, request in zip(written, requests, strict=True):
        model = loaded.model if request.adapter is None else adapted
        assert mine.log_likelihood == pytest.approx(
            likelihood(model, request.ids, request.reference), rel=1e-5
        )
        # The reference leaves no trace in the answer.
        assert mine.ids == generate(model, request.ids, 6, stop_ids(loaded))
    (plain,) = decoder(loaded).run([Request(texts[0], None, greedy(1))])
    assert plain.log_likelihood is None


def test_samples_of_one_prompt_share_its_prefill(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = three_adapters(loaded)[1]
    warm = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=12)
    prompt, other = prompts([70, 9])
    requests = [Request(prompt, a, warm, seed) for seed in range(4) for a in (own, None)]
    requests.append(Request(other, None, warm, 0))
    alone = [decoder(loaded).run([r])[0] for r in requests]
    seen = spy(monkeypatch, Runtime.of(loaded.model))
    assert decoder(loaded).run(requests) == alone
    assert [p.input_ids.shape[1] for p in seen if not p.decoding] == [70 + 70 + 9]
    assert len({tuple(w.ids) for w in alone[:8:2]}) == 4


def test_a_sampled_row_is_the_same_in_any_company(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny()
    kinds = [None, *three_adapters(loaded)]
    samplings = [Sampling(1.0, 0.9, 10), Sampling(0.7, 1.0, 16), greedy(12), Sampling(1.3, 0.5, 6)]
    requests = [
        Request(p, kinds[i % 3], samplings[i % 4], seed=i) for i, p in enumerate(prompts([6, 40, 12, 70] * 4))
    ]
    alone = [decoder(loaded).run([r])[0] for r in requests]
    for max_rows, order in ((64, 1), (64, -1), (5, 1), (3, -1)):
        assert decoder(loaded, max_rows, budget=80).run(requests[::order])[::order] == alone


def test_the_model_is_as_before_even_when_a_run_fails(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny("gemma3")
    ids = torch.tensor([prompts([80])[0]])
    before, kind = loaded.model(ids).logits, loaded.model.config._attn_implementation

    def broken(_: Sequence[int]) -> str:
        raise ZeroDivisionError

    failing = Decoder(Runtime.of(loaded.model), broken, frozenset(), max_rows=4, token_budget=99)
    with pytest.raises(ZeroDivisionError):
        failing.run([Request((5, 6), None, greedy(2))])
    assert loaded.model.config._attn_implementation == kind != NAME
    assert not any("forward" in vars(m) or "seal_runtime" in vars(m) for m in loaded.model.modules())
    assert torch.equal(loaded.model(ids).logits, before)


@pytest.mark.parametrize(
    "counts", [(2, 2, 2), (3, 1, 2), (0, 4, 1), (0, 0, 0)], ids=["equal", "unequal", "one gone", "bare"]
)
@pytest.mark.parametrize("bare", [0, 2])
@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "one by one"])
def test_stacked_products_equal_each_tokens_own(
    tiny: Callable[..., LoadedModel], counts: tuple[int, ...], bare: int, grouped: bool
) -> None:
    """Adapters of different ranks, scales and layers: one layout twice, another once."""
    loaded = tiny()
    runtime = Runtime.of(loaded.model)
    adapters = [adapter(loaded, 0, 2), adapter(loaded, 2, 3), adapter(loaded, 1, 8, ("q_proj", "v_proj"))]
    adapters[1].scale = 5.0
    places = stack_up(runtime, adapters)
    assert places[0].stack is places[1].stack is not places[2].stack
    tokens = [a for a, n in zip(adapters, counts, strict=True) for _ in range(n)]
    lengths = [*(n for n in counts if n), *[1] * bare]
    standing = [*(p for p, n in zip(places, counts, strict=True) if n), *[None] * bare]
    segments = split_segments(standing, lengths, runtime.device)
    assert sum(p.stop - p.start for p in segments) == len(tokens)
    for segment in segments:
        segment.offsets._grouped = grouped
    for group in runtime.groups:
        x = torch.randn(sum(lengths), group.base.features)
        y = torch.randn(len(x), sum(group.base.sizes))
        expected = y.clone()
        for columns, name in zip(expected.split(group.base.sizes, dim=-1), group.names, strict=True):
            for i, own in enumerate(tokens):
                if name in own.factors:
                    a_RD, b_OR = own.factors[name]
                    columns[i] += own.scale * (b_OR @ (a_RD @ x[i]))
        for segment in segments:
            if group.index in segment.factors:
                group.add(y, x, segment, None)
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("counts", [(3, 3), (1, 5), (0, 4, 2)])
@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "one by one"])
def test_jagged_products_equal_each_adapters_own(counts: tuple[int, ...], grouped: bool) -> None:
    offsets = GroupOffsets(counts, torch.device("cpu"))
    offsets._grouped = grouped
    x, g, w = torch.randn(6, 8), torch.randn(6, 16), torch.randn(len(counts), 8, 16)
    own = list(zip(x.split(counts), g.split(counts), w, strict=True))
    torch.testing.assert_close(offsets.matmul(x, w), torch.cat([a @ m for a, _, m in own]))
    expected = torch.stack([a.t() @ b for a, b, _ in own])
    torch.testing.assert_close(offsets._outer(x, g), expected)
    out = torch.full_like(expected, torch.nan)
    offsets.outer_product(x, g, out, accumulate=False)
    torch.testing.assert_close(out, expected)
    offsets.outer_product(x, g, out, accumulate=True)
    torch.testing.assert_close(out, 2 * expected)


def last_logits(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """The engine's logits after the last token."""
    runtime = Runtime.of(loaded.model)
    with torch.no_grad(), runtime.active():
        return runtime.forward(pack([ids], [None], runtime.device), torch.tensor([len(ids) - 1]))[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_that_change_are_read_again(
    tiny: Callable[..., LoadedModel], family: str, dtype: str
) -> None:
    """bfloat16 weights are kept as reordered copies on a CPU: a merged adapter must reach them too."""
    loaded = tiny(family, dtype)
    (ids,) = prompts([30])
    before = last_logits(loaded, ids)
    own = adapter(loaded, 0, 4)

    def equals_model() -> bool:
        theirs = loaded.model(torch.tensor([ids])).logits[0, -1]
        tolerance = 1e-4 if dtype == "float32" else 0.02 * float(theirs.abs().max())
        return torch.allclose(last_logits(loaded, ids).float(), theirs.float(), atol=tolerance, rtol=0)

    assert equals_model()
    with merged(loaded.model, own.factors, own.scale):
        assert not torch.allclose(loaded.model(torch.tensor([ids])).logits[0, -1], before, atol=0.5)
        assert equals_model()
    assert torch.equal(last_logits(loaded, ids), before)

    wrapper = LoRAWrapper(loaded.model, rank=4, alpha=8)
    for name, (a, b) in wrapper.layers().items():
        a.data.copy_(own.factors[name][0])
        b.data.copy_(own.factors[name][1])
    wrapper.merge()  # PEFT writes through `.data`, which leaves no trace in the tensor's version
    assert equals_model()
    assert not torch.allclose(last_logits(loaded, ids), before, atol=0.5)


def test_stop_strings_are_looked_for_at_the_end_alone(tiny: Callable[..., LoadedModel]) -> None:
    """What is decoded grows with the text, not with its square."""
    read = 0

    def counted(ids: Sequence[int]) -> str:
        nonlocal read
        read += len(ids)
        return letters(ids)

    n, stop = 150, ("no such", "nor this")
    reader = Decoder(Runtime.of(tiny().model), counted, frozenset(), max_rows=4, token_budget=99)
    (written,) = reader.run([Request(prompts((9,))[0], None, greedy(n, *stop))])
    assert len(written.ids) == n
    assert read <= n * (len("nor this") + 8) + n


@given(text=st.text("aé語🌲\n", max_size=30), stop=st.text("aé語🌲\n", min_size=1, max_size=3))
@settings(derandomize=True)
def test_a_stop_string_is_seen_as_its_last_byte_is_written(text: str, stop: str) -> None:
    """With the smallest tokens that there are, single bytes, of which a character takes up to four."""
    ids = (text + stop).encode()
    assert stop in ids[-_tail([stop]) :].decode(errors="replace")
