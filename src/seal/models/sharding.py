"""FSDP2: each process holds a part of every weight, where `accelerate launch` is given `fsdp2.yaml`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def asked_for() -> bool:
    """Whether this process was started to share its weights with others."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def set_up(device: torch.device) -> None:
    """Make accelerate shard on CPUs as well: it does on accelerators alone, though PyTorch can anywhere."""
    if not asked_for() or device.type != "cpu" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
    from accelerate.state import AcceleratorState, PartialState

    Accelerator(cpu=True).state.fsdp_plugin = FullyShardedDataParallelPlugin()
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP


def whole(weight: torch.Tensor) -> torch.Tensor:
    """All of a weight; every process must ask for it."""
    from torch.distributed.tensor import DTensor

    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def is_cut_up(model: PreTrainedModel) -> bool:
    """Whether this process holds parts of the weights only."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())
