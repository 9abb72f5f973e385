"""What the bare base answered, so that no prompt is put to it twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seal.records import Answer, EvalPrompt


class BaseAnswers:
    """Answers of one base by prompt; past `most` of them the oldest are forgotten."""

    def __init__(self, most: int = 10_000) -> None:
        self.most = most
        self._answers: dict[EvalPrompt, Answer] = {}

    def get(self, prompt: EvalPrompt) -> Answer | None:
        """The answer to `prompt`, if it is known."""
        return self._answers.get(prompt)

    def all(self, prompts: Sequence[EvalPrompt]) -> tuple[Answer, ...] | None:
        """The answers to `prompts` in order; None unless all are known."""
        found = [self._answers.get(p) for p in prompts]
        return None if None in found else tuple(a for a in found if a is not None)

    def add(self, answers: Mapping[EvalPrompt, Answer]) -> None:
        """Remember `answers`."""
        self._answers |= answers
        while len(self._answers) > self.most:
            self._answers.pop(next(iter(self._answers)))
