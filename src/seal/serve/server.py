"""The TTT server: a ROUTER front that answers at once, and one engine thread behind a bounded queue.

Differences from SEAL's own server: it survives malformed requests, answers a base-only request once,
binds loopback unless CURVE keys and an allow-list are given, trains the requests of several clients in
shared passes, never counts a grader's outage as a wrong answer, and sends a stored reply for a known key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import signal
import time
from collections.abc import Callable
from typing import Any, cast

import zmq
import zmq.asyncio

from seal.protocols import InnerLoop
from seal.serve import messages as m
from seal.serve.jobs import job_from_wire
from seal.serve.listener import authenticator, listen, user_of
from seal.serve.pending import Subscriber
from seal.serve.requests import Requests
from seal.serve.scheduler import Scheduler
from seal.serve.settings import ServerSettings
from seal.serve.store import Store

log = logging.getLogger("seal.serve")


class TTTServer:
    """Serves one engine on one socket.

    Args:
        inner: the engine; used by one thread of the server only.
        requests: turns text requests into jobs and outcomes into replies.
        settings: see `ServerSettings`.
        store: replies by key.
        name: what `health` calls the model.

    Raises:
        ConfigError: the settings would open the server to strangers.
    """

    def __init__(
        self,
        inner: InnerLoop,
        requests: Requests,
        settings: ServerSettings,
        store: Store | None = None,
        name: str = "",
    ) -> None:
        settings.check()
        self.settings, self.name = settings, name
        self.address = ""
        """Where it listens, once it does."""
        self.scheduler = Scheduler(
            inner, requests, settings, Store() if store is None else store, self._answer
        )
        self._received = 0
        self._began = time.monotonic()

    def run(self, ready: Callable[[str], None] | None = None) -> None:
        """Serve until a shutdown command, SIGTERM, SIGINT or SIGUSR1.

        Args:
            ready: called with the address once the socket listens.
        """
        asyncio.run(self._main(ready))

    def stop(self) -> None:
        """Ask a running server to end, from any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _main(self, ready: Callable[[str], None] | None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        context = zmq.asyncio.Context()
        auth = None
        try:
            auth = authenticator(context, self.settings)
            self._socket, self.address = listen(context, self.settings)
            await self._serve(ready)
        finally:
            if auth is not None:
                auth.stop()
            context.destroy(linger=1000)
            self.scheduler.close()

    async def _serve(self, ready: Callable[[str], None] | None) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            with contextlib.suppress(ValueError, RuntimeError):  # only the main thread may
                self._loop.add_signal_handler(number, self._stop.set)
        self.scheduler.open()
        tasks = [self._loop.create_task(self._receive()), self._loop.create_task(self.scheduler.heartbeat())]
        try:
            if ready is not None:
                ready(self.address)
            await self._stop.wait()
            await self.scheduler.drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            *route, last = frames
            path = tuple(bytes(frame.buffer) for frame in route)
            self._received += 1
            try:
                self._take(path, bytes(last.buffer), user_of(last))
            except Exception:  # the request's border: nothing that a client sends may end the server
                log.exception("a request failed")
                self._send(path, m.WireError("the server could not handle this", code="internal").wire())

    def _take(self, route: tuple[bytes, ...], raw: bytes, user: str) -> None:
        envelope_id: Any = None
        try:
            value = m.parse(raw, self.settings.limits)
            envelope_id = value.get("id") if "v" in value else None
            message = m.understand(value, self.settings.limits)
            if isinstance(message, m.Envelope):
                self._obey(Subscriber(route, message, user), message)
            elif isinstance(message, m.Shutdown):
                self._shut_down(Subscriber(route, None, user), message.token)
            else:
                self.scheduler.accept_official(Subscriber(route, None, user), message)
        except m.WireError as error:
            self.scheduler.counts["refused"] += 1
            known = isinstance(envelope_id, str) and len(envelope_id) <= 200
            head = {"v": m.PROTOCOL, "id": envelope_id, "type": "error"} if known else {}
            self._send(route, {**head, **error.wire()})

    def _obey(self, subscriber: Subscriber, message: m.Envelope) -> None:
        if message.cmd == "health":
            self._answer(subscriber, subscriber.message("health", self._health()))
        elif message.cmd == "tokenizer":
            files = self.scheduler.requests.tokenizer_files()
            self._answer(subscriber, subscriber.message("tokenizer", {"files": files}))
        elif message.cmd == "status":
            status = {**self._health(), "received": self._received, **self.scheduler.status()}
            self._answer(subscriber, subscriber.message("status", status))
        elif message.cmd == "shutdown":
            self._shut_down(subscriber, message.token)
        elif message.cmd == "cancel" and message.target is not None:
            state = self.scheduler.pending.cancel(subscriber.user, message.target)
            body = {"target": message.target, "state": state}
            self._answer(subscriber, subscriber.message("cancelled", body))
        elif message.cmd == "ttt" and message.request is not None:
            self.scheduler.accept_text(subscriber, message.request, message.seed, message.key)
        elif message.job is not None:
            self.scheduler.accept_job(subscriber, job_from_wire(message.job), message.key)

    def _health(self) -> dict[str, Any]:
        return {
            "ok": self.scheduler.is_alive() and not self._stop.is_set(),
            "model": self.name,
            "policy": self.scheduler.requests.policy,
            "uptime_s": round(time.monotonic() - self._began, 3),
        }

    def _shut_down(self, subscriber: Subscriber, token: str) -> None:
        settings = self.settings
        if settings.keys is not None:
            client = settings.allowed.get(subscriber.user)
            right = client is not None and client.admin
        else:
            right = hmac.compare_digest(token.encode(), settings.shutdown_token.encode())
        if not (right and settings.allow_shutdown):
            raise m.WireError("this client may not shut the server down", code="forbidden")
        self._answer(subscriber, subscriber.message("bye", {"status": "bye"}))
        self.scheduler.closing = True
        self._stop.set()

    def _answer(self, subscriber: Subscriber, message: dict[str, Any]) -> None:
        self._send(subscriber.route, message)

    def _send(self, route: tuple[bytes, ...], message: dict[str, Any]) -> None:
        """Never blocks: a peer that reads nothing loses its reply, not everybody else theirs."""
        frames = [*route, m.encode(message)]
        sent = cast("asyncio.Future[Any]", self._socket.send_multipart(frames, zmq.DONTWAIT))
        sent.add_done_callback(lambda done: done.exception())
