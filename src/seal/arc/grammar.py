"""The recipes that constrained generation can write for an ARC puzzle (see `seal.constrained`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from seal.arc.recipe import COLOUR_FLAG, FLAGS, STRATEGIES, ArcRecipe, RecipeError, parse_recipe
from seal.constrained import Choice, draw, literals, spell
from seal.errors import ConfigError


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

    @classmethod
    def of(cls, given: RecipeSpace | Mapping[str, Any] | None) -> RecipeSpace:
        """The space that settings describe; None is the default one.

        Raises:
            ConfigError: an unknown field, or no recipe is left.
        """
        if given is None or isinstance(given, RecipeSpace):
            return given or cls()
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
            space = cls(**fields)
            next(space.recipes())
        except (TypeError, StopIteration, RecipeError) as error:
            raise ConfigError(f"space is {given!r}: {error}", "see seal.arc.grammar.RecipeSpace") from error
        return space

    def slots(self) -> list[Choice]:
        """The choices in the order they are written; together they spell `ArcRecipe.to_json`."""
        both, off = literals((True, False)), literals((False,))
        flags = [(key, both if group in self.groups else off) for group, key in FLAGS.items()]
        if self.colour:
            flags.append((COLOUR_FLAG, both))
        training = [
            ("strategy", literals(self.strategies)),
            ("learning_rate", literals(self.learning_rates)),
            ("num_train_epochs", literals(self.epochs)),
        ]
        slots: list[Choice] = []
        for section, fields, close in (("data_generation", flags, "},"), ("training", training, "}}")):
            for i, (key, choices) in enumerate(fields):
                opening = f'"{section}": {{' if i == 0 else ""
                before = (" " if slots else "{") + f'{opening}"{key}":'
                slots.append(Choice(before, choices, close if i == len(fields) - 1 else ","))
        return slots

    def recipes(self) -> Iterator[ArcRecipe]:
        """Every recipe of the space."""
        slots = self.slots()
        for choices in product(*(slot.choices for slot in slots)):
            yield parse_recipe(spell(slots, choices))

    def draw(self, seed: int) -> str:
        """A recipe drawn evenly from the space: the random baseline."""
        return draw(self, seed)
