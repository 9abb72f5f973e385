"""Serve a taught model: OpenAI's API for programs, and a page at / for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _options


@_options.grouped
def serve_model(
    *,
    model: Annotated[Path, Argument(help="Folder of a taught model.")],
    host: Annotated[str, Option(help="Address to listen on; others than loopback need a key.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 picks a free one.")] = 8765,
    api_key_env: Annotated[str, Option(help="Variable that holds the key that clients must send.")] = "",
    place: _options.DeviceOptions,
    log_level: _options.LogLevel = "WARNING",
) -> None:
    """Models are called as the folder (each question to the adapter that knows), untaught, or as adapters."""
    import ipaddress
    import os

    from seal.errors import ConfigError
    from seal.extras import need
    from seal.run import log

    log.set_up(log_level.upper())
    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise ConfigError(f"the variable {api_key_env} is empty", "put the key in it")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"--host is {host!r}", "give an IP address or localhost") from None
    if not loopback and not key:
        raise ConfigError(f"--host {host} lets others in without a key", "give --api-key-env VARIABLE")
    for module in ("starlette", "uvicorn"):
        need(module, "serving a model")
    from seal.taught.model import TaughtModel
    from seal.taught.serving.app import make_app
    from seal.taught.serving.run import serve

    serve(make_app(TaughtModel(model, place.device, place.dtype), key, loopback=loopback), host, port)
