"""The batched engine equals sequential PEFT + AdamW, whatever shares the batch (Hu et al. 2021, eq. 3)."""

from __future__ import annotations

import gc
import hashlib
import random
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, combinations, pairwise

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from double_precision import SAME, DoublePrecision, no_further_off, tiny_double
from seal.inner import adapter as adapter_file
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.attention import LONGEST_WRITTEN_OUT
from seal.inner.fit import Trained
from seal.inner.grouped import GroupOffsets
from seal.inner.packing import CALL_COST, length_buckets, pack
from seal.inner.runtime import Runtime
from seal.inner.stack import stack_up
from seal.models.load import LoadedModel, load_model
from seal.models.lora import LoRAWrapper
from seal.records import AdaptJob, TrainingConfig, TrainingSequence
from seal.schedule import init_lora

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"]


def tiny(family: str, dtype: str = "float32") -> LoadedModel:
    return load_model(f"tiny-random-{family}", device="cpu", dtype=dtype)


def rows(rng: random.Random, n: int, longest: int = 40) -> tuple[TrainingSequence, ...]:
    out = []
    for _ in range(n):
        ids = tuple(rng.randrange(4, 250) for _ in range(rng.randint(2, longest)))
        start = rng.randrange(len(ids) - 1)
        out.append(TrainingSequence(ids, ((start, len(ids)),) if rng.random() < 0.5 else ()))
    return tuple(out)


def job(name: str, n_rows: int, seed: int, **recipe: object) -> AdaptJob:
    return AdaptJob(name, rows(random.Random(seed), n_rows), TrainingConfig(**recipe), (), seed)  # type: ignore[arg-type]


def four_jobs() -> list[AdaptJob]:
    steady = {"schedule": "constant", "learning_rate": 5e-4}
    strict = {"weight_decay": 0.1, "max_grad_norm": 0.3}
    return [
        job("a", 3, 1, rank=4, alpha=8, learning_rate=1e-3, epochs=3, schedule="linear"),
        job("b", 5, 2, rank=8, alpha=4, learning_rate=3e-3, epochs=2, schedule="cosine", warmup_ratio=0.2),
        job("c", 1, 3, rank=2, alpha=16, epochs=4, **steady, targets=("attention",)),
        job("d", 4, 4, rank=16, alpha=16, epochs=2, batch_size=2, accumulation=2, **strict),
    ]


def run(loaded: LoadedModel, jobs: list[AdaptJob], slots: int = 4, budget: int = 96) -> dict[str, Trained]:
    return {t.job.id: t for t in train(Runtime(loaded.model), jobs, slots, budget)}


