"""One request to an OpenAI-compatible server, and a reply that is a completion or an error in one line.

The self-edits' generator and the judge share it; when to try again is theirs to say. Servers differ in what
they take: a parameter that one refuses by name is renamed or left out, with a word in the log, and what that
server takes is remembered. What is no completion (a web page, a stream, an empty or cut reply) is never
taken for one. A request has one deadline, however slowly a reply comes; a reply has a greatest size; and a
redirect is not followed: another host was not asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from seal.errors import ConfigError, GenerationError
from seal.extras import need
from seal.keys import key
from seal.spending import Price, Purse, tokens

log = logging.getLogger(__name__)

OPENAI = "https://api.openai.com/v1"
MOST_BYTES = 32 * 2**20
"""Size of a reply; a completion of a hundred thousand tokens has a hundredth of it."""
_API = Literal["chat", "completions"]
_CHECK = "check the address (most end in /v1) and what runs there"
#: Words with which servers refuse a parameter as such, and not its value's size.
_REFUSES = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|not permitted|not allowed|forbidden"
    r"|only the default|invalid (?:parameter|argument)|input should be '",
    re.IGNORECASE,
)
#: Refused where a server takes a schema in llama.cpp's way alone, or not at all.
_SCHEMA = "json_schema"
#: What a request can do without, and what that means.
_OPTIONAL = {
    "add_special_tokens": "the server adds the start token itself",
    "chat_template_kwargs": "the server's template decides about thinking",
    "temperature": "the server samples at a temperature of its own",
    "top_p": "the server samples from all tokens",
    "seed": "a repetition of this run may differ",
    "response_format": "what it writes may have another form",
}
#: Room for the thoughts of models that count them (they are the ones that refuse `max_tokens`), in tokens.
_THINKING_ROOM = 4096


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server wrote."""

    text: str
    n_tokens: int
    """As the server counts them; 0 where it does not."""
    finish: Literal["stop", "length"]
    n_read: int = 0
    """Tokens of the prompt, as the server counts them."""


