"""ARC grids: validated tuples of rows at the borders, int8 arrays inside."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seal.errors import DataError

#: A validated grid: 1 to 30 rows of 1 to 30 colours 0-9. Hashable, comparable, JSON-ready.
Grid = tuple[tuple[int, ...], ...]
#: The same grid as numbers, shape (rows, columns).
Array = NDArray[np.int8]

MAX_SIDE = 30


class Pair(NamedTuple):
    """One solved example as arrays."""

    input: Array
    output: Array

    def key(self) -> tuple[Any, ...]:
        """Equal for equal pairs, hashable."""
        return (*grid_key(self.input), *grid_key(self.output))


def grid_key(grid: Array) -> tuple[int, bytes]:
    """Equal for equal grids, hashable, independent of memory layout."""
    return grid.shape[1], grid.tobytes()


def as_grid(value: Any, where: str = "grid") -> Grid:
    """Validate nested sequences or an array as a grid; `where` names it in the message.

    Raises:
        DataError: the grid is empty, ragged, over 30x30, or holds something that is not 0-9.
    """
    rows = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(rows, list | tuple) or not all(isinstance(row, list | tuple) for row in rows):
        raise DataError(f"{where} is not a list of rows: {value!r:.80}", "give a list of lists of 0-9")
    if not rows or not all(rows):
        raise DataError(f"{where} is empty", "give at least one row of one cell")
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise DataError(f"{where} is ragged: rows have {sorted(widths)} cells", "give every row one width")
    if len(rows) > MAX_SIDE or len(rows[0]) > MAX_SIDE:
        raise DataError(f"{where} is {len(rows)}x{len(rows[0])}", "give at most 30x30 cells")
    for row in rows:
        for cell in row:
            if isinstance(cell, bool) or not isinstance(cell, int | np.integer) or not 0 <= cell <= 9:
                raise DataError(f"{where} holds {cell!r}", "use whole numbers 0-9")
    return tuple(tuple(int(cell) for cell in row) for row in rows)


def to_array(grid: Any) -> Array:
    """A grid as an array of shape (rows, columns)."""
    return np.array(grid, dtype=np.int8)


def to_grid(array: Array) -> Grid:
    """An array as a grid, without validation."""
    return tuple(map(tuple, array.tolist()))


def to_pair(pair: Any) -> Pair:
    """An (input, output) pair of grids as arrays."""
    return Pair(to_array(pair[0]), to_array(pair[1]))


def fits(*grids: Array) -> bool:
    """Whether every grid is within 30x30."""
    return all(max(grid.shape) <= MAX_SIDE for grid in grids)


def cell_accuracy(predicted: Grid, gold: Grid) -> float:
    """Share of cells that agree, in [0, 1]: matches in the overlap over the larger of the two areas."""
    matches = sum(a == b for p, g in zip(predicted, gold, strict=False) for a, b in zip(p, g, strict=False))
    return matches / max(len(predicted) * len(predicted[0]), len(gold) * len(gold[0]))
