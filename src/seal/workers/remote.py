"""A worker that is a TTT server: its engine trains, beside other clients' jobs."""

from __future__ import annotations

from seal.batches import Batch
from seal.errors import ConfigError
from seal.records import AdaptOutcome
from seal.serve.exchange import SILENT, Exchange, job_error
from seal.serve.jobs import job_to_wire, outcome_from_wire
from seal.serve.link import Link
from seal.workers.protocol import Died, Done, Event, Outcome

_HEALTH = -1


class RemoteWorker:
    """The server behind `link`. Its batches are not run by themselves, and its adapters are asked once.

    Args:
        policy: version of the model that it must hold.
    """

    def __init__(self, link: Link, policy: str) -> None:
        self.link, self.policy, self.slots, self.ahead = link, policy, link.window, 0
        self.ready = False
        self._exchange: Exchange[tuple[int, str]] | None = None
        self._left: dict[int, int] = {}

    def start(self) -> None:
        """Ask for its health, if that is not done."""
        if self._exchange is None:
            self._exchange = Exchange(self.link)
            self._exchange.add((_HEALTH, ""), {"cmd": "health"})

    def send(self, batch: Batch) -> None:
        """Send it the jobs of a batch. Raises `ConfigError` where they have a follow-up."""
        if batch.follow_up is not None:
            raise ConfigError("a server cannot ask an adapter twice", "leave inner.server out")
        assert self._exchange is not None
        self._left[batch.number] = len(batch.jobs)
        for job in batch.jobs:
            self._exchange.add((batch.number, job.id), {"cmd": "adapt", "job": job_to_wire(job)})

    def poll(self) -> list[Event]:
        """What it has answered."""
        events: list[Event] = []
        if self._exchange is None:
            return events
        for (batch, job_id), reply in self._exchange.step(0):
            if reply.get("code") == SILENT:
                self.close()
                return [*events, Died(str(reply["error"]), for_good=batch == _HEALTH)]
            if batch == _HEALTH:
                if reply.get("policy") != self.policy:
                    self.close()
                    return [Died(self._other(reply), for_good=True)]
                self.ready = True
                continue
            events.append(Outcome(batch, _outcome(job_id, reply)))
            self._left[batch] -= 1
            if not self._left[batch]:
                del self._left[batch]
                events.append(Done(batch))
        return events

    def close(self) -> None:
        """Cancel what it has."""
        if self._exchange is not None:
            self._exchange.close()
        self._exchange, self._left, self.ready = None, {}, False

    def _other(self, reply: dict[str, object]) -> str:
        holds = reply.get("policy", reply.get("error", "nothing"))
        return (
            f"the server at {self.link.endpoint} holds {holds}, the policy is {self.policy}; start it with"
            " the policy as --model (a round's is in checkpoints/ of the run), then: seal resume"
        )


def _outcome(job_id: str, reply: dict[str, object]) -> AdaptOutcome:
    if isinstance(found := reply.get("outcome"), dict):
        return outcome_from_wire({**found, "job_id": job_id})
    return AdaptOutcome(job_id, error=job_error(reply))
