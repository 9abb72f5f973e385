"""Checkpoints on disk: safetensors that transformers loads, a manifest of hashes, all or nothing.

A checkpoint folder is written beside its final place and renamed, so it exists whole or not at all. Its
`manifest.json` names every file with its SHA-256. Hashes are remembered by path, size and times, so that
checking an unchanged folder costs a few `stat` calls. The time of the last change (ctime) is among them: no
program can set it, so a file that was changed and given its old mtime back is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.cache import cache_dir as cache_dir
from seal.errors import ModelError
from seal.whole_file import whole_folder, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
#: What `seal train-sft` tells about the training, beside the checkpoint; nobody who loads the model reads it.
TRAINING = "training.json"
_VERSION_LENGTH = 12
#: Config entries that say who wrote the file, not what the model is.
_PROVENANCE = ("transformers_version", "_name_or_path", "_commit_hash")


def file_digest(path: Path, *, trust_times: bool = True) -> str:
    """SHA-256 of a file, in hex. With `trust_times` an unchanged file (size, times) is not read again.

    Raises:
        OSError: the file cannot be read. A memory that cannot be written is no error.
    """
    real = path.resolve()
    stat = real.stat()
    stamp = [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    memory = cache_dir() / "digests" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:32]}.json"
    if trust_times:
        try:
            known = json.loads(memory.read_text("utf-8"))
            if known["stamp"] == stamp:
                return str(known["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not known yet, or not readable: hash the file
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, json.dumps({"stamp": stamp, "sha256": digest}))
    except OSError:
        pass  # a read-only cache only costs time
    return digest


def identity(config: dict[str, Any], weights: list[str]) -> str:
    """Short content hash of a model: its config and the hashes of its weights, in order."""
    config = {key: value for key, value in config.items() if key not in _PROVENANCE}
    text = json.dumps([config, weights], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_VERSION_LENGTH]


def folder_version(folder: Path) -> str:
    """Content hash of the model in `folder`: `config.json` and all safetensors files.

    Raises:
        ModelError: the config cannot be read.
    """
    config_file = folder / "config.json"
    try:
        config = json.loads(config_file.read_text("utf-8"))
        weights = [file_digest(path) for path in sorted(folder.glob("*.safetensors"))]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the model in {folder}: {error}", "give a folder written by save_pretrained"
        ) from error
    return identity(config, weights)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silence the bars of transformers, which last a second and would break a run's own display."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> str:
    """Save model and tokenizer in `folder`, with a manifest; return the version `load_model` will report.

    A checkpoint that is already there is replaced by the complete new one; any other content is refused.

    Raises:
        ModelError: the folder holds something else, or cannot be written.
    """

    def write(target: Path) -> None:
        with no_progress_bars():
            model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return write_checkpoint(Path(folder), write)


def write_checkpoint(folder: Path, write: Callable[[Path], None]) -> str:
    """Let `write` fill a new folder, add the manifest, and put it in the place of `folder` at once."""
    if folder.exists() and not (folder.is_dir() and _replaceable(folder)):
        raise ModelError(f"{folder} exists and is not a checkpoint", "choose another folder")
    try:
        with whole_folder(folder, replace=True) as staging:
            write(staging)
            files = sorted(p for p in staging.rglob("*") if p.is_file())
            hashes = {p.relative_to(staging).as_posix(): file_digest(p, trust_times=False) for p in files}
            write_whole(staging / MANIFEST, json.dumps({"files": hashes}, indent=1) + "\n")
            for path in files:
                path.chmod(0o644)  # the safetensors writer leaves 0600
    except Exception as error:  # safetensors and tokenizers raise their own, the latter bare `Exception`
        raise ModelError(
            f"cannot write the checkpoint {folder}: {one_line(error)}",
            "free disk space or choose a folder that you can write to",
        ) from error
    return folder_version(folder)


def cached_checkpoint(folder: Path, write: Callable[[Path], None], saying: str) -> Path:
    """`folder` of the cache, found whole, or filled by `write`; then one line says so: `saying`.

    Several processes may ask at once; one builds. A damaged entry is built again.

    Raises:
        ModelError: the cache cannot be written.
    """
    from filelock import FileLock

    try:
        if _whole(folder):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not _whole(folder):
                _log.info(saying)
                with no_progress_bars():
                    write_checkpoint(folder, write)
    except OSError as error:
        raise ModelError(
            f"cannot keep {folder.name} in the cache: {one_line(error)}",
            "set SEAL_CACHE to a folder that you can write to",
        ) from error
    return folder


def _whole(folder: Path) -> bool:
    try:
        verify_checkpoint(folder)
    except ModelError:
        return False
    return True


def verify_checkpoint(folder: str | Path, *, deep: bool = False) -> str:
    """Check a checkpoint against its manifest and return its version.

    Files whose size and times have not changed since they were last hashed are trusted, unless `deep`.

    Raises:
        ModelError: no manifest, or a file that is missing, differs from it or is not in it.
    """
    folder = Path(folder)
    try:
        expected = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        names = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        there = {n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts)}
        strange = sorted(there - {MANIFEST, TRAINING, *expected})
        if strange:
            raise ModelError(f"{folder} holds {strange[0]}, which its manifest does not name", _RESTORE)
        for name, digest in expected.items():
            if name not in there:
                raise ModelError(f"{folder} is no complete checkpoint: {name} is missing", _RESTORE)
            if file_digest(folder / name, trust_times=not deep) != digest:
                raise ModelError(f"{folder / name} is damaged: its SHA-256 is not the manifest's", _RESTORE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} is no complete checkpoint: {one_line(error)}", _RESTORE) from error
    return folder_version(folder)


_RESTORE = "restore the folder from a copy, or delete it and run the step that wrote it again"


def one_line(error: BaseException) -> str:
    """The first line of an error that says something, for a message that people read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _replaceable(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or not any(folder.iterdir())
