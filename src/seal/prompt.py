"""The prompt contract: how texts become what one model reads, in one place.

Every prompt and every training sequence of a run, local or remote, batched or one adapter at a time, is made
by the `PromptContract` of the model's tokenizer. `seal.prompt_check` builds it and refuses tokenizers
and chat templates that it cannot serve rightly.

- A prompt through the chat template is `head`, the user's text, `tail`. Its start token is the template's.
- A plain text gets the start token that the tokenizer puts before texts, once, and never an end token.
- A completion ends with `turn_end` behind the template and with the end token behind a plain prompt.
- Both are among `stops`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

from seal.errors import ConfigError, DataError, ModelError
from seal.records import TrainingSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
#: The day that templates print where the settings name none. A fixed one, so that prompts do not change
#: overnight; it is the one that Llama 3.2's template falls back to.
DEFAULT_DATE = "2024-07-26"
_KEY = "_seal_prompt_contract"


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """What the user decides about prompts."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Handed to the chat template, over the contract's own (which switch thinking off)."""
    date: str = DEFAULT_DATE
    """Day that a template is told, year-month-day."""


@dataclass(frozen=True, slots=True)
class PromptContract:
    """How texts become token ids for one tokenizer; see the module.

    Made by `contract_of` and, with a model at hand, by `load_model`.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: PromptSettings
    starts: tuple[int, ...] = ()
    """Tokens before a plain text: the start token, for tokenizers that add one."""
    head: str = ""
    """What the chat template puts before the user's text."""
    tail: str = ""
    """What it puts behind it, up to where the answer begins."""
    own_tail: str = ""
    """The same as the template itself has it, where `tail` mends it."""
    turn_end: tuple[int, ...] = ()
    """Tokens that end an answer behind the template."""
    stops: frozenset[int] = frozenset()
    """Tokens that end a completion."""
    instruct: bool = False
    """Whether prompts go through the template where the settings say `auto`."""
    problem: ModelError | None = None
    """Why the chat template cannot be used."""
    parts: bool = False
    """The template wants the user's message as a list of parts."""
    marks: Mapping[int, str] = field(default_factory=dict)
    """Special tokens that open or close a thought: kept when tokens become text."""
    controls: tuple[str, ...] = ()
    """Texts that the tokenizer takes for special tokens."""
    notes: tuple[str, ...] = ()
    """What was done about which peculiarity, one line each."""

    def uses_chat(self, wanted: bool | Literal["auto"] = "auto") -> bool:
        """Whether prompts go through the chat template.

        Raises:
            ConfigError: it is wanted and there is none.
            ModelError: there is one that cannot be used.
        """
        if wanted is True and not self.tokenizer.chat_template:
            raise ConfigError("chat is true, but the model has no chat template", "set chat to auto or false")
        chat = self.instruct if wanted == "auto" else bool(wanted)
        if chat and self.problem is not None:
            raise self.problem
        return chat

    def user_turn(self, text: str) -> str:
        """`text` as the user's turn in the chat template, up to where the answer begins.

        Raises:
            ModelError: the template cannot be used, or loses or changes this text.
        """
        if self.problem is not None:
            raise self.problem
        prompt = render(self, [{"role": "user", "content": text}])
        inside = prompt[len(self.head) : len(prompt) - len(self.own_tail)]
        if prompt != self.head + inside + self.own_tail or inside.strip() != text.strip():
            raise ModelError(
                f"the chat template does not pass on a text of {len(text)} characters as it is",
                "set data_config.options.chat to false, or mend the template",
            )
        return self.head + inside + self.tail

    def conversation(self, messages: Sequence[Message]) -> str:
        """A conversation that ends with the user's turn, up to where the answer begins; or `ModelError`."""
        if len(messages) == 1 and messages[0]["role"] == "user":
            return self.user_turn(messages[0]["content"])
        if self.problem is not None:
            raise self.problem
        prompt = render(self, messages)
        lost = next((m for m in messages if m["content"].strip() not in prompt), None)
        if lost is not None:
            raise ModelError(
                f"the chat template loses the {lost['role']}'s words", "ask without the turns before"
            )
        said = messages[-1]["content"].strip()
        return prompt[: prompt.rindex(said) + len(said)] + self.tail

    def control_words(self, text: str) -> tuple[str, ...]:
        """What in `text` the model would read as control tokens of its own and not as words."""
        return tuple(token for token in self.controls if token in text)

    def is_templated(self, prompt: str) -> bool:
        """Whether a complete prompt went through the chat template."""
        framed = self.head or self.tail
        return bool(framed) and prompt.startswith(self.head) and prompt.endswith(self.tail)

    def user_text(self, prompt: str) -> str:
        """What the user's turn of a complete prompt says; a plain prompt as it is."""
        if not self.is_templated(prompt):
            return prompt
        return prompt[len(self.head) : len(prompt) - len(self.tail)]

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of `text` alone."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def starts_of(self, prompt: str) -> tuple[int, ...]:
        """Tokens to put before those of a complete prompt or a plain text: its start token, once."""
        bos = self.tokenizer.bos_token
        begun = bool(bos) and prompt.startswith(str(bos))
        return () if begun or self.is_templated(prompt) else self.starts

    def start_text(self, prompt: str) -> str:
        """The text of `starts_of`, for a server that is sent finished prompts."""
        return "".join(map(str, self.tokenizer.convert_ids_to_tokens(list(self.starts_of(prompt)))))

    def server_arguments(self) -> dict[str, Any]:
        """Arguments for the chat template of a server: the user's, and the contract's that it knows."""
        template = str(self.tokenizer.chat_template or "")
        known = {
            name: value
            for name, value in _arguments(self.settings.date).items()
            if re.search(rf"\b{name}\b", template)
        }
        return known | dict(self.settings.arguments)

    def ids(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a complete prompt, or of a plain text to train on."""
        return self.starts_of(prompt) + self.text_ids(prompt)

    def continued(self, prompt: str, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of `prompt`, and of `text` as it is tokenised where it follows the prompt."""
        ids, both = self.ids(prompt), self.starts_of(prompt) + self.text_ids(prompt + text)
        if both[: len(ids)] == ids and (len(both) > len(ids) or not text):
            return ids, both[len(ids) :]
        return ids, self.text_ids(text)  # a token spans the border: keep the prompt as generation sees it

    def ending(self, prompt: str) -> tuple[int, ...]:
        """Tokens that end a completion of `prompt`."""
        eos = self.tokenizer.eos_token_id
        plain = (int(eos),) if eos is not None else ()
        return (self.turn_end or plain) if self.is_templated(prompt) else plain

    def pair(
        self,
        prompt: str,
        completion: str,
        limit: int | None = None,
        *,
        truncated: bool = False,
        choices: Sequence[tuple[int, int]] = (),
    ) -> TrainingSequence:
        """The M-step's sequence: the prompt, masked; the completion and its end, learned.

        A completion that was truncated, or fills `limit` tokens, has no end to learn. With `choices` (spans
        of its characters) only their tokens are learned.
        """
        start, learned = self.continued(prompt, completion)
        end = self.ending(prompt)
        truncated = truncated or (limit is not None and len(start) + len(learned) >= limit)
        if not truncated and learned[-1:] != end[-1:]:
            learned += end
        ids = start + learned
        if not choices:
            return TrainingSequence(ids, loss=((len(start), len(ids)),))
        first = len(start) - self._first_token_after(prompt + completion, len(prompt))
        found = [[self._first_token_after(prompt + completion, len(prompt) + c) for c in s] for s in choices]
        return TrainingSequence(ids, tuple((first + a, first + b) for a, b in found if a < b))

    def sequence(self, text: str, masked: str = "", *, append_eos: bool = False) -> TrainingSequence:
        """A text to train on; its tokens up to and including the first `masked` carry no loss.

        A token that only partly belongs to `masked` carries none either. A text without it is trained on
        whole.

        Raises:
            DataError: nothing is left to train on.
        """
        ids = list(self.ids(text))
        if append_eos and self.tokenizer.eos_token_id is not None:
            ids.append(int(self.tokenizer.eos_token_id))
        at = text.find(masked) if masked else -1
        if at < 0:
            return TrainingSequence(tuple(ids))
        start = len(self.starts_of(text)) + self._first_token_after(text, at + len(masked))
        row = TrainingSequence(tuple(ids), ((start, len(ids)),))
        if not row.labelled():
            raise DataError(f"nothing to train on behind {masked!r}", "mask less, or drop the text")
        return row

    def _first_token_after(self, text: str, end: int) -> int:
        """Index of the first token of `text` that starts at character `end` or later."""
        if not self.tokenizer.is_fast:
            return len(self.text_ids(text[:end]))
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = encoded["offset_mapping"]
        return next((i for i, (a, b) in enumerate(offsets) if a >= end and b > a), len(offsets))

    def decode(self, ids: Sequence[int]) -> str:
        """The words of generated tokens. Special tokens are left out, but for the marks of thoughts."""
        pieces, begin = [], 0
        for i, token in enumerate(ids):
            if token in self.marks:
                pieces += [self._words(ids[begin:i]), self.marks[token]]
                begin = i + 1
        return "".join([*pieces, self._words(ids[begin:])])

    def _words(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""


def contract_of(tokenizer: PreTrainedTokenizerBase) -> PromptContract:
    """The contract of `tokenizer`: the one it was loaded with, or one made now from the tokenizer alone.

    It is made anew where the chat template or the end token was exchanged.
    """
    from seal.prompt_check import build_contract, fingerprint

    known = tokenizer.__dict__.get(_KEY)
    if known is None or known[0] != fingerprint(tokenizer):
        settings = known[1].settings if known is not None else PromptSettings()
        return adopt(build_contract(tokenizer, settings))
    contract: PromptContract = known[1]
    return contract


def adopt(contract: PromptContract) -> PromptContract:
    """Make `contract` the one of its tokenizer (and of the tokenizer's copies); returns it."""
    from seal.prompt_check import fingerprint

    contract.tokenizer.__dict__[_KEY] = (fingerprint(contract.tokenizer), contract)
    return contract


def render(
    contract: PromptContract, messages: Sequence[Message], *, answer_next: bool = True, day: str = ""
) -> str:
    """The chat template's text for `messages`. Raises whatever the template does."""
    told = day or contract.settings.date
    shown = [
        dict(m) | ({"content": [{"type": "text", "text": m["content"]}]} if contract.parts else {})
        for m in messages
    ]
    return str(
        contract.tokenizer.apply_chat_template(
            shown,
            chat_template=_with_clock(contract.tokenizer.get_chat_template(), date.fromisoformat(told)),
            tokenize=False,
            add_generation_prompt=answer_next,
            **(_arguments(told) | dict(contract.settings.arguments)),
        )
    )


def _arguments(day: str) -> dict[str, Any]:
    """What templates are told: no thinking, by its two usual names, and the day."""
    told = date.fromisoformat(day).strftime("%d %b %Y")
    return {"enable_thinking": False, "thinking": False, "date_string": told}


def _with_clock(template: str, day: date) -> str:
    """`template` with a clock of its own, because transformers lets no caller hand in a `strftime_now`.

    A macro of the same name hides it, which writes the fields of the format out, at midnight of `day`.
    """
    if "strftime_now" not in template:
        return template
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    fields = [f"%{flag}{field}" for field in "aAbBcdeHIjmMpSUuVWwxXyYzZDFT" for flag in ("-", "")]
    written = "".join(f" | replace('{f}', '{midnight.strftime(f)}')" for f in fields)
    macro = "{% macro strftime_now(format) %}{{ format" + written + " }}{% endmacro %}"
    return macro + "{{ '' }}" + template  # a newline behind a block tag would be swallowed
