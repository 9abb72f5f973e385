"""From acceptance to delivery: work is trained once a key, and its result goes to everybody who asked.

Everything here runs on the event loop, so nothing is locked. Jobs are made in the thread of `Preparation` and
run in that of `EngineThread`, which call back through `_call`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

from seal.errors import SealError
from seal.protocols import InnerLoop
from seal.records import AdaptJob, AdaptOutcome, Verdict
from seal.seeds import derive
from seal.serve import messages as m
from seal.serve.engine_thread import EngineThread
from seal.serve.jobs import job_to_wire
from seal.serve.pending import PendingRequest, PendingRequests, Subscriber
from seal.serve.preparation import Preparation
from seal.serve.requests import Requests
from seal.serve.settings import ServerSettings
from seal.serve.store import Store

log = logging.getLogger("seal.serve")


class Scheduler:
    """Accepts work and answers it.

    Args:
        inner: the engine, called by one thread only.
        send: takes a message for a subscriber, and never blocks.
    """

    def __init__(
        self,
        inner: InnerLoop,
        requests: Requests,
        settings: ServerSettings,
        store: Store,
        send: Callable[[Subscriber, dict[str, Any]], None],
    ) -> None:
        self.requests, self.settings, self.store = requests, settings, store
        self.counts = dict.fromkeys(("trained", "stored", "refused", "failed"), 0)
        self.closing = False
        """Whether new work is turned away."""
        self.pending = PendingRequests(send)
        self._send = send
        self._serial = itertools.count()
        self._engine = EngineThread(
            inner, self._wanted, self._set_running, self._post, lambda: self._preparation.busy
        )
        self._preparation = Preparation(requests, settings, self._engine.put, self._post_refusal)

    def open(self) -> None:
        """Start the engine's thread; called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._engine.start()

    def close(self) -> None:
        """Give up what is left and close the store."""
        self._engine.stop()
        self._preparation.close()
        self.store.close()

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
        repeat = self.store.repeats(digest)
        self.accept_text(subscriber, request, derive(self.settings.seed, digest, repeat))
        self.store.count_repeat(digest)

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
        if self.pending.join(subscriber, key, digest) or self._resend(subscriber, key, digest, text):
            return
        if self.closing:
            raise m.WireError("the server is shutting down", "ask another one", "shutting_down")
        if len(self.pending) >= self.settings.capacity:
            raise m.WireError(
                f"busy: {len(self.pending)} requests wait, which is the most", "ask again later", "busy"
            )
        job_id = f"job-{next(self._serial)}"
        self.pending.add(PendingRequest(job_id, key, digest, text, [subscriber], time.monotonic()))
        self._preparation.submit(job_id, work, seed)

    def _resend(self, subscriber: Subscriber, key: str, digest: str, text: bool) -> bool:
        body = self.store.get(key, digest)
        if body is None:
            return False
        self.counts["stored"] += 1
        self._send(subscriber, subscriber.result(m.parse(body, m.Limits(bytes=len(body))), text))
        return True

    def _call(self, function: Any, *arguments: Any) -> None:
        """Run on the event loop, from another thread; a closed loop wants nothing any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _wanted(self, job_id: str) -> bool:
        return self.pending.of_job(job_id) is not None

    def _set_running(self, job_id: str) -> None:
        if pending := self.pending.of_job(job_id):
            pending.state = "running"

    def _post(self, outcome: AdaptOutcome) -> None:
        self._call(self._take_outcome, outcome)

    def _post_refusal(self, job_id: str, error: m.WireError) -> None:
        self._call(self._take_refusal, job_id, error)

    def _take_refusal(self, job_id: str, error: m.WireError) -> None:
        if pending := self.pending.of_job(job_id):
            self.counts["refused"] += 1
            self.pending.finish(pending, None, error)

    def _take_outcome(self, outcome: AdaptOutcome) -> None:
        pending = self.pending.of_job(outcome.job_id)
        if pending is None:
            return
        try:
            body = self.requests.reply(outcome) if pending.text else self.requests.outcome(outcome)
            if not _ungraded(outcome):  # an outage of the grader is no result to be sent again
                self.store.put(pending.key, pending.digest, m.encode(body))
        except m.WireError as error:
            self.counts["failed"] += 1
            self.pending.finish(pending, None, error)
        except (SealError, ValueError) as error:
            self.counts["failed"] += 1
            self.pending.finish(pending, None, m.WireError(str(error), code="internal"))
        else:
            self.counts["trained"] += 1
            self.pending.finish(pending, body, None)
            took, left = time.monotonic() - pending.since, len(self.pending)
            log.info("%s answered after %.1f s; %d more under way", pending.job_id, took, left)

    async def heartbeat(self) -> None:
        """Tell those who want to know, every `heartbeat_s` seconds, how their work is going."""
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            self.pending.tell_progress()

    def is_alive(self) -> bool:
        """Whether work is done and accepted."""
        return self._engine.is_alive() and not self.closing

    def status(self) -> dict[str, int]:
        """Counts since the start, and of now."""
        running = sum(pending.state == "running" for pending in self.pending)
        return {
            **self.counts,
            "queued": len(self.pending) - running,
            "running": running,
            "capacity": self.settings.capacity,
            "replies": len(self.store),
        }

    async def drain(self) -> None:
        """Fail what waits, finish what runs (for `grace_s` at most, then fail it too)."""
        self.closing = True
        error = m.WireError("the server is shutting down", "ask again when it is back", "shutting_down")
        for pending in self.pending:
            if pending.state == "queued":
                self.pending.finish(pending, None, error)
        self._engine.stop()
        until = time.monotonic() + self.settings.grace_s
        while len(self.pending) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for pending in self.pending:
            log.error("a job had not finished after %g s and was given up", self.settings.grace_s)
            self.pending.finish(pending, None, error)
        await asyncio.sleep(0.05)


def _ungraded(outcome: AdaptOutcome) -> bool:
    return any(answer.verdict is Verdict.ERROR for answer in (*outcome.baseline, *outcome.adapted))
