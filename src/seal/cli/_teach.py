"""What `seal teach` shows: progress, a plan for `--dry-run`, the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from seal.errors import ConfigError
from seal.wording import counted

if TYPE_CHECKING:
    from seal.data.documents.library import Library
    from seal.taught.manifest import Batch
    from seal.taught.teach import Progress, Teaching

_TIMED_STEPS = 4


def show_library(library: Library) -> None:
    """What was read, and every file that was left out or guessed at."""
    for note in library.notes:
        print(f"{'left out: ' if note.skipped else ''}{note.path}: {note.text}")
    print(f"{counted(library.files, 'file')}, {counted(len(library.passages), 'passage')}")


def show_plan(teaching: Teaching, library: Library) -> None:
    """What would be taught and how long it takes on this machine, by a few steps tried and thrown away."""
    plan = teaching.plan(library)
    lessons = teaching.lessons(plan, 1, save=False)
    rows = [row for lesson in lessons for row in lesson.sequences]
    steps = sum(len(lesson.sequences) for lesson in lessons) // teaching.settings.training.batch_size
    tokens = sum(len(row.ids) for row in rows)
    seconds = _seconds_a_token(teaching, rows[:_TIMED_STEPS]) * tokens
    print(
        f"new: {counted(len(plan.passages), 'passage')}, {counted(len(plan.texts), 'training text')}, "
        f"{counted(len(lessons), 'adapter')}"
    )
    print(f"{len(plan.questions)} test questions that are not trained on")
    print(f"{counted(steps, 'training step')}, {counted(tokens, 'token')}: about {_duration(seconds)} here")


def _seconds_a_token(teaching: Teaching, rows: list) -> float:  # type: ignore[type-arg]
    from seal.inner.loop import LocalInnerLoop
    from seal.records import AdaptJob

    loop = LocalInnerLoop(teaching.loaded, slots=1)
    job = AdaptJob("timed", tuple(rows), teaching.settings.training, (), 0)
    list(loop.run([job]))  # the first pass compiles and reorders
    started = time.perf_counter()
    list(loop.run([job]))
    return (time.perf_counter() - started) / max(1, sum(len(row.ids) for row in rows))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def conclude(folder: Path, batch: Batch) -> None:
    """The table, and what to do next."""
    from seal.taught.measure import table

    print(f"batch {batch.number}: {counted(batch.passages, 'passage')} in {_duration(batch.seconds)}")
    if batch.scores:
        print(table(batch.scores))
    if len(batch.adapters) > 1 and batch.routed is not None:
        print(f"routed to their own passage: {100 * batch.routed:.0f} % of the questions")
    print(folder)
    print(f'next: seal ask {folder} "…"', file=sys.stderr)


def take_back(into: Path | None, number: int, documents: list[str] | None) -> None:
    """`--undo`."""
    from seal.taught.batches import undo

    if into is None or documents:
        raise ConfigError("--undo goes with --into alone", f"run: seal teach --into MODEL --undo {number}")
    manifest = undo(into, number)
    left = counted(len(manifest.batches), "batch", "batches")
    print(f"{into} knows {left} now; the files of batch {number} are kept")


def go_on(folder: Path, log_level: str) -> None:
    """`seal resume` of a taught model."""
    from seal.cli import _backend
    from seal.models.load import load_model
    from seal.taught.batches import unfinished_settings
    from seal.taught.manifest import read_manifest
    from seal.taught.teach import Teaching

    found = unfinished_settings(folder)
    if found is None:
        conclude(folder, read_manifest(folder).batches[-1])
        return
    settings, base = found
    with _backend.interruptible(log_level, f"seal resume {folder} continues"), progress() as report:
        manifest = Teaching(folder, settings, load_model(base), report).run()
    conclude(folder, manifest.batches[-1])


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, a line every tenth elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console

    from seal.run.progress import shown

    with shown(Console(stderr=True)) as report:
        yield report


class _Lines:
    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 10
        if tenth > self._shown.get(what, -1):
            self._shown[what] = tenth
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
