"""The TTT server: a ROUTER front that answers at once, and one engine thread behind a bounded queue.

Differences from SEAL's own server: it survives malformed requests, answers a base-only request once,
binds loopback unless CURVE keys and an allow-list are given, trains the requests of several clients in
shared passes, never counts a grader's outage as a wrong answer, and sends a stored reply for a known key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import logging
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import zmq
import zmq.asyncio

from seal.errors import ConfigError, SealError
from seal.inner.protocol import InnerLoop
from seal.records import AdaptJob, AdaptOutcome, Verdict
from seal.seeds import derive
from seal.serve import messages as m
from seal.serve.jobs import job_from_wire, job_to_wire
from seal.serve.requests import Requests
from seal.serve.security import AllowList
from seal.serve.settings import ServerSettings
from seal.serve.store import Store
from seal.serve.tickets import Ticket, Waiter
from seal.serve.worker import Worker

log = logging.getLogger("seal.serve")


class TTTServer:
    """Serves one engine on one socket. `run` blocks; `ready` (in `address`) is set once it listens.

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
        self.settings, self.requests, self.name = settings, requests, name
        self.store = Store() if store is None else store
        self.address = ""
        self._tickets: dict[str, Ticket] = {}
        self._jobs: dict[str, Ticket] = {}
        self._serial = itertools.count()
        self._repeats: dict[str, int] = {}
        self._counts = dict.fromkeys(("received", "trained", "stored", "refused", "failed"), 0)
        self._worker = Worker(inner, self._wanted, self._set_running, self._post)
        self._prepare = ThreadPoolExecutor(1, "seal-prepare")
        self._began = time.monotonic()

    def run(self, ready: Any = None) -> None:
        """Serve until a shutdown command, SIGTERM, SIGINT or SIGUSR1.

        Args:
            ready: called with the address once the socket listens.
        """
        asyncio.run(self._main(ready))

    def stop(self) -> None:
        """Ask a running server to end, from any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)

    # the front ----------------------------------------------------------------------------------

    async def _main(self, ready: Any) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        context = zmq.asyncio.Context()
        auth = None
        try:
            auth = self._authenticator(context)
            self._socket = self._listen(context)
            await self._serve(ready)
        finally:
            self._prepare.shutdown(wait=False, cancel_futures=True)
            if auth is not None:
                auth.stop()
            context.destroy(linger=1000)
            self.store.close()

    async def _serve(self, ready: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            with contextlib.suppress(ValueError, RuntimeError):  # only the main thread may
                self._loop.add_signal_handler(number, self._stop.set)
        self._worker.start()
        tasks = [self._loop.create_task(self._receive()), self._loop.create_task(self._beat())]
        try:
            if ready is not None:
                ready(self.address)
            await self._stop.wait()
            await self._drain()
        finally:
            self._worker.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _authenticator(self, context: zmq.asyncio.Context) -> Any:
        if self.settings.keys is None:
            return None
        from zmq.auth.asyncio import AsyncioAuthenticator

        auth = AsyncioAuthenticator(context)
        auth.start()
        auth.configure_curve_callback("*", AllowList(self.settings.allowed))
        return auth

    def _listen(self, context: zmq.asyncio.Context) -> zmq.asyncio.Socket:
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.MAXMSGSIZE, 4 * self.settings.limits.bytes)
        socket.setsockopt(zmq.SNDHWM, 1000)
        socket.setsockopt(zmq.RCVHWM, 1000)
        host = self.settings.host.strip("[]").replace("localhost", "127.0.0.1")
        if ":" in host:
            socket.setsockopt(zmq.IPV6, 1)
            host = f"[{host}]"
        if self.settings.keys is not None:
            socket.curve_server = True
            socket.curve_secretkey = self.settings.keys.secret.encode()
            socket.curve_publickey = self.settings.keys.public.encode()
        try:
            socket.bind(f"tcp://{host}:{self.settings.port or '*'}")
        except zmq.ZMQError as error:
            raise ConfigError(
                f"cannot listen on {host}:{self.settings.port}: {error}", "choose another --port"
            ) from None
        self.address = cast("bytes", socket.getsockopt(zmq.LAST_ENDPOINT)).decode().rstrip("\0")
        return socket

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            *route, last = frames
            user = _user(last)
            path = tuple(bytes(frame.buffer) for frame in route)
            self._counts["received"] += 1
            try:
                self._take(path, bytes(last.buffer), user)
            except Exception:  # the request's border: nothing that a client sends may end the server
                log.exception("a request failed")
                self._send(path, m.WireError("the server could not handle this", code="internal").wire())

    def _take(self, route: tuple[bytes, ...], raw: bytes, user: str) -> None:
        envelope_id: Any = None
        try:
            value = m.parse(raw, self.settings.limits)
            envelope_id = value.get("id") if "v" in value else None
            message = m.understand(value, self.settings.limits)
            if isinstance(message, m.Shutdown):
                self._shut_down(route, None, message.token, user)
            elif isinstance(message, m.Envelope):
                self._obey(Waiter(route, message, user), message)
            else:
                self._accept_official(Waiter(route, None, user), message)
        except m.WireError as error:
            self._counts["refused"] += 1
            known = isinstance(envelope_id, str) and len(envelope_id) <= 200
            head = {"v": m.PROTOCOL, "id": envelope_id, "type": "error"} if known else {}
            self._send(route, {**head, **error.wire()})

    def _obey(self, waiter: Waiter, message: m.Envelope) -> None:
        if message.cmd == "health":
            self._answer(waiter, "health", self._health())
        elif message.cmd == "status":
            self._answer(waiter, "status", self._status())
        elif message.cmd == "shutdown":
            self._shut_down(waiter.route, message, message.token, waiter.user)
        elif message.cmd == "cancel":
            self._cancel(waiter, message.target or "")
        elif message.request is not None and message.cmd == "ttt":
            request = message.request
            self._accept(waiter, request, self._seed(request, message.seed), message.key or request.key)
        elif message.job is not None:
            self._accept(waiter, job_from_wire(message.job), None, message.key)

    # accepting ----------------------------------------------------------------------------------

    def _accept_official(self, waiter: Waiter, request: m.TTTRequest) -> None:
        """An official request; asked again without a seed or key it is a new repeat with its own seed."""
        if request.seed is not None or request.key:
            self._accept(waiter, request, self._seed(request, None), request.key)
            return
        digest = request.digest()
        repeat = self._repeats.get(digest, 0)
        self._accept(waiter, request, derive(self.settings.seed, digest, repeat), None)
        self._repeats[digest] = repeat + 1
        if len(self._repeats) > 10_000:
            self._repeats.pop(next(iter(self._repeats)))

    def _seed(self, request: m.TTTRequest, given: int | None) -> int:
        seed = request.seed if given is None else given
        return derive(self.settings.seed, request.digest(), 0) if seed is None else seed

    def _accept(
        self, waiter: Waiter, work: m.TTTRequest | AdaptJob, seed: int | None, key: str | None
    ) -> None:
        text = isinstance(work, m.TTTRequest)
        digest = m.digest([work.digest(), seed]) if isinstance(work, m.TTTRequest) else _job_digest(work)
        key = f"given:{key}" if key else f"content:{digest}"
        if self._join(waiter, key, digest) or self._resend(waiter, key, digest, text):
            return
        if self._stop.is_set():
            raise m.WireError("the server is shutting down", "ask another one", "shutting_down")
        if len(self._tickets) >= self.settings.capacity:
            raise m.WireError(
                f"busy: {len(self._tickets)} requests wait, which is the most", "ask again later", "busy"
            )
        ticket = Ticket(f"job-{next(self._serial)}", key, digest, text, [waiter], time.monotonic())
        self._tickets[key] = self._jobs[ticket.job_id] = ticket
        self._set_deadline(ticket, waiter)
        self._prepare.submit(self._make_job, ticket, work, seed)

    def _join(self, waiter: Waiter, key: str, digest: str) -> bool:
        """Wait for work that is under way already; the same request sent twice waits once."""
        ticket = self._tickets.get(key)
        if ticket is None:
            return False
        if ticket.digest != digest:
            raise m.WireError("the key is in use for other content", "use a new key", "key_conflict")
        if any(other.same(waiter) for other in ticket.waiters):
            return True
        if len(ticket.waiters) >= 64:
            raise m.WireError("busy: 64 clients wait for this key", "ask again later", "busy")
        ticket.waiters.append(waiter)
        self._set_deadline(ticket, waiter)
        return True

    def _resend(self, waiter: Waiter, key: str, digest: str, text: bool) -> bool:
        body = self.store.get(key, digest)
        if body is None:
            return False
        self._counts["stored"] += 1
        self._deliver(waiter, text, m.parse(body, m.Limits(bytes=len(body))))
        return True

    def _make_job(self, ticket: Ticket, work: m.TTTRequest | AdaptJob, seed: int | None) -> None:
        """Tokenise and check, off the event loop, then queue for the engine."""
        try:
            if isinstance(work, AdaptJob):
                job = self.requests.adopt(work, ticket.job_id, self.settings.adapters)
            else:
                job = self.requests.job(work, ticket.job_id, seed or 0)
            self.requests.check(job, self.settings.limits)
        except SealError as error:
            self._call(self._refuse, ticket, error)
        except Exception as error:  # the request's border
            log.exception("a request could not be prepared")
            self._call(self._refuse, ticket, SealError(f"{type(error).__name__}: {error}"))
        else:
            self._worker.put(job)

    def _refuse(self, ticket: Ticket, error: SealError) -> None:
        self._counts["refused"] += 1
        wire = error if isinstance(error, m.WireError) else m.WireError(error.message, error.fix)
        self._finish(ticket, None, wire)

    # results ------------------------------------------------------------------------------------

    def _call(self, function: Any, *arguments: Any) -> None:
        """Run on the event loop, from another thread; a closed loop wants nothing any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _wanted(self, job_id: str) -> bool:
        return job_id in self._jobs

    def _set_running(self, job_id: str) -> None:
        if ticket := self._jobs.get(job_id):
            ticket.state = "running"

    def _post(self, outcome: AdaptOutcome) -> None:
        self._call(self._take_outcome, outcome)

    def _take_outcome(self, outcome: AdaptOutcome) -> None:
        ticket = self._jobs.get(outcome.job_id)
        if ticket is None:
            return
        try:
            body = self.requests.reply(outcome) if ticket.text else self.requests.outcome(outcome)
            if not _ungraded(outcome):  # an outage of the grader is no result to be sent again
                self.store.put(ticket.key, ticket.digest, m.encode(body))
        except m.WireError as error:
            self._counts["failed"] += 1
            self._finish(ticket, None, error)
        except (SealError, ValueError) as error:
            self._counts["failed"] += 1
            self._finish(ticket, None, m.WireError(str(error), code="internal"))
        else:
            self._counts["trained"] += 1
            self._finish(ticket, body, None)

    def _finish(self, ticket: Ticket, body: dict[str, Any] | None, error: m.WireError | None) -> None:
        self._forget(ticket)
        for waiter in ticket.waiters:
            if waiter.timer is not None:
                waiter.timer.cancel()
            if body is not None:
                self._deliver(waiter, ticket.text, body)
            elif error is not None:
                self._answer(waiter, "error", error.wire())
        ticket.waiters.clear()

    def _forget(self, ticket: Ticket) -> None:
        self._tickets.pop(ticket.key, None)
        self._jobs.pop(ticket.job_id, None)

    def _deliver(self, waiter: Waiter, text: bool, body: dict[str, Any]) -> None:
        if waiter.envelope is not None and text:
            body = {"reply": body}
        elif waiter.envelope is not None and waiter.envelope.job is not None:
            body = {"outcome": {**body, "job_id": waiter.envelope.job["id"]}}
        self._answer(waiter, "result", body)

    def _answer(self, waiter: Waiter, kind: str, body: dict[str, Any]) -> None:
        head = {"v": m.PROTOCOL, "id": waiter.envelope.id, "type": kind} if waiter.envelope else {}
        self._send(waiter.route, {**head, **body})

    def _send(self, route: tuple[bytes, ...], message: dict[str, Any]) -> None:
        """Never blocks: a peer that reads nothing loses its reply, not everybody else theirs."""
        frames = [*route, m.encode(message)]
        sent = cast("asyncio.Future[Any]", self._socket.send_multipart(frames, zmq.DONTWAIT))
        sent.add_done_callback(lambda done: done.exception())

    # deadlines, cancelling, beats, shutdown -----------------------------------------------------

    def _set_deadline(self, ticket: Ticket, waiter: Waiter) -> None:
        seconds = waiter.envelope.deadline_s if waiter.envelope else None
        if seconds is not None:
            error = m.WireError(f"no result within {seconds:g} s", "allow more time", "deadline")
            waiter.timer = self._loop.call_later(seconds, self._leave, ticket, waiter, error)

    def _leave(self, ticket: Ticket, waiter: Waiter, error: m.WireError) -> None:
        """Let one waiter go. Queued work nobody waits for is dropped; running work ends up in the store."""
        ticket.waiters.remove(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not ticket.waiters and ticket.state == "queued":
            self._forget(ticket)
        self._answer(waiter, "error", error.wire())

    def _cancel(self, waiter: Waiter, target: str) -> None:
        for ticket in list(self._tickets.values()):
            for other in list(ticket.waiters):
                if other.envelope and other.envelope.id == target and other.user == waiter.user:
                    state = ticket.state
                    self._leave(ticket, other, m.WireError("cancelled by its client", code="cancelled"))
                    self._answer(waiter, "cancelled", {"target": target, "state": state})
                    return
        raise m.WireError(f"no request {target[:60]!r} is waiting", "name one that is queued or running")

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.settings.beat_s)
            for ahead, ticket in enumerate(self._tickets.values()):
                body = {
                    "state": ticket.state,
                    "ahead": ahead if ticket.state == "queued" else 0,
                    "elapsed_s": round(time.monotonic() - ticket.since, 3),
                }
                for waiter in ticket.waiters:
                    if waiter.envelope and waiter.envelope.progress:
                        self._answer(waiter, "progress", body)

    def _health(self) -> dict[str, Any]:
        return {
            "ok": self._worker.is_alive() and not self._stop.is_set(),
            "model": self.name,
            "policy": self.requests.policy,
            "uptime_s": round(time.monotonic() - self._began, 3),
        }

    def _status(self) -> dict[str, Any]:
        running = sum(ticket.state == "running" for ticket in self._tickets.values())
        return {
            **self._health(),
            **self._counts,
            "queued": len(self._tickets) - running,
            "running": running,
            "capacity": self.settings.capacity,
            "replies": len(self.store),
        }

    def _shut_down(
        self, route: tuple[bytes, ...], envelope: m.Envelope | None, token: str, user: str
    ) -> None:
        settings = self.settings
        if settings.keys is not None:
            client = settings.allowed.get(user)
            right = client is not None and client.admin
        else:
            right = hmac.compare_digest(token.encode(), settings.shutdown_token.encode())
        if not (right and settings.allow_shutdown):
            raise m.WireError("this client may not shut the server down", code="forbidden")
        self._answer(Waiter(route, envelope, user), "bye", {"status": "bye"})
        self._stop.set()

    async def _drain(self) -> None:
        """Fail what waits, finish what runs (for `grace_s` at most, then fail it too)."""
        error = m.WireError("the server is shutting down", "ask again when it is back", "shutting_down")
        for ticket in [t for t in self._tickets.values() if t.state == "queued"]:
            self._finish(ticket, None, error)
        self._worker.stop()
        until = time.monotonic() + self.settings.grace_s
        while self._tickets and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for ticket in list(self._tickets.values()):
            log.error("a job had not finished after %g s and was given up", self.settings.grace_s)
            self._finish(ticket, None, error)
        await asyncio.sleep(0.05)


def _user(frame: zmq.Frame) -> str:
    """The authenticated public key of the sender; empty without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def _job_digest(job: AdaptJob) -> str:
    wire = job_to_wire(job)
    wire.pop("id")
    return m.digest(wire)


def _ungraded(outcome: AdaptOutcome) -> bool:
    return any(answer.verdict is Verdict.ERROR for answer in (*outcome.baseline, *outcome.adapted))
