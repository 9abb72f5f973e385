"""What the server remembers of accepted work: who waits for it, and how it is going."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from seal.serve.messages import PROTOCOL, Envelope


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
