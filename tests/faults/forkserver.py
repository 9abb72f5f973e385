"""Runs `seal` commands in forks of one process that has imported everything, and kills them where it is told.

    forkserver.py          reads one JSON object a line, answers with one

    {"argv": [...], "cwd": "…", "log": "…", "work": "…", "stub": 1, "after": 0.3}  killed 0.3 s after its fork
    {…, "call": 17}        killed at its 17th change of the file system (odd ones after it, even ones before)
    {…, "inside": ["train", 3], "delay": 0.01}   killed in the third training round, 10 ms after it began
    {…, "clock": 3600}     with a clock that is an hour ahead
    {…, "stop": 0.3}       stopped 0.3 s after its fork; the answer has its `pid` and no `code`
    {"continue": 1234}     goes on with one that was stopped, and waits for its end

The answer has `code` (negative: the signal), `seconds`, and for a command that ended by itself `calls`, how
often it changed the file system, and `entered`, how often it was inside what `inside` can name. The file
`work` gets a line for every adapter that was trained, every text that was asked for, and every journal that
was opened, with the seconds since the fork.

`stub` replaces what takes long: adapters keep their start values, texts are drawn from what they are asked
by, and the M-step draws its factors. Everything that reads, writes and decides is real.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
PLACES = {
    "train": "seal.inner.adapt._round",
    "grade": "seal.graded.Graded._graded",
    "save": "seal.models.checkpoint.write_checkpoint",
    "m-step": "seal.restem.train_on_sequences",
}
"""What `inside` can name."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Injector:
    """Counts what a command does, and ends it at one of those points."""

    def __init__(self, call: int, inside: tuple[str, int], delay: float) -> None:
        self.call, self.inside, self.delay = call, inside, delay
        self.calls, self.entered = 0, Counter[str]()

    def changes(self, change: Callable[..., Any], *arguments: Any) -> Any:
        """A write or flush: died before or after it, a write also in its middle."""
        self.calls += 1
        if self.calls != self.call:
            return change(*arguments)
        if self.calls % 2 == 0:
            if change.__name__ == "write":
                change(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            die()
        result = change(*arguments)
        die()
        return result

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            self.calls += 1
            if self.calls == self.call:
                die()

    def watch(self, place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def entered(*arguments: Any, **named: Any) -> Any:
            self.entered[place] += 1
            if self.inside != (place, self.entered[place]):
                return function(*arguments, **named)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process like SIGKILL: nothing of it runs
            signal.setitimer(signal.ITIMER_REAL, max(self.delay, 1e-6))
            result = function(*arguments, **named)
            if isinstance(result, Iterator):
                result = list(result)
            die()
            return result

        return entered

    def install(self) -> None:
        for name in ("write", "fsync"):
            setattr(os, name, functools.partial(self.changes, getattr(os, name)))
        sys.addaudithook(self.audit)
        for place, dotted in PLACES.items():
            parent, name = attribute(dotted)
            replace_everywhere(getattr(parent, name), self.watch(place, getattr(parent, name)), parent, name)


def attribute(dotted: str) -> tuple[Any, str]:
    """The module or class that holds what `dotted` names, and its name there."""
    module, _, name = dotted.rpartition(".")
    if module in sys.modules:
        return sys.modules[module], name
    outer, kind = attribute(module)
    return getattr(outer, kind), name


def replace_everywhere(old: Any, new: Any, parent: Any, name: str) -> None:
    """Also where a module of seal has imported it by name."""
    setattr(parent, name, new)
    for module in [m for n, m in list(sys.modules.items()) if n.startswith("seal.")]:
        for there, value in list(vars(module).items()):
            if value is old:
                setattr(module, there, new)


def set_clock(shift: float) -> None:
    """Every clock that people read is ahead by `shift` seconds."""
    import datetime

    import seal.run.journal

    real, now = time.time, datetime.datetime.now

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now(tz) + datetime.timedelta(seconds=shift)

    time.time = lambda: real() + shift
    replace_everywhere(datetime.datetime, Shifted, seal.run.journal, "datetime")


def count_work(file: int, began: float) -> None:
    """Tell `file` what is done, as it is done."""
    import seal.inner.loop as loop
    from seal.run.journal import Journal

    write = os.write

    def told(generator: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def trained(*arguments: Any) -> Iterator[Any]:
            for found in generator(*arguments):
                if found is not None and found.adapter is not None:
                    write(file, b"unit\n")
                yield found

        return trained

    def asked(generate: Callable[..., Any]) -> Callable[..., Any]:
        def generated(self: Any, prompts: Sequence[str], *arguments: Any, **named: Any) -> Any:
            write(file, b"unit\n" * len(prompts))
            return generate(self, prompts, *arguments, **named)

        return generated

    def opened(load: Callable[..., None]) -> Callable[..., None]:
        def loaded(self: Journal) -> None:
            load(self)
            write(file, f"open {time.monotonic() - began:.2f}\n".encode())

        return loaded

    loop.train = told(loop.train)  # type: ignore[assignment]
    loop.LocalGenerator.generate = asked(loop.LocalGenerator.generate)  # type: ignore[method-assign]
    Journal._load = opened(Journal._load)  # type: ignore[method-assign]


def stub() -> None:
    """Nothing is computed; every result still depends on all that the real one would depend on."""
    import torch

    import seal.inner.family_check
    import seal.inner.loop
    import seal.restem
    from seal.inner.adapt import Trained
    from seal.inner.adapter import Adapter
    from seal.inner.decode import Decoder, Request, TokenCompletion
    from seal.inner.runtime import Runtime
    from seal.seeds import derive

    def weights(model: Any) -> float:
        return float(next(model.parameters()).flatten()[:8].sum())

    def train(runtime: Any, jobs: Iterable[Any], slots: int, token_budget: int) -> Iterator[Trained]:
        for job in jobs:
            if job is None:
                return
            time.sleep(0.001)
            adapter = Adapter(runtime, job.training, job.seed) if job.trains else None
            if adapter is not None:
                adapter.seed = derive(job.seed, *(repr(row.ids) for row in job.sequences))
            yield Trained(job, adapter, (1.0,), 1)

    def run(self: Decoder, requests: Sequence[Request], on_step: Any = None) -> list[TokenCompletion]:
        written = []
        for asked in requests:
            known = (
                asked.ids,
                asked.seed,
                asked.reference,
                asked.adapter and asked.adapter.seed,
                weights(self.runtime.model),
            )
            rng = random.Random(hashlib.sha256(repr(known).encode()).digest())
            text = f"Fact {rng.randrange(10**6)}.\nFact {rng.randrange(10**6)}."
            likelihood = -rng.random() if asked.reference else None
            written.append(TokenCompletion(list(text.encode()), text, "stop", likelihood))
        return written

    def train_on_sequences(
        loaded: Any, rows: Any, training: Any, seed: int, **_: Any
    ) -> tuple[dict[str, Any], list[float]]:
        adapter = Adapter(Runtime.of(loaded.model), training, seed)
        draw = torch.Generator().manual_seed(seed + len(rows))
        return {
            name: (a, torch.randn(b.shape, generator=draw)) for name, (a, b) in adapter.factors.items()
        }, [1.0] * len(rows)

    replace_everywhere(seal.inner.loop.train, train, seal.inner.loop, "train")
    replace_everywhere(seal.restem.train_on_sequences, train_on_sequences, seal.restem, "train_on_sequences")
    checked = seal.inner.family_check.check_family
    replace_everywhere(checked, lambda loaded: None, seal.inner.family_check, "check_family")
    Decoder.run = run  # type: ignore[method-assign]


def child(asked: dict[str, Any], report: int, began: float) -> None:
    """Run the command; does not return."""
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(asked["cwd"])
    os.environ.update(asked.get("env", {}))
    if asked.get("stub"):
        stub()
    count_work(os.open(asked["work"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), began)
    if asked.get("clock"):
        set_clock(asked["clock"])
    from seal.cli import main

    injector = Injector(asked.get("call", 0), tuple(asked.get("inside", ("", 0))), asked.get("delay", 0.0))
    write = os.write
    injector.install()
    code = main(asked["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    write(report, json.dumps({"calls": injector.calls, "entered": injector.entered}).encode())
    os._exit(code)


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Fork a command, end it when asked to, wait for it."""
    read, report = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            child(asked, report, began)
        except BaseException as error:  # noqa: BLE001 (a fork must not come back)
            print(f"the fork failed: {error!r}", file=sys.stderr, flush=True)
        os._exit(70)
    os.close(report)
    if "after" in asked:
        time.sleep(asked["after"])
        os.kill(pid, signal.SIGKILL)
    if "stop" in asked:
        time.sleep(asked["stop"])
        os.kill(pid, signal.SIGSTOP)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return {"code": 0, "pid": pid}  # the pipe stays: the command writes to it at its end
    else:
        _, status = os.waitpid(pid, 0)
    said = os.read(read, 10_000) if os.WIFEXITED(status) else b""
    os.close(read)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began} | (
        json.loads(said) if said else {}
    )


def go_on(pid: int) -> dict[str, Any]:
    """Continue a command that was stopped, and wait for its end."""
    os.kill(pid, signal.SIGCONT)
    return {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


def warm_up() -> None:
    """Import what commands import."""
    import importlib
    import pkgutil

    import torch

    import seal

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(seal.__path__, "seal."):
        if not module.name.startswith(("seal.cluster", "seal.__main__")):
            with contextlib.suppress(ImportError):  # of a package for GPUs
                importlib.import_module(module.name)
    import matplotlib.figure  # noqa: F401
    import trl  # noqa: F401

    gc.collect()
    gc.freeze()  # forks share what they never look at


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that is imported may speak between the answers
    warm_up()
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(
            json.dumps(go_on(asked["continue"]) if "continue" in asked else run(asked)), file=out, flush=True
        )
