"""The self-edit of an ARC task: which augmentations to train on, and how long, as JSON (paper section 4.1).

Reading is tolerant (code fences, words around the object, trailing commas, unknown keys; of a duplicate key
the last one counts). The meaning is strict: `parse_recipe` says why an edit cannot be applied.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seal.errors import DataError

Strategy = Literal["train_using_all_tokens", "train_using_output_tokens"]
STRATEGIES: tuple[Strategy, ...] = ("train_using_all_tokens", "train_using_output_tokens")

MAX_STEPS = 375
"""More optimiser steps than this make an edit invalid (paper appendix A.2)."""
MAX_LEARNING_RATE = 0.1
MAX_EPOCHS = 1000

#: JSON keys of the flags, by augmentation group, in the official order.
FLAGS = {
    "basic": "use_basic_augmentations",
    "size": "use_size_augmentations",
    "chain": "use_chain_augmentations",
    "repeat": "use_repeat_augmentations",
}
COLOUR_FLAG = "use_colour_permutation"


class RecipeError(DataError):
    """A self-edit that is no valid recipe."""


@dataclass(frozen=True, slots=True)
class ArcRecipe:
    """A parsed self-edit."""

    basic: bool
    size: bool
    chain: bool
    repeat: bool
    strategy: Strategy
    learning_rate: float
    epochs: int
    colour: bool | None = None
    """Permute colours; None: the official rule, if any augmentation is on."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The augmentation groups that are on."""
        return tuple(group for group in FLAGS if getattr(self, group))

    @property
    def permutes_colours(self) -> bool:
        """Whether colours are permuted, the official default resolved."""
        return bool(self.groups) if self.colour is None else self.colour

    def to_json(self) -> str:
        """The self-edit that says this; `parse_recipe` reads it back."""
        data: dict[str, bool] = {key: getattr(self, group) for group, key in FLAGS.items()}
        if self.colour is not None:
            data[COLOUR_FLAG] = self.colour
        training = {
            "strategy": self.strategy,
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.epochs,
        }
        return json.dumps({"data_generation": data, "training": training})


def steps(n_rows: int, epochs: float, batch_size: int = 2) -> float:
    """Optimiser steps as the official limit counts them: row visits over the batch size, rounded down."""
    return n_rows * epochs // batch_size


def check_steps(recipe: ArcRecipe, n_rows: int, batch_size: int = 2) -> None:
    """Raise `RecipeError` when the recipe takes more than 375 steps on `n_rows` rows."""
    taken = steps(n_rows, recipe.epochs, batch_size)
    if taken > MAX_STEPS:
        raise RecipeError(
            f"{recipe.epochs} epochs of {n_rows} rows are {taken} steps, over {MAX_STEPS}", "lower the epochs"
        )


def parse_recipe(text: str) -> ArcRecipe:
    """The recipe in a completion.

    Raises:
        RecipeError: there is no JSON object, a key is missing, or a value has a wrong type or range.
    """
    whole = _first_object(text)
    data, training = _section(whole, "data_generation"), _section(whole, "training")
    flags = {group: _flag(data, key) for group, key in FLAGS.items()}
    strategy = _value(training, "strategy")
    if strategy not in STRATEGIES:
        raise RecipeError(f"strategy is {strategy!r}", f"use one of {', '.join(STRATEGIES)}")
    rate = _number(training, "learning_rate")
    if not 0 < rate <= MAX_LEARNING_RATE:
        raise RecipeError(f"learning_rate is {rate!r}", f"use a number over 0, at most {MAX_LEARNING_RATE}")
    epochs = _number(training, "num_train_epochs")
    if not 0 <= epochs <= MAX_EPOCHS or epochs != int(epochs):
        raise RecipeError(f"num_train_epochs is {epochs!r}", f"use a whole number from 0 to {MAX_EPOCHS}")
    return ArcRecipe(
        **flags,
        strategy=strategy,
        learning_rate=float(rate),
        epochs=int(epochs),
        colour=_flag(data, COLOUR_FLAG) if COLOUR_FLAG in data else None,
    )


def _first_object(text: str) -> dict[str, Any]:
    decoder = json.JSONDecoder()
    for candidate in (text, re.sub(r",(\s*[}\]])", r"\1", text)):
        for brace in re.finditer(r"\{", candidate):
            try:
                found, _ = decoder.raw_decode(candidate, brace.start())
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and found.keys() & {"data_generation", "training"}:
                return found
    raise RecipeError(f"no JSON recipe in the self-edit: {text.strip()!r:.80}")


def _value(section: dict[str, Any], key: str) -> Any:
    if key not in section:
        raise RecipeError(f"the recipe lacks {key!r}")
    return section[key]


def _section(whole: dict[str, Any], key: str) -> dict[str, Any]:
    value = _value(whole, key)
    if not isinstance(value, dict):
        raise RecipeError(f"{key} is {value!r:.40}, not an object")
    return value


def _flag(section: dict[str, Any], key: str) -> bool:
    value = _value(section, key)
    if not isinstance(value, bool):
        raise RecipeError(f"{key} is {value!r:.40}", "use true or false")
    return value


def _number(section: dict[str, Any], key: str) -> float:
    value = _value(section, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"{key} is {value!r:.40}", "use a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{key} is {value}", "use a finite number")
    return value


@dataclass(frozen=True, slots=True)
class Effect:
    """Mean reward of the recipes with a choice on and off; None where there are none."""

    on: float | None
    off: float | None
    n_on: int
    n_off: int


def effectiveness(tried: Iterable[tuple[ArcRecipe, float]]) -> dict[str, Effect]:
    """For every augmentation, what recipes with and without it earned (augmentation effectiveness)."""
    rows = list(tried)
    effects = {}
    for name in (*FLAGS, "colour"):
        on = [reward for recipe, reward in rows if _uses(recipe, name)]
        off = [reward for recipe, reward in rows if not _uses(recipe, name)]
        effects[name] = Effect(_mean(on), _mean(off), len(on), len(off))
    return effects


def _uses(recipe: ArcRecipe, name: str) -> bool:
    return recipe.permutes_colours if name == "colour" else name in recipe.groups


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
