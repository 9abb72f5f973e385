"""What each adapter of a batch is trained on: rows in study order, old ones among the new."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seal.records import TrainingSequence
from seal.seeds import derive
from seal.taught.form import Form
from seal.taught.manifest import Manifest, TaughtPassage, TrainingText, passages_of, texts_of
from seal.taught.plan import Plan, sequences_of, study_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALL = "all"
"""Name of the adapter that knows every passage."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """An adapter to train."""

    name: str
    sequences: tuple[TrainingSequence, ...]
    """In the order of the optimiser steps."""
    start_from: str
    """Folder of the adapter that it goes on from; empty: a new one."""
    passages: tuple[str, ...]
    """Ids of what it knows afterwards."""


@dataclass(frozen=True, slots=True)
class LessonMaker:
    """Makes rows of texts.

    Args:
        updates: optimiser steps a passage.
        batch_size: rows a step.
        replay: share of the steps that repeat earlier batches.
        keep: share of the steps that repeat what the base says.
        anchors: what it says (see `seal.taught.anchors`).
        window: longest row, in tokens.
    """

    form: Form
    tokenizer: PreTrainedTokenizerBase
    updates: int
    batch_size: int
    replay: float
    keep: float
    anchors: tuple[TrainingText, ...]
    window: int
    seed: int

    def together(self, plan: Plan, number: int, folder: Path, known: Manifest | None) -> Lesson:
        """One lesson for all passages; it goes on from the adapter that `known` has."""
        start, ids = "", tuple(p.id for p in plan.passages)
        old: list[TrainingSequence] = []
        if known is not None:
            (before,) = known.adapters
            start, ids = str(folder / before.folder), before.passages + ids
            old = self._sequences(texts_of(folder, known), _titles(passages_of(folder, known)))
        new = self._sequences(plan.texts, _titles(plan.passages))
        return Lesson(ALL, self._ordered(new, old, plan.passages, number, ALL), start, ids)

    def apart(self, plan: Plan, number: int) -> list[Lesson]:
        """A lesson a document."""
        by_document: dict[str, list[TaughtPassage]] = {}
        for passage in plan.passages:
            document = re.sub(r", (line|record|row|article) .*", "", passage.source)
            by_document.setdefault(document, []).append(passage)
        lessons = []
        for name, passages in _named(by_document):
            ids = tuple(p.id for p in passages)
            rows = self._sequences([t for t in plan.texts if t.passage in ids], _titles(passages))
            lessons.append(Lesson(name, self._ordered(rows, [], passages, number, name), "", ids))
        return lessons

    def _sequences(self, texts: Sequence[TrainingText], titles: Mapping[str, str]) -> list[TrainingSequence]:
        return sequences_of(texts, titles, self.form, self.tokenizer, self.window)

    def _ordered(
        self,
        new: Sequence[TrainingSequence],
        old: Sequence[TrainingSequence],
        passages: Sequence[TaughtPassage],
        number: int,
        name: str,
    ) -> tuple[TrainingSequence, ...]:
        count = self.updates * len(passages) * self.batch_size
        others = [(old, self.replay), (self._anchors(passages), self.keep)]
        return tuple(study_order(new, count, others, derive(self.seed, number, name)))

    def _anchors(self, passages: Sequence[TaughtPassage]) -> list[TrainingSequence]:
        """What the base says, every second time under a title that has nothing to do with it."""
        titles = [p.title for p in passages]
        return [
            self.form.sequence(self.tokenizer, a.prompt, a.text, titles[i % len(titles)] if i % 2 else "")
            for i, a in enumerate(self.anchors)
        ]


def _titles(passages: Sequence[TaughtPassage]) -> dict[str, str]:
    return {p.id: p.title for p in passages}


def _named(by_document: Mapping[str, list[TaughtPassage]]) -> list[tuple[str, list[TaughtPassage]]]:
    """Documents under short names that are fit for folders and model names."""
    taken: set[str] = set()
    out = []
    for document, passages in by_document.items():
        stem = re.sub(r"[^a-z0-9]+", "-", Path(document).stem.casefold()).strip("-")[:40] or "document"
        name, count = stem, 2
        while name in taken:
            name, count = f"{stem}-{count}", count + 1
        taken.add(name)
        out.append((name, passages))
    return out
