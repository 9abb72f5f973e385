"""ARC grids for pages: one small SVG a grid, runs of a colour as one shape, wrong cells outlined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape

from seal.arc.draw import PALETTE, WRONG, wrong_cells
from seal.arc.grid import Grid

_SIDE, _SMALLEST, _LARGEST = 150, 5, 22
"""Wanted length of a grid's longer side, and the limits of a cell's, in pixels."""


def grid_svg(grid: Grid, alt: str, gold: Grid | None = None) -> str:
    """`grid` as `<svg>`; with `gold`, the cells that differ from it are outlined and counted in the label."""
    rows, columns = len(grid), len(grid[0])
    wrong = wrong_cells(grid, gold) if gold is not None else []
    note = f", {len(wrong)} wrong cells" if wrong else ""
    cell = min(max(_SIDE // max(rows, columns), _SMALLEST), _LARGEST)
    size = f'width="{columns * cell}" height="{rows * cell}"'
    name = f'role="img" aria-label="{escape(alt + note)}"'
    parts = [f'<svg class="grid-picture" viewBox="0 0 {columns} {rows}" {size} {name}>']
    parts += [f'<path fill="{PALETTE[c]}" d="{d}"/>' for c, d in sorted(_runs(grid).items())]
    ruled = "".join(f"M0 {r}h{columns}" for r in range(1, rows))
    ruled += "".join(f"M{c} 0v{rows}" for c in range(1, columns))
    parts.append(f'<path class="rule" d="{ruled}"/>')
    if wrong:
        marks = "".join(f"M{c + 0.12:g} {r + 0.12:g}h.76v.76h-.76z" for r, c in wrong)
        parts.append(f'<path fill="none" stroke="{WRONG}" stroke-width=".2" d="{marks}"/>')
    return "".join(parts) + "</svg>"


def grid_or_none(value: Sequence[Sequence[int]] | None) -> Grid | None:
    """Rows from JSON as a grid; None for none or for anything that is no grid of colours."""
    if not value or not all(isinstance(row, list | tuple) and row for row in value):
        return None
    same = len({len(row) for row in value}) == 1
    known = all(isinstance(cell, int) and 0 <= cell < len(PALETTE) for row in value for cell in row)
    return tuple(tuple(row) for row in value) if same and known else None


def _runs(grid: Grid) -> dict[int, str]:
    """One path a colour, made of horizontal runs of equal cells."""
    paths: dict[int, list[str]] = defaultdict(list)
    for r, row in enumerate(grid):
        start = 0
        for c in range(1, len(row) + 1):
            if c == len(row) or row[c] != row[start]:
                paths[row[start]].append(f"M{start} {r}h{c - start}v1h-{c - start}z")
                start = c
    return {colour: "".join(parts) for colour, parts in paths.items()}
