"""Made-up names, each on one side only: its own hash says whether training or held-out worlds may use it."""

from __future__ import annotations

import hashlib
import random
from typing import Literal

from seal.data.invented.tables import table

Split = Literal["train", "val"]
STYLES = frozenset({"person", "place", "river", "thing"})
"""Types of value that are names; each has its own endings, so that wrong names look of the right type."""
LONG = 0.25
"""Share of names with a syllable more."""


def side(name: str) -> Split:
    """Which worlds may use `name`: those of training or the held-out ones, half of all names each."""
    return "train" if hashlib.sha256(name.casefold().encode()).digest()[0] % 2 else "val"


def draw_name(rng: random.Random, style: str, split: Split) -> str:
    """A new name of a `style` (see `STYLES`) on the given side."""
    parts = table("names.yaml")
    pick = rng.choice
    while True:
        last = pick(parts["inner" if style == "place" else "codas"])
        stem = pick(parts["onsets"])
        if rng.random() < LONG:
            stem += pick(parts["vowels"]) + pick(parts["inner"]) + pick(parts["short_vowels"])
        else:
            stem += pick(parts["vowels"])
        name: str = (stem + last + pick(parts["endings"][style])).capitalize().replace("uu", "u")
        if side(name) == split:
            return name
