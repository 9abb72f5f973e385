"""How far a stage of work has come: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[str, int, int], None]
"""Told (stage, items done, items in all), at the beginning with 0 and whenever an item is done."""
EVERY = 30.0
"""Seconds between two plain lines."""
log = logging.getLogger(__name__)


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@contextmanager
def shown(console: Console | None = None, every: float = EVERY) -> Iterator[Progress]:
    """Progress for whoever started the program: bars on a terminal, else lines in the log.

    Args:
        console: where log messages go too, so that they stand above the bars.
        every: seconds between two lines.
    """
    if console is not None and console.is_terminal:
        with _bars(console) as bars:
            yield bars
        return
    lines = Lines(every)
    try:
        yield lines
    finally:
        lines.close()


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    from rich import progress as p

    columns = (
        p.TextColumn("{task.description}"),
        p.BarColumn(bar_width=24),
        p.MofNCompleteColumn(),
        p.TimeRemainingColumn(),
    )
    with p.Progress(*columns, console=console, transient=True) as display:
        open_now: dict[str, p.TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in open_now:
                open_now[stage] = display.add_task(stage, total=total)
                display.refresh()  # also a stage that is over at once was seen
            display.update(open_now[stage], completed=done, total=total)
            if done >= total:
                display.remove_task(open_now.pop(stage))

        yield report


class Lines:
    """Logs the stage that is under way every so many seconds, whether or not an item was done meanwhile."""

    def __init__(self, every: float = EVERY) -> None:
        self._every, self._stage, self._done, self._total, self._began = every, "", 0, 0, 0.0
        self._end = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._speak, daemon=True, name="progress").start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            if stage != self._stage or done < self._done:
                self._stage, self._began = stage, time.monotonic()
            self._done, self._total = done, total

    def close(self) -> None:
        """Say no more."""
        self._end.set()

    def _speak(self) -> None:
        while not self._end.wait(self._every):
            with self._lock:
                line = self._line()
            if line:
                log.info("%s", line)

    def _line(self) -> str:
        if not self._stage or self._done >= self._total:
            return ""
        line = f"{self._stage}: {self._done} of {self._total}"
        if not self._done:
            return line
        left = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        return f"{line}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
