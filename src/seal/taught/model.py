"""A taught model, opened: ask it, talk to it, see what it says without what it was taught."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.errors import ConfigError, ModelError
from seal.records import Completion, Sampling
from seal.taught.batches import check_base, chooser
from seal.taught.form import Form, Message
from seal.taught.manifest import Manifest, Score, TaughtPassage, passages_of, read_manifest
from seal.taught.route import Router

if TYPE_CHECKING:
    from seal.inner.adapter_engine import Prompt
    from seal.models.load import LoadedModel

Documents = str | Path | Sequence[str | Path]
"""A file or folder, or several."""
UNTAUGHT = "untaught"
"""Name of the base without an adapter."""
AUTO = "auto"
"""The adapter that knows the passage which the question is about."""
MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said."""

    text: str
    adapter: str
    """Name of the adapter that answered, or `untaught`."""
    passage: TaughtPassage | None
    """The taught passage that the question seems to be about; None where none shares a word with it."""
    completion: Completion
    n_prompt: int
    """Tokens of the prompt."""
    first_s: float
    """Seconds to the first piece of text."""
    seconds: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt as the engine takes it, the adapter that answers it, and the passage that it is about."""

    prompt: Prompt
    adapter: str
    passage: TaughtPassage | None


class TaughtModel:
    """A taught model's folder with its base loaded.

    Args:
        folder: the taught model.
        device, dtype: where and in which type the base runs (see `seal.models.load.load_model`).
        loaded: the base, where it is loaded already.

    Raises:
        ModelError: no taught model, its base cannot be had or is another one, or an adapter was changed.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        loaded: LoadedModel | None = None,
    ) -> None:
        from seal.inner.adapter_engine import AdapterEngine

        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        if loaded is None:
            from seal.models.load import load_model

            loaded = load_model(self.manifest.base, device, dtype)
        check_base(self.manifest, loaded)
        self._check_adapters()
        self.loaded = loaded
        self.form = Form(self.manifest.chat, self.manifest.question_prompt)
        self.passages = tuple(passages_of(self.folder, self.manifest))
        self._engine = AdapterEngine(loaded)
        self._router = Router(self.passages)
        self._choose = chooser(self.folder, self.manifest.adapters, self.manifest.apart)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `adapter` may have, besides `auto` and `untaught`."""
        return tuple(adapter.name for adapter in self.manifest.adapters)

    def ask(
        self,
        question: str,
        *,
        adapter: str = AUTO,
        on_text: Callable[[str], None] | None = None,
        sampling: Sampling | None = None,
    ) -> Reply:
        """The answer to one question, in the form that the model was taught in.

        Args:
            adapter: `auto`, `untaught` or one of `adapters`.
            on_text: called with each piece of the answer as it is written.
            sampling: how the answer is drawn; greedy by default.

        Raises:
            ConfigError: the question is empty, or there is no such adapter.
            GenerationError: the question is too long for the model.
        """
        return self.chat(
            [{"role": "user", "content": question}], adapter=adapter, on_text=on_text, sampling=sampling
        )

    def chat(
        self,
        messages: Sequence[Message],
        *,
        adapter: str = AUTO,
        on_text: Callable[[str], None] | None = None,
        sampling: Sampling | None = None,
    ) -> Reply:
        """The next turn of a conversation whose last message is the user's; otherwise as `ask`."""
        (reply,) = self.answer_all(
            [messages], [adapter], on_text and (lambda _, text: on_text(text)), sampling
        )
        return reply

    def compare(
        self,
        question: str,
        *,
        on_text: Callable[[int, str], None] | None = None,
        sampling: Sampling | None = None,
    ) -> tuple[Reply, Reply]:
        """The untaught and the taught answer, written side by side in one batch.

        `on_text` is called with 0 (untaught) or 1 and the next piece of that answer.
        """
        turn = [{"role": "user", "content": question}]
        untaught, taught = self.answer_all([turn, turn], [UNTAUGHT, AUTO], on_text, sampling)
        return untaught, taught

    def answer_all(
        self,
        conversations: Sequence[Sequence[Message]],
        adapters: Sequence[str],
        on_text: Callable[[int, str], None] | None = None,
        sampling: Sampling | None = None,
    ) -> list[Reply]:
        """One reply a conversation, all in one batch; see `chat`."""
        pairs = zip(conversations, adapters, strict=True)
        return self.answer_prepared([self.prepare(m, name, sampling) for m, name in pairs], on_text)

    def prepare(
        self, messages: Sequence[Message] | str, adapter: str, sampling: Sampling | None = None, seed: int = 0
    ) -> Prepared:
        """What `answer_prepared` answers: a conversation in the taught form, or a text to continue as it is.

        Raises:
            ConfigError: nothing is asked, or there is no such adapter.
        """
        from seal.inner.adapter_engine import Prompt

        s = sampling or Sampling(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS)
        tokenizer = self.loaded.tokenizer
        if isinstance(messages, str):
            passage, ids = self._router.best(messages), self.loaded.contract.ids(messages)
        else:
            passage = self._about(messages)
            ids = self.form.conversation(tokenizer, messages, passage.title if passage else "")
            s = Sampling(s.temperature, s.top_p, s.max_new_tokens, (*self.form.stop, *s.stop))
        name = self._named(adapter, passage)
        return Prepared(Prompt(ids, self._folder_of(name), s, seed), name, passage)

    def answer_prepared(
        self, prepared: Sequence[Prepared], on_text: Callable[[int, str], None] | None = None
    ) -> list[Reply]:
        """One reply for each, all in one batch. Raises `GenerationError`."""
        started = time.perf_counter()
        first: dict[int, float] = {}

        def heard(number: int, text: str) -> None:
            first.setdefault(number, time.perf_counter() - started)
            if on_text is not None:
                on_text(number, text)

        completions = self._engine.answer([p.prompt for p in prepared], heard)
        seconds = time.perf_counter() - started
        return [
            Reply(c.text.strip(), p.adapter, p.passage, c, len(p.prompt.ids), first.get(i, seconds), seconds)
            for i, (c, p) in enumerate(zip(completions, prepared, strict=True))
        ]

    @property
    def scores(self) -> tuple[Score, ...]:
        """What was measured after the last batch."""
        return self.manifest.batches[-1].scores if self.manifest.batches else ()

    def table(self) -> str:
        """The scores for people: knew before, knows now, lost."""
        from seal.taught.measure import table

        return table(self.scores)

    def learn(self, documents: Documents, **options: Any) -> TaughtModel:
        """Teach it more, and return it with the new batch; options as of `seal.taught.api.learn`.

        Raises:
            DataError: the documents cannot be used, or all of them were taught before.
        """
        from seal.taught.api import learn

        return learn(self, documents, **options)

    def undo(self, batch: int) -> TaughtModel:
        """Take a batch, and all after it, out again, and return the model as it was before it.

        Raises:
            ModelError, ConfigError: there is no such batch, or it is the first.
        """
        from seal.taught.batches import undo

        undo(self.folder, batch)
        return TaughtModel(self.folder, loaded=self.loaded)

    def export(self, to: str, out: str | Path, **options: Any) -> Path:
        """Write it for another program; see `seal.taught.export.export`."""
        from seal.taught.export import export

        return export(str(self.folder), to, Path(out), **options)

    def passage_for(self, question: str) -> TaughtPassage | None:
        """The taught passage that a question seems to be about."""
        return self._router.best(question)

    def save(self, to: str | Path) -> Path:
        """Copy the taught model to a new folder. Raises `ModelError` where it exists already."""
        import shutil

        target = Path(to)
        if target.exists():
            raise ModelError(f"{target} exists already; nothing is overwritten", "choose a new folder")
        shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns(".*"))
        return target

    def _about(self, messages: Sequence[Message]) -> TaughtPassage | None:
        if not messages or messages[-1].get("role") != "user" or not messages[-1]["content"].strip():
            raise ConfigError("there is no question", "end the conversation with a message of the user's")
        return self._router.best(messages[-1]["content"])

    def _named(self, name: str, passage: TaughtPassage | None) -> str:
        """The name of the adapter that answers."""
        if name != AUTO:
            if name != UNTAUGHT and name not in self.adapters:
                known = ", ".join((AUTO, UNTAUGHT, *self.adapters))
                raise ConfigError(f"{self.folder} has no adapter {name!r}", f"choose one of {known}")
            return name
        folder = self._choose(passage.id if passage else "")
        return next(
            (a.name for a in self.manifest.adapters if str(self.folder / a.folder) == folder), UNTAUGHT
        )

    def _folder_of(self, name: str) -> str | None:
        return next((str(self.folder / a.folder) for a in self.manifest.adapters if a.name == name), None)

    def _check_adapters(self) -> None:
        from seal.models.checkpoint import file_digest

        for adapter in self.manifest.adapters:
            path = self.folder / adapter.folder / "adapter_model.safetensors"
            if not path.is_file() or file_digest(path) != adapter.sha256:
                raise ModelError(f"{path} is missing or was changed", "restore it from a copy")
