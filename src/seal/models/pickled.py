"""Checkpoints of the hub that are only a pickle (`pytorch_model.bin`), made safetensors once, in the cache.

A pickle can run code when it is loaded. It is read with `weights_only=True`, which takes tensors and refuses
everything else.
"""

from __future__ import annotations

from pathlib import Path

from seal.errors import ModelError
from seal.models.checkpoint import (
    cache_dir,
    cached_checkpoint,
    file_digest,
    one_line,
)

WEIGHTS = "pytorch_model.bin"


def as_safetensors(folder: Path, name: str) -> Path:
    """The checkpoint of the pickle in `folder`, a snapshot of `name`: found in the cache, or built there.

    Raises:
        ModelError: it is no plain pickle of weights, or the cache cannot be written.
    """
    stem = name.partition("@")[0].rpartition("/")[2]
    try:
        target = cache_dir() / "pickled" / f"{stem}-{file_digest(folder / WEIGHTS)[:12]}"
    except OSError as error:
        raise ModelError(f"cannot read {WEIGHTS} of {name}: {one_line(error)}") from error
    return cached_checkpoint(target, lambda out: _convert(folder, name, out), _say(name, target))


def _say(name: str, target: Path) -> str:
    return f"{name} is published as a pickle: its weights alone are read and kept as safetensors in {target}"


def _convert(folder: Path, name: str, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=False,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # unpickling and transformers raise every kind of error on a broken file
        raise ModelError(
            f"{WEIGHTS} of {name} is no plain pickle of weights: {one_line(error)}",
            "use a model that is published as safetensors",
        ) from error
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise ModelError(
            f"{WEIGHTS} of {name} lacks {len(absent)} weights, such as {absent[0]}", "use another model"
        )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
