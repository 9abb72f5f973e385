"""What all rounds have changed as one LoRA adapter of the first policy: their factors, one under the other.

W + s₁·B₁A₁ + s₂·B₂A₂ = W + [s₁B₁ s₂B₂]·[A₁; A₂], so the rank grows by a round's own with every round.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import ModelError
from seal.models.adapter_reader import PREFIX, read_adapter, save_weights
from seal.whole_file import whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from seal.models.lora import Factors


def adapter_of(policy: str | Path) -> Path:
    """Where the adapter lies that makes the checkpoint `policy` of the run's first policy."""
    return Path(policy).with_name(f"{Path(policy).name}-adapter")


def save_stacked(
    model: PreTrainedModel, factors: Factors, scale: float, folder: Path, before: Path | None = None
) -> int:
    """Write `factors` on top of the adapter in `before`, in PEFT's format; its rank. All or nothing.

    Args:
        model: any of the policies: says how its layers keep their weights.
        scale: alpha / rank of `factors`.

    Raises:
        ModelError: `before` holds no adapter of the same layers, or `folder` cannot be written.
    """
    import torch
    from peft import LoraConfig
    from safetensors import SafetensorError
    from transformers.pytorch_utils import Conv1D

    stack = {name: (a, b * scale) for name, (a, b) in factors.items()}
    if before is not None:
        old = read_adapter(before)
        if set(old.factors) != set(stack):
            raise ModelError(f"{before} adapts other layers", "keep sft.targets the same in all rounds")
        for name, (a, b) in stack.items():
            a0, b0 = old.factors[name]
            stack[name] = torch.cat([a0, a]), torch.cat([b0 * (old.alpha / old.rank), b], dim=1)
    rank = next(iter(stack.values()))[0].shape[0]
    layers = list(stack)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # the factors are scaled already
        target_modules=layers,
        fan_in_fan_out=isinstance(model.get_submodule(layers[0]), Conv1D),
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    tensors = {}
    for name, (a, b) in stack.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.contiguous()
    try:
        with whole_folder(
            folder, replace=True
        ) as staging:  # in the place of a try that was cut short after it
            save_weights(tensors, rank, rank, staging / "adapter_model.safetensors")
            config.save_pretrained(str(staging))
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        fix = "free disk space, or check the disk"
        raise ModelError(f"cannot save the adapter to {folder}: {why}", fix) from None
    return rank
