"""Data sets of the Hugging Face hub, and local folders in its layout, as rows with their split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.data.fields import LABELS
from seal.errors import DataError

SHORT_NAMES = {"squad": "rajpurkar/squad", "squad_v2": "rajpurkar/squad_v2"}
PREFIX = "hf:"
_SAVED = ("dataset_info.json", "dataset_dict.json")
"""What a folder written by `save_to_disk` holds."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """Which data set, which configuration of it, and which of its splits are our halves."""

    name: str
    """Hub id or local folder."""
    subset: str | None = None
    """Configuration, where a data set has several."""
    splits: Mapping[str, str] | None = None
    """`train`, `val` -> the data set's own name; None: by their names."""
    only: str = ""
    """The one split to read; divided into halves like a file."""

    @classmethod
    def parse(
        cls, source: str, subset: str | None = None, splits: Mapping[str, str] | None = None
    ) -> HubSource:
        """Of `squad`, `hf:OWNER/NAME` or `hf:OWNER/NAME:SPLIT`."""
        name, _, only = source.removeprefix(PREFIX).partition(":")
        return cls(SHORT_NAMES.get(name, name), subset, splits or None, only)


@dataclass(frozen=True, slots=True)
class HubRows:
    """Rows of one or both halves, each with its place, and what of the data set was not read."""

    rows: Iterable[tuple[str, Mapping[str, Any]]]
    divide: bool
    """The data set has no halves of its own."""
    unread: tuple[str, ...]


def is_hub(source: str) -> bool:
    """Whether `source` names a data set of the hub."""
    return source.startswith(PREFIX) or source in SHORT_NAMES


def hub_rows(source: HubSource, half: str, stream: bool) -> HubRows:
    """The rows of `half`, `train`, `val` or `all`.

    Args:
        stream: read row by row from the hub instead of downloading everything first; what is in the cache
            already is used where the hub cannot be reached.

    Raises:
        DataError: the data set cannot be had, or has no such split.
    """
    parts = _load(source, stream)
    halves = _halves(source, list(parts))
    wanted = ("train", "val") if half == "all" else (half,)
    divide = "val" not in halves
    chosen = {"all": halves["train"]} if divide else {name: halves[name] for name in wanted}
    unread = tuple(name for name in parts if name not in halves.values())
    return HubRows(_rows(source.name, parts, chosen), divide, unread)


def _halves(source: HubSource, names: list[str]) -> dict[str, str]:
    """Our halves -> names of splits; without a held-out split only `train`, whatever it is called."""
    if source.only:
        found = {"train": source.only}
    elif source.splits:
        found = dict(source.splits)
    else:
        found = {}
        for name in names:
            found.setdefault(LABELS.get(name.casefold(), ""), name)
        found = {"train": found.get("train", names[0])} | (
            {"val": found.get("val") or found["test"]} if {"val", "test"} & set(found) else {}
        )
        if found["train"] == found.get("val"):
            del found["val"]
    missing = [name for name in found.values() if name not in names]
    if missing:
        raise DataError(f"{source.name} has no split {missing[0]!r}", f"choose among {', '.join(names)}")
    if "train" not in found:
        raise DataError(f"{source.name}: splits names no train", "name the split to train on")
    return found


def _rows(
    name: str, parts: Mapping[str, Iterable[Any]], chosen: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for half, split in chosen.items():
        try:
            for number, row in enumerate(parts[split], 1):
                yield f"{name} {split}, row {number}", row if half == "all" else {**row, "split": half}
        except DataError:
            raise
        except _failures() as error:  # a stream that breaks, or a file in it that does
            raise _unavailable(name, error) from None


def _load(source: HubSource, stream: bool) -> Mapping[str, Iterable[Any]]:
    """Every split of the data set by name."""
    try:
        from datasets import load_dataset, load_from_disk

        folder = Path(source.name).expanduser()
        if any((folder / name).is_file() for name in _SAVED):
            saved = load_from_disk(str(folder))
            return saved if isinstance(saved, dict) else {"train": saved}
        name = str(folder) if folder.is_dir() else source.name
        if stream and not folder.is_dir():
            try:
                return load_dataset(name, source.subset, streaming=True)  # type: ignore[no-any-return]
            except ConnectionError:
                pass  # what was downloaded once is read from the cache
        return load_dataset(name, source.subset, streaming=folder.is_dir())  # type: ignore[no-any-return]
    except _failures() as error:
        raise _unavailable(source.name, error) from None


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets` raises without a network, without a package, for an unknown name or a broken file."""
    try:
        from datasets.exceptions import DatasetsError
    except ImportError:
        return (ImportError,)
    return (OSError, ImportError, ValueError, RuntimeError, DatasetsError)


def _unavailable(name: str, error: Exception) -> DataError:
    cause = " ".join(str(error).split())[:160]
    return DataError(
        f"data set {name!r} cannot be had from the hub: {cause}",
        "check the name, its subset and the network, or give the path of its files, or use builtin",
    )
