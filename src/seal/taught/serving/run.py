"""Uvicorn around the application, until it is told to end."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from seal.errors import ServeError

if TYPE_CHECKING:
    from starlette.applications import Starlette


def serve(app: Starlette, host: str, port: int) -> None:
    """Serve `app`; its address is printed once it can be reached. Raises `ServeError` for a port in use."""
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port"
        ) from None
    with listening:
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listening.getsockname()[1]}/  (API at /v1)", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        uvicorn.Server(config).run(sockets=[listening])
