"""Many requests to a TTT server at once, over one socket that outlives the server's restarts."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from seal.errors import AdaptError, ServeError
from seal.extras import need
from seal.records import JobError
from seal.serve import messages as m
from seal.serve.link import Link

log = logging.getLogger("seal.serve")

T = TypeVar("T")
SILENT = "silent"
"""Code of the error reply that stands for a server that says nothing."""
_NOT_NOW = ("busy", "shutting_down")
_TELL_S = 20.0
"""Seconds between two lines about progress."""


class Exchange(Generic[T]):
    """Many versioned requests over one DEALER socket.

    Args:
        messages: pairs of the caller's own handle and the message without `v` and `id`; None: none now.
    """

    def __init__(self, link: Link, messages: Iterable[tuple[T, dict[str, Any]] | None] = ()) -> None:
        need("zmq", "a TTT server")
        import zmq

        self._link, self._source = link, iter(messages)
        self._socket = link.open(zmq.DEALER)
        self._open: dict[str, tuple[T, bytes]] = {}
        self._later: dict[str, float] = {}
        """When to send again what was refused as busy."""
        self._pause = 0.05
        self._told = self._heard = time.monotonic()
        self._attempts = link.attempts

    def replies(self) -> Iterator[tuple[T, dict[str, Any]]]:
        """`(handle, reply)` of every request as it finishes; a silent server becomes error replies."""
        try:
            more = True
            while more or self._open:
                more = more and self._fill()
                yield from self.step(100)
                if self._attempts <= 0:
                    yield from ((pair[0], self._silent()) for pair in self._source if pair)
                    return
        finally:
            self.close()

    def add(self, handle: T, message: dict[str, Any]) -> None:
        """Send a message now."""
        if not self._open:
            self._heard, self._attempts = time.monotonic(), self._link.attempts
        name = uuid.uuid4().hex
        message = {"v": m.PROTOCOL, "progress": True, **message, "id": name}
        if self._link.deadline_s is not None:
            message["deadline_s"] = self._link.deadline_s
        raw = m.encode(message)
        self._open[name] = handle, raw
        self._send(raw)

    def step(self, wait_ms: int) -> list[tuple[T, dict[str, Any]]]:
        """The next replies, if any come; a server that stays silent for too long gives error replies."""
        if not self._open:
            return []
        found: list[tuple[T, dict[str, Any]]] = []
        if self._socket.poll(wait_ms):
            self._heard, self._attempts = time.monotonic(), self._link.attempts
            found = list(self._take(self._socket.recv_multipart()[-1]))
        elif time.monotonic() - self._heard > self._link.silence_s:
            self._heard, self._attempts = time.monotonic(), self._attempts - 1
            if self._attempts == self._link.attempts - 1:
                log.warning(
                    "%s is silent; it is waited for, up to %.0f min more",
                    self._link.endpoint,
                    self._attempts * self._link.silence_s / 60,
                )
            if self._attempts <= 0:
                found = [(handle, self._silent()) for handle, _ in self._open.values()]
                self._open = {}
            else:
                self._connect_again()
        self._send_later()
        return found

    def close(self) -> None:
        """Cancel what is open and leave."""
        for name in self._open:
            self._send(m.encode({"v": 1, "id": uuid.uuid4().hex, "cmd": "cancel", "target": name}))
        self._socket.close(linger=500 if self._open else 0)
        self._open = {}

    def _send(self, raw: bytes) -> None:
        import zmq

        with contextlib.suppress(zmq.Again):  # the queue is full: silence will tell
            self._socket.send_multipart([b"", raw], zmq.DONTWAIT)

    def _fill(self) -> bool:
        """Send until the window is full; False when there is nothing more to send."""
        while len(self._open) < self._link.window:
            try:
                pair = next(self._source)
            except StopIteration:
                return False
            if pair is None:
                return bool(self._open)
            self.add(*pair)
        return True

    def _take(self, raw: bytes) -> Iterator[tuple[T, dict[str, Any]]]:
        reply = read_reply(raw, self._link.endpoint)
        name = reply.get("id")
        if name is None and self._open:  # unread because of its size, so its id is unknown to the server
            name = max(self._open, key=lambda n: len(self._open[n][1]))
        if name not in self._open:
            return
        if reply.get("type") == "progress":
            self._tell(reply)
            return
        if reply.get("code") in _NOT_NOW:  # a server that ends is waited for: it may come back
            self._later[name] = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, 2.0)
            return
        self._pause = 0.05
        self._later.pop(name, None)
        yield self._open.pop(name)[0], reply

    def _tell(self, heartbeat: dict[str, Any]) -> None:
        """Say now and then how it is going, for whoever looks at the terminal."""
        if time.monotonic() - self._told > _TELL_S:
            self._told = time.monotonic()
            state = str(heartbeat.get("state"))
            where = f"{heartbeat.get('ahead')} ahead of it" if state == "queued" else state
            log.info(
                "%d under way at the server; one waits %s s, %s",
                len(self._open),
                heartbeat.get("elapsed_s"),
                where,
            )

    def _send_later(self) -> None:
        now = time.monotonic()
        for name in [name for name, when in self._later.items() if when <= now]:
            del self._later[name]
            self._send(self._open[name][1])

    def _connect_again(self) -> None:
        import zmq

        self._socket.close(linger=0)
        self._socket = self._link.open(zmq.DEALER)
        for _, raw in self._open.values():
            self._send(raw)

    def _silent(self) -> dict[str, Any]:
        link = self._link
        why = f"{link.endpoint} was silent {link.attempts} times for {link.silence_s:g} s"
        error = f"ServeError: {why} (start one with: seal serve)"
        return {"type": "error", "error": error, "code": SILENT}


def read_reply(raw: bytes, endpoint: str) -> dict[str, Any]:
    """What a server sent. Raises `ServeError` for what is no reply of a TTT server's."""
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or not isinstance(reply.get("id"), str | None):
        raise ServeError(f"{endpoint} answers what is no reply", "check that it is a TTT server: seal serve")
    return reply


def job_error(reply: dict[str, Any]) -> JobError:
    """Why a job has no outcome, from an error reply; an edit that cannot be trained on is its own fault."""
    border = AdaptError.border if reply.get("code") == "adapt" else ServeError.border
    return JobError(border, str(reply.get("error", reply)))
