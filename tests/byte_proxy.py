"""A TCP proxy on loopback that drops, delays and half-closes connections."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

MISDEEDS = ("drop", "delay", "half-close", "cut", "none", "none")
"""What may happen to a connection: reset at once, late, one direction shut, reset after some bytes."""


class ByteProxy:
    """Forwards to `port`; every connection draws its misdeed from `rng`, until `honest`."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.target, self.rng, self.honest = port, rng, False
        self.done = Counter[str]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                misdeed = "none" if self.honest else self.rng.choice(MISDEEDS)
                self.done[misdeed] += 1
                limit = self.rng.randrange(100, 5000)
                threading.Thread(target=self._serve, args=(client, misdeed, limit), daemon=True).start()

    def _serve(self, client: socket.socket, misdeed: str, limit: int) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target)) as server:
            if misdeed == "drop":
                return
            back = threading.Thread(target=self._forward, args=(server, client, misdeed, limit), daemon=True)
            back.start()
            self._forward(client, server, "none" if misdeed == "half-close" else misdeed, limit)
            back.join(60)

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket, misdeed: str, limit: int) -> None:
        passed = 0
        with suppress(OSError):
            while part := source.recv(4096):
                if misdeed == "delay":
                    time.sleep(0.05)
                sink.sendall(part)
                passed += len(part)
                if passed > limit and misdeed == "cut":
                    source.shutdown(socket.SHUT_RDWR)
                    sink.shutdown(socket.SHUT_RDWR)
                if passed > limit and misdeed == "half-close":
                    break
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
