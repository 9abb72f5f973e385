"""A trained policy as a LoRA adapter on a vLLM server that serves the first policy.

An adapter gets a name that was never used (a name loaded again can answer from a stale prefix cache, vLLM
issue 42125), and is believed only when three things agree: the status of the load (which has been 200 for a
path that does not exist, issue 18372), the list of models, and log-probabilities of a text that differ from
the base's and match our own policy's. It is removed when its work is over.
"""

from __future__ import annotations

import atexit
import copy
import json
import logging
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seal.errors import GenerationError
from seal.keys import key

if TYPE_CHECKING:
    from seal.models.load import LoadedModel
    from seal.models.openai_generator import OpenAIGenerator
    from seal.records import Completion, Sampling

log = logging.getLogger(__name__)

#: What log-probabilities are compared on.
TEXT = (
    "The harbour is lit by forty lamps, which burn the oil of nuts that are pressed in the hills.\n"
    "- Every lamp is filled at dusk.\n- In winter the oil grows thick, and boys carry it warm from the mill."
)
#: Mean difference of a token's log-probability, in nats, that number formats explain.
CLOSE = 0.1
_FIX = (
    "start vLLM with --enable-lora, a --max-lora-rank that is enough, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
)


class VLLMPolicy:
    """An adapter on a server, from `load` to `remove`.

    Args:
        base_url: ends in /v1.
        base: the server's name for the first policy.
        api_key_env: variable that holds the key; empty for none.
        timeout: seconds one request may take. The first one after a load is slow.
    """

    def __init__(self, base_url: str, base: str, api_key_env: str = "", timeout: float = 600.0) -> None:
        self.base_url, self.base, self._timeout = base_url.rstrip("/"), base, timeout
        self._key = key(api_key_env)
        self.name = ""
        """Of the adapter that is loaded; empty: none."""

    def first(self, policy: LoadedModel) -> str:
        """The name of the first policy. Raises `GenerationError` unless the server really serves it."""
        return self.believed(policy, self.log_probabilities(self.base, policy))

    def believed(self, policy: LoadedModel, served: list[float]) -> str:
        """The name of the first policy, if those are its log-probabilities. Raises `GenerationError`."""
        off = apart(served, own(policy))
        if off > CLOSE:
            raise GenerationError(
                f"{self.base_url} serves another model as {self.base}: its log-probabilities are"
                f" {off:.3g} nats a token from {policy.source}'s",
                "start it with the run's model_name",
            )
        return self.base

    def load(self, folder: Path, label: str, policy: LoadedModel) -> str:
        """Load the adapter in `folder`, which the server must be able to read; the name to ask for.

        Args:
            label: what the name begins with: run, round and version.
            policy: the same policy here.

        Raises:
            GenerationError: the server refused it, or does not really serve it.
        """
        self.remove()
        before = self.log_probabilities(self.base, policy)
        name = new_name(label)
        status, told = self._post(
            "load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())}
        )
        if status != 200:
            raise GenerationError(f"{self.base_url} did not load {folder}: {status} {told}", _FIX)
        self.name = name
        atexit.register(self.remove)
        try:
            self.require(name)
            self.compare(name, before, self.log_probabilities(name, policy), own(policy))
        except BaseException:
            self.remove()
            raise
        log.info("%s serves policy %s as %s", self.base_url, policy.version, name)
        return name

    def require(self, name: str) -> None:
        """Raise `GenerationError` unless the server lists the model `name`."""
        if name not in self.models():
            raise GenerationError(f"{self.base_url} took the policy and does not list it as {name}", _FIX)

    def remove(self) -> None:
        """Take the adapter off the server. A server that is gone has none."""
        if not self.name:
            return
        atexit.unregister(self.remove)
        name, self.name = self.name, ""
        try:
            status, told = self._post("unload_lora_adapter", {"lora_name": name})
        except GenerationError as error:
            log.warning("%s could not be removed: %s", name, error)
            return
        if status != 200:
            log.warning("%s could not be removed from %s: %d %s", name, self.base_url, status, told)

    def models(self) -> list[str]:
        """Names that the server answers to."""
        status, told = self._request("models", None)
        try:
            return [str(model["id"]) for model in json.loads(told)["data"]]
        except (ValueError, KeyError, TypeError):
            raise GenerationError(f"{self.base_url}/models answers {status}: {told[:80]!r}", _FIX) from None

    def log_probabilities(self, name: str, policy: LoadedModel) -> list[float]:
        """Of every token of `TEXT` but the first, as the server's model `name` sees them."""
        values, told = self._log_probabilities(name, policy)
        if values is None:
            raise GenerationError(
                f"{self.base_url} gives no log-probabilities of a prompt ({told})",
                "use vLLM, or leave generation.follow out",
            )
        return values

    def offered(self, name: str, policy: LoadedModel) -> list[float] | None:
        """The same; None where the server does not tell them, as many do not."""
        return self._log_probabilities(name, policy)[0]

    def compare(self, name: str, base: list[float], served: list[float], ours: list[float]) -> None:
        """Raise `GenerationError` unless what is `served` as `name` is ours, and not the base's."""
        off, moved = apart(served, ours), apart(served, base)
        expected = apart(ours, base)
        if off <= CLOSE and (off < expected / 2 or expected == 0.0):
            return
        what = "still serves the base model" if moved <= CLOSE / 10 else "serves other weights"
        raise GenerationError(
            f"{self.base_url} says that it loaded {name} and {what}: its log-probabilities are"
            f" {off:.3g} nats a token from this policy's, which are {expected:.3g} from the base's",
            "restart the server, and check that it reads the same files",
        )

    def _log_probabilities(self, name: str, policy: LoadedModel) -> tuple[list[float] | None, str]:
        ids = _ids(policy)
        body = {"model": name, "prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        status, told = self._post("completions", body)
        try:
            found = json.loads(told)["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
            values = [float(value) for value in found]
        except (ValueError, KeyError, TypeError, IndexError):
            values = []
        return (values if len(values) == len(ids) - 1 else None), f"{status}: {told[:80]!r}"

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        return self._request(path, json.dumps(body).encode())

    def _request(self, path: str, body: bytes | None) -> tuple[int, str]:
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.base_url}/{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                return int(reply.status), reply.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            told = " ".join(error.read().decode("utf-8", "replace").split())[:200]
            return error.code, told.replace(self._key, "***") if self._key else told
        except OSError as error:
            raise GenerationError(f"{self.base_url} does not answer: {error}", "start the server") from None


class Place(Protocol):
    """Where the policies of a run are served, one at a time."""

    def first(self, policy: LoadedModel) -> str:
        """Serve the run's first policy; the name to ask for. Raises `GenerationError`."""

    def load(self, folder: Path, label: str, policy: LoadedModel) -> str:
        """Serve a trained policy, as an adapter of the first one; see `VLLMPolicy.load`."""

    def remove(self) -> None:
        """Serve it no longer."""


class FollowingGenerator:
    """`Generator` on a server that serves the run's first policy, for any policy of the run.

    A trained policy is loaded before the first text is asked for, and removed by `close`.

    Args:
        server: where to load it.
        policy: who writes.
        adapter: what training has changed, see `seal.models.stacked`; None: `policy` is the first one.
        make: a generator that asks for a model by name.
    """

    follows_policy = True

    def __init__(
        self,
        server: Place,
        policy: LoadedModel,
        adapter: Path | None,
        make: Callable[[str], OpenAIGenerator],
    ) -> None:
        self._server, self._policy, self._adapter, self._make = server, policy, adapter, make
        self._writer: OpenAIGenerator | None = None

    def shaped(self, schema: Mapping[str, Any]) -> FollowingGenerator:
        """See `OpenAIGenerator.shaped`."""
        made = copy.copy(self)
        made._make = lambda name: self._make(name).shaped(schema)
        return made

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """See `Generator`. Raises `GenerationError` also where the server serves another policy."""
        if self._writer is None:
            self._writer = self._make(self._served())
        return self._writer.generate(prompts, sampling, seeds, progress)

    def close(self) -> None:
        """Take the policy off the server; the next text brings it back, under another name."""
        self._writer = None
        self._server.remove()

    def _served(self) -> str:
        if self._adapter is None:
            return self._server.first(self._policy)
        label = f"seal-{self._adapter.name}-{self._policy.version}"
        return self._server.load(self._adapter, label, self._policy)


def own(policy: LoadedModel) -> list[float]:
    """The same log-probabilities as this process sees them."""
    import torch

    ids = torch.tensor([_ids(policy)], device=policy.model.device)
    with torch.inference_mode():
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    found = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0]
    return [float(value) for value in found]


def _ids(policy: LoadedModel) -> list[int]:
    return list(policy.tokenizer(TEXT)["input_ids"])


def new_name(label: str) -> str:
    """A name that was never used."""
    return f"{label}-{secrets.token_hex(4)}"


def apart(a: list[float], b: list[float]) -> float:
    """Mean difference of a token's log-probability, in nats."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)
