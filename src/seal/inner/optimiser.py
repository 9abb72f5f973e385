"""AdamW for the adapters of a stack: each has its own learning rate, step count, weight decay and clipping.

On a GPU one round is two launches whatever the number of adapters: the norms of their gradients, and one
sweep that clips, steps and writes the factors in the base's type. The sweep is a Triton kernel, or plain
torch where there is no Triton. On a CPU torch's own fused kernel takes the adapters one by one, a sweep each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from seal.inner.stack import AdapterStack
from seal.inner.transfer import on_device

#: torch's defaults for AdamW (Loshchilov and Hutter, arXiv 1711.05101), which are PEFT users' too.
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
#: Added to a norm that is to be limited, as in `torch.nn.utils.clip_grad_norm_`.
CLIP_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class SlotStep:
    """One optimiser step of the adapter in a slot."""

    slot: int
    number: int
    """From 1."""
    learning_rate: float
    weight_decay: float = 0.0
    max_norm: float = 0.0
    """The gradient is scaled down to this norm; 0: it is not."""

    def row(self) -> tuple[float, float, float, float]:
        """Step size, decay, correction of the second moment's root, and limit of the norm (never 0)."""
        return (
            self.learning_rate / (1 - BETA1**self.number),
            1 - self.learning_rate * self.weight_decay,
            math.sqrt(1 - BETA2**self.number),
            self.max_norm or math.inf,
        )


#: The row of a slot that takes no step: its limit is 0.
IDLE = (0.0, 1.0, 1.0, 0.0)


def step(stack: AdapterStack, steps: Sequence[SlotStep]) -> Tensor:
    """Step these slots of a stack in training by their gradients, and bring the weights to its factors.

    The gradients are used up. The norms that they had, (len(steps),), are returned without waiting for them.
    """
    assert stack.state is not None
    if stack.state.weights.device.type == "cpu":
        return torch.stack([_alone(stack, own) for own in steps])
    first, stop = min(own.slot for own in steps), max(own.slot for own in steps) + 1
    rows = dict.fromkeys(range(first, stop), IDLE) | {own.slot: own.row() for own in steps}
    weights, grads, means, squares = (x[first:stop] for x in stack.state)
    norms_N: Tensor = torch.linalg.vector_norm(grads, dim=1)
    factors = None if stack.factors is stack.state.weights else stack.factors[first:stop]
    table_N4 = on_device(list(rows.values()), weights.device, weights.dtype)
    torch.ops.seal.adamw(weights, grads, means, squares, factors, norms_N, table_N4)
    order = [own.slot - first for own in steps]
    return norms_N if order == [*range(len(rows))] else norms_N[on_device(order, norms_N.device)]


def _alone(stack: AdapterStack, own: SlotStep) -> Tensor:
    assert stack.state is not None
    weights, grad, mean, square = (x[own.slot] for x in stack.state)
    norm: Tensor = torch.linalg.vector_norm(grad)
    scale = None
    if own.max_norm:
        scale = ((norm + CLIP_EPS) / own.max_norm).clamp_(min=1)
        if grad.dtype != torch.float32:  # too fine for the kernel's scale, which is always fp32
            grad.div_(scale)
            scale = None
        elif float(scale) == 1:
            scale = None  # reading it costs nothing here, dividing by it a sweep
    adamw(
        [weights], [grad], [mean], [square], [], [torch.tensor(own.number - 1.0)], fused=True,
        # what torch's GradScaler hands over: the gradient is divided by it in the same sweep
        grad_scale=scale, amsgrad=False, maximize=False,
        beta1=BETA1, beta2=BETA2, eps=EPS, lr=own.learning_rate, weight_decay=own.weight_decay,
    )  # fmt: skip
    if stack.factors is not stack.state.weights:
        stack.factors[own.slot].copy_(weights)
    return norm


def sweep(
    weights_NP: Tensor, grads_NP: Tensor, means_NP: Tensor, squares_NP: Tensor, factors_NP: Tensor | None,
    norms_N: Tensor, table_N4: Tensor,
) -> None:  # fmt: skip
    """One AdamW step of N slots, in place, each by its `SlotStep.row`; writes `factors` where given."""
    if weights_NP.device.type == "cuda" and find_spec("triton") is not None:
        from seal.inner.adamw_kernel import launch

        launch(weights_NP, grads_NP, means_NP, squares_NP, factors_NP, norms_N, table_N4)
        return
    size, decay, root, limit = (x[:, None] for x in table_N4.unbind(dim=1))
    scale = ((norms_N[:, None] + CLIP_EPS) / limit).clamp_(min=1)
    grads_NP.div_(scale)
    means_NP.lerp_(grads_NP, 1 - BETA1)
    squares_NP.mul_(BETA2).addcmul_(grads_NP, grads_NP, value=1 - BETA2)
    change = torch.sqrt(squares_NP, out=grads_NP).div_(root).add_(EPS)  # no temporaries: a stack is large
    torch.div(means_NP, change, out=change).mul_(size)
    weights_NP.mul_(decay).sub_(change)
    if factors_NP is not None:
        factors_NP.copy_(weights_NP)


torch.library.define(
    "seal::adamw",
    "(Tensor(a!) weights, Tensor(b!) grads, Tensor(c!) means, Tensor(d!) squares, Tensor(e!)? factors,"
    " Tensor norms, Tensor table) -> ()",
)
torch.library.impl("seal::adamw", "default", sweep)
torch.library.register_fake("seal::adamw", lambda *_: None)
