"""A model is not larger than its files: a config that asks for weights which are not there costs no memory.

transformers makes the weights that a file lacks before it names them. So the model is first built without any
memory (on the `meta` device), and what it needs is compared with what the headers of its files promise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from seal.errors import ModelError

#: Entries of a config that make one module each; every layer of a decoder has at least one tensor.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SPARE = 2**27
"""Elements that files need not hold, such as masks: 512 MiB in float32."""
_PACKED = 16
"""Elements that one of a quantised file may stand for, at most."""


def check_folder(folder: Path, name: str) -> None:
    """Refuse the model in `folder` where its safetensors hold far less than its config asks for.

    Raises:
        ModelError: it would be larger than its files.
    """
    from transformers import AutoConfig

    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        counts = [n for path in folder.glob("*.safetensors") for n in _counts(path)]
    except (OSError, ValueError, RecursionError):
        return  # whoever loads it says what is wrong
    if not isinstance(config, dict):
        return
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    layers = [part[key] for part in parts for key in _LAYERS if isinstance(part.get(key), int)]
    packed = _PACKED if "quantization_config" in config else 2
    check_size(
        name, counts, max(layers, default=0), lambda: AutoConfig.from_pretrained(folder), packed=packed
    )


def check_size(
    name: str, counts: Sequence[int], layers: int, config: Callable[[], Any], *, packed: int = 2
) -> None:
    """Refuse a model whose files hold far less than its config asks for.

    Args:
        counts: elements of each tensor in its files.
        layers: how many its config names.
        config: reads the config; called once it is known not to be larger than the files itself.
        packed: elements that one of the files may stand for.

    Raises:
        ModelError: it would be larger than its files.
    """
    import torch
    from transformers import AutoModelForCausalLM

    held = sum(counts)
    if layers > len(counts):
        raise _lacks(name, f"{layers} layers", f"{len(counts)} tensors")
    needed = 0
    with suppress(Exception), torch.device("meta"):  # whoever loads it says what is wrong
        model = AutoModelForCausalLM.from_config(config(), trust_remote_code=False)
        needed = sum(part.numel() for part in (*model.parameters(), *model.buffers()))
    if needed > packed * held + _SPARE:
        raise _lacks(name, f"{needed} numbers", f"{held}")


def _lacks(name: str, asked: str, held: str) -> ModelError:
    return ModelError(
        f"{name} lacks weights: its config asks for {asked} and its files hold {held}",
        "give the complete checkpoint",
    )


def _counts(path: Path) -> list[int]:
    """Elements of each tensor in a safetensors file, read off its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return [math.prod(file.get_slice(key).get_shape()) for key in file.keys()]  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
