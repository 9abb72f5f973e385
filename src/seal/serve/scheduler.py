"""The desk behind the server's socket: accepts work, sends it to the engine once, and hands results out.

Everything but `_make_job` runs on the event loop, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from seal.errors import SealError
from seal.inner.protocol import InnerLoop
from seal.records import AdaptJob, AdaptOutcome, Verdict
from seal.seeds import derive
from seal.serve import messages as m
from seal.serve.jobs import job_to_wire
from seal.serve.pending import PendingRequest, Subscriber
from seal.serve.requests import Requests
from seal.serve.settings import ServerSettings
from seal.serve.store import Store
from seal.serve.worker import Worker

log = logging.getLogger("seal.serve")

_MOST_SUBSCRIBERS = 64
"""Clients that may wait for one piece of work."""
_MOST_REPEATS = 10_000
"""Official requests whose number of repeats is remembered; the oldest are forgotten first."""


class Scheduler:
    """Tickets from acceptance to delivery.

    Args:
        engines: each is called by one worker thread only; they share the queue.
        send: takes a message for a subscriber, and never blocks.
    """

    def __init__(
        self,
        engines: Sequence[InnerLoop],
        requests: Requests,
        settings: ServerSettings,
        store: Store,
        send: Callable[[Subscriber, dict[str, Any]], None],
    ) -> None:
        self.requests, self.settings, self.store = requests, settings, store
        self.counts = dict.fromkeys(("trained", "stored", "refused", "failed"), 0)
        self.closing = False
        """Whether new work is turned away."""
        self._send = send
        self._pending: dict[str, PendingRequest] = {}
        self._jobs: dict[str, PendingRequest] = {}
        self._serial = itertools.count()
        self._repeats: dict[str, int] = {}
        self._preparing: set[str] = set()
        """Job ids between acceptance and the engine's queue."""
        self._queue: queue.SimpleQueue[AdaptJob | None] = queue.SimpleQueue()
        self._workers = [
            Worker(
                self._queue, inner, self._wanted, self._set_running, self._post, lambda: bool(self._preparing)
            )
            for inner in engines
        ]
        self._prepare = ThreadPoolExecutor(1, "seal-prepare")

    def open(self) -> None:
        """Start the engines' threads; called on the event loop."""
        self._loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """Give up what is left and close the store."""
        self._stop_workers()
        self._prepare.shutdown(wait=False, cancel_futures=True)
        self.store.close()

    # accepting ----------------------------------------------------------------------------------

    def accept_text(
        self, subscriber: Subscriber, request: m.TTTRequest, seed: int | None = None, key: str | None = None
    ) -> None:
        """A text request, whose own seed and key hold where none is given. Raises `WireError`."""
        seed, key = request.seed if seed is None else seed, key or request.key
        if seed is None:
            seed = derive(self.settings.seed, request.digest(), 0)
        self._accept(subscriber, request, m.digest([request.digest(), seed]), seed, key)

    def accept_official(self, subscriber: Subscriber, request: m.TTTRequest) -> None:
        """An official request; asked again without a seed or key it is a new repeat with its own seed."""
        if request.seed is not None or request.key:
            self.accept_text(subscriber, request)
            return
        digest = request.digest()
        repeat = self._repeats.get(digest, 0)
        self.accept_text(subscriber, request, derive(self.settings.seed, digest, repeat))
        self._repeats[digest] = repeat + 1
        if len(self._repeats) > _MOST_REPEATS:
            self._repeats.pop(next(iter(self._repeats)))

    def accept_job(self, subscriber: Subscriber, job: AdaptJob, key: str | None) -> None:
        """A job in the engine's terms. Raises `WireError`."""
        wire = job_to_wire(job)
        wire.pop("id")
        self._accept(subscriber, job, m.digest(wire), job.seed, key)

    def _accept(
        self, subscriber: Subscriber, work: m.TTTRequest | AdaptJob, digest: str, seed: int, key: str | None
    ) -> None:
        text = isinstance(work, m.TTTRequest)
        key = f"given:{key}" if key else f"content:{digest}"
        if self._join(subscriber, key, digest) or self._resend(subscriber, key, digest, text):
            return
        if self.closing:
            raise m.WireError("the server is shutting down", "ask another one", "shutting_down")
        if len(self._pending) >= self.settings.capacity:
            raise m.WireError(
                f"busy: {len(self._pending)} requests wait, which is the most", "ask again later", "busy"
            )
        pending = PendingRequest(
            f"job-{next(self._serial)}", key, digest, text, [subscriber], time.monotonic()
        )
        self._pending[key] = self._jobs[pending.job_id] = pending
        self._set_deadline(pending, subscriber)
        self._preparing.add(pending.job_id)
        self._prepare.submit(self._make_job, pending, work, seed)

    def _join(self, subscriber: Subscriber, key: str, digest: str) -> bool:
        """Wait for work that is under way already; the same request sent twice waits once."""
        pending = self._pending.get(key)
        if pending is None:
            return False
        if pending.digest != digest:
            raise m.WireError("the key is in use for other content", "use a new key", "key_conflict")
        if any(other.same(subscriber) for other in pending.subscribers):
            return True
        if len(pending.subscribers) >= _MOST_SUBSCRIBERS:
            raise m.WireError(
                f"busy: {_MOST_SUBSCRIBERS} clients wait for this key", "ask again later", "busy"
            )
        pending.subscribers.append(subscriber)
        self._set_deadline(pending, subscriber)
        return True

    def _resend(self, subscriber: Subscriber, key: str, digest: str, text: bool) -> bool:
        body = self.store.get(key, digest)
        if body is None:
            return False
        self.counts["stored"] += 1
        self._send(subscriber, subscriber.result(m.parse(body, m.Limits(bytes=len(body))), text))
        return True

    def _make_job(self, pending: PendingRequest, work: m.TTTRequest | AdaptJob, seed: int) -> None:
        """Tokenise and check, off the event loop, then queue for the engine."""
        try:
            if isinstance(work, AdaptJob):
                job = self.requests.adopt(work, pending.job_id, self.settings.adapters)
            else:
                job = self.requests.job(work, pending.job_id, seed)
            self.requests.check(job, self.settings.limits)
        except SealError as error:
            self._call(self._refuse, pending, error)
        except Exception as error:  # the request's border
            log.exception("a request could not be prepared")
            self._call(self._refuse, pending, SealError(f"{type(error).__name__}: {error}"))
        else:
            self._queue.put(job)
        finally:
            self._preparing.discard(pending.job_id)

    def _refuse(self, pending: PendingRequest, error: SealError) -> None:
        self.counts["refused"] += 1
        wire = error if isinstance(error, m.WireError) else m.WireError(error.message, error.fix)
        self._finish(pending, None, wire)

    # results ------------------------------------------------------------------------------------

    def _call(self, function: Any, *arguments: Any) -> None:
        """Run on the event loop, from another thread; a closed loop wants nothing any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _wanted(self, job_id: str) -> bool:
        return job_id in self._jobs

    def _set_running(self, job_id: str) -> None:
        if pending := self._jobs.get(job_id):
            pending.state = "running"

    def _post(self, outcome: AdaptOutcome) -> None:
        self._call(self._take_outcome, outcome)

    def _take_outcome(self, outcome: AdaptOutcome) -> None:
        pending = self._jobs.get(outcome.job_id)
        if pending is None:
            return
        try:
            body = self.requests.reply(outcome) if pending.text else self.requests.outcome(outcome)
            if not _ungraded(outcome):  # an outage of the grader is no result to be sent again
                self.store.put(pending.key, pending.digest, m.encode(body))
        except m.WireError as error:
            self.counts["failed"] += 1
            self._finish(pending, None, error)
        except (SealError, ValueError) as error:
            self.counts["failed"] += 1
            self._finish(pending, None, m.WireError(str(error), code="internal"))
        else:
            self.counts["trained"] += 1
            self._finish(pending, body, None)
            took, left = time.monotonic() - pending.since, len(self._pending)
            log.info("%s answered after %.1f s; %d more under way", pending.job_id, took, left)

    def _finish(
        self, pending: PendingRequest, body: dict[str, Any] | None, error: m.WireError | None
    ) -> None:
        self._forget(pending)
        for subscriber in pending.subscribers:
            if subscriber.timer is not None:
                subscriber.timer.cancel()
            if body is not None:
                self._send(subscriber, subscriber.result(body, pending.text))
            elif error is not None:
                self._send(subscriber, subscriber.message("error", error.wire()))
        pending.subscribers.clear()

    def _forget(self, pending: PendingRequest) -> None:
        self._pending.pop(pending.key, None)
        self._jobs.pop(pending.job_id, None)

    # deadlines, cancelling, beats, the end ------------------------------------------------------

    def _set_deadline(self, pending: PendingRequest, subscriber: Subscriber) -> None:
        seconds = subscriber.envelope.deadline_s if subscriber.envelope else None
        if seconds is not None:
            error = m.WireError(f"no result within {seconds:g} s", "allow more time", "deadline")
            subscriber.timer = self._loop.call_later(seconds, self._leave, pending, subscriber, error)

    def _leave(self, pending: PendingRequest, subscriber: Subscriber, error: m.WireError) -> None:
        """Let one subscriber go. Queued work nobody waits for is dropped; running work is stored."""
        pending.subscribers.remove(subscriber)
        if subscriber.timer is not None:
            subscriber.timer.cancel()
        if not pending.subscribers and pending.state == "queued":
            self._forget(pending)
        self._send(subscriber, subscriber.message("error", error.wire()))

    def cancel(self, user: str, target: str) -> str:
        """End what `user` waits for under the id `target`; returns its state. Raises `WireError`."""
        for pending in self._pending.values():
            for other in pending.subscribers:
                if other.envelope and other.envelope.id == target and other.user == user:
                    self._leave(pending, other, m.WireError("cancelled by its client", code="cancelled"))
                    return pending.state
        raise m.WireError(f"no request {target[:60]!r} is waiting", "name one that is queued or running")

    async def heartbeat(self) -> None:
        """Tell those who want to know, every `heartbeat_s` seconds, how their work is going."""
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            for ahead, pending in enumerate(self._pending.values()):
                body = {
                    "state": pending.state,
                    "ahead": ahead if pending.state == "queued" else 0,
                    "elapsed_s": round(time.monotonic() - pending.since, 3),
                }
                for subscriber in pending.subscribers:
                    if subscriber.envelope and subscriber.envelope.progress:
                        self._send(subscriber, subscriber.message("progress", body))

    def is_alive(self) -> bool:
        """Whether work is done and accepted."""
        return all(worker.is_alive() for worker in self._workers) and not self.closing

    def status(self) -> dict[str, int]:
        """Counts since the start, and of now."""
        running = sum(pending.state == "running" for pending in self._pending.values())
        return {
            **self.counts,
            "queued": len(self._pending) - running,
            "running": running,
            "capacity": self.settings.capacity,
            "replies": len(self.store),
        }

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.stop()

    async def drain(self) -> None:
        """Fail what waits, finish what runs (for `grace_s` at most, then fail it too)."""
        self.closing = True
        error = m.WireError("the server is shutting down", "ask again when it is back", "shutting_down")
        for pending in [t for t in self._pending.values() if t.state == "queued"]:
            self._finish(pending, None, error)
        self._stop_workers()
        until = time.monotonic() + self.settings.grace_s
        while self._pending and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for pending in list(self._pending.values()):
            log.error("a job had not finished after %g s and was given up", self.settings.grace_s)
            self._finish(pending, None, error)
        await asyncio.sleep(0.05)


def _ungraded(outcome: AdaptOutcome) -> bool:
    return any(answer.verdict is Verdict.ERROR for answer in (*outcome.baseline, *outcome.adapted))
