"""Accepted work: who waits for it and until when, how it is going, and the end of waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from seal.serve.messages import PROTOCOL, Envelope, WireError

_MOST_SUBSCRIBERS = 64
"""Clients that may wait for one piece of work."""


@dataclass(eq=False, slots=True)
class Subscriber:
    """Someone who wants a result: where to send it, and in which dialect."""

    route: tuple[bytes, ...]
    envelope: Envelope | None
    user: str
    timer: asyncio.TimerHandle | None = None

    def same(self, other: Subscriber) -> bool:
        """Whether `other` is this request, sent again on the same connection."""
        ids = [w.envelope.id if w.envelope else "" for w in (self, other)]
        return self.route == other.route and ids[0] == ids[1]

    def message(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """`body` in this subscriber's dialect; the official one has no heading."""
        head = {"v": PROTOCOL, "id": self.envelope.id, "type": kind} if self.envelope else {}
        return {**head, **body}

    def result(self, body: dict[str, Any], text: bool) -> dict[str, Any]:
        """A `TTTReply` (`text`) or an `AdaptOutcome` in this subscriber's dialect, under its own job id."""
        if self.envelope is not None and text:
            body = {"reply": body}
        elif self.envelope is not None and self.envelope.job is not None:
            body = {"outcome": {**body, "job_id": self.envelope.job["id"]}}
        return self.message("result", body)


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One accepted piece of work and everybody who waits for it."""

    job_id: str
    """Unique in this server, unlike the key, which may come back after a cancelled try."""
    key: str
    digest: str
    text: bool
    """Whether the reply is a `TTTReply` (else an `AdaptOutcome`)."""
    subscribers: list[Subscriber]
    since: float
    state: str = "queued"


class PendingRequests:
    """Accepted requests without an answer, once a key. Only the event loop may call this.

    Args:
        send: takes a message for a subscriber, and never blocks.
    """

    def __init__(self, send: Callable[[Subscriber, dict[str, Any]], None]) -> None:
        self._send = send
        self._by_key: dict[str, PendingRequest] = {}
        self._by_job: dict[str, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[PendingRequest]:
        return iter(list(self._by_key.values()))

    def of_job(self, job_id: str) -> PendingRequest | None:
        """What the engine knows as `job_id`; None once nobody waits for it any more."""
        return self._by_job.get(job_id)

    def add(self, pending: PendingRequest) -> None:
        """New work, with its first subscriber."""
        self._by_key[pending.key] = self._by_job[pending.job_id] = pending
        self._set_deadline(pending, pending.subscribers[0])

    def join(self, subscriber: Subscriber, key: str, digest: str) -> bool:
        """Wait for work that is under way already, if it is; the same request sent twice waits once.

        Raises:
            WireError: the key belongs to other content, or too many wait for it.
        """
        pending = self._by_key.get(key)
        if pending is None:
            return False
        if pending.digest != digest:
            raise WireError("the key is in use for other content", "use a new key", "key_conflict")
        if any(other.same(subscriber) for other in pending.subscribers):
            return True
        if len(pending.subscribers) >= _MOST_SUBSCRIBERS:
            raise WireError(f"busy: {_MOST_SUBSCRIBERS} clients wait for this key", "ask again later", "busy")
        pending.subscribers.append(subscriber)
        self._set_deadline(pending, subscriber)
        return True

    def finish(self, pending: PendingRequest, body: dict[str, Any] | None, error: WireError | None) -> None:
        """Send the result or the error to everybody who waits."""
        self._forget(pending)
        for subscriber in pending.subscribers:
            if subscriber.timer is not None:
                subscriber.timer.cancel()
            if body is not None:
                self._send(subscriber, subscriber.result(body, pending.text))
            elif error is not None:
                self._send(subscriber, subscriber.message("error", error.wire()))
        pending.subscribers.clear()

    def cancel(self, user: str, target: str) -> str:
        """End what `user` waits for under the id `target`; returns its state. Raises `WireError`."""
        for pending in self:
            for other in pending.subscribers:
                if other.envelope and other.envelope.id == target and other.user == user:
                    self._leave(pending, other, WireError("cancelled by its client", code="cancelled"))
                    return pending.state
        raise WireError(f"no request {target[:60]!r} is waiting", "name one that is queued or running")

    def tell_progress(self) -> None:
        """Tell those who want to know how their work is going."""
        for ahead, pending in enumerate(self):
            body = {
                "state": pending.state,
                "ahead": ahead if pending.state == "queued" else 0,
                "elapsed_s": round(time.monotonic() - pending.since, 3),
            }
            for subscriber in pending.subscribers:
                if subscriber.envelope and subscriber.envelope.progress:
                    self._send(subscriber, subscriber.message("progress", body))

    def _set_deadline(self, pending: PendingRequest, subscriber: Subscriber) -> None:
        seconds = subscriber.envelope.deadline_s if subscriber.envelope else None
        if seconds is not None:
            error = WireError(f"no result within {seconds:g} s", "allow more time", "deadline")
            loop = asyncio.get_running_loop()
            subscriber.timer = loop.call_later(seconds, self._leave, pending, subscriber, error)

    def _leave(self, pending: PendingRequest, subscriber: Subscriber, error: WireError) -> None:
        """Let one subscriber go. Queued work nobody waits for is dropped; running work is stored."""
        pending.subscribers.remove(subscriber)
        if subscriber.timer is not None:
            subscriber.timer.cancel()
        if not pending.subscribers and pending.state == "queued":
            self._forget(pending)
        self._send(subscriber, subscriber.message("error", error.wire()))

    def _forget(self, pending: PendingRequest) -> None:
        self._by_key.pop(pending.key, None)
        self._by_job.pop(pending.job_id, None)
