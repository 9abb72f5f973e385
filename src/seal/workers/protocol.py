"""What a pool asks of a worker, and what a worker tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from seal.batches import Batch
from seal.records import AdaptOutcome


@dataclass(frozen=True, slots=True)
class Began:
    """The batch is being worked on: if the worker ends now, the batch may be why."""

    batch: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job of the batch is done."""

    batch: int
    outcome: AdaptOutcome


@dataclass(frozen=True, slots=True)
class Done:
    """The worker is through with the batch."""

    batch: int


@dataclass(frozen=True, slots=True)
class Died:
    """The worker lost what it was sent. `start` brings it up again, unless `for_good`."""

    why: str
    for_good: bool = False
    """Whether it could not even come up (no such model, no memory for it)."""
    innocent: bool = False
    """Whether nothing that it was at can be why: its machine left."""


Event = Began | Outcome | Done | Died


class Worker(Protocol):
    """Runs batches. It ends each with `Done`, or all that it has with `Died`; other events may be lost or
    come twice. No method blocks for long but `poll` of the worker that is this process.
    """

    @property
    def slots(self) -> int:
        """Jobs that it works on at once."""
        ...

    @property
    def ahead(self) -> int:
        """Batches that it may be sent beside the one that it is at, so that it need not wait for the next."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it is up and takes batches. One that is about to leave no longer does; it ends what it
        has."""
        ...

    def start(self) -> None:
        """Come up, where it is not up or coming; `ready` tells when it is."""
        ...

    def send(self, batch: Batch) -> None:
        """Give it a batch. Nothing is raised for a worker that has just ended; `poll` tells."""
        ...

    def poll(self) -> list[Event]:
        """What has happened since the last call."""
        ...

    def close(self) -> None:
        """Give up what it is at and free everything; `start` brings it back."""
        ...
