"""One LoRA adapter at a time, over PEFT: the reference that the batched engine is measured against.

`LoRAWrapper` is slow on purpose: one row a forward pass, plain AdamW, nothing fused. The numbers it gives
are what "equal to PEFT" means everywhere else. Base weights never train, and the base runs in evaluation
mode: the only dropout is the adapter's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import AdaptError, ConfigError, ModelError
from seal.inner.schedule import init_lora, learning_rate, step_rows, total_steps
from seal.records import LoRARecipe, TrainRow
from seal.seeds import derive

if TYPE_CHECKING:
    from types import TracebackType

    from peft import LoraConfig, PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

#: Module names that mark a projection as belonging to a group, in every family we support.
_GROUPS = {"attention": {"self_attn", "attn", "attention"}, "mlp": {"mlp", "feed_forward"}}
#: Parts of multi-modal models that read no text.
_NOT_TEXT = {"vision_tower", "vision_model", "visual", "multi_modal_projector", "audio_tower"}


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer of the text decoder by full name (`Linear` or GPT-2's `Conv1D`), but no output head."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not output
        and name.rpartition(".")[2] != "lm_head"
        and not _NOT_TEXT & set(name.split("."))
    }


def target_modules(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the layers that `targets` mean in `model`, in the model's order.

    A target is a group ("all", "attention", "mlp") or a suffix of module names ("q_proj", "attn.c_proj").

    Raises:
        ConfigError: a target names no linear layer of this model.
    """
    names = list(linear_modules(model))
    wanted: set[str] = set()
    for target in targets:
        found = {name for name in names if _matches(name, target)}
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigError(
                f"LoRA target {target!r} names no linear layer of {type(model).__name__}",
                f'use "all", "attention", "mlp" or one of {", ".join(kinds)}',
            )
        wanted |= found
    if not wanted:
        raise ConfigError("no LoRA targets were given", 'name at least one, for example "all"')
    return [name for name in names if name in wanted]


def _matches(name: str, target: str) -> bool:
    if target == "all":
        return True
    if target in _GROUPS:
        return bool(_GROUPS[target] & set(name.split(".")))
    return name == target or name.endswith("." + target)
