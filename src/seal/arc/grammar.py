"""Constrained writing of recipes: the policy only chooses, field by field, by its own log-likelihoods.

Small models rarely write valid JSON. The text between the choices is given; each choice is drawn from the
softmax of the log-likelihoods that the policy gives the alternatives. A recipe written this way is an
ordinary completion: ReST-EM trains on its text.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from seal.arc.recipe import COLOUR_FLAG, FLAGS, STRATEGIES, ArcRecipe, parse_recipe
from seal.records import Completion, Sampling
from seal.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: (prompts, continuations) -> summed log-likelihood of every continuation after its prompt, in nats.
Scorer = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


class Slot(NamedTuple):
    """One choice: the text before it, the alternatives as JSON literals, and the mark that closes it."""

    before: str
    choices: tuple[str, ...]
    after: str

    def text(self, choice: str) -> str:
        """The choice with its closing mark, so that no alternative is the beginning of another."""
        return f" {choice}{self.after}"


@dataclass(frozen=True, slots=True)
class RecipeSpace:
    """The recipes that constrained generation can write."""

    learning_rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    epochs: tuple[int, ...] = (1, 2, 3)
    """With 250 rows and batches of 2, 3 epochs are the most that stay within 375 steps."""
    strategies: tuple[str, ...] = STRATEGIES
    groups: tuple[str, ...] = tuple(FLAGS)
    """Augmentation groups that may be on; the others are written as false."""
    colour: bool = True
    """Whether colour permutation is a choice of its own; if not, the official rule holds."""

    def slots(self) -> list[Slot]:
        """The choices in the order they are written; together they spell `ArcRecipe.to_json`."""
        both, off = _literals((True, False)), _literals((False,))
        flags = [(key, both if group in self.groups else off) for group, key in FLAGS.items()]
        if self.colour:
            flags.append((COLOUR_FLAG, both))
        training = [
            ("strategy", _literals(self.strategies)),
            ("learning_rate", _literals(self.learning_rates)),
            ("num_train_epochs", _literals(self.epochs)),
        ]
        slots: list[Slot] = []
        for section, fields, close in (("data_generation", flags, "},"), ("training", training, "}}")):
            for i, (key, choices) in enumerate(fields):
                opening = f'"{section}": {{' if i == 0 else ""
                before = (" " if slots else "{") + f'{opening}"{key}":'
                slots.append(Slot(before, choices, close if i == len(fields) - 1 else ","))
        return slots

    def recipes(self) -> Iterator[ArcRecipe]:
        """Every recipe of the space."""
        slots = self.slots()
        for choices in product(*(slot.choices for slot in slots)):
            yield parse_recipe(_spell(slots, choices))

    def draw(self, seed: int) -> str:
        """A recipe drawn evenly from the space: the random baseline."""
        slots = self.slots()
        chance = random.Random(derive(seed, "recipe"))
        return _spell(slots, [chance.choice(slot.choices) for slot in slots])


def _literals(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(json.dumps(value) for value in values)


def _spell(slots: Sequence[Slot], choices: Sequence[str]) -> str:
    return "".join(slot.before + slot.text(choice) for slot, choice in zip(slots, choices, strict=True))


def write_recipes(
    prompts: Sequence[str],
    seeds: Sequence[int],
    score: Scorer,
    space: RecipeSpace = RecipeSpace(),
    temperature: float = 1.0,
) -> list[str]:
    """One recipe a prompt, all prompts together, one call of `score` a field.

    Equal beginnings are scored once, so fifteen edits of one task cost little more than one at first.
    `temperature` 0 takes the likeliest choice. The same prompt, seed and scores give the same recipe.
    """
    texts = [""] * len(prompts)
    for index, slot in enumerate(space.slots()):
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
            text + endings[_pick(table[start], temperature, derive(seed, "field", index))]
            for text, start, seed in zip(texts, starts, seeds, strict=True)
        ]
    return texts


class RecipeWriter:
    """A `Generator` whose completions are always valid recipes; of the sampling only the temperature counts.

    Args:
        scorer: gives the policy's log-likelihoods for one writing, such as `LocalGenerator.scorer`.
        tokenizer: counts the completions' tokens.
    """

    def __init__(
        self,
        scorer: Callable[[], Scorer],
        tokenizer: PreTrainedTokenizerBase,
        space: RecipeSpace = RecipeSpace(),
    ) -> None:
        self.scorer, self.tokenizer, self.space = scorer, tokenizer, space

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """One recipe a prompt, in order."""
        texts = write_recipes(prompts, seeds, self.scorer(), self.space, sampling.temperature)
        counts = [len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        return [Completion(text, count, "stop") for text, count in zip(texts, counts, strict=True)]


def _pick(log_likelihoods: Sequence[float], temperature: float, seed: int) -> int:
    best = max(range(len(log_likelihoods)), key=log_likelihoods.__getitem__)
    if temperature <= 0:
        return best
    weights = [math.exp((ll - log_likelihoods[best]) / temperature) for ll in log_likelihoods]
    return random.Random(seed).choices(range(len(weights)), weights)[0]
