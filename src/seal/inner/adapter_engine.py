"""One base and several adapters in this process: prompts in, answers out, whole or as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal.errors import AdaptError, GenerationError
from seal.inner.adapter import Adapter
from seal.inner.adapter_files import load_adapter
from seal.inner.decode import Decoder, Request, TokenCompletion
from seal.inner.family_check import check_family
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel
from seal.records import Completion, Sampling

_UNFINISHED = "\ufffd"
"""What a tokenizer shows for a character of which not all bytes are there yet."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and who answers it."""

    ids: tuple[int, ...]
    adapter: str | None
    """Folder of an adapter in PEFT's format; None: the untaught base."""
    sampling: Sampling
    seed: int = 0


class AdapterEngine:
    """Answers prompts; adapters are loaded on first use and kept. One thread at a time may use it."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        check_family(loaded)
        self.runtime = Runtime.of(loaded.model)
        on_cpu = self.runtime.device.type == "cpu"
        self._decoder = Decoder(
            self.runtime,
            self.text_of,
            loaded.contract.stops,
            max_rows=64 if on_cpu else 256,
            token_budget=2048 if on_cpu else 16384,
        )
        self._adapters: dict[str, Adapter] = {}

    def text_of(self, ids: Sequence[int]) -> str:
        """The words of generated tokens."""
        return self.loaded.contract.decode(ids)

    def load(self, folder: str | Path) -> None:
        """Load an adapter now. Raises `ModelError` where it does not fit the base."""
        key = str(folder)
        if key not in self._adapters:
            self._adapters[key] = load_adapter(self.runtime, key)

    def answer(
        self, prompts: Sequence[Prompt], on_text: Callable[[int, str], None] | None = None
    ) -> list[Completion]:
        """One completion a prompt, in order.

        Args:
            on_text: called with a prompt's number and the next piece of its text, as it is written; together
                the pieces are the completion's text. An exception of its ends the call.

        Raises:
            ModelError: an adapter cannot be loaded.
            GenerationError: a prompt is empty, or too long for the model.
        """
        for prompt in prompts:
            if prompt.adapter is not None:
                self.load(prompt.adapter)
        requests = [
            Request(p.ids, self._adapters[p.adapter] if p.adapter is not None else None, p.sampling, p.seed)
            for p in prompts
        ]
        stream = _Stream(self, [p.sampling.stop for p in prompts], on_text) if on_text else None
        try:
            written = self._decoder.run(requests, stream.step if stream else None)
        except AdaptError as error:
            raise GenerationError(error.message, error.fix) from error
        if stream:
            stream.end(written)
        return [Completion(w.text, len(w.ids), w.finish) for w in written]


class _Stream:
    """Turns the tokens so far into pieces of text, none of which is taken back later."""

    def __init__(
        self, engine: AdapterEngine, stops: Sequence[tuple[str, ...]], on_text: Callable[[int, str], None]
    ) -> None:
        self.engine, self.stops, self.on_text = engine, stops, on_text
        self.sent = [""] * len(stops)
        self.tokens = [0] * len(stops)

    def step(self, written: Sequence[TokenCompletion]) -> None:
        for number, row in enumerate(written):
            if len(row.ids) > self.tokens[number]:
                self.tokens[number] = len(row.ids)
                self._send(number, self._sure(number, self.engine.text_of(row.ids)))

    def end(self, written: Sequence[TokenCompletion]) -> None:
        for number, row in enumerate(written):
            self._send(number, row.text)

    def _sure(self, number: int, text: str) -> str:
        """The part of the text so far that no later token changes or cuts off."""
        text = text.rstrip(_UNFINISHED)
        for stop in self.stops[number]:
            text = text.partition(stop)[0]
            for length in range(len(stop) - 1, 0, -1):
                if text.endswith(stop[:length]):
                    text = text[:-length]
                    break
        return text

    def _send(self, number: int, text: str) -> None:
        if text.startswith(self.sent[number]) and len(text) > len(self.sent[number]):
            self.on_text(number, text[len(self.sent[number]) :])
            self.sent[number] = text
