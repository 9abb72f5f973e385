"""One thread that owns the engine: what waits when a pass begins is answered in that pass, side by side."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from seal.errors import SealError
from seal.taught.model import Prepared, Reply, TaughtModel

log = logging.getLogger(__name__)
_TOGETHER = 16
"""Requests in one pass."""


class Busy(Exception):
    """So many requests wait already that another one would wait too long."""


class _Abandoned(Exception):
    """Nobody waits any more for what a pass is writing."""


@dataclass(eq=False, slots=True)
class Job:
    """A request under way. The callbacks are called on the worker's thread, `done` once and last."""

    prepared: Prepared
    on_text: Callable[[str], None]
    done: Callable[[Reply | Exception], None]
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when the client has gone: a pass that only such requests are left in is ended."""


class Worker:
    """Answers jobs until it is closed.

    Args:
        model: used by this thread alone from now on, but for `prepare`.
        waiting: most jobs that wait.
    """

    def __init__(self, model: TaughtModel, waiting: int = 64) -> None:
        self.model = model
        self._queue: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="seal-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Raises `Busy`."""
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise Busy from None

    def close(self) -> None:
        """End after the pass that is running; jobs that still wait get an error."""
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.done(SealError("the server is shutting down"))
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs = [job]
            while len(jobs) < _TOGETHER and not self._queue.empty():
                if (more := self._queue.get()) is None:
                    self._queue.put(None)
                    break
                jobs.append(more)
            self._answer([j for j in jobs if not j.abandoned.is_set()])

    def _answer(self, jobs: list[Job]) -> None:
        if not jobs:
            return

        def on_text(number: int, text: str) -> None:
            if all(job.abandoned.is_set() for job in jobs):
                raise _Abandoned
            jobs[number].on_text(text)

        try:
            replies = self.model.answer_prepared([job.prepared for job in jobs], on_text)
        except _Abandoned:
            return
        except Exception as error:
            if len(jobs) > 1:  # one that cannot be answered must not take the others with it
                for job in jobs:
                    self._answer([job])
                return
            if not isinstance(error, SealError):
                log.exception("a request failed")
            jobs[0].done(error)
            return
        for job, reply in zip(jobs, replies, strict=True):
            job.done(reply)
