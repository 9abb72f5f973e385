"""The batches of a taught model: who answers, what is unfinished, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError, ModelError, RunError
from seal.run.codec import decode
from seal.run.journal import Journal, Row
from seal.taught.manifest import Manifest, TaughtAdapter, read_manifest, write_manifest
from seal.taught.settings import TeachSettings

if TYPE_CHECKING:
    from seal.models.load import LoadedModel


def check_base(manifest: Manifest, loaded: LoadedModel) -> None:
    """Raise `ModelError` unless `loaded` is the model that was taught."""
    if manifest.base_version != loaded.version:
        raise ModelError(
            f"the base {loaded.source} has version {loaded.version}, but {manifest.base_version} was taught",
            f"use the same {manifest.base} as then",
        )


def chooser(folder: Path, adapters: Sequence[TaughtAdapter], apart: bool) -> Callable[[str], str | None]:
    """From the id of the passage that a question is about to the folder of the adapter for it.

    One for all answers always; one of many, only about passages that it knows, and else the base does.
    """
    folders = {p: str(folder / adapter.folder) for adapter in adapters for p in adapter.passages}
    if apart or not adapters:
        return folders.get
    return lambda passage: str(folder / adapters[0].folder)


def unfinished_batch(rows: Sequence[Row]) -> tuple[int, dict[str, Any]] | None:
    """Number and journal entry of the batch that was begun and neither taught nor undone."""
    done = {row.key for row in rows if row.kind in ("taught", "undone")}
    begun = [row for row in rows if row.kind == "begun" and row.key not in done]
    return (int(begun[-1].key), begun[-1].data) if begun else None


def unfinished(folder: Path) -> bool:
    """Whether a batch of the model in `folder` was begun and neither taught nor undone."""
    return unfinished_batch(Journal.read(folder / "journal.jsonl")) is not None


def unfinished_settings(folder: Path) -> tuple[TeachSettings, str] | None:
    """Settings and base of the batch that was interrupted in `folder`; None where there is none.

    Raises:
        RunError: the folder holds no journal of a taught model's.
    """
    if not (folder / "journal.jsonl").is_file():
        raise RunError(f"{folder} is no taught model", "give the folder of a run or of a taught model")
    with Journal(folder / "journal.jsonl") as journal:
        unfinished = unfinished_batch(journal.rows())
    if unfinished is None:
        return None
    plain = dict(unfinished[1]["settings"])
    base = str(plain.pop("base"))
    plain.pop("base_version")
    return decode(TeachSettings, plain), base


def undo(folder: Path, number: int) -> Manifest:
    """Take batch `number`, and all after it, out of the model; its files stay in the folder.

    Raises:
        ModelError: there is no such batch.
        ConfigError: it is the first one.
    """
    manifest = read_manifest(folder)
    with Journal(folder / "journal.jsonl") as journal:
        gone = {row.key for row in journal.rows("undone")}
        left = [int(row.key) for row in journal.rows("begun") if row.key not in gone]
        if number not in left:
            raise ModelError(
                f"{folder} has no batch {number}", f"choose one of {', '.join(map(str, left[1:]))}"
            )
        kept = tuple(b for b in manifest.batches if b.number < number)
        if not kept:
            raise ConfigError(f"batch {number} is the first of {folder}", "delete the folder instead")
        write_manifest(folder, replace(manifest, batches=kept))
        for other in (n for n in left if n >= number):
            journal.append("undone", str(other), {})
    return read_manifest(folder)
