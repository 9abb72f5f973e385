"""What loading a data set left out, and why, in one line."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seal.errors import RunError
from seal.records import Task
from seal.run.codec import encode

if TYPE_CHECKING:
    from seal.run.folder import Run

log = logging.getLogger(__name__)

KINDS = {
    "unanswerable": ("unanswerable question", "unanswerable questions"),
    "passage": ("passage with unanswerable questions only", "passages with unanswerable questions only"),
    "unlabelled": ("task without a split label", "tasks without a split label"),
    "other_split": ("task of another split", "tasks of other splits"),
    "malformed": ("malformed record", "malformed records"),
    "leak": ("task to train on that is held out too", "tasks to train on that are held out too"),
    "repeated": ("repeated task", "repeated tasks"),
    "beyond": ("task beyond the limit that is set", "tasks beyond the limit that is set"),
    "file": ("other file", "other files"),
    "too_long": ("task longer than the model's window", "tasks longer than the model's window"),
    "control": ("task that spells a control token", "tasks that spell a control token"),
    "unsolved_test": ("test without a solution", "tests without a solution"),
    "unsolved_task": ("task without a solved test", "tasks without a solved test"),
}
"""Every reason to leave something out: one of it, and several."""
_HALVES = {"train": "to train on", "val": "held out", "all": "tasks"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was left out for one reason."""

    kind: str
    """A key of `KINDS`."""
    count: int
    first: str
    """Where the first one stood (file and line or record), or its id."""

    def __str__(self) -> str:
        one, several = KINDS[self.kind]
        return (
            f"1 {one} ({self.first})" if self.count == 1 else f"{self.count} {several} (first: {self.first})"
        )


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One half of a data set, as it was loaded. Journal kind `loaded`, key `{split}`."""

    split: str = "all"
    tasks: int = 0
    questions: int = 0
    """Questions (or tests) of the tasks."""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What else happened."""
    content: str = ""
    """Hash of the tasks, in whatever order."""

    def count(self, kind: str) -> int:
        """How many were left out for the reason `kind`."""
        return sum(each.count for each in self.left_out if each.kind == kind)

    def __str__(self) -> str:
        return one_line([self])


def content_of(tasks: Iterable[Task]) -> str:
    """Short hash of all that the tasks say; of their ids, where what they say has no JSON form."""
    tasks = sorted(tasks, key=lambda task: task.id)
    try:
        plain = encode(tasks)
    except RunError:
        plain = [task.id for task in tasks]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def note_loaded(run: Run, report: LoadReport) -> None:
    """Journal what was loaded.

    Raises:
        RunError: it is not what the run began with.
    """
    known = run.recall(LoadReport, "loaded", report.split)
    if known is None:
        run.record("loaded", report.split, report)
    elif known.content and known.content != report.content:
        raise RunError(
            f"{run.path}: the data ({_HALVES[report.split]}) are not those that the run began with",
            "restore them, or begin a new run",
        )
    elif not known.content and known != replace(report, content=""):
        log.warning("the data differ from those that the run began with: %s", known)


class Tally:
    """Collects what is left out while a source is read."""

    def __init__(self) -> None:
        self._found: dict[str, LeftOut] = {}
        self.notes: list[str] = []

    def leave_out(self, kind: str, places: Iterable[str]) -> None:
        """Note that what stood at each of `places` is left out."""
        at = list(places)
        if at:
            self._add(LeftOut(kind, len(at), at[0]))

    def take(self, report: LoadReport) -> None:
        """Note all that `report` says was left out."""
        for each in report.left_out:
            self._add(each)
        self.notes += report.notes

    def _add(self, more: LeftOut) -> None:
        known = self._found.get(more.kind)
        self._found[more.kind] = LeftOut(known.kind, known.count + more.count, known.first) if known else more

    def first(self, tasks: Sequence[Task], most: int | None) -> list[Task]:
        """The first `most` tasks (None: all); the others are left out."""
        if most is not None:
            self.leave_out("beyond", (task.id for task in tasks[most:]))
        return list(tasks[:most])

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """All that was noted, one entry a reason."""
        return tuple(self._found.values())


def one_line(reports: Sequence[LoadReport]) -> str:
    """Counts of every half, then what was left out of both or of each, and what else happened."""
    counts = [f"{report.tasks} {_HALVES[report.split]}" for report in reports]
    questions = sum(report.questions for report in reports)
    asked = f"{questions} question{'s' * (questions != 1)}"
    shared = set(reports[0].left_out).intersection(*(r.left_out for r in reports)) if reports else set()
    parts = [str(each) for each in (reports[0].left_out if reports else ()) if each in shared]
    for report in reports:
        half = f", {_HALVES[report.split]}" if len(reports) > 1 else ""
        parts += [f"{each}{half}" for each in report.left_out if each not in shared]
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    left_out = f"left out: {'; '.join(parts)}" if parts else "nothing left out"
    return "; ".join([", ".join([*counts, asked]), left_out, *notes])
