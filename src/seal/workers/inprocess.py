"""The worker that is this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from seal.batches import Batch
from seal.protocols import InnerLoop
from seal.workers.passes import run_batch
from seal.workers.protocol import Died, Event

log = logging.getLogger(__name__)


class InProcessWorker:
    """Runs batches by themselves in the thread of the caller: `poll` works until there is an event."""

    ready = True

    def __init__(self, loop: InnerLoop) -> None:
        self.loop, self.slots, self.ahead = loop, loop.slots, 0
        self._events: Iterator[Event] = iter(())

    def start(self) -> None:
        """It is always up."""

    def send(self, batch: Batch) -> None:
        """Take a batch; the work is done in `poll`."""
        self._events = run_batch(self.loop, batch)

    def poll(self) -> list[Event]:
        """The next event. A batch that the engine fails in (no memory left for it) ends as a worker would."""
        try:
            event = next(self._events, None)
        except Exception as error:  # the border of a worker
            log.exception("a batch failed")
            self.close()
            return [Died(f"{type(error).__name__}: {error}")]
        return [] if event is None else [event]

    def close(self) -> None:
        """Give up the batch."""
        self._events = iter(())
        self.loop.close()
