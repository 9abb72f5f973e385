"""What runs on a node of a Ray cluster: an engine for one policy, in a process that outlives its driver.

It keeps what it found until it is ended. A driver that was killed and comes back attaches to it by name and
has what was done meanwhile; if none comes for `lease_s`, it ends by itself.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seal.cluster.shipment import Parts, unpack
from seal.errors import ModelError

if TYPE_CHECKING:
    from seal.batches import Batch
    from seal.protocols import InnerLoop
    from seal.records import AdaptOutcome
    from seal.workers.process import WorkerSetup

#: What decides numbers to the last bit, beside the hardware.
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class About:
    """What a node has."""

    node: str
    host: str
    code: str
    """Digest of seal's source there."""
    versions: tuple[tuple[str, str], ...]
    """Python and packages that decide numbers, by name."""
    processor: str
    memory_free: int
    """Bytes of main memory."""
    gpus: tuple[str, ...] = ()


def about() -> About:
    """Of this node, inside a Ray worker."""
    import psutil
    import ray
    import torch

    from seal.run.environment import versions

    installed = [(name, version or "-") for name, version in versions(PACKAGES).items()]
    return About(
        ray.get_runtime_context().get_node_id(),
        platform.node(),
        code_digest(),
        (("python", platform.python_version()), *installed),
        _processor(),
        psutil.virtual_memory().available,
        tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
    )


@functools.cache
def code_digest() -> str:
    """Short hash of all source files of this package."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Slot:
    """The actor. All but `ping` runs in one thread; every method is a stream of what it has to say.

    Args:
        lease_s: seconds without a call, and without work, after which it ends.
    """

    def __init__(self, lease_s: float) -> None:
        self._loop: InnerLoop | None = None
        self._kept: dict[str, tuple[AdaptOutcome, ...]] = {}
        self._called, self._busy, self._lease_s = time.monotonic(), False, lease_s
        threading.Thread(target=self._end_alone, daemon=True).start()

    def ping(self) -> Iterator[int]:
        """The process id. Somebody still wants this actor."""
        self._called = time.monotonic()
        yield os.getpid()

    def hello(self) -> Iterator[tuple[About, dict[str, tuple[AdaptOutcome, ...]]]]:
        """What this node has, and the outcomes of batches that are done, by `batch_key`."""
        self._called = time.monotonic()
        yield about(), self._kept

    def load(
        self, setup: WorkerSetup, parts: Parts | None = None
    ) -> Iterator[Literal["up", "missing"] | int]:
        """Make the engine; "missing" where the policy is not here and did not come as `parts`.

        Yields the bytes that were fetched, if any, before "up".

        Raises:
            ModelError: it is another one, or cannot be loaded.
        """
        self._called, self._busy = time.monotonic(), True
        try:
            if self._loop is None:
                if parts is not None:
                    folder, fetched = unpack(parts, setup.model.version)
                    setup = replace(setup, model=replace(setup.model, source=str(folder)))
                    yield fetched
                try:
                    self._loop = setup.loop()
                except ModelError:
                    if parts is not None:
                        raise
                    yield "missing"
                    return
            yield "up"
        finally:
            self._called, self._busy = time.monotonic(), False

    def run(self, batch: Batch, key: str) -> Iterator[Literal["began"] | tuple[AdaptOutcome, ...]]:
        """Say that it has begun, then all outcomes of a batch in one message."""
        assert self._loop is not None
        self._busy = True
        try:
            yield "began"
            outcomes = tuple(self._loop.run(batch.jobs, batch.follow_up))
            self._kept[key] = outcomes
            yield outcomes
        finally:
            self._called, self._busy = time.monotonic(), False

    def _end_alone(self) -> None:
        while self._busy or time.monotonic() - self._called < self._lease_s:
            time.sleep(min(5.0, self._lease_s / 4))
        os._exit(0)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
