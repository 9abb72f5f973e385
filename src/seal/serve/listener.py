"""The server's socket: where it listens, and who is let in."""

from __future__ import annotations

from typing import cast

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from seal.errors import ConfigError
from seal.serve.security import AllowList
from seal.serve.settings import ServerSettings


def authenticator(context: zmq.asyncio.Context, settings: ServerSettings) -> AsyncioAuthenticator | None:
    """The running authenticator of every socket of `context`; None without CURVE keys."""
    if settings.keys is None:
        return None
    auth = AsyncioAuthenticator(context)
    auth.start()
    auth.configure_curve_callback("*", AllowList(settings.allowed))
    return auth


def listen(context: zmq.asyncio.Context, settings: ServerSettings) -> tuple[zmq.asyncio.Socket, str]:
    """A bound ROUTER socket and its address.

    Raises:
        ConfigError: the port is taken, or the interface is none of this machine's.
    """
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, 4 * settings.limits.bytes)
    socket.setsockopt(zmq.SNDHWM, 1000)
    socket.setsockopt(zmq.RCVHWM, 1000)
    host = settings.host.strip("[]").replace("localhost", "127.0.0.1")
    if ":" in host:
        socket.setsockopt(zmq.IPV6, 1)
        host = f"[{host}]"
    if settings.keys is not None:
        socket.curve_server = True
        socket.curve_secretkey = settings.keys.secret.encode()
        socket.curve_publickey = settings.keys.public.encode()
    try:
        socket.bind(f"tcp://{host}:{settings.port or '*'}")
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot listen on {host}:{settings.port}: {error}", "choose another --port"
        ) from None
    return socket, cast("bytes", socket.getsockopt(zmq.LAST_ENDPOINT)).decode().rstrip("\0")


def user_of(frame: zmq.Frame) -> str:
    """The authenticated public key of the sender; empty without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
