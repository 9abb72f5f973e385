"""What to teach, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from seal.errors import ConfigError
from seal.records import TrainingConfig

TRAINING = TrainingConfig(epochs=1, shuffle=False)
"""Rank 32, learning rate 1e-3 falling linearly, one text a step; the study order holds the repetitions."""


@dataclass(frozen=True, slots=True)
class TeachSettings:
    """What to teach, and how."""

    documents: tuple[str, ...]
    updates: int = 80
    """Optimiser steps a passage. What a small model recalls depends on them first: it needs 40 to 110."""
    replay: float = 1 / 3
    """Share of a later batch's steps that repeat earlier batches' texts."""
    keep: float = 0.2
    """Share of the steps that repeat what the base says to general questions, against forgetting."""
    apart: bool = False
    """One adapter a document; `seal ask` picks the one that a question is about."""
    measure: bool = True
    """Ask test questions before and after."""
    training: TrainingConfig = field(default=TRAINING)
    seed: int = 0
    questions: str = ""
    """A file of the user's own questions to measure with."""

    def check(self) -> None:
        """Raise `ConfigError` for values out of range."""
        if self.updates < 1:
            raise ConfigError(f"updates is {self.updates}", "give at least 1 a passage")
        if self.replay < 0 or self.keep < 0 or self.replay + self.keep > 0.9:
            raise ConfigError(
                f"replay is {self.replay:g} and keep {self.keep:g}", "give shares that make 0.9 at most"
            )
        if not self.documents:
            raise ConfigError("no documents were given", "name files or folders")
