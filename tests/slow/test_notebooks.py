"""The notebooks: cell by cell with a tiny model; what they show came of the cells that they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import seal

pytestmark = pytest.mark.slow

DOCS = Path(seal.__file__).parents[2] / "docs"
NAMES = ("knowledge", "few_shot")  # tests/unit/test_taught_api.py has the third


def code_cells(name: str) -> list[dict[str, Any]]:
    cells = json.loads((DOCS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(code_cells(name), 1):
        source = "".join(cell["source"]).replace('"smollm2-135m-instruct"', '"tiny-random-llama"')
        exec(compile(source, f"{name}, cell {number}", "exec"), names)
    assert names["summary"].arms
    assert len(names["history"].results) == names["TASKS"] * names["EDITS"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_executed_and_in_order(name: str) -> None:
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell["outputs"]]
    assert not [
        output for output in shown if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    assert "held-out" in str(shown)
