"""Pictures of ARC tasks as SVG (no network, no font to fetch) and in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from seal.arc.augment import AnyAugmenter, augmenters
from seal.arc.grid import Grid, to_grid, to_pair
from seal.arc.recipe import FLAGS
from seal.records import Task

if TYPE_CHECKING:
    from rich.table import Table

#: Fill of the ten colours; also told apart by lightness, so that a printed sheet can be read.
PALETTE = (
    "#111111",
    "#1e78d2",
    "#e8402f",
    "#2fb344",
    "#f5d90a",
    "#9a9a9a",
    "#d63fbf",
    "#f5871f",
    "#7fd4f5",
    "#7a1426",
)
#: Outline of a cell that is not as in the solution.
WRONG = "#ff2fd6"
_CELL, _GAP, _TEXT = 14, 18, 12


@dataclass
class _Sheet:
    """Panels laid out in rows."""

    title: str
    parts: list[str] = field(default_factory=list)
    x: float = _GAP
    y: float = _GAP + 20
    row_height: float = 0
    right: float = 0

    def add(self, grid: Grid | None, label: str) -> None:
        """One labelled grid; None draws an empty frame with a question mark."""
        rows, columns = (len(grid), len(grid[0])) if grid else (3, 3)
        self.parts.append(_text(self.x, self.y - 4, label))
        if grid is None:
            self.parts.append(
                f'<rect x="{self.x}" y="{self.y}" width="{3 * _CELL}" height="{3 * _CELL}" '
                'fill="none" stroke="#888" stroke-dasharray="3"/>'
            )
            self.parts.append(_text(self.x + _CELL, self.y + 2 * _CELL, "?"))
        else:
            self.parts += [
                _cell(self.x + c * _CELL, self.y + r * _CELL, PALETTE[colour])
                for r, row in enumerate(grid)
                for c, colour in enumerate(row)
            ]
        width = max(columns * _CELL, 7 * len(label))
        self.x += width + _GAP
        self.right = max(self.right, self.x)
        self.row_height = max(self.row_height, rows * _CELL)

    def next_row(self) -> None:
        """Begin a new row of panels."""
        self.x, self.y, self.row_height = _GAP, self.y + self.row_height + _GAP + _TEXT, 0

    def svg(self) -> str:
        """The sheet as an SVG document."""
        width = max(self.right, 7.5 * len(self.title) + 2 * _GAP)
        height = self.y + self.row_height + _GAP
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="{_TEXT}" '
            f'role="img" aria-label="{escape(self.title)}">'
        )
        title = f"<title>{escape(self.title)}</title>"
        paper = f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
        heading = _text(_GAP, _GAP, self.title, bold=True)
        return "\n".join([head, title, paper, heading, *self.parts, "</svg>\n"])


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" fill="#222"{weight}>{escape(text)}</text>'


def _cell(x: float, y: float, fill: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{_CELL}" height="{_CELL}" fill="{fill}" '
        'stroke="#555" stroke-width="0.5"/>'
    )


def wrong_cells(predicted: Grid, gold: Grid) -> list[tuple[int, int]]:
    """(row, column) of the predicted cells that are not as in `gold`, cells outside it included."""
    return [
        (r, c)
        for r, row in enumerate(predicted)
        for c, colour in enumerate(row)
        if r >= len(gold) or c >= len(gold[0]) or gold[r][c] != colour
    ]


def task_sheet(task: Task) -> str:
    """Demonstrations, one a row, then the tests with their solutions where they are known."""
    sheet = _Sheet(f"task {task.id}")
    for kind, pairs in (("train", task.context), ("test", task.target)):
        for i, (given, output) in enumerate(pairs):
            sheet.add(given, f"{kind} {i} input")
            sheet.add(output, f"{kind} {i} output")
            sheet.next_row()
    return sheet.svg()


def augmentation_sheet(task: Task, groups: Iterable[str] = tuple(FLAGS), seed: int = 0) -> str:
    """The first demonstration under every augmentation of `groups`."""
    sheet = _Sheet(f"task {task.id}: augmentations")
    pair = to_pair(task.context[0])
    _add_pair(sheet, "as it is", to_grid(pair.input), to_grid(pair.output))
    chosen: tuple[AnyAugmenter, ...] = augmenters(groups)
    for augmenter in chosen:
        changed = augmenter.pair(pair, seed)
        _add_pair(sheet, augmenter.name, to_grid(changed.input), to_grid(changed.output))
    return sheet.svg()


def _add_pair(sheet: _Sheet, label: str, given: Grid, output: Grid) -> None:
    sheet.add(given, label)
    sheet.add(output, "")
    sheet.next_row()


def terminal_task(task: Task, *, solutions: bool = True) -> Table:
    """A task as a table for `rich`, two columns wide, one row a pair."""
    from rich.table import Table

    table = Table(title=f"task {task.id}", show_lines=True)
    for heading in ("", "input", "output"):
        table.add_column(heading)
    for kind, pairs in (("train", task.context), ("test", task.target)):
        for i, (given, output) in enumerate(pairs):
            shown = output if kind == "train" or solutions else None
            table.add_row(f"{kind} {i}", _blocks(given), _blocks(shown) if shown else "?")
    return table


def _blocks(grid: Grid) -> Any:
    """A grid as coloured digits, two characters a cell, so that it can be read without colours too."""
    from rich.style import Style
    from rich.text import Text

    text = Text()
    for r, row in enumerate(grid):
        for colour in row:
            ink = "#000000" if colour in (3, 4, 5, 7, 8) else "#ffffff"
            text.append(f"{colour} ", Style(color=ink, bgcolor=PALETTE[colour]))
        if r < len(grid) - 1:
            text.append("\n")
    return text
