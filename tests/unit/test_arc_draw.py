"""Pictures: valid SVG without links, and the command that shows them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from seal.arc.draw import PALETTE, augmentation_sheet, task_sheet, wrong_cells
from seal.arc.tasks import find_task
from seal.cli import main

SVG = "{http://www.w3.org/2000/svg}"
TASK = find_task("6150a2bd")
GOLD = TASK.target[0][1]
BAD = (GOLD[0], GOLD[1], (9, 9, GOLD[2][2]))


def cells(text: str) -> list[str]:
    return [r.attrib["fill"] for r in ET.fromstring(text).iter(f"{SVG}rect") if r.attrib["fill"] in PALETTE]


def test_a_task_sheet_draws_every_cell_in_its_colour() -> None:
    text = task_sheet(TASK)
    grids = [grid for pair in (*TASK.context, *TASK.target) for grid in pair]
    assert cells(text) == [PALETTE[c] for grid in grids for row in grid for c in row]
    assert "href" not in text
    assert "url(" not in text
    assert "http" not in text.replace(SVG[1:-1], "")


def test_wrong_cells_are_those_that_differ_or_lie_outside() -> None:
    assert wrong_cells(BAD, GOLD) == [(2, 0), (2, 1)]
    assert wrong_cells(((0, 0, 4, 7),), GOLD) == [(0, 3)]


def test_the_gallery_names_every_augmentation() -> None:
    text = augmentation_sheet(TASK, ["basic", "size"])
    words = [t.text for t in ET.fromstring(text).iter(f"{SVG}text")]
    assert "RandomTranslateXY()" in words
    assert "IncreaseWidth(2)" in words
    assert len([w for w in words if w]) == 2 + 14


def test_titles_are_escaped() -> None:
    title = ET.fromstring(task_sheet(replace(TASK, id="<&>"))).find(f"{SVG}title")
    assert title is not None
    assert title.text == "task <&>"


def test_seal_arc_show_and_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["arc", "show", "6150a2bd"]) == 0
    shown = capsys.readouterr().out
    assert "6150a2bd" in shown
    assert "3 3 8" in shown
    assert "8 3 3" in shown
    assert "0 8 6" in shown
    assert main(["arc", "show", "6150a2bd", "--no-solutions"]) == 0
    assert "0 8 6" not in capsys.readouterr().out
    out = tmp_path / "task.svg"
    assert main(["arc", "draw", "synthetic:tile", "--out", str(out)]) == 0
    assert len(cells(out.read_text())) > 9
    assert main(["arc", "show", "nope"]) == 2
    assert "no task 'nope'" in capsys.readouterr().err
