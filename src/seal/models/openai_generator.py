"""`Generator` over any OpenAI-compatible server: vLLM, Ollama, llama.cpp, OpenAI itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal

from seal.errors import ConfigError, GenerationError
from seal.prompt import PromptContract
from seal.records import Completion, Sampling
from seal.remote import RemoteModel
from seal.spending import Price, Purse


class OpenAIGenerator:
    """One request a completion, several under way at once. The server's model stays what it is.

    Outages (no connection, timeout, 408, 409, 429, 5xx) are tried again with growing pauses; then the call
    fails. The key is read from an environment variable and appears in no message.

    Args:
        model: the server's name for the model.
        base_url: for example `http://127.0.0.1:8000/v1`; empty means OpenAI's own.
        api: `chat` sends the user's text as a message, to which the server applies its chat template;
            `completions` sends the finished prompt, to which it is told to add nothing.
        api_key_env: variable that holds the key; empty for servers that need none.
        concurrency: requests under way at once.
        timeout: seconds one request may take.
        attempts: tries a request, at least 1.
        backoff: seconds before the second try; doubles every try, at most 30.
        purse: pays for requests; None: nobody counts.
        price: of the server's tokens.
        contract: of the tokenizer that made the prompts; None: they are plain texts, sent as they are.

    Raises:
        ConfigError: the address is none, or the variable is not set.
    """

    follows_policy = False
    """Whether a trained policy reaches who writes: not here."""

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
        contract: PromptContract | None = None,
        purse: Purse | None = None,
        price: Price | None = None,
    ) -> None:
        if concurrency < 1 or attempts < 1:
            raise ConfigError(f"concurrency {concurrency}, attempts {attempts}", "give at least 1 of each")
        self._remote = RemoteModel(model, base_url, api_key_env, timeout=timeout, purse=purse, price=price)
        self._api, self._contract, self._concurrency = api, contract, concurrency
        self._attempts, self._backoff = attempts, backoff
        self._schema: Mapping[str, Any] | None = None

    def shaped(self, schema: Mapping[str, Any]) -> OpenAIGenerator:
        """The same with JSON of a schema as its completions, where the server holds the model to it."""
        made = copy.copy(self)
        made._schema = schema
        return made

    @property
    def where(self) -> str:
        """The model and its host, as messages name them."""
        return self._remote.where

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
            except openai.APIError as error:
                status = getattr(error, "status_code", None)
                final = status is not None and status not in (408, 409, 429) and status < 500
                if final or attempt + 1 == self._attempts:
                    why = f"{self._remote.where}: {self._remote.reason(error)}"
                    raise GenerationError(why, _fix(status) if final else "bring the server back") from None
                time.sleep(min(30.0, self._backoff * 2**attempt))
        raise AssertionError("unreachable")

    def _ask(self, prompt: str, sampling: Sampling, seed: int) -> Completion:
        settings: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % 2**31,  # servers take 32-bit seeds
        }
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if self._schema is not None:
            form = {"name": "self_edit", "schema": self._schema, "strict": True}
            settings["response_format"] = {"type": "json_schema", "json_schema": form}
        contract, limit = self._contract, sampling.max_new_tokens
        if self._api == "chat":
            told = contract.server_arguments() if contract else {}
            settings |= {"chat_template_kwargs": told} if told else {}
            text = contract.user_text(prompt) if contract else prompt
            reply = self._remote.chat(text, limit, **settings)
        elif contract:
            reply = self._remote.complete(prompt, contract.start_text(prompt), limit, **settings)
        else:
            reply = self._remote.complete(prompt, None, limit, **settings)
        return Completion(reply.text, reply.n_tokens, reply.finish)


def _fix(status: int | None) -> str:
    """What helps against a refusal."""
    if status in (401, 403):
        return "check the API key"
    return "check the server's name for the model, and the settings that it was sent"
