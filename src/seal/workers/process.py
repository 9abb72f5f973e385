"""A worker that is a process of its own on this machine, with the model in memory that it shares."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import queue
import signal
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from seal.batches import Batch
from seal.errors import ConfigError, SealError
from seal.prompt import PromptSettings
from seal.workers.passes import run_batch, run_joined
from seal.workers.protocol import Died, Event

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from seal.models.load import LoadedModel
    from seal.protocols import InnerLoop

log = logging.getLogger(__name__)

_EARLY = 'out of memory, or a script that starts runs without `if __name__ == "__main__":`'
_CANNOT_SEND = "make the domain's follow_up a function or method of a module, or set inner.workers: 1"


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """How a worker process comes by its model: it is handed over, or loaded by name."""

    source: str
    version: str
    device: str
    dtype: str
    loaded: LoadedModel | None = None
    """With weights in shared memory, see `seal.workers.sharing`; None: load `source`."""
    prompts: PromptSettings = field(default_factory=PromptSettings)
    """What its prompt contract was made with."""

    def get(self) -> LoadedModel:
        """The model. Raises `ModelError`, also where the name stands for another model by now."""
        from seal.errors import ModelError
        from seal.models.load import load_model

        if self.loaded is not None:
            return self.loaded
        loaded = load_model(self.source, self.device, self.dtype, self.prompts)
        if loaded.version != self.version:
            raise ModelError(
                f"{self.source} holds another model now ({loaded.version}, not {self.version})",
                "leave a model's files alone while it is at work, or set inner.workers: 1",
            )
        return loaded


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker process is started with."""

    model: WorkerModel
    threads: int
    slots: int
    token_budget: int
    recompute: bool = False

    def loop(self) -> InnerLoop:
        """The engine. Raises `ModelError`."""
        import torch

        from seal.inner.loop import LocalInnerLoop

        torch.set_num_threads(self.threads)
        return LocalInnerLoop(
            self.model.get(), slots=self.slots, token_budget=self.token_budget, recompute=self.recompute
        )


class ProcessWorker:
    """Starts a process for `setup`, and another when that has ended."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.setup, self.slots, self.ahead = setup, setup.slots, 0
        self.ready = False
        self.process: BaseProcess | None = None
        self._line: Connection | None = None

    def start(self) -> None:
        """Start the process, if there is none."""
        if self.process is not None:
            return
        from torch import multiprocessing

        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.setup), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, batch: Batch) -> None:
        """Give it a batch."""
        assert self._line is not None
        try:
            self._line.send(batch)
        except OSError:
            log.debug("a worker ended before it was sent batch %d", batch.number)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(f"a batch cannot be sent to another process: {error}", _CANNOT_SEND) from error

    def poll(self) -> list[Event]:
        """What it has said."""
        events: list[Event] = []
        try:
            while self._line is not None and self._line.poll():
                message = self._line.recv()
                if message is None:
                    self.ready = True
                    continue
                events.append(message)
                if isinstance(message, Died):
                    self.close()
        except (EOFError, OSError):
            events.append(Died(self._gone(), for_good=not self.ready))
            self.close()
        return events

    def close(self) -> None:
        """End the process."""
        process, line = self.process, self._line
        self.process, self._line, self.ready = None, None, False
        if line is not None:
            line.close()
        if process is not None:
            process.terminate()
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()

    def _gone(self) -> str:
        assert self.process is not None
        self.process.join(30)
        code = self.process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        early = "" if self.ready else f" before it was up ({_EARLY})"
        return f"a worker process of the inner loop {how}{early}"


def serve(line: Connection, setup: WorkerSetup) -> None:
    """The life of a worker process: make the engine, say so (None), then run what comes over the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    batches: queue.SimpleQueue[Batch | Exception] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(line, batches), daemon=True).start()

    def next_batch(wait: bool) -> Batch | None:
        try:
            got = batches.get(wait)
        except queue.Empty:
            return None
        if isinstance(got, Exception):
            raise ConfigError(f"a worker process cannot read what it was sent: {got}", _CANNOT_SEND)
        return got

    try:
        loop = setup.loop()
        line.send(None)
        while True:
            batch = next_batch(wait=True)
            assert batch is not None
            joining = functools.partial(next_batch, wait=False)
            for event in run_batch(loop, batch) if batch.alone else run_joined(loop, batch, joining):
                line.send(event)
    except BrokenPipeError:
        return  # the parent wants nothing any more
    except Exception as error:  # the border of this process; the parent says it
        known = isinstance(error, SealError)
        line.send(Died(str(error) if known else f"{type(error).__name__}: {error}", for_good=known))
        if not known:
            raise


def _receive(line: Any, batches: queue.SimpleQueue[Batch | Exception]) -> None:
    """Take what comes at once, so that the parent never waits; end with the parent, however that ended."""
    while True:
        try:
            batches.put(line.recv())
        except (EOFError, OSError):
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - what pickle cannot name here; the worker says it
            batches.put(error)
            return
