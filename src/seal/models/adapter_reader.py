"""Reads LoRA adapters in PEFT's folder format: the one reader of the batched engine and of `LoRAWrapper`.

What is computed here is alpha / rank · B·A on frozen base weights. An adapter that asks for anything else is
refused by the name of the option, but for rank-stabilised scaling, which is a matter of alpha.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
SUM = "seal_sum"
"""Entry of the weights' metadata: `checksum` of an adapter that this program saved."""
_ONLY_PLAIN = "only plain LoRA can be loaded: merge the adapter into its base with PEFT and use the result"
#: Options of PEFT's `LoraConfig` under which an adapter is more, or other, than alpha / rank · B·A. Further
#: ones of the names `use_*` and `*_config` are taken to be of that kind.
_OTHER = (
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)
#: Of the names `use_*` and `*_config`, what is honoured or tells only how training began or ran.
_HARMLESS = ("use_rslora", "eva_config", "loftq_config", "runtime_config", "megatron_config")
#: Start values that change the base's weights too, so that the adapter alone is not what was trained.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """A plain LoRA adapter as it lay on the disk."""

    rank: int
    alpha: float
    """The update is alpha / rank · B·A; with rank-stabilised scaling this is the saved alpha times √rank."""
    factors: Mapping[str, tuple[Tensor, Tensor]]
    """By full layer name: A (rank, in) and B (out, rank), on the CPU."""


def read_adapter(folder: str | Path) -> SavedAdapter:
    """The adapter in `folder`.

    Raises:
        ModelError: there is none, it is not plain LoRA, or its files are damaged.
    """
    source = Path(folder)
    try:
        config = json.loads((source / "adapter_config.json").read_text("utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no PEFT LoRA adapter in {source}", "name a folder with adapter_config.json"
        ) from error
    for option in _asked_beyond(config):
        raise ModelError(f"the adapter in {source} uses {option}", _ONLY_PLAIN)
    if config.get("use_rslora"):
        alpha *= rank**0.5
    return SavedAdapter(rank, alpha, _factors(source, rank, float(config["lora_alpha"])))


def checksum(rank: int, alpha: float, weights: Mapping[str, Tensor]) -> str:
    """Hash of all that makes the update: scale, names, shapes and every weight."""
    import torch

    digest = hashlib.sha256(f"{rank} {float(alpha)}".encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(weights: dict[str, Tensor], rank: int, alpha: float, path: Path) -> None:
    """Write the weights with their checksum. Equal adapters are equal files: safetensors itself writes
    several entries of metadata in any order."""
    from safetensors.torch import save_file

    save_file(weights, path, metadata={"format": "pt", SUM: checksum(rank, alpha, weights)})
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def _asked_beyond(config: Mapping[str, Any]) -> list[str]:
    """Options of a saved config that this program does not compute."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        return [f"peft_type {kind}"]
    named = [name for name in config if name.startswith("use_") or name.endswith("_config")]
    asked = [
        name
        for name in (*_OTHER, *named)
        if name not in _HARMLESS and config.get(name) not in (None, False, {}, [], "none")
    ]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        asked.append(f"init_lora_weights {start}, which changes the base's weights too")
    return asked


def _factors(source: Path, rank: int, alpha: float) -> dict[str, tuple[Tensor, Tensor]]:
    from safetensors import SafetensorError, safe_open

    path = source / "adapter_model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            known = (file.metadata() or {}).get(SUM)
            weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}", "save the adapter again, as safetensors") from error
    if known is not None and known != checksum(rank, alpha, weights):
        raise ModelError(f"the adapter in {source} is damaged: its checksum is another", "save it again")
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        name, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        if not key.startswith(PREFIX) or kind not in ("A.weight", "B.weight"):
            raise ModelError(f"the adapter in {source} holds {key}", _ONLY_PLAIN)
        pairs.setdefault(name, {})[kind[0]] = tensor
    factors = {}
    for name, pair in pairs.items():
        for kind in "AB":
            if kind not in pair:
                raise ModelError(f"lora_{kind} of layer {name} in {source} is missing", "save it again")
        a, b = pair["A"], pair["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ModelError(
                f"layer {name} in {source} has factors of shape {tuple(a.shape)} and {tuple(b.shape)}, "
                f"and its config says rank {rank}",
                "restore adapter_config.json or the weights",
            )
        factors[name] = (a, b)
    return factors
