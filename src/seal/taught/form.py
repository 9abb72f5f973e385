"""How a taught model is asked: the same form in training, in measuring and in `seal ask`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seal.domains.knowledge import BASE_QUESTION, CHAT_QUESTION
from seal.prompt import contract_of
from seal.records import TrainingSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""`{"role": "user", "content": "…"}`, as chat templates and OpenAI's API have it."""


@dataclass(frozen=True, slots=True)
class Form:
    """The question prompt, and whether it goes through the chat template."""

    chat: bool
    question_prompt: str
    """With `{title}` and `{question}`."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Form:
        """The form for a model: chat where its prompt contract says so."""
        chat = contract_of(tokenizer).uses_chat()
        return cls(chat, CHAT_QUESTION if chat else BASE_QUESTION)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer; a chat model ends its turn itself."""
        return () if self.chat else ("\n",)

    def words(self, question: str, title: str = "") -> str:
        """What the user's turn says; without a title its line is left out."""
        text = self.question_prompt if title else self.question_prompt.replace("Topic: {title}\n", "")
        return text.replace("{title}", title).replace("{question}", question)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, question: str, title: str = "") -> tuple[int, ...]:
        """Token ids of the complete prompt, up to where the answer begins."""
        return contract_of(tokenizer).ids(self._text(tokenizer, question, title))

    def _text(self, tokenizer: PreTrainedTokenizerBase, question: str, title: str) -> str:
        words = self.words(question, title)
        return contract_of(tokenizer).user_turn(words) if self.chat else words

    def conversation(
        self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], title: str = ""
    ) -> tuple[int, ...]:
        """Token ids of a conversation whose last turn is the user's, which is put in the question prompt."""
        *before, last = messages
        if not self.chat:
            return self.prompt(tokenizer, last["content"], title)
        turns = [*before, {"role": "user", "content": self.words(last["content"], title)}]
        contract = contract_of(tokenizer)
        return contract.ids(contract.conversation(turns))

    def sequence(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, title: str
    ) -> TrainingSequence:
        """One training sequence: `text` behind the prompt, with the loss on it and on the turn's end; without
        a prompt the text under its title, with the loss on all of it."""
        contract = contract_of(tokenizer)
        if not prompt:
            return contract.sequence(f"{title}\n{text}" if title else text)
        asked = self._text(tokenizer, prompt, title)
        ids, learned = contract.ids(asked), contract.text_ids(text if self.chat else f" {text}\n")
        if self.chat:
            learned += contract.ending(asked)
        return TrainingSequence(ids + learned, ((len(ids), len(ids) + len(learned)),))
