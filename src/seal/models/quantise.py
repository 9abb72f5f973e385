"""The frozen base's linear layers in 8 bits (torchao) or 4 (bitsandbytes' nf4); adapters stay in fp32.

Embeddings, norms and the head keep their type. torchao's 4 bits are not offered: as of 0.18 they need mslk's
kernels, which are for GPUs, and have no form for CPUs. Dettmers et al. (QLoRA, arXiv 2305.14314) train
adapters so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seal.errors import ModelError
from seal.extras import need

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: What a base may be quantised to, and the package that does it.
QUANTISED = {"int8": "torchao", "nf4": "bitsandbytes"}
#: Bytes that a weight takes, scales included.
BYTES = {"int8": 1.02, "nf4": 0.52}


def quantise(model: nn.Module, kind: str, place: torch.device) -> None:
    """Put the decoder's linear layers into `kind` on `place`, one after the other, in place.

    Raises:
        MissingExtra: the package is not installed.
        ModelError: the model has no plain linear layers (GPT-2).
    """
    from torch import nn

    from seal.models.lora import linear_modules

    if kind == "int8":
        need("torchao", "dtype int8")
    else:
        need("bitsandbytes", "dtype nf4")
    for name, module in linear_modules(model).items():
        if type(module) is not nn.Linear:
            raise ModelError(f"{name} is a {type(module).__name__}, which has no {kind}", "use dtype: auto")
        module.to(place)
        if kind == "int8":
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            quantize_(module, Int8WeightOnlyConfig())
        else:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, _four_bits(module, place))


def _four_bits(module: nn.Linear, place: torch.device) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    bias = module.bias is not None
    made = Linear4bit(
        module.in_features,
        module.out_features,
        bias=bias,
        compute_dtype=module.weight.dtype,
        quant_type="nf4",
    )
    made.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
    if bias:
        made.bias = module.bias
    return made.to(place)  # type: ignore[no-any-return, unused-ignore]


def is_quantised(module: nn.Module) -> bool:
    """Whether a layer's weight is no plain tensor of its numbers."""
    kind: Any = type(module.weight)
    return kind.__module__.startswith("torchao") or hasattr(module.weight, "quant_state")


def dequantised(module: nn.Module) -> Tensor:
    """The weight (O, D) of a quantised layer, as numbers of the type that it computes in."""
    weight: Any = module.weight
    if not hasattr(weight, "quant_state"):
        return weight.detach().dequantize()  # type: ignore[no-any-return]
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[no-any-return, unused-ignore]


def stored_bytes(model: nn.Module, dtype: torch.dtype, kind: str) -> int:
    """Bytes of a plain model's weights once its linear layers are in `kind`; any other kind: as they are."""
    from seal.models.lora import linear_modules

    every = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    if kind not in BYTES:
        return every
    linear = sum(a * b for a, b in map(layer_shape, linear_modules(model).values()))
    return int(every - linear * (dtype.itemsize - BYTES[kind]))


def layer_shape(module: nn.Module) -> tuple[int, int]:
    """(O, D) of a linear layer, whatever its weight is stored as."""
    from torch import nn

    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    features, width = module.weight.shape  # type: ignore[misc]  # GPT-2's Conv1D
    return int(width), int(features)
