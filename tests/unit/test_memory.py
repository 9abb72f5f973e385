"""The sum of what training needs, against what a real pass keeps, and the choice that is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seal.config import load_config
from seal.inner import memory
from seal.inner.adapt import train
from seal.inner.adapter import Adapter
from seal.inner.kv_cache import KVCache
from seal.inner.memory import ENOUGH_ON_CPU, LEAST_TOKENS, Capacity, Footprint, capacity, fitting, footprint
from seal.inner.packing import pack
from seal.inner.runtime import Runtime
from seal.models.load import load_model
from seal.records import AdaptJob, TrainingSequence
from seal.run.folder import Run
from seal.setup import _capacity
from seal.training_config import TrainingConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")
#: A model of 7B at rank 32: four bytes of activations a feature, 1.3 GB an adapter.
LARGE = Footprint(0, 1_300_000_000, 4_000_000)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_keeps_what_the_sum_says(family: str, dtype: str) -> None:
    """Every tensor that autograd keeps for the backward pass, weights of the base apart; never more than was
    planned, and not far less."""
    loaded = load_model(f"tiny-random-{family}", device="cpu", dtype=dtype)
    training, n, length = TrainingConfig(rank=8, batch_size=4, epochs=1), 4, 64
    rows = tuple(TrainingSequence(tuple(5 + (7 * i + k) % 200 for i in range(length))) for k in range(n))
    own = {t.untyped_storage().data_ptr() for t in (*loaded.model.parameters(), *loaded.model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    runtime = Runtime.of(loaded.model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (done,) = train(runtime, [AdaptJob("a", rows, training, (), 1)], 1, 4096)
    need = footprint(loaded.model, training, CPU, loaded.model.dtype)
    held = sum(kept.values()) / (n * length)
    assert held <= need.token <= 3 * held
    assert done.adapter is not None
    assert need.adapter == 4 * done.adapter.weights.nbytes == 4 * Adapter(runtime, training, 0).weights.nbytes


def test_the_sum_needs_no_weights() -> None:
    """A model whose tensors are on `meta` gives the same."""
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    with torch.device("meta"):
        bare = type(loaded.model)(loaded.model.config)
    training = TrainingConfig(rank=16, targets=("attention",))
    for device, dtype in ((CPU, torch.float32), (CPU, torch.bfloat16), (GPU, torch.bfloat16)):
        assert footprint(bare, training, device, dtype) == footprint(loaded.model, training, device, dtype)
    # by hand: q, k, v and o of two layers; fp32 weights, gradient and two moments, and factors in bf16
    features = 2 * ((64 + 64) * 2 + (64 + 32) * 2)
    assert footprint(bare, training, GPU, torch.bfloat16).adapter == 16 * features * (4 * 4 + 2)
    assert footprint(bare, training, CPU, torch.float32).reordered == 0


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2"])
def test_keys_and_values_of_rows_that_answer(family: str) -> None:
    """Against the cache of a real prefill."""
    loaded = load_model(f"tiny-random-{family}", device="cpu", dtype="float32")
    runtime = Runtime.of(loaded.model)
    cache = KVCache(runtime.n_layers)
    with torch.no_grad(), runtime.active():
        runtime.forward(pack([(5, 6, 7)], [None], CPU, cache=cache), torch.tensor([0]))
    places = cache.keys[0].shape[2]
    held = sum(x.nbytes for x in (*cache.keys, *cache.values)) / places
    assert footprint(loaded.model, TrainingConfig(), CPU, torch.float32).position == held


@given(free=st.integers(10**8, 10**12))
def test_what_is_chosen_fits_and_more_memory_never_gives_less(free: int) -> None:
    for device in (CPU, GPU):
        found = fitting(LARGE, free, device)
        least = Capacity(1, LEAST_TOKENS)
        assert LARGE.total(found) <= 0.8 * free or found == least
        more = fitting(LARGE, 2 * free, device)
        assert more.slots >= found.slots
        assert more.token_budget >= found.token_budget


def test_plenty_of_memory_gives_what_is_enough() -> None:
    assert fitting(LARGE, 10**12, CPU) == Capacity(*ENOUGH_ON_CPU)
    assert fitting(LARGE, 80 * 2**30, GPU) == Capacity(16, 8192)
    assert fitting(LARGE, 10**8, GPU) == Capacity(1, LEAST_TOKENS)
    assert capacity(LARGE, 10**12, CPU, "auto", 100) == Capacity(ENOUGH_ON_CPU[0], 100)
    assert capacity(LARGE, 10**8, CPU, 5, "auto") == Capacity(5, LEAST_TOKENS)


def test_a_run_keeps_what_was_chosen_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    config = load_config(preset="test", overrides={"output_dir": str(tmp_path / "run")})
    need = footprint(loaded.model, config.inner_training(), CPU, torch.float32)
    little = int(need.total(Capacity(2, 128)) / 0.8) + 1
    monkeypatch.setattr(memory, "free_bytes", lambda _: little)
    with Run.create(tmp_path / "run", config) as run:
        first = _capacity(config, run, loaded)
        assert first == fitting(need, little, CPU) != Capacity(*ENOUGH_ON_CPU)
    monkeypatch.undo()
    with Run.open(tmp_path / "run") as run:
        assert _capacity(config, run, loaded) == first
        assert [row.kind for row in run.journal.rows("capacity")] == ["capacity"]
