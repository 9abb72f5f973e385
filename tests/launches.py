"""Kernel launches and host syncs of the engine on a GPU that is not there.

On the `meta` device shapes alone are computed, and the engine goes the way of CUDA. An operator that is no
view is a launch; what has to wait for the device (reading a number, a blocking copy) is a sync. Run as a
script under a stand-in for CUDA, `python tests/launches.py cuda 1 8` counts the same on fake CUDA tensors.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from seal.inner import adapt
from seal.inner.adapter import Adapter, layout_of
from seal.inner.decode import Decoder, Request
from seal.inner.runtime import Runtime
from seal.inner.slots import Slots
from seal.records import AdaptJob, Sampling, TrainingConfig, TrainingSequence

#: Operators that launch nothing although they are no views.
_FREE = {"alias", "detach", "empty", "empty_like", "empty_strided", "is_pinned", "lift_fresh", "new_empty"}
_FREE |= {"lift_fresh_copy", "new_empty_strided", "resize_", "set_", "_unsafe_view"}
_WAITS = frozenset(("_local_scalar_dense", "equal", "nonzero"))


class Launches(TorchDispatchMode):
    """Counts launches and syncs on `device`; what is read from it is 1."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.ops: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Launches so far."""
        return self.ops.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        devices = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        if kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]).type)
        if self.device not in devices:
            return func(*args, **kwargs)
        if name in _WAITS:
            self.syncs[name] += 1
            return True if name == "equal" else 1.0 if args[0].is_floating_point() else 1
        down = name == "_to_copy" and torch.device(kwargs.get("device") or self.device).type == "cpu"
        if down or (
            name in ("copy_", "_to_copy") and "cpu" in devices and not _in_its_own_time(args, kwargs)
        ):
            self.syncs["copy"] += 1
        if down:
            with _real():
                return torch.ones(args[0].shape, dtype=args[0].dtype)
        if name not in _FREE and func.namespace != "prim" and not func.is_view:
            self.ops[name] += 1
        return func(*args, **kwargs)


def _in_its_own_time(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("non_blocking")) or (len(args) > 2 and bool(args[2]))


@contextmanager
def _real() -> Iterator[None]:
    """Tensors with numbers, also under fake ones."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        yield


def model(n_layers: int, device: str) -> LlamaForCausalLM:
    """A Llama of random shape and no weights, bf16."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=n_layers, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512, max_position_embeddings=4096,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def training_round(n_layers: int, n: int, device: str = "meta", **training: Any) -> Launches:
    """A round of `n` jobs of one sequence each, about 50 tokens, no two alike; not their first."""
    rng = random.Random(0)
    runtime = Runtime(model(n_layers, device))
    config = TrainingConfig(rank=32, epochs=3, batch_size=1, max_grad_norm=1.0, **training)
    jobs = [
        AdaptJob(str(i), (TrainingSequence((1,) * rng.randint(25, 75)),), config, (), i) for i in range(n)
    ]
    places = Slots(runtime).take([layout_of(runtime, config)] * n)
    fits = [adapt.Fit(runtime, job, place) for job, place in zip(jobs, places, strict=True)]
    with Launches(device):
        assert not list(adapt._round(runtime, fits, adapt.TokenBudget(1 << 20)))
    with Launches(device) as counted:
        assert not list(adapt._round(runtime, fits, adapt.TokenBudget(1 << 20)))
    return counted


def answering(n_layers: int, n: int, device: str = "meta", **sampling: Any) -> tuple[Launches, Launches]:
    """(the prefill of five rows for each of `n` adapters, a decoding step of all of them)."""
    runtime = Runtime(model(n_layers, device))
    adapters = [Adapter(runtime, TrainingConfig(rank=32), i) for i in range(n)]
    decoder = Decoder(runtime, lambda ids: "", frozenset(), max_rows=256, token_budget=16384)
    counted: dict[str, Launches] = {}

    def count(name: str) -> None:
        inner = getattr(decoder, name)

        def call(*args: Any) -> Any:
            with Launches(device) as counted[name]:
                return inner(*args)

        setattr(decoder, name, call)

    count("_prefill")
    count("_step")
    options = Sampling(**{"temperature": 0.0, "max_new_tokens": 4, **sampling})
    prompts = [(1,) * (40 + (i * 7 + j) % 11) for i in range(n) for j in range(5)]
    decoder.run([Request(p, adapters[i // 5], options, i) for i, p in enumerate(prompts)])
    return counted["_prefill"], counted["_step"]


def counts(device: str, n: int) -> dict[str, float]:
    """Launches a layer and the rest, and syncs, of a round, a prefill and a step with `n` adapters."""
    found: dict[str, float] = {}
    small, large = (
        (training_round(k, n, device), *answering(k, n, device, temperature=1.0, top_p=0.95)) for k in (2, 4)
    )
    for name, a, b in zip(("training", "prefill", "decoding"), small, large, strict=True):
        layer = (b.count - a.count) / 2
        found |= {name: layer, f"{name}, fixed": a.count - 2 * layer, f"{name}, syncs": b.syncs.total()}
    return found


if __name__ == "__main__":
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    FakeTensor.tolist = lambda self: self.cpu().tolist()  # as a real tensor does, in one copy
    device = sys.argv[1]
    with FakeTensorMode(allow_non_fake_inputs=True) if device == "cuda" else nullcontext():
        print(json.dumps({n: counts(device, int(n)) for n in sys.argv[2:]}))
