"""Where adapters are trained and asked, a server or this process, and how verbs end early."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from seal.cli._options import DeviceOptions
from seal.errors import ConfigError, ServeError

if TYPE_CHECKING:
    from seal.estep import EStep
    from seal.models.load import LoadedModel
    from seal.run.folder import Run
    from seal.run.progress import Progress
    from seal.serve.link import Link
    from seal.spending import Purse


@dataclass(frozen=True, slots=True)
class Backend:
    """A TTT server, or a model in this process."""

    server: Annotated[
        str | None, Option(help="TTT server: tcp://host:port, or the --endpoint-file of `seal serve`.")
    ] = None
    local: Annotated[
        str | None, Option(metavar="MODEL", help="No server: measure in this process, with this model.")
    ] = None
    wait: Annotated[float, Option(help="Seconds to wait for the server to come up.")] = 0.0
    keys: Annotated[
        Path | None, Option(help="This client's key_secret file, for a server with CURVE keys.")
    ] = None
    server_key: Annotated[
        Path | None, Option(help="The server's .key file; not needed with an endpoint file.")
    ] = None

    def check(self) -> None:
        """Raise `ConfigError` unless it is exactly one of the two."""
        if (self.server is None) == (self.local is None):
            raise ConfigError(
                "one of --server and --local is needed", "name a server, or a model to load here"
            )

    def policy(self, device_options: DeviceOptions) -> LoadedModel:
        """The model that is measured: loaded here, or by name and tokenizer once the server is up."""
        if self.local is not None:
            return device_options.load(self.local)
        from seal.serve.client import remote_policy

        return remote_policy(self.link(self.wait))

    def estep(self, run: Run, policy: LoadedModel, purse: Purse) -> EStep:
        """The E-step of `policy` on `run`; a server trains and grades for it."""
        from seal import setup

        config = run.config
        grader = setup.grader(config, policy, purse)
        domain = setup.make_domain(config, grader)
        if self.local is not None:
            return setup.estep(config, run, domain, grader, policy)
        from seal.serve.client import RemoteInnerLoop

        return setup.estep_on(config, run, domain, RemoteInnerLoop(self.link(5.0)), policy)

    def shut_down(self) -> None:
        """End the server."""
        from seal.serve.client import TTTClient

        TTTClient(self.link(5.0)).command("shutdown")

    def link(self, wait: float) -> Link:
        """How to reach the server.

        Raises:
            ConfigError: `server` is neither an address nor an endpoint file, or it wants keys.
            ServeError: it is not up after `wait` seconds.
        """
        from seal.serve.client import TTTClient
        from seal.serve.link import find

        until = time.monotonic() + wait
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                link = find(self.server or "", self.keys, self.server_key, left)
                TTTClient(replace(link, silence_s=max(1.0, min(5.0, left)))).command("health")
            except ServeError:
                if time.monotonic() >= until:
                    raise
            else:
                return link


@contextmanager
def interruptible(level: str, again: str) -> Iterator[Progress]:
    """Log to the terminal and show progress there; SIGTERM ends like Ctrl-C. See `going_on`."""
    from seal.cli import going_on
    from seal.run import log
    from seal.run.progress import shown

    console = log.set_up(level.upper())
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with going_on(again), shown(console) as progress:
            yield progress
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def paying(run: Run, purse: Purse) -> Iterator[Purse]:
    """What the run pays models behind APIs from, within its budget; written down in its folder."""
    from seal.spending import FILE

    purse.keep_in(run.path / FILE)
    try:
        yield purse
    finally:
        purse.close()


def say_next(command: str) -> None:
    """The step after this one, on stderr, so that a script can read the path on stdout."""
    print(f"next: {command}", file=sys.stderr)


def percent(mean: float | None, bounds: list[float] | None) -> str:
    """`12.3 % [10.0, 15.0]`, or `12.3 % [unknown]`."""
    if mean is None:
        return "not measured"
    spread = f"{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}" if bounds else "unknown"
    return f"{100 * mean:.1f} % [{spread}]"
