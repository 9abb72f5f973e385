"""`Generator` over any OpenAI-compatible server: vLLM, Ollama, llama.cpp, OpenAI itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal
from urllib.parse import urlsplit

from seal.errors import ConfigError, GenerationError
from seal.records import Completion, Sampling


class OpenAIGenerator:
    """One request a completion, several under way at once.

    Outages (no connection, timeout, 408, 409, 429, 5xx) are tried again with growing pauses; then the call
    fails. The key is read from an environment variable and appears in no message.

    Args:
        model: the server's name for the model.
        base_url: for example `http://127.0.0.1:8000/v1`; empty means OpenAI's own.
        api: `chat` sends the prompt as the user's message (the server applies the chat template),
            `completions` sends it as it is, for base models.
        api_key_env: variable that holds the key; empty for servers that need none.
        concurrency: requests under way at once.
        timeout: seconds one request may take.
        attempts: tries a request, at least 1.
        backoff: seconds before the second try; doubles every try, at most 30.

    Raises:
        ConfigError: the address is none, or the variable is not set.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "",
        api: Literal["chat", "completions"] = "chat",
        api_key_env: str = "",
        *,
        concurrency: int = 8,
        timeout: float = 600.0,
        attempts: int = 5,
        backoff: float = 1.0,
    ) -> None:
        parts = urlsplit(base_url)
        if base_url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ConfigError(f"{parts.scheme or 'the'} address is not http(s)", "write http://host:port/v1")
        if concurrency < 1 or attempts < 1:
            raise ConfigError(f"concurrency {concurrency}, attempts {attempts}", "give at least 1 of each")
        key = os.environ.get(api_key_env, "").strip() if api_key_env else "none"
        if not key:
            raise ConfigError(
                f"the environment variable {api_key_env} is not set", "export it with the API key"
            )
        from openai import OpenAI

        self.model, self._api, self._concurrency = model, api, concurrency
        self._attempts, self._backoff = attempts, backoff
        self._where = f"{model} at {parts.netloc.rpartition('@')[2] or 'api.openai.com'}"
        self._client = OpenAI(
            base_url=base_url or "https://api.openai.com/v1",
            api_key=key,
            timeout=timeout,
            max_retries=0,  # the tries below are the only ones
        )

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion a prompt, in order; `progress(done, total)` after each.

        Raises:
            GenerationError: one cannot be had.
        """
        with ThreadPoolExecutor(self._concurrency) as pool:
            pairs = list(zip(prompts, seeds, strict=True))
            futures = [pool.submit(self._one, prompt, sampling, seed) for prompt, seed in pairs]
            try:
                if progress is not None:
                    for done, _ in enumerate(as_completed(futures), 1):
                        progress(done, len(futures))
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, prompt: str, sampling: Sampling, seed: int) -> Completion:
        import openai

        for attempt in range(self._attempts):
            try:
                return self._ask(prompt, sampling, seed)
            except openai.APIError as error:  # its text may hold what was sent, so only its kind is told
                status = getattr(error, "status_code", None)
                kind = type(error).__name__ + (f", status {status}" if status else "")
                final = status is not None and status not in (408, 409, 429) and status < 500
                if final or attempt + 1 == self._attempts:
                    raise GenerationError(
                        f"{self._where}: {kind}", "check the server and run again"
                    ) from None
                time.sleep(min(30.0, self._backoff * 2**attempt))
        raise AssertionError("unreachable")

    def _ask(self, prompt: str, sampling: Sampling, seed: int) -> Completion:
        common: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed % 2**31,  # servers take 32-bit seeds
        }
        if sampling.stop:
            common["stop"] = list(sampling.stop)
        if self._api == "chat":
            message: Any = [{"role": "user", "content": prompt}]
            reply: Any = self._client.chat.completions.create(messages=message, **common)
            text = reply.choices[0].message.content if reply.choices else None
        else:
            reply = self._client.completions.create(prompt=prompt, **common)
            text = reply.choices[0].text if reply.choices else None
        if text is None:
            raise GenerationError(f"{self._where}: a reply without text", "check the server")
        usage = getattr(reply, "usage", None)
        finish: Literal["stop", "length"] = "length" if reply.choices[0].finish_reason == "length" else "stop"
        return Completion(text, int(usage.completion_tokens) if usage else 0, finish)
