"""Clients of the TTT server: `RemoteInnerLoop` (many jobs at once), `TTTClient` (one request at a time)."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from seal.errors import ConfigError, ServeError
from seal.inner.protocol import FollowUp
from seal.records import AdaptJob, AdaptOutcome, JobError
from seal.serve import messages as m
from seal.serve.jobs import job_to_wire, outcome_from_wire
from seal.serve.security import KeyPair

if TYPE_CHECKING:
    import zmq

    from seal.models.load import LoadedModel


log = logging.getLogger("seal.serve")

T = TypeVar("T")
_TELL_S = 20.0
"""Seconds between two lines about progress."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a server is and how patient its client.

    Without a word from the server for `silence_s` seconds (it beats every two) the client connects anew and
    sends again what is open; after `attempts` such times in a row it gives up.
    """

    endpoint: str
    silence_s: float = 30.0
    attempts: int = 4
    window: int = 32
    """Requests under way at once."""
    deadline_s: float | None = None
    server_key: str = ""
    """The server's public CURVE key (Z85); empty: no CURVE."""
    keys: KeyPair | None = None

    def open(self, kind: int) -> zmq.Socket[bytes]:
        """A connected socket. Raises `ServeError` for an endpoint that is none."""
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


class _Exchange(Generic[T]):
    """Many versioned requests over one DEALER socket.

    Args:
        messages: pairs of the caller's own handle and the message without `v` and `id`; None: none now.
    """

    def __init__(self, link: Link, messages: Iterable[tuple[T, dict[str, Any]] | None]) -> None:
        import zmq

        self._link, self._source = link, iter(messages)
        self._socket = link.open(zmq.DEALER)
        self._open: dict[str, tuple[T, bytes]] = {}
        self._later: dict[str, float] = {}
        """When to send again what was refused as busy."""
        self._pause = 0.05
        self._told = time.monotonic()

    def replies(self) -> Iterator[tuple[T, dict[str, Any]]]:
        """`(handle, reply)` of every request as it finishes; a silent server becomes error replies."""
        try:
            heard, attempts, more = time.monotonic(), self._link.attempts, True
            while more or self._open:
                more = more and self._fill()
                if not self._open:
                    continue
                if self._socket.poll(100):
                    heard, attempts = time.monotonic(), self._link.attempts
                    yield from self._take(self._socket.recv_multipart()[-1])
                elif time.monotonic() - heard > self._link.silence_s:
                    heard, attempts = time.monotonic(), attempts - 1
                    if attempts <= 0:
                        yield from self._give_up()
                        return
                    self._connect_again()
                self._send_later()
        finally:
            for name in self._open:
                self._send(m.encode({"v": 1, "id": uuid.uuid4().hex, "cmd": "cancel", "target": name}))
            self._socket.close(linger=500 if self._open else 0)

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
            handle, message = pair
            name = uuid.uuid4().hex
            message = {"v": m.PROTOCOL, "progress": True, **message, "id": name}
            if self._link.deadline_s is not None:
                message["deadline_s"] = self._link.deadline_s
            raw = m.encode(message)
            self._open[name] = handle, raw
            self._send(raw)
        return True

    def _take(self, raw: bytes) -> Iterator[tuple[T, dict[str, Any]]]:
        reply = json.loads(raw)
        name = reply.get("id")
        if name is None and self._open:  # unread because of its size, so its id is unknown to the server
            name = max(self._open, key=lambda n: len(self._open[n][1]))
        if name not in self._open:
            return
        if reply.get("type") == "progress":
            self._tell(reply)
            return
        if reply.get("code") == "busy":
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
            where = (
                f"{heartbeat['ahead']} ahead of it"
                if heartbeat["state"] == "queued"
                else str(heartbeat["state"])
            )
            log.info(
                "%d under way at the server; one waits %.0f s, %s",
                len(self._open),
                heartbeat["elapsed_s"],
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

    def _give_up(self) -> Iterator[tuple[T, dict[str, Any]]]:
        link = self._link
        why = f"{link.endpoint} was silent {link.attempts} times for {link.silence_s:g} s"
        reply = {
            "type": "error",
            "error": f"ServeError: {why} (start one with: seal serve)",
            "code": "silent",
        }
        left, self._open = [handle for handle, _ in self._open.values()], {}
        for handle in chain(left, (pair[0] for pair in self._source if pair)):
            yield handle, reply


class RemoteInnerLoop:
    """`InnerLoop` over the wire: the server's engine trains, together with other clients' jobs."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def slots(self) -> int:
        """Jobs under way at the server at once."""
        return self.link.window

    def close(self) -> None:
        """Every run has a connection of its own."""

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """See `InnerLoop.run`. Leaving early cancels what is under way; a server's adapter is asked once."""
        if follow_up is not None:
            raise ConfigError("a server cannot ask an adapter twice", "let this process adapt")
        messages = (
            (job, {"cmd": "adapt", "job": job_to_wire(job)}) if job is not None else None for job in jobs
        )
        for job, reply in _Exchange(self.link, messages).replies():
            if "outcome" in reply:
                yield replace(outcome_from_wire(reply["outcome"]), job_id=job.id)
            else:
                yield AdaptOutcome(job.id, error=JobError("serve", str(reply.get("error", reply))))


def remote_policy(link: Link) -> LoadedModel:
    """The policy that a server holds: its name, version and tokenizer; the weights stay there.

    Raises:
        ServeError: no reply, or an error reply.
    """
    from transformers import AutoTokenizer

    from seal.models.load import LoadedModel

    client = TTTClient(link)
    told, files = client.command("health"), client.command("tokenizer")["files"]
    with TemporaryDirectory(prefix="seal-tokenizer-") as folder:
        for name, text in files.items():
            (Path(folder) / Path(name).name).write_text(text, "utf-8")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return LoadedModel(None, tokenizer, str(told["model"]), str(told["policy"]))


class TTTClient:
    """One message, one reply, over a REQ socket, as SEAL's own clients do it."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def ask(self, message: dict[str, Any] | bytes) -> dict[str, Any]:
        """Send a message as it is and return the reply, an error reply included.

        Raises:
            ServeError: no reply within `silence_s`.
        """
        import zmq

        with self.link.open(zmq.REQ) as socket:
            socket.send(message if isinstance(message, bytes) else m.encode(message))
            if not socket.poll(int(self.link.silence_s * 1000)):
                raise ServeError(
                    f"{self.link.endpoint} did not answer within {self.link.silence_s:g} s",
                    "check that the server runs: seal serve",
                )
            reply: dict[str, Any] = json.loads(socket.recv())
            return reply

    def command(self, cmd: str, **more: Any) -> dict[str, Any]:
        """A command of the versioned dialect: health, status, cancel (`target`), shutdown (`token`).

        Raises:
            ServeError: no reply, or an error reply.
        """
        reply = self.ask({"v": m.PROTOCOL, "id": uuid.uuid4().hex, "cmd": cmd, **more})
        if "error" in reply:
            raise ServeError(str(reply["error"]))
        return reply
