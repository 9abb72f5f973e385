"""What a taught model's folder holds, in `taught.json`, and the folder's layout.

taught.json        this manifest: written last, so a batch that is in it is whole
journal.jsonl      what is finished, as in every run
passages/1.jsonl   the passages of batch 1
texts/1.jsonl      the training texts (self-edits) of batch 1, for replay
questions/1.jsonl  the questions that measure batch 1
anchors.jsonl      what the base answers to general questions, trained on among the texts
adapters/1/…       the adapters after batch 1, in PEFT's format
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from seal.errors import ModelError
from seal.run.codec import decode, encode
from seal.whole_file import write_whole

MANIFEST = "taught.json"
FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TaughtPassage:
    """One passage that was taught."""

    id: str
    title: str
    text: str
    source: str
    """The file that it came from."""


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One training text: a passage (no prompt, all of it is learned) or the answer to a prompt."""

    passage: str
    """The passage's id; empty: not of the documents, but an answer that the base gives and should keep."""
    prompt: str
    """What the user's turn holds, before the chat template; empty: plain text."""
    text: str


@dataclass(frozen=True, slots=True)
class TestQuestion:
    """A question that measures what was learned; it is never trained on."""

    passage: str
    """The id of the passage that it is about."""
    question: str
    answer: str
    kind: Literal["cloze", "own"]
    """A gap in the passage, or a question of the user's."""
    also: tuple[str, ...] = ()
    """Further answers that count."""


@dataclass(frozen=True, slots=True)
class TaughtAdapter:
    """One adapter and the passages that it knows."""

    name: str
    folder: str
    """Inside the taught model's folder."""
    sha256: str
    """Of its weights."""
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Share of questions answered correctly, before and after a batch, and the gain's 95 % interval."""

    what: str
    """`batch 1`, `batch 1, your questions`, …, `general`."""
    n: int
    before: float
    after: float
    lost: int
    """Questions that were answered correctly before, and are not now."""
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one `seal teach` taught."""

    number: int
    documents: tuple[str, ...]
    passages: int
    texts: int
    updates: int
    """Optimiser steps, over all its adapters."""
    seconds: float
    adapters: tuple[TaughtAdapter, ...]
    """All adapters of the model after this batch."""
    scores: tuple[Score, ...] = ()
    routed: float | None = None
    """Share of this model's test questions that are routed to their own passage."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A taught model."""

    base: str
    """Name, folder or hub id of the model underneath."""
    base_version: str
    """Its content hash, as `load_model` reports it."""
    chat: bool
    """Asked through the chat template."""
    question_prompt: str
    """How a question is put, with `{title}` and `{question}`."""
    apart: bool = False
    """One adapter a document, not one for all."""
    training: dict[str, Any] = field(default_factory=dict)
    """How the adapters were trained (a training config)."""
    batches: tuple[Batch, ...] = ()
    format: int = FORMAT

    @property
    def adapters(self) -> tuple[TaughtAdapter, ...]:
        """The adapters that answer now."""
        return self.batches[-1].adapters if self.batches else ()


def is_taught(folder: str | Path) -> bool:
    """Whether `folder` is a taught model."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        ModelError: there is none, or it is damaged or of a newer version.
    """
    path = Path(folder) / MANIFEST
    try:
        plain = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        fix = "make one with: seal teach DOCS --out FOLDER"
        raise ModelError(f"{folder} is no taught model: {MANIFEST} is missing", fix) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "restore it from a copy") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        given = plain.get("format") if isinstance(plain, dict) else None
        raise ModelError(f"{path} has format {given!r}, known is {FORMAT}", "use the version that wrote it")
    try:
        return decode(Manifest, plain)
    except Exception as error:
        raise ModelError(f"{path} is damaged: {error}", "restore it from a copy") from error


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    write_whole(Path(folder) / MANIFEST, json.dumps(encode(manifest), ensure_ascii=False, indent=1) + "\n")


def passages_of(folder: Path, manifest: Manifest) -> list[TaughtPassage]:
    """All passages that were taught, in order. Raises `ModelError`."""
    return [
        p for b in manifest.batches for p in read_lines(TaughtPassage, folder / f"passages/{b.number}.jsonl")
    ]


def questions_of(folder: Path, manifest: Manifest) -> list[tuple[int, list[TestQuestion]]]:
    """Every batch's number and test questions. Raises `ModelError`."""
    batches = [b.number for b in manifest.batches]
    return [(n, read_lines(TestQuestion, folder / f"questions/{n}.jsonl")) for n in batches]


def texts_of(folder: Path, manifest: Manifest) -> list[TrainingText]:
    """All training texts, in order. Raises `ModelError`."""
    return [t for b in manifest.batches for t in read_lines(TrainingText, folder / f"texts/{b.number}.jsonl")]


def write_lines(path: Path, records: Iterable[Any]) -> None:
    """Records as JSON lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(encode(r), ensure_ascii=False) + "\n" for r in records))


def read_lines(cls: type[T], path: Path) -> list[T]:
    """The records that `write_lines` wrote. Raises `ModelError`."""
    try:
        return [decode(cls, json.loads(line)) for line in path.read_text("utf-8").split("\n") if line]
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {error}", "restore it from a copy") from error
