"""Adapters in and out of PEFT's folder format, so that PEFT, vLLM and others load what was trained here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import AdaptError, ModelError
from seal.inner.adapter import Adapter
from seal.inner.runtime import Runtime
from seal.models.adapter_reader import PREFIX, read_adapter, save_weights
from seal.records import TrainingConfig
from seal.whole_file import whole_folder

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

UNSAVED = "cannot save the adapter"
"""How the error begins where a trained adapter cannot be written."""


def save_adapter(adapter: Adapter, loaded: LoadedModel, folder: str | Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the folder appears whole or not at all.

    Raises:
        AdaptError: the folder exists already, or cannot be written.
    """
    from peft import LoraConfig
    from safetensors import SafetensorError
    from transformers.pytorch_utils import Conv1D

    target = Path(folder)
    if target.exists():
        raise AdaptError(f"{target} exists already; adapters are never overwritten", "choose a new folder")
    alpha = float(adapter.training.alpha)
    first = loaded.model.get_submodule(adapter.layout.layers[0])
    config = LoraConfig(
        r=adapter.training.rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # other programs expect a whole number
        lora_dropout=adapter.training.dropout,
        target_modules=list(adapter.layout.layers),
        fan_in_fan_out=isinstance(first, Conv1D),
        task_type="CAUSAL_LM",
        base_model_name_or_path=loaded.source,
        inference_mode=True,
    )
    tensors = {}
    for name, (a_RD, b_OR) in adapter.factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a_RD.cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b_OR.cpu().contiguous()
    try:
        with whole_folder(target) as staging:
            save_weights(tensors, config.r, alpha, staging / "adapter_model.safetensors")
            config.save_pretrained(str(staging))
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AdaptError(f"{UNSAVED} to {target}: {why}", "free disk space, or check the folder") from error


def load_adapter(runtime: Runtime, folder: str | Path) -> Adapter:
    """A PEFT LoRA adapter as one of ours.

    Raises:
        ModelError: there is no adapter, it is not plain LoRA, or it does not fit the model.
    """
    saved = read_adapter(folder)
    names = tuple(saved.factors)
    unknown = [name for name in names if name not in runtime.layers]
    if unknown or not names:
        raise ModelError(
            f"the adapter in {folder} was made for another model (layer {unknown[0] if unknown else 'none'})",
            "load the model named in its adapter_config.json",
        )
    adapter = Adapter(runtime, TrainingConfig(rank=saved.rank, alpha=saved.alpha, targets=names), seed=0)
    for name, factors in adapter.factors.items():
        for mine, theirs, kind in zip(factors, saved.factors[name], "AB", strict=True):
            if theirs.shape != mine.shape:
                raise ModelError(
                    f"lora_{kind} of layer {name} in {folder} has shape {tuple(theirs.shape)}, "
                    f"the model's needs {tuple(mine.shape)}",
                    "load the model named in its adapter_config.json",
                )
            mine.copy_(theirs)
    return adapter
