"""What became of one test input: the answers through its views, the two attempts, and how right they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from seal.arc.grid import Grid, cell_accuracy
from seal.arc.serialise import Style, parse
from seal.arc.views import PredictionView
from seal.arc.vote import Attempts, Vote, agreement, invert


@dataclass(frozen=True, slots=True)
class Detail:
    """One test input, answered."""

    attempts: Attempts | None
    """Two grids, or None when no view gave a valid grid."""
    solved: bool
    cell_accuracy: float
    """Of the better attempt, in [0, 1]."""
    agreement: float
    """Share of the views that gave the most common answer."""
    valid: float
    """Share of the views whose answer was a grid at all."""

    @classmethod
    def of(cls, n_views: int, votes: Sequence[Vote], chosen: Attempts | None, gold: Grid | None) -> Detail:
        """The detail of a test whose `n_views` views gave `votes`, of which `chosen` became the attempts."""
        return cls(
            attempts=chosen,
            solved=gold is not None and chosen is not None and gold in chosen,
            cell_accuracy=max(cell_accuracy(a, gold) for a in chosen) if chosen and gold else 0.0,
            agreement=agreement(votes, n_views),
            valid=len(votes) / n_views,
        )

    def as_dict(self) -> dict[str, Any]:
        """As lists and numbers, for the journal."""
        grids = [[list(row) for row in grid] for grid in self.attempts] if self.attempts else None
        return {
            "attempts": grids,
            "solved": self.solved,
            "cell_accuracy": self.cell_accuracy,
            "agreement": self.agreement,
            "valid": self.valid,
        }


def read_votes(views: Sequence[PredictionView], texts: Iterable[str], style: Style) -> list[Vote]:
    """The valid grids among the answers to `views`, brought back to the test's own orientation."""
    read = [(view, parse(text, style)) for view, text in zip(views, texts, strict=True)]
    return [invert(grid, view.inverse) for view, grid in read if grid is not None]
