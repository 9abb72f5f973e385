"""The actors of a pool on a Ray cluster: one that the run starts on this machine, or one by address.

One actor a CPU or GPU slot, named by run and policy, detached, so that a killed run that is resumed finds
them again. The cluster of a run listens on loopback alone; calls carry a token, which no log shows.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seal.cluster.actors import RayActor, one_reason
from seal.cluster.member import Actor, Gone, RayWorker
from seal.cluster.session import Session
from seal.cluster.shipment import Shipment
from seal.cluster.slot import PACKAGES, About, Slot, code_digest
from seal.records import AdaptOutcome
from seal.workers.process import WorkerSetup
from seal.workers.protocol import Worker

log = logging.getLogger(__name__)

#: Seconds that an actor waits for a driver to come back.
LEASE_S = 600.0
#: Ray's names for what a node has, by its names for what an actor needs.
_KINDS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
#: Seconds between two looks at what the cluster has.
_LOOK_S, _PATIENCE_S = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class RaySettings:
    """Which cluster, and how much of it."""

    run: str
    """Names the run, the same for every try of it."""
    address: str | None = None
    """host:port of a cluster; None: $RAY_ADDRESS if set, otherwise one of our own on this machine."""
    workers: int | None = None
    """Actors; None: as many as the cluster has room for."""
    memory: int = 0
    """Bytes of main memory that one needs."""

    @property
    def where(self) -> str | None:
        """The address to connect to; None for a cluster of our own."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


class RayCrew:
    """See `seal.cluster.member.Crew`. Connects when the first actor is asked for, until all have left.

    Args:
        folder: gives the policy's local folder, for nodes that lack it.
    """

    def __init__(self, settings: RaySettings, setup: WorkerSetup, folder: Callable[[], Path]) -> None:
        self.settings, self.setup = settings, setup
        self.kept: dict[str, tuple[AdaptOutcome, ...]] = {}
        self.shipment = Shipment(folder, lambda part: self._ray.put(part))
        self._made: list[RayWorker] = []
        self._users: set[object] = set()
        self._free: list[str] = []
        self._session: Session | None = None
        self._looked = self._fruitful = 0.0
        self._warned: set[str] = set()
        self._leaving: frozenset[str] = frozenset()

    def workers(self) -> list[RayWorker]:
        """The first ones; `attend` adds others as there is room for them."""
        return [self._make() for _ in range(self.settings.workers or 1)]

    def attend(self, workers: list[Worker]) -> None:
        """Add workers for slots that have joined the cluster, note nodes that are about to leave it, and say
        what is waited for."""
        now = time.monotonic()
        if self._session is None or now - self._looked < _LOOK_S:
            return
        self._looked = now
        self._leaving = self._session.leaving()
        room = self.settings.workers or self._room()
        while len(self._made) < room:
            workers.append(self._make())
        if any(worker.ready for worker in workers):
            self._fruitful = now
        elif now - self._fruitful > _PATIENCE_S:
            self._fruitful = now
            log.warning(
                "no slot of the cluster is up yet: it has room for %d, each with %s",
                self._room(),
                ", ".join(f"{value:g} {_KINDS[name]}" for name, value in self._needs().items() if value),
            )

    def actor(self, worker: object) -> Actor:
        """See `Crew`."""
        if self._session is None:
            self._connect()
        self._users.add(worker)
        ray = self._ray
        try:
            while self._free:
                try:
                    return RayActor(ray.get_actor(self._free.pop()))
                except ValueError:
                    log.debug("it ended just now")
            kind = ray.remote(concurrency_groups={"ping": 1})(Slot)
            options = kind.options(
                name=f"{self._prefix}{uuid.uuid4().hex[:8]}",
                lifetime="detached",
                max_restarts=0,
                max_task_retries=0,
                **self._needs(),
            )
            return RayActor(options.remote(LEASE_S))
        except ray.exceptions.RayError as error:
            raise Gone(one_reason(error)) from None

    def check(self, about: About) -> None:
        """See `Crew`."""
        if about.code != code_digest():
            why = f"{about.host} runs other code of seal than this machine; install the same there"
            raise Gone(why, for_good=True)
        from seal.run.environment import versions

        here = {**versions(PACKAGES)}
        other = [f"{name} {v}, not {here[name]}" for name, v in about.versions if here.get(name, v) != v]
        if other and about.host not in self._warned:
            self._warned.add(about.host)
            log.warning("%s has %s: last bits of its results may differ", about.host, "; ".join(other))

    def leaving(self, node: str) -> bool:
        """See `Crew`."""
        return node in self._leaving

    def leave(self, worker: object) -> None:
        """See `Crew`."""
        self._users.discard(worker)
        if not self._users:
            self.close()

    def close(self) -> None:
        """End what there still is of ours, and disconnect."""
        if self._session is not None:
            self._session.close()
        self._session, self._free = None, []

    @property
    def _prefix(self) -> str:
        model = replace(self.setup.model, source="")
        told = repr((replace(self.setup, model=model), code_digest()))
        return f"{self._mine}{hashlib.sha256(told.encode()).hexdigest()[:10]}-"

    @property
    def _mine(self) -> str:
        return f"seal-{self.settings.run}-"

    def _make(self) -> RayWorker:
        self._made.append(RayWorker(self.setup, self))
        return self._made[-1]

    def _needs(self) -> dict[str, float]:
        """What Ray sets aside for one actor."""
        on_gpu = self.setup.model.device.startswith("cuda")
        needs = {"num_cpus": float(self.setup.threads), "num_gpus": 1.0 if on_gpu else 0.0}
        return needs | ({"memory": float(self.settings.memory)} if self.settings.memory else {})

    @property
    def _ray(self) -> Any:
        assert self._session is not None
        return self._session.ray

    def _room(self) -> int:
        needs = [(_KINDS[name], value) for name, value in self._needs().items() if value]
        nodes = [
            node["Resources"]
            for node in self._ray.nodes()
            if node["Alive"] and node["NodeID"] not in self._leaving
        ]
        return sum(int(min(has.get(kind, 0.0) // value for kind, value in needs)) for has in nodes)

    def _connect(self) -> None:
        settings, threads = self.settings, self.setup.threads
        cpus = settings.workers * threads if settings.workers else None
        self._session = Session(settings.where, cpus, self._mine)
        self._fruitful, self._looked = time.monotonic(), 0.0
        names = self._session.actors()
        self._free = [name for name in names if name.startswith(self._prefix)]
        self._session.kill(name for name in names if name not in self._free)  # of an earlier policy
        if self._free:
            log.info("%d workers of this run are still there: what they have done counts", len(self._free))
