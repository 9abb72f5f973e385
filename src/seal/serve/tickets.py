"""What the server remembers of accepted work: who waits for it, and how it is going."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from seal.serve.messages import Envelope


@dataclass(eq=False, slots=True)
class Waiter:
    """Someone who wants a result: where to send it, and in which dialect."""

    route: tuple[bytes, ...]
    envelope: Envelope | None
    user: str
    timer: asyncio.TimerHandle | None = None

    def same(self, other: Waiter) -> bool:
        """Whether `other` is this request, sent again on the same connection."""
        ids = [w.envelope.id if w.envelope else "" for w in (self, other)]
        return self.route == other.route and ids[0] == ids[1]


@dataclass(eq=False, slots=True)
class Ticket:
    """One accepted piece of work and everybody who waits for it."""

    job_id: str
    """Unique in this server, unlike the key, which may come back after a cancelled try."""
    key: str
    digest: str
    text: bool
    """Whether the reply is a `TTTReply` (else an `AdaptOutcome`)."""
    waiters: list[Waiter]
    since: float
    state: str = "queued"
