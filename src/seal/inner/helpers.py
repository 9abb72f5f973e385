"""The inner loop in several processes: small products do not spread over cores, whole jobs do.

A pass is thousands of products of some fifty tokens, and threads that share one of them spend most of their
time on meeting again. So this process takes a share of the jobs on its own part of the cores, and helper
processes, each with the same model, take the others.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING
from weakref import finalize

import torch

from seal.errors import AdaptError
from seal.inner.loop import LocalInnerLoop
from seal.inner.protocol import FollowUp
from seal.inner.schedule import sequences_per_step, total_steps
from seal.records import AdaptJob, AdaptOutcome

if TYPE_CHECKING:
    from seal.models.load import LoadedModel

log = logging.getLogger(__name__)

#: Models with fewer weights are through before a helper has started.
_WORTH_WEIGHTS = 20_000_000
#: Memory that a helper needs, in models: weights, reordered weights, adapters, activations. The first
#: process, which also holds the M-step, needs twice as much.
_MEMORY_FACTOR = 6
#: Between two looks for new jobs while a helper is at work.
_LISTEN_S = 0.02


def default_workers(loaded: LoadedModel) -> int:
    """Processes that share the inner loop, where the config says `auto`: one a core or GPU, as memory
    allows."""
    import psutil

    model = loaded.model
    if model.device.type == "cuda":
        return torch.cuda.device_count()
    weights = sum(p.numel() for p in model.parameters())
    if model.device.type != "cpu" or weights < _WORTH_WEIGHTS:
        return 1
    need = _MEMORY_FACTOR * weights * model.dtype.itemsize
    return max(1, min(torch.get_num_threads(), int(psutil.virtual_memory().total // need) - 1))


@dataclass(frozen=True, slots=True)
class _Setup:
    """What a helper is started with."""

    source: str
    version: str
    device: str
    dtype: str
    threads: int
    slots: int
    token_budget: int


class SharedInnerLoop:
    """`InnerLoop` in this process and in helpers beside it, which start when there is work for them.

    Which process gets a job depends on the jobs alone, so that a run and its repetition do the same.

    Args:
        local: the engine of this process; helpers get the same model, slots and token budget.
        workers: processes in all, this one included.
    """

    def __init__(self, local: LocalInnerLoop, workers: int) -> None:
        self.local, self.workers = local, workers
        self.slots = local.slots * workers
        """Adapters trained at once, in all processes."""
        self._helpers: list[_Helper] = []

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """Train and answer `jobs`; see `LocalInnerLoop.run`. With `follow_up` all is done in this process.

        Raises:
            AdaptError: a helper came to an end, or could not load the model.
        """
        offsets = deal([job for job in jobs if job is not None], self.workers)
        if follow_up is not None or sum(bool(share) for share in offsets) < 2:
            yield from self.local.run([job for share in offsets for job in share], follow_up)
            return
        with _threads(self._threads):
            yield from self._share(offsets)

    def close(self) -> None:
        """End the helpers; the next run starts new ones."""
        for helper in self._helpers:
            helper.end()
        self._helpers = []

    @property
    def _threads(self) -> int:
        return max(1, torch.get_num_threads() // self.workers)

    def _share(self, offsets: Sequence[Sequence[AdaptJob]]) -> Iterator[AdaptOutcome]:
        self._start(len(offsets) - 1)
        done = False
        try:
            busy = {}
            for helper, share in zip(self._helpers, offsets[1:], strict=False):
                if share:
                    helper.send(share)
                    busy[helper.connection] = helper, {job.id: job for job in share}
            for outcome in self.local.run(offsets[0]):
                yield outcome
                yield from self._collect(busy, timeout=0)
            while busy:
                yield from self._collect(busy, timeout=None)
            done = True
        finally:
            if not done:  # what the helpers are still at belongs to nobody now
                self.close()

    def _collect(
        self, busy: dict[Connection, tuple[_Helper, dict[str, AdaptJob]]], timeout: float | None
    ) -> Iterator[AdaptOutcome]:
        """Outcomes that have arrived."""
        for connection in wait(list(busy), timeout):
            assert isinstance(connection, Connection)
            helper, jobs = busy[connection]
            outcome = helper.receive()
            del jobs[outcome.job_id]
            if not jobs:
                del busy[connection]
            yield outcome

    def _start(self, n: int) -> None:
        if len(self._helpers) == n:
            return
        self.close()
        log.info("starting %d helper process%s", n, "es" if n > 1 else "")
        self._helpers = [_Helper(_setup(self.local, i, self._threads)) for i in range(1, n + 1)]


class HelperLoop:
    """`InnerLoop` in a process of its own, which starts with the first job.

    Args:
        local: an engine whose model, slots and token budget the process gets.
        number: 1 for the first helper; chooses the GPU.
        threads: of the process.
    """

    def __init__(self, local: LocalInnerLoop, number: int, threads: int) -> None:
        self.local, self.number, self.threads = local, number, threads
        self.slots = local.slots
        self._helper: _Helper | None = None

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """Train and answer `jobs`; see `InnerLoop.run`.

        Raises:
            AdaptError: the process came to an end, or could not load the model; the next run starts another.
        """
        source, open_jobs = iter(jobs), dict[str, AdaptJob]()
        if self._helper is not None and self._helper.process.poll() is not None:
            self.close()  # it died while nobody looked
        helper = self._helper = self._helper or _Helper(_setup(self.local, self.number, self.threads))
        done = False
        try:
            while True:
                while len(open_jobs) < self.local.slots and (job := next(source, None)) is not None:
                    helper.send(job)
                    open_jobs[job.id] = job
                if not open_jobs:
                    done = True
                    return
                if helper.connection.poll(_LISTEN_S):
                    outcome = helper.receive()
                    del open_jobs[outcome.job_id]
                    yield outcome
        finally:
            if not done:  # what it is still at belongs to nobody now
                self.close()

    def close(self) -> None:
        """End the process."""
        if self._helper is not None:
            self._helper.end()
            self._helper = None


def deal(jobs: Sequence[AdaptJob], hands: int) -> list[list[AdaptJob]]:
    """Share `jobs` out so that all hands have about equally much to do; each keeps the jobs' order.

    The dearest job first, always to the hand with least: at most a third worse than the best there is
    (Graham 1969).
    """
    loads = [0.0] * hands
    owner: dict[int, int] = {}
    for i in sorted(range(len(jobs)), key=lambda i: (-_cost(jobs[i]), i)):
        owner[i] = loads.index(min(loads))
        loads[owner[i]] += _cost(jobs[i])
    return [[job for i, job in enumerate(jobs) if owner[i] == hand] for hand in range(hands)]


def _cost(job: AdaptJob) -> float:
    """Tokens to train on and to write; reading a prompt is a tenth of the work a token."""
    n = len(job.sequences)
    steps = total_steps(n, job.training) if n else 0
    training = (
        steps
        * min(1.0, sequences_per_step(job.training) / max(n, 1))
        * sum(len(row.ids) for row in job.sequences)
    )
    return 1 + training + sum(p.sampling.max_new_tokens + 0.1 * len(p.ids) for p in job.eval_prompts)


def _setup(local: LocalInnerLoop, number: int, threads: int) -> _Setup:
    loaded = local.loaded
    kind = str(loaded.model.dtype).removeprefix("torch.")
    place = _device(loaded.model.device, number)
    return _Setup(loaded.source, loaded.version, place, kind, threads, local.slots, local.token_budget)


def _device(own: torch.device, number: int) -> str:
    """Where helper `number` works: the GPU so many places further, or the CPU beside us."""
    if own.type != "cuda":
        return own.type
    return f"cuda:{((own.index or 0) + number) % torch.cuda.device_count()}"


@contextmanager
def _threads(n: int) -> Iterator[None]:
    was = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(was)


class _Helper:
    """A helper process and the line to it. Both ends are this program's own, so the line speaks pickle."""

    def __init__(self, setup: _Setup) -> None:
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        paths = os.pathsep.join(filter(None, sys.path))
        threads = {name: str(setup.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from seal.inner.helpers import serve; serve({number})"],
            pass_fds=[number],
            env={**os.environ, "PYTHONPATH": paths, **threads},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt is for the parent, which ends its helpers
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self._finalizer = finalize(self, _end, self.process, self.connection)
        self.connection.send(setup)

    def send(self, work: Sequence[AdaptJob] | AdaptJob) -> None:
        """Give it all the jobs of a run, or one that joins what it is at."""
        try:
            self.connection.send(work if isinstance(work, AdaptJob) else list(work))
        except OSError:
            raise self._gone() from None

    def receive(self) -> AdaptOutcome:
        """Its next outcome. Raises `AdaptError` when the process has come to an end, or fails."""
        try:
            got = self.connection.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(got, Exception):
            raise got
        assert isinstance(got, AdaptOutcome)
        return got

    def end(self) -> None:
        """End the process."""
        self._finalizer()

    def _gone(self) -> AdaptError:
        code = self.process.wait(30)
        why = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return AdaptError(f"a helper process of the inner loop {why}", "use fewer workers if memory ran out")


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(number: int) -> None:
    """A helper's life: load the model, then train and answer what comes over the line `number`."""
    _leave_with_parent()
    connection = Connection(number)
    try:
        setup: _Setup = connection.recv()
        loop = _engine(setup)
        while True:
            work: list[AdaptJob] | AdaptJob = connection.recv()
            for outcome in loop.run(_arriving(work, connection) if isinstance(work, AdaptJob) else work):
                connection.send(outcome)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001 - the border of this process; the parent says it
        connection.send(_portable(error))


def _arriving(first: AdaptJob, connection: Connection) -> Iterator[AdaptJob | None]:
    """Jobs one by one, as the parent sends them; None: there is none now."""
    yield first
    while True:
        yield connection.recv() if connection.poll() else None


def _engine(setup: _Setup) -> LocalInnerLoop:
    from seal.models.load import load_model

    torch.set_num_threads(setup.threads)
    loaded = load_model(setup.source, setup.device, setup.dtype)
    if loaded.version != setup.version:
        raise AdaptError(
            f"{setup.source} holds another model now ({loaded.version}, not {setup.version})",
            "leave a model's files alone while it is at work, or set inner.workers: 1",
        )
    return LocalInnerLoop(loaded, slots=setup.slots, token_budget=setup.token_budget)


def _portable(error: Exception) -> Exception:
    """The error as something that goes over the line."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _leave_with_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
