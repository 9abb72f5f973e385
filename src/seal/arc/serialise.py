"""Grids as text and as tokens, and back.

Two styles. `official`: NumPy's print of an array, about two tokens a cell. `compact` (default): one token a
cell and one a line break, whatever the tokenizer: token ids are looked up, never produced by merging text.
A pair is `input SEP output END`. Every grid is tokenised by itself, so that a grid has the same tokens in
training and when it is asked for; the official code tokenises the whole conversation at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seal.arc.grid import MAX_SIDE, Array, Grid, Pair, as_grid, grid_key
from seal.arc.views import PredictionView, TrainView
from seal.errors import DataError
from seal.prompt import PromptContract, contract_of
from seal.records import TrainingSequence
from seal.thoughts import without_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["compact", "official"]
#: What the loss counts: every token, the answer of the query, or every output grid.
LossOn = Literal["all", "output", "outputs"]

SEPARATOR = {"official": " -> ", "compact": "="}
END = "#"

_REMEMBERED = 4096


def encode(grid: Any, style: Style = "compact") -> str:
    """A grid as text."""
    if style == "compact":
        return "\n".join("".join(map(str, row)) for row in grid)
    return "[" + "\n ".join("[" + " ".join(map(str, row)) + "]" for row in grid) + "]"


def encode_pair(pair: tuple[Any, Any], style: Style = "compact") -> tuple[str, str]:
    """(query, answer) of a solved example as text."""
    return encode(pair[0], style) + SEPARATOR[style], encode(pair[1], style) + END


def parse(text: str, style: Style = "compact") -> Grid | None:
    """The grid that an answer holds, up to the end mark; None when it is not a valid grid."""
    body = without_thoughts(text).split(END, 1)[0].strip()
    if style == "compact":
        rows = [list(line.strip()) for line in body.split("\n")]
    else:
        rows = [re.sub(r"[\[\]]", " ", line).split() for line in body.split("\n")]
    try:
        return as_grid([[int(cell) for cell in row] for row in rows])
    except (DataError, ValueError):
        return None


class Codec:
    """Token ids of training rows and prompts for one tokenizer and style.

    Args:
        chat: put the demonstrations in the user's turn of the tokenizer's chat template; "auto": where the
            prompt contract asks the model through it.

    Raises:
        DataError: `compact` is asked for and the tokenizer has no single token for a digit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        style: Style = "compact",
        *,
        chat: bool | Literal["auto"] = "auto",
    ) -> None:
        self.style: Style = style
        self._tokenizer = tokenizer
        self._grids: dict[tuple[int, bytes], list[int]] = {}
        self._contract = contract_of(tokenizer)
        self._head, self._turn = _frame(self._contract, self._contract.uses_chat(chat))
        self._separator = self._ids(SEPARATOR[style])
        self._end = self._ids(END)
        if style == "compact":
            ids = [self._single(symbol) for symbol in "0123456789"]
            self._digits = np.array(ids, dtype=object)
            self._line = self._single("\n")

    def _ids(self, text: str) -> list[int]:
        return list(self._contract.text_ids(text))

    def _single(self, symbol: str) -> int:
        for token in reversed(self._ids(symbol)):
            if self._tokenizer.decode([token]).strip(" ") == symbol:
                return token
        raise DataError(
            f"this tokenizer has no single token for {symbol!r}", "use the serialisation 'official'"
        )

    def grid(self, grid: Array) -> list[int]:
        """Token ids of one grid; the list is shared, do not change it."""
        key = grid_key(grid)
        ids = self._grids.get(key)
        if ids is None:
            compact = self.style == "compact"
            ids = self._compact(grid) if compact else self._ids(encode(grid.tolist(), "official"))
            if len(self._grids) >= _REMEMBERED:
                self._grids.clear()
            self._grids[key] = ids
        return ids

    def _compact(self, grid: Array) -> list[int]:
        rows, columns = grid.shape
        table = np.full((rows, columns + 1), self._line, dtype=object)
        table[:, :columns] = self._digits[grid]
        return table.ravel()[:-1].tolist()  # type: ignore[no-any-return]

    def _demonstrations(self, pairs: Sequence[Pair], ids: list[int]) -> list[tuple[int, int]]:
        spans = []
        for pair in pairs:
            ids += self.grid(pair.input)
            ids += self._separator
            start = len(ids)
            ids += self.grid(pair.output)
            ids += self._end
            spans.append((start, len(ids)))
        return spans

    def _question(
        self, demonstrations: Sequence[Pair], query: Array
    ) -> tuple[list[int], list[tuple[int, int]]]:
        ids = list(self._head)
        spans = self._demonstrations(demonstrations, ids)
        ids += self.grid(query)
        ids += self._separator
        ids += self._turn
        return ids, spans

    def row(self, view: TrainView, loss: LossOn = "output") -> TrainingSequence:
        """A training task as one row; the answer is its last output and end mark.

        With "outputs" the demonstrations' outputs count too, all but the first (nothing precedes it that
        could tell the rule).
        """
        ids, spans = self._question(view.demonstrations, view.query.input)
        start = len(ids)
        ids += self.grid(view.query.output)
        ids += self._end
        answer = (start, len(ids))
        chosen = {"all": (), "output": (answer,), "outputs": (*spans[1:], answer)}[loss]
        return TrainingSequence(tuple(ids), chosen)

    def length(self, view: TrainView) -> int:
        """Tokens of `row(view)`."""
        pairs = (*view.demonstrations, view.query)
        total = len(self._head) + len(self._turn) + len(pairs) * (len(self._separator) + len(self._end))
        for pair in pairs:
            for grid in pair:
                total += self._size(grid)
        return total

    def _size(self, grid: Array) -> int:
        """Tokens of one grid, without making them where that can be told from its shape."""
        rows, columns = grid.shape
        return rows * (columns + 1) - 1 if self.style == "compact" else len(self.grid(grid))

    def prompt(self, view: PredictionView) -> tuple[int, ...]:
        """The prompt whose continuation is the answer to `view`."""
        return tuple(self._question(view.demonstrations, view.query)[0])

    def answer(self, grid: Array) -> tuple[int, ...]:
        """What a right continuation of a prompt would be."""
        return (*self.grid(grid), *self._end)

    def budget(self, view: PredictionView) -> int:
        """Tokens that suffice for the answer, guessed from the demonstrations' sizes.

        Outputs of one size: that size. Outputs that grow from their inputs by one factor: that factor of
        the query. Otherwise the largest of these, with room for half as much again.
        """
        sides = np.array([(*pair.input.shape, *pair.output.shape) for pair in view.demonstrations])
        if len(sides) == 0:
            rows, columns = MAX_SIDE, MAX_SIDE
        else:
            ratio = sides[:, 2:] / sides[:, :2]
            if (ratio == ratio[0]).all():
                rows, columns = (np.ceil(ratio[0] * view.query.shape)).astype(int).tolist()
            elif (sides[:, 2:] == sides[0, 2:]).all():
                rows, columns = sides[0, 2:].tolist()
            else:
                grown = np.maximum(sides[:, 2:].max(0), view.query.shape) * 1.25
                rows, columns = np.ceil(grown).astype(int).tolist()
        widest = np.zeros((min(rows, MAX_SIDE), min(columns, MAX_SIDE)), dtype=np.int8)
        return len(self.grid(widest)) + len(self._end) + 2

    def parse(self, text: str) -> Grid | None:
        """`parse` in this codec's style."""
        return parse(text, self.style)


def _frame(contract: PromptContract, chat: bool) -> tuple[list[int], list[int]]:
    """Token ids before the demonstrations, and between the question and its answer."""
    if not chat:
        return list(contract.starts), []
    return list(contract.text_ids(contract.head)), list(contract.text_ids(contract.tail))