def flat(factors: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """All LoRA weights of an adapter in one fp64 tensor, layers by name."""
    return torch.cat([x.detach().double().flatten() for _, pair in sorted(factors.items()) for x in pair])


def by_peft(loaded: LoadedModel, j: AdaptJob) -> tuple[Tensor, Tensor]:
    """Losses and learnt change of the weights of one job, by PEFT and torch's AdamW."""
    with LoRAWrapper.from_config(loaded.model, j.training) as reference:
        reference.reset(j.seed)
        start = flat(reference.layers())
        losses = reference.fit(j.sequences, j.training, j.seed)
        return torch.tensor(losses, dtype=torch.float64), flat(reference.layers()) - start


def by_us(loaded: LoadedModel, trained: Trained) -> tuple[Tensor, Tensor]:
    """The same of a job that the engine has trained."""
    assert trained.adapter is not None
    runtime = Runtime(loaded.model)
    start = flat(Adapter(runtime, trained.job.training, trained.job.seed).factors)
    losses = torch.tensor(trained.losses, dtype=torch.float64)
    return losses, flat(trained.adapter.factors) - start


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    """Losses and learnt weights agree as fp64 does."""
    for mine, theirs in zip(a, b, strict=True):
        assert float((mine - theirs).norm()) <= SAME * float(theirs.norm())


def twice(family: str) -> AbstractContextManager[object]:
    """What makes a family compute in fp64 throughout; nothing in GPT-2's code, or in ours, asks for fp32."""
    return nullcontext() if family == "gpt2" else DoublePrecision()


@pytest.mark.parametrize("family", FAMILIES)
def test_in_fp64_the_engine_equals_sequential_peft(family: str) -> None:
    """Alone, and with others in the batch, in any order, many to a pass or cut up into several."""
    with twice(family):
        loaded = tiny_double(family)
        together = run(loaded, four_jobs())
        reverse = run(loaded, four_jobs()[::-1], slots=3, budget=40)
        for j in four_jobs():
            reference = by_peft(loaded, j)
            for trained in (together[j.id], reverse[j.id], run(loaded, [j])[j.id]):
                assert trained.adapter is not None
                assert trained.adapter.weights.dtype == torch.float64
                equal(by_us(loaded, trained), reference)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_is_no_further_off_the_truth_than_peft(family: str, dtype: str) -> None:
    compare_with_truth(family, dtype, four_jobs())


def compare_with_truth(family: str, dtype: str, jobs: list[AdaptJob], device: str = "cpu") -> None:
    """The engine and PEFT in `dtype`, each beside PEFT in fp64 on the same weights."""
    with DoublePrecision():
        exact = tiny_double(family, dtype, device)
        truth = [by_peft(exact, j) for j in jobs]
    loaded = load_model(f"tiny-random-{family}", device=device, dtype=dtype)
    trained = run(loaded, jobs)
    ours, peft = [by_us(loaded, trained[j.id]) for j in jobs], [by_peft(loaded, j) for j in jobs]
    for segment in (0, 1):  # losses, then weights, all jobs' together
        no_further_off(*(torch.cat([x[segment] for x in each]) for each in (ours, peft, truth)))


def test_long_and_short_rows_in_bfloat16_are_as_true_as_peft() -> None:
    """On either side of the length up to which attention's gradient is written out."""
    rng = random.Random(0)
    lengths = (LONGEST_WRITTEN_OUT - 1, LONGEST_WRITTEN_OUT + 60)
    lines = tuple(TrainingSequence(tuple(rng.randrange(4, 250) for _ in range(n))) for n in lengths)
    long = AdaptJob("long", lines, TrainingConfig(rank=4, alpha=8, epochs=3, schedule="constant"), (), 1)
    compare_with_truth("llama", "bfloat16", [long])


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def llama64() -> LoadedModel:
    return tiny_double("llama")


@pytest.mark.parametrize(("slots", "budget"), [(1, 512), (2, 8), (4, 4096), (3, 50)])
def test_slots_budget_and_order_change_no_result(llama64: LoadedModel, slots: int, budget: int) -> None:
    jobs = [*four_jobs(), job("e", 3, 5, rank=4, dropout=0.3, epochs=3, batch_size=3)]
    with DoublePrecision():
        alone = {j.id: run(llama64, [j])[j.id] for j in jobs}
        together = run(llama64, jobs[::-1], slots, budget)
        assert set(together) == set(alone)
        for name, trained in together.items():
            equal(by_us(llama64, trained), by_us(llama64, alone[name]))


recipes = st.builds(
    TrainingConfig,
    rank=st.sampled_from([1, 3, 8]),
    alpha=st.sampled_from([1.0, 16.0]),
    dropout=st.sampled_from([0.0, 0.5]),
    targets=st.sampled_from([("all",), ("attention",), ("mlp",), ("q_proj", "down_proj")]),
    learning_rate=st.floats(1e-5, 5e-3),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 3),
    accumulation=st.integers(1, 2),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup_ratio=st.sampled_from([0.0, 0.4]),
    max_grad_norm=st.sampled_from([0.0, 0.1, 1.0]),
    shuffle=st.booleans(),
)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(mix=st.lists(st.tuples(recipes, st.integers(1, 4)), min_size=2, max_size=5), slots=st.integers(1, 5))
def test_any_mix_of_recipes_equals_alone(
    llama64: LoadedModel, mix: list[tuple[TrainingConfig, int]], slots: int
) -> None:
    jobs = [AdaptJob(str(i), rows(random.Random(i), n, 20), r, (), i) for i, (r, n) in enumerate(mix)]
    with DoublePrecision():
        together = run(llama64, jobs, slots, 64)
        for j in jobs:
            equal(by_us(llama64, together[j.id]), by_us(llama64, run(llama64, [j])[j.id]))


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any), width=st.sampled_from([8, 24]))
@settings(max_examples=40, derandomize=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_products_of_each_adapters_own_tokens(dtype: torch.dtype, counts: list[int], width: int) -> None:
    """Within the rounding that a sum of so many products may have (Higham 2002, eq. 3.5), one by one."""
    generator = torch.Generator().manual_seed(sum(counts))
    x_TI, w_NIO, g_TO = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((sum(counts), width), (len(counts), width, 16), (sum(counts), 16))
    )
    offsets = GroupOffsets(counts, torch.device("cpu"))
    out_NIO = torch.ones(len(counts), width, 16, dtype=dtype)
    offsets.outer_product(x_TI, g_TO, out_NIO, accumulate=True)
    of = [range(end - n, end) for n, end in zip(counts, accumulate(counts), strict=True)]
    eps = torch.finfo(dtype).eps

    def near(found: Tensor, left: Tensor, right: Tensor, start: float = 0.0) -> None:
        left, right = left.double(), right.double()
        bound = (left.shape[1] + 2) * eps * (left.abs() @ right.abs() + start)
        assert bool(((found.double() - left @ right - start).abs() <= bound).all())

    matmul = offsets.matmul(x_TI, w_NIO)
    filled, outer_NIO = offsets.filled_matmul(x_TI, w_NIO), offsets.filled_outer_product(x_TI, g_TO)
    for adapter, own in enumerate(of):
        near(filled[own.start : own.stop], x_TI[own.start : own.stop], w_NIO[adapter])
        near(outer_NIO[adapter], x_TI[own.start : own.stop].t(), g_TO[own.start : own.stop])
        near(matmul[own.start : own.stop], x_TI[own.start : own.stop], w_NIO[adapter])
        near(out_NIO[adapter], x_TI[own.start : own.stop].t(), g_TO[own.start : own.stop], 1.0)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=7))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_attention_calls_are_cut_where_they_cost_least(lengths: list[int]) -> None:
    """Against every way to cut the sorted lengths."""

    def cost(groups: Iterable[Sequence[int]]) -> int:
        return sum(CALL_COST + len(group) * max(group) ** 2 for group in groups)

    found = length_buckets(lengths)
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    ordered = sorted(lengths)
    cheapest = min(
        cost([ordered[a:b] for a, b in pairwise([0, *cuts, len(ordered)])])
        for n in range(len(lengths))
        for cuts in combinations(range(1, len(ordered)), n)
    )
    assert cost([[lengths[i] for i in group] for group in found]) == cheapest


