"""A taught model (or any adapter, or any model) in the formats of other programs; each with a model card.

peft     the adapter for PEFT, vLLM and others; with its base where that has no name they could find it by
merged   safetensors that transformers loads, the adapter added to the weights
gguf     one file for llama.cpp
ollama   the same, and a Modelfile for `ollama create`

The target folder appears whole or not at all, and one that exists is never touched.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError, ModelError
from seal.models import builtin, gguf
from seal.taught.card import card
from seal.taught.form import Form
from seal.taught.manifest import Manifest, is_taught, read_manifest
from seal.whole_file import whole_folder

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

TARGETS = ("peft", "merged", "gguf", "ollama")


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported."""

    name: str
    base: str
    """Built-in name, hub id (`owner/model@revision`), folder or .gguf file."""
    adapter: Path | None
    manifest: Manifest | None
    """Of a taught model."""


def find_source(model: str, adapter: str = "") -> Source:
    """What `model` names: a taught model's folder, an adapter's folder, or a model.

    Raises:
        ModelError: a taught model has several adapters and `adapter` names none of them.
    """
    folder = Path(model).expanduser()
    if is_taught(folder):
        manifest = read_manifest(folder)
        names = [a.name for a in manifest.adapters]
        if adapter not in names and (adapter or len(names) != 1):
            given = f"has no adapter {adapter!r}" if adapter else f"has {len(names)} adapters"
            raise ModelError(f"{model} {given}", f"give --adapter, one of {', '.join(names)}")
        chosen = next(a for a in manifest.adapters if not adapter or a.name == adapter)
        name = folder.resolve().name + (f"-{chosen.name}" if len(names) > 1 else "")
        return Source(name, manifest.base, folder / chosen.folder, manifest)
    if (folder / "adapter_config.json").is_file():
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        base = str(config.get("base_model_name_or_path") or "")
        if not base:
            raise ModelError(
                f"the adapter in {model} does not name its base", "write it in adapter_config.json"
            )
        return Source(folder.resolve().name, base, folder, None)
    return Source(Path(model.partition("@")[0]).name, model, None, None)


def export(
    model: str,
    to: str,
    out: Path,
    *,
    adapter: str = "",
    quantization: str = "f16",
    dtype: str = "float32",
) -> Path:
    """Write `model` to the new folder `out` for another program.

    Args:
        to: one of `TARGETS`.
        adapter: which of a taught model's adapters; needed where it has several.
        quantization: of a GGUF file, see `seal.models.gguf_writer.QUANTIZATIONS`.
        dtype: of merged weights, "float32" (exact) or "bfloat16" (half the size).

    Raises:
        ConfigError: there is no such target, or a plain model has no adapter to export.
        ModelError: `out` exists, the base cannot be had or is another one, or the format cannot hold it.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to is {to!r}", f"choose {', '.join(TARGETS)}")
    if out.exists():
        raise ModelError(f"{out} exists already; nothing is overwritten", "choose another --out")
    source = find_source(model, adapter)
    if to == "peft":
        if source.adapter is None:
            raise ConfigError(f"{model} has no adapter", "export it --to merged")
        return _whole(out, lambda folder: _write_peft(source, folder, out))
    return _whole(out, lambda folder: _write_model(source, to, folder, quantization, dtype))


def _whole(out: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder beside `out`, and rename it when it is complete."""
    try:
        with whole_folder(out) as staging:
            write(staging)
    except OSError as error:
        fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another --out"
        raise ModelError(f"{out} cannot be written: {error.strerror or error}", fix) from error
    return out


def _write_peft(source: Source, folder: Path, out: Path) -> None:
    assert source.adapter is not None
    base, revision = source.base, None
    local = _folder_of_base(source.base)
    if source.base in builtin.NAMES or source.base in gguf.WHEELS or source.base.endswith(".gguf"):
        _copy_base(source.base, local, folder / "base")
        base = str((out / "base").resolve())
    elif local is not None and Path(source.base).expanduser().is_dir():
        base = str(local.resolve())
    else:
        base, _, at = source.base.partition("@")
        revision = at or None
    shutil.copyfile(source.adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = json.loads((source.adapter / "adapter_config.json").read_text("utf-8"))
    config |= {"base_model_name_or_path": base, "revision": revision}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")
    (folder / "README.md").write_text(card(source.name, base, "peft", source.manifest), "utf-8")


def _folder_of_base(base: str) -> Path | None:
    """The local folder of the base; None for the tiny built-in ones, which live in memory."""
    from seal.models.load import resolve

    return None if base in builtin.NAMES else resolve(base)


def _copy_base(name: str, folder: Path | None, target: Path) -> None:
    if folder is None:
        model, tokenizer, _ = builtin.build(name)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        return
    target.mkdir()
    for pattern in ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"):
        for file in folder.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _write_model(source: Source, to: str, folder: Path, quantization: str, dtype: str) -> None:
    from seal.models import gguf_writer
    from seal.models.load import load_model
    from seal.taught.batches import check_base

    loaded = load_model(source.base, device="cpu", dtype="float32")
    if source.manifest is not None:
        check_base(source.manifest, loaded)
    if to != "merged":
        gguf_writer.check_gguf(loaded.model, loaded.tokenizer)
    if source.adapter is not None:
        _fold(loaded, source.adapter)
    if to == "merged":
        _save_merged(loaded, folder, dtype)
    else:
        name = f"{source.name}-{quantization}.gguf"
        gguf_writer.write_gguf(loaded.model, loaded.tokenizer, folder / name, quantization, source.name)
        if to == "ollama":
            (folder / "Modelfile").write_text(modelfile(name, loaded, source.manifest), "utf-8")
    (folder / "README.md").write_text(card(source.name, source.base, to, source.manifest), "utf-8")


def _fold(loaded: LoadedModel, adapter: Path) -> None:
    from seal.inner.adapter_files import load_adapter
    from seal.inner.runtime import Runtime
    from seal.models.merge import merge

    found = load_adapter(Runtime.of(loaded.model), adapter)
    merge(loaded.model, found.factors, found.scale)


def _save_merged(loaded: LoadedModel, folder: Path, dtype: str) -> None:
    from seal.models.checkpoint import no_progress_bars
    from seal.models.load import pick_device, pick_dtype

    kind = pick_dtype(dtype, pick_device("cpu"))
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.to(kind)
    loaded.model.config.dtype = kind
    with no_progress_bars():
        loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def modelfile(file: str, loaded: LoadedModel, manifest: Manifest | None) -> str:
    """Ollama's Modelfile: greedy, and for a taught model with questions in the form that it was taught in."""
    tokenizer: Any = loaded.tokenizer
    form = Form(manifest.chat, manifest.question_prompt) if manifest else None
    words = form.words("{{ .Prompt }}") if form else "{{ .Prompt }}"
    chat = form.chat if form else loaded.contract.uses_chat()
    template = loaded.contract.user_turn(words) if chat else words
    stops = [tokenizer.convert_ids_to_tokens(i) for i in sorted(loaded.contract.stops)]
    stops += list(form.stop) if form else []
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""', "PARAMETER temperature 0"]
    return "\n".join([*lines, *(f"PARAMETER stop {json.dumps(stop)}" for stop in stops)]) + "\n"
