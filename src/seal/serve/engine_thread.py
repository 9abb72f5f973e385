"""The thread that owns the engine: jobs of all clients go through shared `InnerLoop.run` passes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from seal.errors import SealError
from seal.protocols import InnerLoop
from seal.records import AdaptJob, AdaptOutcome, JobError

log = logging.getLogger("seal.serve")

_GATHER_S, _LONGEST_GATHER_S = 0.01, 0.5


class EngineThread:
    """Runs jobs until told to stop; every job that is put comes back as exactly one outcome, or is skipped.

    Args:
        inner: the engine; only this thread calls it.
        wanted: asked just before a job starts; False drops it without an outcome.
        started: called when the engine takes a job.
        finished: called with each outcome.
        coming: whether more jobs are about to be put; a pass waits for them, so that jobs sent together
            begin together.
    """

    def __init__(
        self,
        inner: InnerLoop,
        wanted: Callable[[str], bool],
        started: Callable[[str], None],
        finished: Callable[[AdaptOutcome], None],
        coming: Callable[[], bool] = lambda: False,
    ) -> None:
        self._thread = threading.Thread(target=self._serve, name="seal-engine", daemon=True)
        self._inner, self._wanted, self._started, self._finished = inner, wanted, started, finished
        self._coming = coming
        self._jobs: queue.SimpleQueue[AdaptJob | None] = queue.SimpleQueue()
        self._stopping = False

    def start(self) -> None:
        """Begin to serve passes."""
        self._thread.start()

    def put(self, job: AdaptJob) -> None:
        """Queue a job, from any thread."""
        self._jobs.put(job)

    def is_alive(self) -> bool:
        """Whether jobs are being served."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End after the running pass; jobs that have not started are left."""
        self._stopping = True
        self._jobs.put(None)

    def _serve(self) -> None:
        while not self._stopping:
            job = self._jobs.get()
            if job is None:
                break
            self._gather()
            self._run_pass(job)

    def _gather(self) -> None:
        """Let what was sent with a pass's first job arrive."""
        until = time.monotonic() + _LONGEST_GATHER_S
        time.sleep(_GATHER_S)
        while self._coming() and time.monotonic() < until:
            time.sleep(0.002)

    def _feed(self, first: AdaptJob, open_jobs: dict[str, AdaptJob]) -> Iterator[AdaptJob | None]:
        """`first`, then whatever is queued whenever the engine has room for one more; None: nothing is."""
        job: AdaptJob | None = first
        while not self._stopping:
            if job is None:
                yield None
            elif self._wanted(job.id):
                self._started(job.id)
                open_jobs[job.id] = job
                yield job
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                job = None

    def _run_pass(self, first: AdaptJob) -> None:
        open_jobs: dict[str, AdaptJob] = {}
        error = self._try(self._feed(first, open_jobs), open_jobs)
        alone = len(open_jobs) == 1
        for job in list(open_jobs.values()):
            if alone:
                self._fail(job, error)
            else:
                error_of_one = self._try(iter([job]), open_jobs)
                if job.id in open_jobs:
                    self._fail(job, error_of_one)

    def _try(self, jobs: Iterator[AdaptJob | None], open_jobs: dict[str, AdaptJob]) -> str:
        """One pass; jobs that got an outcome leave `open_jobs`. Returns why the rest have none."""
        try:
            for outcome in self._inner.run(jobs):
                if open_jobs.pop(outcome.job_id, None) is not None:
                    self._finished(outcome)
        except SealError as error:
            return str(error)
        except Exception as error:  # the engine's border: the server lives on
            log.exception("a pass of the engine failed")
            return f"{type(error).__name__}: {error}"
        return "the engine gave no outcome"

    def _fail(self, job: AdaptJob, why: str) -> None:
        self._finished(AdaptOutcome(job.id, error=JobError("adapt", why)))