def test_a_sequence_never_sees_its_neighbour(llama: LoadedModel) -> None:
    """Change every token of one job; the other job's losses and weights stay the same to the bit."""
    stays = job("stays", 3, 1, epochs=2, rank=4)
    other = job("other", 3, 2, epochs=2, rank=4)
    flipped = tuple(TrainingSequence(tuple(255 - i for i in r.ids), r.loss) for r in other.sequences)
    changed = AdaptJob("other", flipped, other.training, (), 2)
    first, second = (run(llama, [pair, stays], 2, 512)["stays"] for pair in (other, changed))
    assert first.losses == second.losses
    assert first.adapter is not None
    assert second.adapter is not None
    assert torch.equal(first.adapter.weights, second.adapter.weights)


def digest(model: torch.nn.Module) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def test_base_is_untouched_after_300_jobs(llama: LoadedModel) -> None:
    ids = torch.arange(4, 24)[None]
    before, logits = digest(llama.model), llama.model(ids).logits
    done = run(llama, [job(str(i), 1, i, rank=2, epochs=1) for i in range(300)], slots=32, budget=2048)
    assert len(done) == 300
    assert all(t.error is None for t in done.values())
    assert digest(llama.model) == before
    assert torch.equal(llama.model(ids).logits, logits)
    assert all(p.grad is None for p in llama.model.parameters())


def test_a_job_that_diverges_fails_alone(llama64: LoadedModel) -> None:
    good, bad = job("good", 2, 1, rank=4, epochs=3), job("bad", 2, 2, rank=4, epochs=6, learning_rate=1e200)
    done = run(llama64, [bad, good], 2)
    assert done["bad"].error is not None
    assert "lower the learning rate" in str(done["bad"].error)
    assert done["bad"].adapter is None
    first, second = done["good"], run(llama64, [good])["good"]
    assert first.losses == pytest.approx(second.losses, rel=1e-6)  # norms are fp32 here


