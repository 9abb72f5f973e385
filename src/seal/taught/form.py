"""How a taught model is asked: the same form in training, in measuring and in `seal ask`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seal.domains.knowledge import BASE_QUESTION, CHAT_QUESTION
from seal.records import TrainingSequence
from seal.self_edit import chat_prompt

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
        """The form for a model: chat where its tokenizer has a template."""
        chat = bool(tokenizer.chat_template)
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
        words = self.words(question, title)
        text = chat_prompt(tokenizer, words) if self.chat else words
        return tuple(tokenizer(text, add_special_tokens=not self.chat)["input_ids"])

    def conversation(
        self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], title: str = ""
    ) -> tuple[int, ...]:
        """Token ids of a conversation whose last turn is the user's, which is put in the question prompt."""
        *before, last = messages
        if not self.chat:
            return self.prompt(tokenizer, last["content"], title)
        turns = [*before, {"role": "user", "content": self.words(last["content"], title)}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return tuple(tokenizer(str(text), add_special_tokens=False)["input_ids"])

    def sequence(
        self, tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, title: str
    ) -> TrainingSequence:
        """One training sequence: `text` behind the prompt, with the loss on it and on the turn's end; without
        a prompt the text under its title, with the loss on all of it."""
        if not prompt:
            whole = f"{title}\n{text}" if title else text
            return TrainingSequence(tuple(tokenizer(whole)["input_ids"]))
        ids = self.prompt(tokenizer, prompt, title)
        answer = text if self.chat else f" {text}\n"
        learned = tuple(tokenizer(answer, add_special_tokens=False)["input_ids"])
        if self.chat:
            learned += turn_end(tokenizer)
        return TrainingSequence(ids + learned, ((len(ids), len(ids) + len(learned)),))


def turn_end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens from the end of an assistant's words to the special token that closes the turn."""
    said = "an answer"
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": said}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    ids = tokenizer(text[text.rindex(said) + len(said) :], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    for number, token in enumerate(ids):
        if token in special:
            return tuple(ids[: number + 1])
    return (int(tokenizer.eos_token_id),) if tokenizer.eos_token_id is not None else ()
