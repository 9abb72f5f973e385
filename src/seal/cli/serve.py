"""Run the TTT server: it trains temporary adapters on what clients send and answers their questions."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from seal.cli import _options
from seal.errors import ConfigError
from seal.extras import need
from seal.whole_file import write_whole

if TYPE_CHECKING:
    from seal.serve.messages import Limits


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens."""

    host: Annotated[str, Option(help="Interface; any but loopback needs --keys and --allow.")] = "127.0.0.1"
    port: Annotated[int, Option(min=0, max=65535, help="0: any free port.")] = 5555
    endpoint_file: Annotated[
        Path | None, Option(help="Write the address here once the server listens; removed at the end.")
    ] = None


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in, and who may end the server."""

    keys: Annotated[Path | None, Option(help="The server's key_secret file (CURVE).")] = None
    allow: Annotated[Path | None, Option(help="Public keys of clients, one a line, `admin` behind some.")] = (
        None
    )
    make_keys: Annotated[
        Path | None,
        Option(metavar="FOLDER/NAME", help="Write a key pair (NAME.key, NAME.key_secret), and end."),
    ] = None
    shutdown_token_file: Annotated[
        Path | None, Option(help="What a client must send to shut the server down (without CURVE).")
    ] = None
    shutdown: Annotated[bool, Option(help="Whether clients may shut the server down.")] = True

    def settings(self) -> dict[str, Any]:
        """The part of `ServerSettings` that says so. Raises `ConfigError` for a file that cannot be used."""
        from seal.serve.security import read_allowed, read_keys

        return {
            "keys": read_keys(self.keys) if self.keys else None,
            "allowed": read_allowed(self.allow) if self.allow else {},
            "shutdown_token": _token(self.shutdown_token_file),
            "allow_shutdown": self.shutdown,
        }


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much clients may ask for."""

    capacity: Annotated[int, Option(min=1, help="Requests under way; one more is answered Busy.")] = 256
    max_mb: Annotated[int, Option(min=1, help="Largest message, in MiB.")] = 16
    max_sequences: Annotated[int, Option(min=1, help="Training sequences of a request.")] = 20_000
    max_tokens: Annotated[int, Option(min=1, help="Training tokens of a request.")] = 2_000_000
    max_rank: Annotated[int, Option(min=1, help="LoRA rank of a request.")] = 256
    max_epochs: Annotated[int, Option(min=0, help="Epochs of a request.")] = 100

    def limits(self) -> Limits:
        """The same as a record."""
        from seal.serve.messages import Limits

        return Limits(
            bytes=self.max_mb * 2**20,
            sequences=self.max_sequences,
            questions=self.max_sequences,
            tokens=self.max_tokens,
            rank=self.max_rank,
            epochs=self.max_epochs,
        )


@_options.grouped
def serve(
    *,
    model: Annotated[str | None, Option(help="Hub id, folder, .gguf file or built-in name.")] = None,
    listening: Listening,
    access: Access,
    allowance: Allowance,
    store: Annotated[
        Path | None, Option(help="Keep replies in this file, so that a restarted server repeats no work.")
    ] = None,
    adapters: Annotated[Path | None, Option(help="Folder in which clients may have adapters saved.")] = None,
    slots: Annotated[
        int | None, Option(min=1, help="Adapters that a process trains at once; default: by device.")
    ] = None,
    engine_options: _options.EngineOptions,
    grace: Annotated[float, Option(min=0, help="Seconds that running jobs get at the end.")] = 60.0,
    grading: _options.Grading,
    seed: _options.Seed = 0,
    device_options: _options.DeviceOptions,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Serve until a client's shutdown, Ctrl-C, SIGTERM or SIGUSR1; running jobs are finished first."""
    need("zmq", "serving")
    from seal.engine import EngineSettings, inner_loop
    from seal.graded import Graded
    from seal.run import log
    from seal.serve.requests import Requests
    from seal.serve.security import make_keys
    from seal.serve.server import TTTServer
    from seal.serve.settings import ServerSettings
    from seal.serve.store import Store

    if access.make_keys is not None:
        print(make_keys(access.make_keys.parent, access.make_keys.name))
        return
    if model is None:
        raise ConfigError("--model is missing", "name the model to adapt")
    log.set_up(log_level.upper())
    settings = ServerSettings(
        host=listening.host,
        port=listening.port,
        capacity=allowance.capacity,
        limits=allowance.limits(),
        seed=seed,
        grace_s=grace,
        adapters=adapters,
        **access.settings(),
    )
    settings.check()
    judge = grading.make()
    loaded = device_options.load(model)
    inner = Graded(inner_loop(loaded, EngineSettings(engine_options.workers, slots), None), judge)
    server = TTTServer(inner, Requests(loaded), settings, Store(store or "", loaded.version), model)
    try:
        server.run(lambda address: _announce(address, listening.endpoint_file, settings, loaded.version))
    finally:
        inner.close()
        if listening.endpoint_file is not None:
            listening.endpoint_file.unlink(missing_ok=True)
    print("the server has ended")


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        token = path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if not token:
        raise ConfigError(f"{path} is empty", "write a token into it")
    return token


def _announce(address: str, path: Path | None, settings: Any, policy: str) -> None:
    print(f"listening on {address}", flush=True)
    if path is None:
        return
    found = {"endpoint": address, "pid": os.getpid(), "policy": policy}
    if settings.keys is not None:
        found["server_key"] = settings.keys.public
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found) + "\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", "choose another file") from None