def test_rows_that_cannot_be_learnt_are_refused(llama: LoadedModel) -> None:
    window = llama.model.config.max_position_embeddings
    long = AdaptJob("long", (TrainingSequence((5,) * (window + 1)),), TrainingConfig(rank=2), (), 0)
    empty = AdaptJob("empty", (TrainingSequence((5,)),), TrainingConfig(rank=2), (), 0)
    unknown = AdaptJob("unknown", (TrainingSequence((5, 260)),), TrainingConfig(rank=2), (), 0)
    done = run(llama, [long, empty, unknown])
    assert f"has {window + 1} tokens; the model reads {window}" in str(done["long"].error)
    assert "no token to learn" in str(done["empty"].error)
    assert "token 260 is not among the model's 260" in str(done["unknown"].error)


def test_dropout_masks_have_the_right_rate_and_scale(llama: LoadedModel) -> None:
    """Each layer draws its own mask, as in PEFT, and each row its own part of it."""
    runtime = Runtime(llama.model)
    adapter = Adapter(runtime, TrainingConfig(rank=2, dropout=0.25), 0)
    group = next(g for g in runtime.groups if len(g.names) == 3)
    (place,) = stack_up(runtime, [adapter])
    packed = pack([[5] * 200] * 2, [place] * 2, runtime.device, training=True, dropout=((7, 0.25), (8, 0.25)))
    masks = group.dropout_masks(packed, packed.segments[0])
    assert masks is not None
    assert len(masks) == 3
    for mask in masks:
        assert sorted(mask.unique().tolist()) == pytest.approx([0, 4 / 3])
        assert float((mask == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
        assert not torch.equal(mask[:200], mask[200:])
    assert not torch.equal(masks[0], masks[1])


def test_each_adapter_draws_its_own_dropout(llama64: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows, orders and start values: what two seeds differ in is their masks."""
    monkeypatch.setattr(
        adapter_file, "init_lora", lambda name, width, rank, _: init_lora(name, width, rank, 0)
    )
    same = {"rank": 2, "epochs": 3, "shuffle": False}
    ways = {name: TrainingConfig(**same, dropout=p) for name, p in (("dry", 0.0), ("wet", 0.5))}
    sequences = rows(random.Random(0), 2)
    jobs = [AdaptJob(f"{n}{seed}", sequences, way, (), seed) for n, way in ways.items() for seed in (1, 2)]
    done = run(llama64, jobs)
    assert done["dry1"].losses == done["dry2"].losses
    assert done["wet1"].losses != done["wet2"].losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_cut_to_nothing_moves_nothing(dtype: str) -> None:
    """AdamW forgives a scale that is the same at every step, but not one far below its epsilon."""
    loaded = tiny("llama", dtype)
    free, cut = (
        by_us(loaded, run(loaded, [job("a", 3, 1, rank=2, epochs=2, max_grad_norm=norm)])["a"])[1].abs().max()
        for norm in (0, 1e-13)
    )
    assert float(cut) < 0.01 * float(free)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_finished_adapter_leaves_memory(dtype: str) -> None:
    """Nothing of a pass may hold its graph alive: it knows the adapters, and the collector cannot see in."""
    loaded = tiny("llama", dtype)
    done = run(loaded, [job("a", 2, 1, rank=2, epochs=2), job("b", 2, 2, rank=2, epochs=2)])
    alive = [weakref.ref(t.adapter) for t in done.values() if t.adapter is not None]
    assert len(alive) == 2
    done.clear()
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_trains_as_peft_does(dtype: str) -> None:
    """Uneven shares go through grouped products there."""
    compare_with_truth("llama", dtype, four_jobs(), "cuda")


@pytest.mark.gpu
def test_start_values_are_the_same_on_a_gpu() -> None:
    """A smaller rank comes after a larger one of the same layout, in memory that stays."""
    on_gpu, here = (
        Runtime(load_model("tiny-random-llama", device=d, dtype="float32").model) for d in ("cuda", "cpu")
    )
    for rank, seed in ((8, 1), (5, 2), (8, 3)):
        config = TrainingConfig(rank=rank)
        mine, reference = (Adapter(runtime, config, seed).weights for runtime in (on_gpu, here))
        assert torch.equal(mine.cpu(), reference)
