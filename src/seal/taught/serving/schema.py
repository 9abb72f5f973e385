"""What OpenAI's API sends and expects, as far as it is served here; anything else is refused by name."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from seal.records import Sampling

MAX_TOKENS = 2048
"""Longest answer that may be asked for."""


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: cause and fix in one line.
        kind: OpenAI's error type.
        param: the field that is wrong.
    """

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param or None, "code": None}}


class _Request(BaseModel):
    """Fields of both endpoints. Unknown fields are ignored, as OpenAI's servers do; those that would change
    the answer and are not served are refused."""

    model_config = ConfigDict(extra="ignore")

    model: str = "auto"
    stream: bool = False
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    stop: str | list[str] | None = None
    seed: int = 0
    n: Literal[1] | None = 1
    logprobs: Literal[False, 0] | None = None
    tools: Literal[None] = None
    stream_options: dict[str, Any] | None = None

    @field_validator("temperature", "top_p", "seed", mode="before")
    @classmethod
    def _default_for_null(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    def sampling(self) -> Sampling:
        """The same as a record."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(self.temperature, self.top_p, self.length(), tuple(s for s in stop if s)[:4])

    def length(self) -> int:
        """Most tokens of the answer."""
        return self.max_tokens or 128

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool((self.stream_options or {}).get("include_usage"))


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Turn(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    messages: list[_Turn] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)

    def length(self) -> int:
        """Most tokens of the answer."""
        return self.max_completion_tokens or super().length()

    def asked(self) -> list[dict[str, str]]:
        """The conversation."""
        return [turn.plain() for turn in self.messages]


class CompletionRequest(_Request):
    """POST /v1/completions: one text, continued as it is, without the taught form."""

    prompt: str | list[str]

    def asked(self) -> str:
        """The text. Raises `Refused` for several."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1 or not prompts[0]:
            raise Refused(400, f"prompt holds {len(prompts)} texts: send one, not empty", param="prompt")
        return prompts[0]


def parse(kind: type[ChatRequest] | type[CompletionRequest], body: bytes) -> ChatRequest | CompletionRequest:
    """A request body. Raises `Refused` with the first thing that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the body"
        raise Refused(400, f"{field}: {first['msg']}", param=field) from None


class Writer:
    """Turns one answer into OpenAI's objects, whole or in chunks."""

    def __init__(self, chat: bool, model: str) -> None:
        self.chat, self.model = chat, model
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def whole(self, text: str, finish: str, usage: dict[str, int], more: dict[str, Any]) -> dict[str, Any]:
        """The answer as one object."""
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        name = "chat.completion" if self.chat else "text_completion"
        return {**self._head(name), "choices": [choice], "usage": usage, "seal": more}

    def chunk(self, text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
        """A piece of the answer; the last one has no text and says why it ended."""
        said: dict[str, Any] = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return {**self._head(self._chunk_name), "choices": [choice], **more}

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The token counts at the end of a stream."""
        return {**self._head(self._chunk_name), "choices": [], "usage": usage}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}
