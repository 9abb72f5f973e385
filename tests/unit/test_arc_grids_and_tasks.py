"""Grids and tasks: what is refused, and that every source gives the same task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seal.arc.grid import as_grid, cell_accuracy
from seal.arc.submission import submission, write_submission
from seal.arc.tasks import EMBEDDED, find_task, load_arc, to_task
from seal.errors import DataError

RECORD = {
    "train": [{"input": [[1, 2]], "output": [[2, 1]]}],
    "test": [{"input": [[3, 4]], "output": [[4, 3]]}],
}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "is empty"),
        ([[]], "is empty"),
        ([[1, 2], [3]], r"is ragged: rows have \[1, 2\] cells"),
        ([[0] * 31], "is 1x31"),
        ([[0]] * 31, "is 31x1"),
        ([[10]], "holds 10"),
        ([[-1]], "holds -1"),
        ([[1.0]], "holds 1.0"),
        ([[True]], "holds True"),
        ("12", "is not a list of rows"),
        ([1, 2], "is not a list of rows"),
        (None, "is not a list of rows"),
    ],
)
def test_malformed_grids_are_refused_by_name(value: Any, says: str) -> None:
    with pytest.raises(DataError, match=f"train 3 input {says}"):
        as_grid(value, "train 3 input")


def test_the_largest_grid_and_arrays_are_accepted() -> None:
    assert as_grid([[9] * 30] * 30) == ((9,) * 30,) * 30
    assert as_grid(np.array([[0, 1]], dtype=np.int8)) == ((0, 1),)
    assert all(type(cell) is int for cell in as_grid(np.array([[0, 1]]))[0])


def test_cell_accuracy_counts_the_overlap_over_the_larger_grid() -> None:
    gold = ((1, 2), (3, 4))
    assert cell_accuracy(gold, gold) == 1
    assert cell_accuracy(((1, 2), (3, 9)), gold) == 0.75
    assert cell_accuracy(((1, 2),), gold) == 0.5
    assert cell_accuracy(((1, 2, 0), (3, 4, 0)), gold) == pytest.approx(4 / 6)


def test_embedded_sets_have_their_known_sizes_and_pass_validation() -> None:
    sizes = {source: len(load_arc(source)) for source in EMBEDDED}
    assert list(sizes.values()) == [400, 400, 1000, 120]


def test_every_local_form_gives_the_same_task(tmp_path: Path, shared: Path) -> None:
    embedded = find_task("6150a2bd")
    record = json.loads((shared / "data/arc/cases.json").read_text())["tasks"]["6150a2bd"]
    assert to_task("6150a2bd", record) == embedded
    (tmp_path / "one").mkdir()
    file = tmp_path / "one" / "6150a2bd.json"
    file.write_text(json.dumps(record))
    challenges = tmp_path / "arc_challenges.json"
    solutions = [test["output"] for test in record["test"]]
    unsolved = {**record, "test": [{"input": test["input"]} for test in record["test"]]}
    challenges.write_text(json.dumps({"6150a2bd": unsolved}))
    (tmp_path / "arc_solutions.json").write_text(json.dumps({"6150a2bd": solutions}))
    for source in (str(file), str(file.parent), str(challenges)):
        assert load_arc(source) == [embedded]
    (tmp_path / "arc_solutions.json").unlink()
    (alone,) = load_arc(str(challenges))
    assert alone.target == ((embedded.target[0][0], None),)


def test_ids_choose_and_order_tasks() -> None:
    names = ["ed36ccf7", "6150a2bd"]
    assert [task.id for task in load_arc("arc-agi-1/training", names)] == names
    with pytest.raises(DataError, match=r"has no tasks \['zzz'\]"):
        load_arc("arc-agi-1/training", ["zzz"])


def test_a_hub_data_set_is_read_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    name = f"{tmp_path}/set"
    Path(name).mkdir()
    rows = [{"id": "mine", **RECORD}]
    (Path(name) / "train.json").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert load_arc(f"hf:{name}") == [to_task("mine", RECORD)]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([], "no list of train pairs"),
        ({"train": [], "test": RECORD["test"]}, "no test or no demonstration"),
        ({"train": RECORD["train"], "test": []}, "no test or no demonstration"),
        ({"train": [{"input": [[1]]}], "test": RECORD["test"]}, "train 0 is not an input and an output"),
        ({"train": RECORD["train"], "test": [{"input": [[11]]}]}, "test 0 input holds 11"),
    ],
)
def test_malformed_tasks_are_refused_by_name(record: Any, says: str) -> None:
    with pytest.raises(DataError, match=f"(task x|x).*{says}|{says}"):
        to_task("x", record)


def test_bad_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for path, says in (
        (broken, r"broken\.json, line 1, column 2"),
        (tmp_path / "no.json", r"no\.json: no such file"),
        (tmp_path / "e", ""),
    ):
        (tmp_path / "e").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=says or "holds no JSON files"):
            load_arc(str(path))


def test_submission_fills_gaps_and_is_written_whole(tmp_path: Path) -> None:
    one, two = ((1,),), ((2,),)
    made = submission({"b-1": (one, two), "a-0": None})
    blank = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert made == {"a": [blank], "b": [blank, {"attempt_1": [[1]], "attempt_2": [[2]]}]}
    write_submission({"b-1": (one, two), "a-0": None}, tmp_path / "submission.json")
    assert json.loads((tmp_path / "submission.json").read_text()) == made
    with pytest.raises(DataError, match="does not name a test"):
        submission({"task": None})
