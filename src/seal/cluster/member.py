"""A worker of the pool that is an actor on a Ray cluster.

Nothing is sent before the actor has answered, and then a batch ahead of the one that it is at; one message
brings all outcomes of a batch. An actor that ends is replaced by a new one, never restarted by Ray, whose
restarts lose what the actor was made with (ray issues 47043, 53727). On a node that is being drained it ends
what it has, and another one is asked for elsewhere. What an actor of an earlier try of the same run had
finished is taken from there.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from seal.batches import Batch
from seal.cluster.shipment import Shipment
from seal.cluster.slot import About
from seal.records import AdaptOutcome
from seal.workers.process import WorkerSetup
from seal.workers.protocol import Began, Died, Done, Event, Outcome

log = logging.getLogger(__name__)

#: Seconds between two signs of life to an actor, and until a missing answer to one counts as its end.
PING_S, SILENCE_S = 20.0, 300.0


class Gone(Exception):
    """An actor is no more, or cannot be used.

    Args:
        why: one line.
        innocent: it went with its node, and no batch can be the reason.
        for_good: another one would end the same way.
    """

    def __init__(self, why: str, *, innocent: bool = False, for_good: bool = False) -> None:
        super().__init__(why)
        self.why, self.innocent, self.for_good = why, innocent, for_good


class Call(Protocol):
    """What an actor says in answer to one call."""

    done: bool
    """Whether all has been said."""

    def take(self) -> list[Any]:
        """What it has said since the last time. Raises `Gone`."""
        ...


class Actor(Protocol):
    """A `seal.cluster.slot.Slot` somewhere."""

    def call(self, method: str, *arguments: Any) -> Call:
        """Call a method, without waiting. Raises `Gone`."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


class Crew(Protocol):
    """Who hands out the actors of one pool."""

    kept: dict[str, tuple[AdaptOutcome, ...]]
    """Batches that actors of an earlier try had finished, by `batch_key`."""
    shipment: Shipment

    def actor(self, worker: object) -> Actor:
        """A new actor, or one that is left from an earlier try. Raises `Gone`."""
        ...

    def check(self, about: About) -> None:
        """Raise `Gone` for a node whose results would not be this run's."""
        ...

    def leaving(self, node: str) -> bool:
        """Whether the node has said that it is about to leave the cluster."""
        ...

    def leave(self, worker: object) -> None:
        """The worker needs nothing any more."""
        ...


class _Lost:
    """A call that could not be made."""

    done = True

    def __init__(self, gone: Gone) -> None:
        self._gone = gone

    def take(self) -> list[Any]:
        """See `Call`."""
        raise self._gone


class RayWorker:
    """One slot of a cluster. Until a node has room for it, it is not ready.

    Args:
        setup: of its engine.
        crew: gives it actors.
        clock: seconds.
    """

    def __init__(self, setup: WorkerSetup, crew: Crew, clock: Callable[[], float] = time.monotonic) -> None:
        self.setup, self.crew, self.slots, self._clock = setup, crew, setup.slots, clock
        self.ahead = 1
        self._up, self._node = False, ""
        self._actor: Actor | None = None
        self._call: Call | None = None
        self._ping: Call | None = None
        self._sent: dict[int, tuple[Batch, Call]] = {}
        """What it is at and what comes next, by number."""
        self._from_before: list[Event] = []
        self._refused = ""
        self._pinged = 0.0

    @property
    def ready(self) -> bool:
        """Whether it takes batches."""
        return self._up and not self.crew.leaving(self._node)

    def start(self) -> None:
        """Get an actor, if there is none."""
        if self._actor is not None or self._refused:
            return
        try:
            self._actor = self.crew.actor(self)
            self._call = self._actor.call("hello")
        except Gone as gone:
            self._refused = gone.why
        self._pinged = self._clock()

    def send(self, batch: Batch) -> None:
        """Give it a batch, unless that was done in an earlier try."""
        assert self.ready
        key = batch_key(batch)
        if (known := self.crew.kept.pop(key, None)) is not None:
            log.info("%d jobs are taken from what they had finished before", len(known))
            self._from_before += _told(batch, known)
            return
        assert self._actor is not None
        try:
            self._sent[batch.number] = batch, self._actor.call("run", batch, key)
        except Gone as gone:
            self._sent[batch.number] = batch, _Lost(gone)

    def poll(self) -> list[Event]:
        """What has happened."""
        events, self._from_before = self._from_before, []
        if self._refused:
            why, self._refused = self._refused, ""
            return [Died(why, for_good=True)]
        if self._actor is None:
            return events
        try:
            for said in self._call.take() if self._call is not None else ():
                self._hear(said)
            for batch, call in list(self._sent.values()):
                for said in call.take():
                    events += self._of_batch(batch, said)
            self._sign_of_life()
        except Gone as gone:
            self._drop()
            events.append(Died(gone.why, gone.for_good, gone.innocent))
        if self._up and not self.ready and not self._sent:
            log.info("a node is about to leave: its worker has ended what it had, and moves on")
            self._drop()
        return events

    def close(self) -> None:
        """End the actor."""
        self._drop()
        self._from_before = []
        self.crew.leave(self)

    def _hear(self, said: Any) -> None:
        """What it says before it is up."""
        assert self._actor is not None
        match said:
            case (About() as about, dict() as kept):
                self.crew.check(about)
                self._node = about.node
                self.crew.kept.update(kept)
                self._call = self._actor.call("load", self.setup)
            case "missing":
                self._call = self._actor.call("load", self.setup, self.crew.shipment.parts())
            case int():
                log.info("a node fetched the policy: %.0f MB", said / 1e6)
            case "up":
                self._up, self._call = True, None

    def _of_batch(self, batch: Batch, said: Any) -> list[Event]:
        if said == "began":
            return [Began(batch.number)]
        del self._sent[batch.number]
        return _told(batch, said)[1:]

    def _sign_of_life(self) -> None:
        """Tell the actor that it is still wanted, and find out about one that hangs with its node."""
        assert self._actor is not None
        now = self._clock()
        if not self._up:
            return  # it may wait for a node for as long as it takes
        if self._ping is not None and self._ping.take():
            self._ping = None
        if self._ping is None and now - self._pinged > PING_S:
            self._ping, self._pinged = self._actor.call("ping"), now
        elif self._ping is not None and now - self._pinged > SILENCE_S:
            raise Gone(f"an actor has not answered for {SILENCE_S:.0f} s", innocent=True)

    def _drop(self) -> None:
        if self._actor is not None:
            self._actor.kill()
        self._actor = self._call = self._ping = None
        self._sent = {}
        self._up = False


def batch_key(batch: Batch) -> str:
    """Names a batch by what is in it, so that another try of the same run knows it again."""
    asked = batch.follow_up and (batch.follow_up.ask.__qualname__, sorted(batch.follow_up.about))
    return hashlib.sha256(repr((batch.jobs, asked)).encode()).hexdigest()[:24]


def _told(batch: Batch, outcomes: tuple[AdaptOutcome, ...]) -> list[Event]:
    said: list[Event] = [Outcome(batch.number, outcome) for outcome in outcomes]
    return [Began(batch.number), *said, Done(batch.number)]
