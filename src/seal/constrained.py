"""Constrained writing: the policy only chooses, field by field, by its own log-likelihoods.

Small models rarely write valid JSON. The text between the choices is given; each choice is drawn from the
softmax of the log-likelihoods that the policy gives the alternatives. ReST-EM trains on the choices alone:
the rest of the text would be most of the loss, and there is nothing to decide in it.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from seal.records import Completion, Sampling
from seal.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seal.protocols import Generator

#: (prompts, continuations) -> summed log-likelihood of every continuation after its prompt, in nats.
Scorer = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


class Choice(NamedTuple):
    """One choice: the text before it, the alternatives as JSON literals, and the mark that closes it."""

    before: str
    choices: tuple[str, ...]
    after: str

    def text(self, choice: str) -> str:
        """The choice with its closing mark, so that no alternative is the beginning of another."""
        return f" {choice}{self.after}"


class Space(Protocol):
    """Everything that can be written: choices in the order of the text."""

    def slots(self) -> list[Choice]:
        """The choices; together they spell the whole text."""
        ...


def literals(values: Sequence[object]) -> tuple[str, ...]:
    """Values as JSON."""
    return tuple(json.dumps(value) for value in values)


def spell(slots: Sequence[Choice], choices: Sequence[str]) -> str:
    """The text with one alternative for every slot."""
    return "".join(slot.before + slot.text(choice) for slot, choice in zip(slots, choices, strict=True))


def schema(space: Space) -> dict[str, Any]:
    """JSON schema of what the space spells, for servers that hold a model to one.

    Every mapping has exactly its keys, in any order that the server likes.
    """
    slots = space.slots()
    marks = [f"\0{index}" for index in range(len(slots))]
    return _schema(json.loads(spell(slots, literals(marks))), dict(zip(marks, slots, strict=True)))


def _schema(value: Any, slots: Mapping[str, Choice]) -> dict[str, Any]:
    if isinstance(value, dict):
        parts = {name: _schema(part, slots) for name, part in value.items()}
        names = list(parts)
        return {"type": "object", "properties": parts, "required": names, "additionalProperties": False}
    return {"enum": [json.loads(choice) for choice in slots[value].choices]}


def draw(space: Space, seed: int, name: str = "recipe") -> str:
    """A text drawn evenly from the space: the random baseline."""
    slots = space.slots()
    chance = random.Random(derive(seed, name))
    return spell(slots, [chance.choice(slot.choices) for slot in slots])


def write(
    prompts: Sequence[str],
    seeds: Sequence[int],
    score: Scorer,
    space: Space,
    temperature: float = 1.0,
    explore: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """One text a prompt, all prompts together, one call of `score` a field.

    Equal beginnings are scored once, so fifteen edits of one task cost little more than one at first.
    `temperature` 0 takes the likeliest choice. A share of `explore` of the texts is drawn evenly from the
    space, whatever the policy thinks of it: a small model may give a choice no chance before it ever tried
    it. The same prompt, seed and scores give the same text. `progress(done, total)` counts whole texts, field
    by field.
    """
    texts = [""] * len(prompts)
    evenly = [random.Random(derive(seed, "explore")).random() < explore for seed in seeds]
    slots = space.slots()
    for index, slot in enumerate(slots):
        if progress is not None:
            progress(len(prompts) * index // len(slots), len(prompts))
        texts = [text + slot.before for text in texts]
        if len(slot.choices) == 1:
            texts = [text + slot.text(slot.choices[0]) for text in texts]
            continue
        starts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        unique = list(dict.fromkeys(starts))
        endings = [slot.text(choice) for choice in slot.choices]
        scores = score([s for s in unique for _ in endings], endings * len(unique))
        n = len(endings)
        table = {start: scores[i * n : (i + 1) * n] for i, start in enumerate(unique)}
        texts = [
            text
            + endings[_pick(table[start], math.inf if even else temperature, derive(seed, "field", index))]
            for text, start, seed, even in zip(texts, starts, seeds, evenly, strict=True)
        ]
    return texts


def choices_in(text: str, space: Space) -> tuple[tuple[int, int], ...]:
    """Where a text of the space was chosen, as spans of characters; what has no alternative is left out."""
    spans, at = [], 0
    for slot in space.slots():
        at += len(slot.before)
        start, at = at, at + next(len(e) for e in map(slot.text, slot.choices) if text.startswith(e, at))
        if len(slot.choices) > 1:
            spans.append((start, at))
    return tuple(spans)


class ConstrainedWriter:
    """A `Generator` whose completions are always valid; of the sampling only temperature and `explore` count.

    Args:
        scorer: gives the policy's log-likelihoods for one writing, such as `LocalGenerator.scorer`.
        tokenizer: counts the completions' tokens.
        space: what can be written.
    """

    def __init__(
        self, scorer: Callable[[], Scorer], tokenizer: PreTrainedTokenizerBase, space: Space
    ) -> None:
        self.scorer, self.tokenizer, self.space = scorer, tokenizer, space

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One text a prompt, in order; `progress` as in `write`."""
        drawn = (sampling.temperature, sampling.explore)
        texts = write(prompts, seeds, self.scorer(), self.space, *drawn, progress=progress)
        counts = [len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return [
            Completion(text, count, "stop", choices_in(text, self.space))
            for text, count in zip(texts, counts, strict=True)
        ]


def constrained(generator: Generator, tokenizer: PreTrainedTokenizerBase, space: Space) -> Generator:
    """A writer of `space` over `generator`: by scores where it gives them; a server is asked to keep to its
    JSON schema; else `generator` itself."""
    if (scorer := getattr(generator, "scorer", None)) is not None:
        return ConstrainedWriter(scorer, tokenizer, space)
    shaped: Callable[[dict[str, Any]], Generator] | None = getattr(generator, "shaped", None)
    return generator if shaped is None else shaped(schema(space))


def _pick(log_likelihoods: Sequence[float], temperature: float, seed: int) -> int:
    best = max(range(len(log_likelihoods)), key=log_likelihoods.__getitem__)
    if temperature <= 0:
        return best
    weights = [math.exp((ll - log_likelihoods[best]) / temperature) for ll in log_likelihoods]
    return random.Random(seed).choices(range(len(weights)), weights)[0]
