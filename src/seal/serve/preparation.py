"""From a request to a job, off the event loop: tokenising a long request takes a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from seal.errors import SealError
from seal.records import AdaptJob
from seal.serve import messages as m
from seal.serve.requests import Requests
from seal.serve.settings import ServerSettings

log = logging.getLogger("seal.serve")


class Preparation:
    """One thread that tokenises and checks requests.

    Args:
        ready: called in that thread with each job.
        refused: called in that thread with the id of each job that cannot be, and why.
    """

    def __init__(
        self,
        requests: Requests,
        settings: ServerSettings,
        ready: Callable[[AdaptJob], None],
        refused: Callable[[str, m.WireError], None],
    ) -> None:
        self._requests, self._settings, self._ready, self._refused = requests, settings, ready, refused
        self._under_way: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "seal-prepare")

    @property
    def busy(self) -> bool:
        """Whether jobs are about to be ready."""
        return bool(self._under_way)

    def submit(self, job_id: str, work: m.TTTRequest | AdaptJob, seed: int) -> None:
        """Make `work` a job under that id."""
        self._under_way.add(job_id)
        self._thread.submit(self._make, job_id, work, seed)

    def close(self) -> None:
        """Give up what is not done."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _make(self, job_id: str, work: m.TTTRequest | AdaptJob, seed: int) -> None:
        try:
            if isinstance(work, AdaptJob):
                job = self._requests.adopt(work, job_id, self._settings.adapters)
            else:
                job = self._requests.job(work, job_id, seed)
            self._requests.check(job, self._settings.limits)
        except m.WireError as error:
            self._refused(job_id, error)
        except SealError as error:
            self._refused(job_id, m.WireError(error.message, error.fix))
        except Exception as error:  # the request's border
            log.exception("a request could not be prepared")
            self._refused(job_id, m.WireError(f"{type(error).__name__}: {error}"))
        else:
            self._ready(job)
        finally:
            self._under_way.discard(job_id)
