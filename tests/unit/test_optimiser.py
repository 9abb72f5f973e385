"""One sweep steps every adapter of a stack as torch's AdamW steps each, by its own rate and count."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from seal.inner.optimiser import IDLE, SlotStep, step, sweep
from seal.inner.stack import AdapterStack, TrainingState

#: No two alike: clipped and not, decayed and not, first and later steps, a rate of 0 (a warm-up's).
STEPS = (
    SlotStep(0, 1, 1e-3, max_norm=1.0),
    SlotStep(1, 2, 0.0, max_norm=1e9),
    SlotStep(3, 7, 3e-2, weight_decay=0.1),
    SlotStep(4, 900, 1e-4, weight_decay=0.01, max_norm=0.5),
)
SLOTS, SIZE = 5, 5003


def state(dtype: torch.dtype, slots: int = SLOTS) -> TrainingState:
    draw = torch.Generator().manual_seed(0)
    weights, grads, means, squares = (
        torch.randn(slots, SIZE, generator=draw, dtype=torch.float64) for _ in range(4)
    )
    return TrainingState(*(x.to(dtype) for x in (weights, grads, means * 0.1, squares.square() * 0.01)))


def by_torch(given: TrainingState, own: SlotStep) -> tuple[Tensor, float]:
    """The weights (float64) that torch's own AdamW and clipping make of a slot, and the norm before."""
    weights, grad, mean, square = (x[own.slot].double() for x in given)
    parameter = torch.nn.Parameter(weights.clone())
    parameter.grad = grad.clone()
    optimizer = torch.optim.AdamW([parameter], lr=own.learning_rate, weight_decay=own.weight_decay)
    steps = torch.tensor(own.number - 1.0)
    optimizer.state[parameter] = {"step": steps, "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
    norm = torch.nn.utils.clip_grad_norm_([parameter], own.max_norm or torch.inf)
    optimizer.step()
    return parameter.detach(), float(norm)


def swept(given: TrainingState, factors: Tensor | None) -> TrainingState:
    """What the sweep makes of all slots; one of them is idle."""
    own = TrainingState(*(x.clone() for x in given))
    rows = {s.slot: s.row() for s in STEPS}
    table = torch.tensor([rows.get(slot, IDLE) for slot in range(SLOTS)], dtype=own.weights.dtype)
    sweep(*own, factors, torch.linalg.vector_norm(own.grads, dim=1), table)
    return own


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_a_sweep_equals_adamw_of_every_slot_alone(dtype: torch.dtype, close: float) -> None:
    given, factors = state(dtype), torch.zeros(SLOTS, SIZE, dtype=torch.bfloat16)
    found = swept(given, factors)
    for own in STEPS:
        expected, _ = by_torch(given, own)
        assert torch.allclose(found.weights[own.slot].double(), expected, rtol=close, atol=close)
    assert torch.equal(factors, found.weights.bfloat16())
    assert torch.equal(found.weights[2], given.weights[2])  # the idle one


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_slots_of_a_stack_on_a_cpu(dtype: torch.dtype, close: float) -> None:
    given = state(dtype)
    own = TrainingState(*(x.clone() for x in given))
    stack: AdapterStack = SimpleNamespace(state=own, factors=own.weights)  # type: ignore[assignment]
    norms = step(stack, STEPS)
    for norm, each in zip(norms.tolist(), STEPS, strict=True):
        expected, before = by_torch(given, each)
        assert torch.allclose(own.weights[each.slot].double(), expected, rtol=close, atol=close)
        assert norm == pytest.approx(before, rel=1e-5)


def test_the_kernel_equals_the_plain_sweep() -> None:
    """Triton's interpreter computes it on CPU tensors; it is switched on at import, so in another process."""
    if find_spec("triton") is None:
        pytest.skip("needs triton, which CPU builds of torch do not bring: put it on PYTHONPATH")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
def test_the_kernel_on_a_gpu_equals_the_plain_sweep() -> None:
    _kernel_beside_plain("cuda")


def _kernel_beside_plain(device: str = "cpu") -> None:
    from seal.inner.adamw_kernel import launch

    rows, stepped = {s.slot: s.row() for s in STEPS}, [s.slot for s in STEPS]
    for dtype, close in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        given = state(dtype)
        factors = torch.zeros(SLOTS, SIZE, dtype=torch.bfloat16) if dtype == torch.float32 else None
        plain = swept(given, None)
        own = TrainingState(*(x.to(device, copy=True) for x in given))
        factors = None if factors is None else factors.to(device)
        table = torch.tensor([rows.get(slot, IDLE) for slot in range(SLOTS)], dtype=dtype, device=device)
        launch(*own, factors, torch.linalg.vector_norm(own.grads, dim=1), table)
        for name in ("weights", "means", "squares"):
            mine, reference = getattr(own, name).cpu(), getattr(plain, name)
            assert torch.allclose(mine[stepped], reference[stepped], rtol=close, atol=close), name
            assert torch.equal(mine[2], getattr(given, name)[2]), name
        if factors is not None:  # the interpreter cuts bits off where hardware rounds
            written, exact = factors[stepped].float(), own.weights[stepped]
            assert torch.allclose(written, exact, rtol=2**-7, atol=0)
            assert device == "cpu" or torch.equal(written, exact.bfloat16().float())
            assert int(factors[2].count_nonzero()) == 0


if __name__ == "__main__":
    _kernel_beside_plain()
