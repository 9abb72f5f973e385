"""Run the TTT server: it trains temporary adapters on what clients send and answers their questions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from seal.cli import _options
from seal.errors import ConfigError
from seal.whole_file import write_whole

if TYPE_CHECKING:
    from seal.grading import Grader
    from seal.inner.protocol import InnerLoop
    from seal.models.load import LoadedModel


@_options.grouped
def serve(
    *,
    model: Annotated[str | None, Option(help="Hub id, folder, .gguf file or built-in name.")] = None,
    host: Annotated[str, Option(help="Interface; any but loopback needs --keys and --allow.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0: any free port.")] = 5555,
    endpoint_file: Annotated[
        Path | None, Option(help="Write the address here once the server listens; removed at the end.")
    ] = None,
    store: Annotated[
        Path | None, Option(help="Keep replies in this file, so that a restarted server repeats no work.")
    ] = None,
    adapters: Annotated[Path | None, Option(help="Folder in which clients may have adapters saved.")] = None,
    keys: Annotated[Path | None, Option(help="The server's key_secret file (CURVE).")] = None,
    allow: Annotated[
        Path | None, Option(help="Public keys of clients, one a line, `admin` behind some.")
    ] = None,
    make_keys: Annotated[
        Path | None,
        Option(metavar="FOLDER/NAME", help="Write a key pair (NAME.key, NAME.key_secret), and end."),
    ] = None,
    shutdown_token_file: Annotated[
        Path | None, Option(help="What a client must send to shut the server down (without CURVE).")
    ] = None,
    shutdown: Annotated[bool, Option(help="Whether clients may shut the server down.")] = True,
    capacity: Annotated[int, Option(min=1, help="Requests under way; one more is answered Busy.")] = 256,
    slots: Annotated[int | None, Option(min=1, help="Adapters trained at once; default: by device.")] = None,
    workers: Annotated[
        int | None, Option(min=1, help="Processes that share the work; default: one a core or GPU, as fits.")
    ] = None,
    grace: Annotated[float, Option(min=0, help="Seconds that running jobs get at the end.")] = 60.0,
    max_mb: Annotated[int, Option(min=1, help="Largest message, in MiB.")] = 16,
    max_sequences: Annotated[int, Option(min=1, help="Training sequences of a request.")] = 20_000,
    max_tokens: Annotated[int, Option(min=1, help="Training tokens of a request.")] = 2_000_000,
    max_rank: Annotated[int, Option(min=1, help="LoRA rank of a request.")] = 256,
    max_epochs: Annotated[int, Option(min=0, help="Epochs of a request.")] = 100,
    grading: _options.Grading,
    seed: _options.Seed = 0,
    device_options: _options.DeviceOptions,
    log_level: _options.LogLevel = "INFO",
) -> None:
    """Serve until a client's shutdown, Ctrl-C, SIGTERM or SIGUSR1; running jobs are finished first."""
    from seal.run import log
    from seal.serve.messages import Limits
    from seal.serve.requests import Requests
    from seal.serve.security import make_keys as write_keys
    from seal.serve.security import read_allowed, read_keys
    from seal.serve.server import TTTServer
    from seal.serve.settings import ServerSettings
    from seal.serve.store import Store

    if make_keys is not None:
        print(write_keys(make_keys.parent, make_keys.name))
        return
    if model is None:
        raise ConfigError("--model is missing", "name the model to adapt")
    log.set_up(log_level.upper())
    settings = ServerSettings(
        host=host,
        port=port,
        capacity=capacity,
        limits=Limits(
            bytes=max_mb * 2**20,
            sequences=max_sequences,
            questions=max_sequences,
            tokens=max_tokens,
            rank=max_rank,
            epochs=max_epochs,
        ),
        seed=seed,
        grace_s=grace,
        keys=read_keys(keys) if keys else None,
        allowed=read_allowed(allow) if allow else {},
        shutdown_token=_token(shutdown_token_file),
        allow_shutdown=shutdown,
        adapters=adapters,
    )
    settings.check()
    judge = grading.make()
    loaded = device_options.load(model)
    inner, helpers = _engines(loaded, judge, slots, workers)
    replies = Store(store or "", loaded.version)
    server = TTTServer(inner, Requests(loaded), settings, replies, model, helpers)
    try:
        server.run(lambda address: _announce(address, endpoint_file, settings, loaded.version))
    finally:
        for helper in helpers:
            helper.close()
        if endpoint_file is not None:
            endpoint_file.unlink(missing_ok=True)
    print("the server has ended")


def _engines(
    loaded: LoadedModel, grader: Grader, slots: int | None, workers: int | None
) -> tuple[InnerLoop, list[InnerLoop]]:
    """This process's engine and its helpers; slots and threads are shared out."""
    import torch

    from seal.graded import Graded
    from seal.inner.helpers import HelperLoop, default_workers
    from seal.inner.loop import LocalInnerLoop, default_slots

    n = workers or default_workers(loaded)
    share = -(-(slots or default_slots(loaded.model.device)) // n)
    threads = max(1, torch.get_num_threads() // n)
    torch.set_num_threads(threads)
    engine = LocalInnerLoop(loaded, slots=share)
    helpers = [Graded(HelperLoop(engine, i, threads), grader) for i in range(1, n)]
    return Graded(engine, grader), [*helpers]


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
