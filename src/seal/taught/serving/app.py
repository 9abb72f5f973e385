"""The ASGI application: OpenAI's chat and text completions, the list of models, and the page at `/`."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from seal.errors import ConfigError, SealError
from seal.taught.model import AUTO, UNTAUGHT, Reply, TaughtModel
from seal.taught.serving.schema import ChatRequest, CompletionRequest, Refused, Writer, parse
from seal.taught.serving.worker import Busy, Job, Worker

MAX_BODY = 2**20
"""Bytes of a request."""
_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]


class _Service:
    """What the routes share."""

    def __init__(self, model: TaughtModel, api_key: str) -> None:
        self.model, self.api_key = model, api_key
        self.name = model.folder.resolve().name
        self.worker: Worker | None = None

    def check_key(self, request: Request) -> None:
        """Raise `Refused` unless the request carries the key, where there is one."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key and not hmac.compare_digest(given.encode(), self.api_key.encode()):
            raise Refused(401, "the API key is missing or wrong", "authentication_error")

    def adapter(self, model: str) -> str:
        """The adapter behind a model's name. Raises `Refused`."""
        names = {self.name: AUTO, AUTO: AUTO, UNTAUGHT: UNTAUGHT} | {n: n for n in self.model.adapters}
        if model not in names:
            known = ", ".join(names)
            raise Refused(404, f"there is no model {model!r}: use {known}", "not_found_error", "model")
        return names[model]

    def names(self) -> list[str]:
        """Models to choose from."""
        return list(dict.fromkeys([self.name, UNTAUGHT, *self.model.adapters]))


def make_app(model: TaughtModel, api_key: str = "", *, loopback: bool = True) -> Starlette:
    """The application for one taught model.

    Args:
        api_key: asked for in every request but those for the page and for `/health`; empty: none.
        loopback: answer only requests that name this machine as their host, so that no web site can reach it
            through the user's browser.
    """
    service = _Service(model, api_key)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.worker = Worker(model)
        yield
        await asyncio.to_thread(service.worker.close)

    def route(path: str, handler: Callable[..., Any], method: str, *, open_to_all: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                if not open_to_all:
                    service.check_key(request)
                answer: Response = await handler(service, request)
            except Refused as refused:
                return JSONResponse(refused.body, refused.status)
            return answer

        return Route(path, endpoint, methods=[method])

    routes = [
        route("/", _page, "GET", open_to_all=True),
        route("/health", _health, "GET", open_to_all=True),
        route("/v1/models", _models, "GET"),
        route("/v1/chat/completions", _chat, "POST"),
        route("/v1/completions", _complete, "POST"),
    ]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK)] if loopback else []
    return Starlette(routes=routes, lifespan=lifespan, middleware=guards)


async def _page(service: _Service, request: Request) -> Response:
    text = (resources.files("seal.taught.serving") / "page.html").read_text("utf-8")
    return HTMLResponse(text, headers={"content-security-policy": _CSP, "referrer-policy": "no-referrer"})


async def _health(service: _Service, request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _models(service: _Service, request: Request) -> Response:
    data = [{"id": n, "object": "model", "created": 0, "owned_by": "seal"} for n in service.names()]
    return JSONResponse({"object": "list", "data": data})


async def _chat(service: _Service, request: Request) -> Response:
    return await _answer(service, request, ChatRequest)


async def _complete(service: _Service, request: Request) -> Response:
    return await _answer(service, request, CompletionRequest)


async def _body(request: Request) -> bytes:
    """The body of a JSON request. Raises `Refused`."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "the body is not JSON: set Content-Type to application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused(413, f"the body has more than {MAX_BODY} bytes: send less")
    return body


async def _answer(
    service: _Service, request: Request, kind: type[ChatRequest] | type[CompletionRequest]
) -> Response:
    asked = parse(kind, await _body(request))
    adapter = service.adapter(asked.model)
    try:
        prepared = service.model.prepare(asked.asked(), adapter, asked.sampling(), asked.seed)
    except ConfigError as error:
        raise Refused(400, str(error), param="messages") from None
    about = _about(prepared.adapter, prepared.passage)
    writer = Writer(kind is ChatRequest, asked.model)
    events: asyncio.Queue[str | Reply | Exception] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: str | Reply | Exception) -> None:
        with suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(events.put_nowait, event)

    job = Job(prepared, tell, tell)
    assert service.worker is not None
    try:
        service.worker.submit(job)
    except Busy:
        raise Refused(429, "too many requests wait: try again soon", "rate_limit_error") from None
    if asked.stream:
        first = await events.get()  # what is wrong with the prompt is said with a status, not in a stream
        if isinstance(first, Exception):
            raise _refused(first)
        stream = _stream(first, events, job, writer, about, asked.with_usage)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    reply = await _whole(request, events, job)
    return JSONResponse(writer.whole(reply.text, reply.completion.finish, _usage(reply), about))


async def _whole(request: Request, events: asyncio.Queue[str | Reply | Exception], job: Job) -> Reply:
    """The reply. Gives the work up when the client goes."""
    while True:
        try:
            event = await asyncio.wait_for(events.get(), 1.0)
        except TimeoutError:
            if await request.is_disconnected():
                job.abandoned.set()
                raise Refused(499, "the client went away") from None
            continue
        if isinstance(event, Exception):
            raise _refused(event)
        if isinstance(event, Reply):
            return event


async def _stream(
    first: str | Reply,
    events: asyncio.Queue[str | Reply | Exception],
    job: Job,
    writer: Writer,
    about: dict[str, Any],
    with_usage: bool,
) -> AsyncIterator[str]:
    """Server-sent events. The client's going ends the generator, and the work with it."""
    try:
        yield _event(writer.chunk("", seal=about))
        event: str | Reply | Exception = first
        while isinstance(event, str):
            yield _event(writer.chunk(event))
            event = await events.get()
        if isinstance(event, Exception):
            yield _event(_refused(event).body)
            return
        yield _event(writer.chunk("", event.completion.finish))
        if with_usage:
            yield _event(writer.usage(_usage(event)))
        yield "data: [DONE]\n\n"
    finally:
        job.abandoned.set()


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _refused(error: Exception) -> Refused:
    if isinstance(error, SealError):
        return Refused(400, str(error))
    return Refused(500, "the server failed at this request; its log says why", "server_error")


def _usage(reply: Reply) -> dict[str, int]:
    said = reply.completion.n_tokens
    return {"prompt_tokens": reply.n_prompt, "completion_tokens": said, "total_tokens": reply.n_prompt + said}


def _about(adapter: str, passage: Any) -> dict[str, Any]:
    """Who answers, and the passage that the question seems to be about."""
    known = passage and {"title": passage.title, "text": passage.text, "source": passage.source}
    return {"adapter": adapter, "passage": known}