class RemoteModel:
    """A model behind an OpenAI-compatible address. Several threads may use it.

    The key is read from an environment variable or `.env` and appears in no message.

    Args:
        model: the server's name for the model.
        base_url: for example `http://127.0.0.1:8000/v1`; empty means OpenAI's own.
        api_key_env: variable that holds the key; empty for servers that need none.
        timeout: seconds one request may take, from its start to the last byte of the reply.
        what: how messages call it, before its name.
        purse: pays for requests; None: nobody counts.
        price: of its tokens.

    Raises:
        ConfigError: the address is none, or the variable is not set.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "",
        api_key_env: str = "",
        *,
        timeout: float,
        what: str = "",
        purse: Purse | None = None,
        price: Price | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if base_url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ConfigError(f"{parts.scheme or 'the'} address is not http(s)", "write http://host:port/v1")
        self._key = key(api_key_env)
        need("openai", "asking a model behind an API")
        self.model = model
        self.where = f"{what}{model} at {parts.netloc.rpartition('@')[2] or 'api.openai.com'}"
        self._refused: set[str] = set()
        self._base_url, self._timeout = base_url or OPENAI, timeout
        self._purse, self._price = purse, price or Price()

    def chat(self, text: str, max_tokens: int, **settings: Any) -> Reply:
        """The reply to one user's message, to which the server applies its chat template.

        Raises:
            GenerationError: what came back is no completion.
            openai.APIError: an outage, or the server refused the request; see `reason`.
        """
        message = [{"role": "user", "content": text}]
        body = self._send("chat", max_tokens, {"messages": message, **settings})
        return self._reply(body, text, lambda choice: _field(choice.get("message"), "content"))

    def complete(self, prompt: str, start: str | None, max_tokens: int, **settings: Any) -> Reply:
        """The continuation of a prompt, which is sent with its start token `start`, finished.

        A server that cannot be told to add no special tokens gets it without, and adds its own; so does every
        server where `start` is None.
        """
        request = {"prompt": prompt, **settings}
        if start is not None:
            request |= {"prompt": start + prompt, "add_special_tokens": False}
        body = self._send("completions", max_tokens, request, plain=prompt)
        return self._reply(body, prompt, lambda choice: choice.get("text"))

    def _send(self, api: _API, max_tokens: int, request: Mapping[str, Any], plain: str = "") -> str:
        """The body of the reply to `request`, less what this server has refused."""
        import openai

        if self._purse is not None:
            self._purse.check()
        while True:
            settings = {key: value for key, value in request.items() if key not in self._refused}
            if _SCHEMA in self._refused and "response_format" in settings:
                schema = settings["response_format"]["json_schema"]["schema"]
                settings["response_format"] = {"type": "json_object", "schema": schema}
            if "add_special_tokens" in request and "add_special_tokens" in self._refused:
                settings["prompt"] = plain
            limit = {"max_tokens": max_tokens}
            if "max_tokens" in self._refused:
                limit = {"max_completion_tokens": max_tokens + _THINKING_ROOM}
            extra = {key: settings.pop(key) for key in (*_EXTRA,) if key in settings}
            try:
                return self._in_time(
                    self._post(api, model=self.model, extra_body=extra or None, **limit, **settings)
                )
            except (
                openai.BadRequestError,
                openai.UnprocessableEntityError,
                openai.InternalServerError,  # llama-cpp-python's for a value that it does not know
            ) as error:
                if not self._adapt(self.reason(error), {*limit, *settings, *extra}):
                    raise
            except openai.APIConnectionError as error:
                if isinstance(error.__cause__, GenerationError):  # ours, raised within the client
                    raise error.__cause__ from None
                raise

    def _in_time(self, reply: Coroutine[Any, Any, str]) -> str:
        import httpx2
        import openai

        try:
            return asyncio.run(asyncio.wait_for(reply, self._timeout))
        except TimeoutError:
            raise openai.APITimeoutError(httpx2.Request("POST", self._base_url)) from None

    async def _post(self, api: _API, **request: Any) -> str:
        """The body of the reply. Each request has its own client, so its connection ends with it."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        http = DefaultAsyncHttpxClient(
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [self._bound]},
        )
        async with AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._key or "none",  # the client insists on one; servers without keys ignore it
            timeout=self._timeout,
            max_retries=0,  # whoever asks tries again
            http_client=http,
        ) as client:
            endpoint: Any = client.chat.completions if api == "chat" else client.completions
            raw = await endpoint.with_raw_response.create(**request)
            return str(raw.text)

    async def _bound(self, response: Any) -> None:
        """Before its body is read: give a reply a greatest size."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._no_completion("a compressed reply, which was not asked for")
        response.stream = _bounded(response.stream, self._no_completion("more than 32 MiB"))

    def _adapt(self, reason: str, sent: set[str]) -> bool:
        """Whether the server refused a parameter that the request can do without; then it will."""
        if not _REFUSES.search(reason):
            return False
        for name in ("max_tokens", *_OPTIONAL):
            if name in sent and re.search(rf"(?<!\w){name}(?!\w)", reason):
                if name == "response_format" and _SCHEMA not in self._refused:
                    self._refused.add(_SCHEMA)
                    return True
                if name not in self._refused:
                    meant = _OPTIONAL.get(name, "max_completion_tokens is sent instead")
                    log.warning("%s takes no %s: %s", self.where, name, meant)
                self._refused.add(name)
                return True
        return False

    def _reply(self, body: str, prompt: str, text_of: Callable[[Mapping[str, Any]], Any]) -> Reply:
        """The completion in the body of a reply; what came back is paid, whatever it is."""
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            raise self._no_completion(_kind_of(body)) from None
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            told = _told(reply)
            raise self._no_completion(f"an error: {self._clean(told)}" if told else "JSON of another kind")
        read, written = _counts(reply)
        if self._purse is not None:
            said = json.dumps(reply["choices"])
            paid = (read or tokens(prompt), written or tokens(said))
            self._purse.pay(self.where, self._price, *paid)
        choice = reply["choices"][0] if reply["choices"] else None
        if not isinstance(choice, dict):
            raise self._no_completion("a reply without choices")
        text = text_of(choice)
        if text is None and _field(choice.get("message"), "reasoning_content", "reasoning"):
            raise GenerationError(
                f"{self.where}: a thought and no text came back",
                "raise the number of new tokens, or switch thinking off on the server",
            )
        if not isinstance(text, str):
            shown = "a reply without text" if text is None else f"a {type(text).__name__} in place of text"
            raise self._no_completion(shown)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # halves of characters
        finish: Literal["stop", "length"] = "length" if choice.get("finish_reason") == "length" else "stop"
        return Reply(text, written, finish, read)

    def _no_completion(self, what: str) -> GenerationError:
        return GenerationError(f"{self.where}: no completion came back but {what}", _CHECK)

    def reason(self, error: Exception) -> str:
        """What went wrong: the kind of error, its status, and the server's own words; without the key."""
        status = getattr(error, "status_code", None)
        kind = type(error).__name__ + (f", status {status}" if status else "")
        if status in (None, 401, 403):  # these quote the key, or parts of it
            return kind
        body = getattr(error, "body", None)
        told = _told(body) if isinstance(body, dict | list) else _kind_of(body) if body else ""
        return f"{kind}: {self._clean(told)}" if told else kind

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "***")
        return re.sub(r"\b(sk-|Bearer )\S+", "***", text)[:300]


def _bounded(stream: Any, error: GenerationError) -> Any:
    """The bytes of a reply, up to `MOST_BYTES`; then `error`."""
    from httpx2 import AsyncByteStream

    class Bounded(AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > MOST_BYTES:
                    raise error
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


#: Parameters that OpenAI's own client does not know, or not for completions.
_EXTRA = ("add_special_tokens", "chat_template_kwargs", "response_format")


def _field(value: Any, *names: str) -> Any:
    """The first of the fields `names` that a JSON object has."""
    if not isinstance(value, dict):
        return None
    return next((value[name] for name in names if value.get(name) is not None), None)


def _counts(reply: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens read and written, as the server counts them; 0 where it does not."""
    found = [_field(reply.get("usage"), name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if type(count) is int and count > 0 else 0 for count in found)
    return read, written


def _told(body: Any) -> str:
    """The server's own words in the body of an error."""
    for _ in range(3):
        if isinstance(body, list) and body:
            body = body[0]
        elif isinstance(body, dict):
            body = _field(body, "error", "message", "detail", "msg")
    return body if isinstance(body, str) else ""


def _kind_of(body: str) -> str:
    """What a body that is no JSON seems to be."""
    begin = body.lstrip()[:200]
    if begin.startswith("<"):
        return "a web page"
    if begin.startswith(("data:", "event:", ":")):
        return "a stream"
    if not begin:
        return "an empty reply"
    return "JSON that is cut off" if begin[0] in "{[" else f"{' '.join(begin.split())[:80]!r}"
