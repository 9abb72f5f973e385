"""How a client reaches a TTT server."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError, ServeError
from seal.extras import need
from seal.serve.security import KeyPair, read_keys, read_public

if TYPE_CHECKING:
    import zmq


@dataclass(frozen=True, slots=True)
class Link:
    """Where a server is and how patient its client.

    Without a word from the server for `silence_s` seconds (it beats every two) the client connects anew and
    sends again what is open; after `attempts` such times in a row (ten minutes) it gives up. So a server may
    be stopped and started again under its clients.
    """

    endpoint: str
    silence_s: float = 30.0
    attempts: int = 20
    window: int = 32
    """Requests under way at once."""
    deadline_s: float | None = None
    server_key: str = ""
    """The server's public CURVE key (Z85); empty: no CURVE."""
    keys: KeyPair | None = None

    def open(self, kind: int) -> zmq.Socket[bytes]:
        """A connected socket. Raises `ServeError` for an endpoint that is none."""
        need("zmq", "a TTT server")
        import zmq

        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        try:
            if self.server_key and self.keys:
                socket.curve_serverkey = self.server_key.encode()
                socket.curve_publickey = self.keys.public.encode()
                socket.curve_secretkey = self.keys.secret.encode()
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise ServeError(
                f"cannot connect to {self.endpoint!r}: {error}", "write it as tcp://host:port"
            ) from None
        return socket


def find(server: str, keys: Path | None = None, server_key: Path | None = None, wait: float = 0.0) -> Link:
    """The way to the server at an address, or of the endpoint file that `seal serve` writes.

    Args:
        keys: this client's key_secret file, for a server with CURVE keys.
        server_key: the server's .key file; an endpoint file holds it.
        wait: seconds to wait for the endpoint file.

    Raises:
        ConfigError: it is neither, or the server wants keys.
        ServeError: there is no such file yet.
    """
    found = {"endpoint": server} if "://" in server else _read_endpoint(Path(server), wait)
    public = read_public(server_key) if server_key else str(found.get("server_key", ""))
    if public and keys is None:
        raise ConfigError("the server wants a client key", "give this client's key_secret file")
    pair = read_keys(keys) if keys else None
    return Link(str(found["endpoint"]), server_key=public, keys=pair)


def _read_endpoint(path: Path, wait: float) -> dict[str, Any]:
    """What `seal serve --endpoint-file` wrote, as soon as it is there."""
    until = time.monotonic() + wait
    while not path.exists():
        if time.monotonic() >= until:
            raise ServeError(f"there is no {path}", "start a server with: seal serve --endpoint-file FILE")
        time.sleep(0.2)
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict) and "endpoint" in found:
            return found
    except (OSError, ValueError):
        pass
    raise ConfigError(f"{path} is no endpoint file", "name the file of: seal serve --endpoint-file FILE")
