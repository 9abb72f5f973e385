"""Adapters in and out of PEFT's folder format, so that PEFT, vLLM and others load what was trained here."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from seal.errors import AdaptError, ModelError
from seal.inner.adapter import Adapter
from seal.inner.runtime import Runtime
from seal.records import TrainingConfig

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

_PREFIX = "base_model.model."
_ONLY_PLAIN = "only plain LoRA can be loaded"


def save_adapter(adapter: Adapter, loaded: LoadedModel, folder: str | Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the folder appears whole or not at all.

    Raises:
        AdaptError: the folder exists already, or cannot be written.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file
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
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a_RD.cpu().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b_OR.cpu().contiguous()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            save_file(tensors, staging / "adapter_model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(str(staging))
            os.replace(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise AdaptError(f"cannot save the adapter to {target}: {why}", "check the folder") from error


def load_adapter(runtime: Runtime, folder: str | Path) -> Adapter:
    """A PEFT LoRA adapter as one of ours.

    Raises:
        ModelError: there is no adapter, it is not plain LoRA, or it does not fit the model.
    """
    source = Path(folder)
    rank, alpha = _read_config(source)
    weights = _read_weights(source)
    names = list(dict.fromkeys(key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in weights))
    unknown = [name for name in names if name not in runtime.layers]
    if unknown or not names:
        raise ModelError(
            f"the adapter in {source} was made for another model (layer {unknown[0] if unknown else 'none'})",
            "load the model named in its adapter_config.json",
        )
    adapter = Adapter(runtime, TrainingConfig(rank=rank, alpha=alpha, targets=tuple(names)), seed=0)
    for name, factors in adapter.factors.items():
        for mine, kind in zip(factors, "AB", strict=True):
            theirs = weights.get(f"{_PREFIX}{name}.lora_{kind}.weight")
            if theirs is None or theirs.shape != mine.shape:
                given = "is missing" if theirs is None else f"has shape {tuple(theirs.shape)}"
                raise ModelError(
                    f"lora_{kind} of layer {name} in {source} {given}, the model's needs {tuple(mine.shape)}",
                    "load the model named in its adapter_config.json",
                )
            mine.copy_(theirs)
    return adapter


def _read_config(source: Path) -> tuple[int, float]:
    """Rank and alpha of a plain LoRA adapter."""
    try:
        config = json.loads((source / "adapter_config.json").read_text("utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no PEFT LoRA adapter in {source}", "name a folder with adapter_config.json"
        ) from error
    for option in ("use_dora", "rank_pattern", "alpha_pattern", "use_rslora", "modules_to_save", "bias"):
        if config.get(option) not in (None, False, {}, [], "none"):
            raise ModelError(f"the adapter in {source} uses {option}", _ONLY_PLAIN)
    return rank, alpha


def _read_weights(source: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = source / "adapter_model.safetensors"
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}", "save the adapter again, as safetensors") from error
    for key in weights:
        if not (key.startswith(_PREFIX) and key.endswith((".lora_A.weight", ".lora_B.weight"))):
            raise ModelError(f"the adapter in {source} holds {key}", _ONLY_PLAIN)
    return weights
