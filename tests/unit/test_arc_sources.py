"""Which tasks a config means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seal.arc.sources import domain_options, load_split
from seal.arc.tasks import load_arc
from seal.data.load_report import Tally
from seal.data.loader import report_of
from seal.domains.few_shot import FewShotLearning
from seal.errors import ConfigError, DataError
from seal.records import Answer
from seal.sections import DataConfig
from seal.settings import SEALConfig
from seal.setup import make_domain

RECORD = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]], "output": [[4]]}]}


def config(**values: Any) -> DataConfig:
    return DataConfig(**({"dataset_name": "arc"} | values))


def ids(data: DataConfig, split: str) -> list[str]:
    return [task.id for task in load_split(data, split)]


def test_the_embedded_sets_have_their_own_halves() -> None:
    for name, source in (("arc", "arc-agi-1"), ("arc-agi-2", "arc-agi-2")):
        for split, half in (("train", "training"), ("val", "evaluation")):
            data = config(dataset_name=name)
            assert ids(data, split) == [task.id for task in load_arc(f"{source}/{half}")]


def test_ids_choose_the_tasks_of_each_split() -> None:
    data = config(options={"ids": ["6150a2bd"], "val_ids": ["ed36ccf7", "8be77c9e"]})
    assert (ids(data, "train"), ids(data, "val")) == (["6150a2bd"], ["ed36ccf7", "8be77c9e"])


def test_synthetic_splits_share_no_task_and_real_ones_follow() -> None:
    settings = {"n": 4, "val_n": 3, "families": ["mirror", "tile"], "sizes": [3, 3], "seed": 5}
    data = config(dataset_name="synthetic", options={"synthetic": settings, "val_ids": ["6150a2bd"]})
    train, val = load_split(data, "train"), load_split(data, "val")
    assert [task.title for task in train] == ["mirror", "tile"] * 2
    assert [task.title for task in val] == ["mirror", "tile", "mirror", "6150a2bd"]
    assert not {task.context for task in train} & {task.context for task in val}
    assert not {task.id for task in train} & {task.id for task in val}
    assert load_split(data, "val") == val


def test_a_folder_is_divided_unless_the_held_out_tasks_have_a_path(tmp_path: Path) -> None:
    for i in range(10):
        own = RECORD["train"] + [{"input": [[i]], "output": [[i]]}]
        (tmp_path / f"t{i}.json").write_text(json.dumps({**RECORD, "train": own}))
    data = config(path=str(tmp_path))
    train, val = ids(data, "train"), ids(data, "val")
    assert (len(train), len(val)) == (8, 2)
    assert sorted(train + val) == [f"t{i}" for i in range(10)]
    apart = config(path=str(tmp_path), val_path=str(tmp_path / "t3.json"))
    assert (len(ids(apart, "train")), ids(apart, "val")) == (10, ["t3"])


@pytest.mark.parametrize(
    "values",
    [
        {"dataset_name": "squad"},
        {"options": {"ids": "6150a2bd"}},
        {"dataset_name": "synthetic", "options": {"synthetic": {"speed": 3}}},
        {"dataset_name": "synthetic", "options": {"synthetic": {"families": ["x"]}}},
    ],
)
def test_what_holds_no_arc_tasks_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load_split(config(**values), "train")


def test_options_reach_the_domain_without_those_of_the_data() -> None:
    options = {"ids": ["a"], "synthetic": {}, "cap": 30, "space": {"epochs": [1]}}
    assert domain_options(options) == {"cap": 30, "space": {"epochs": [1]}}
    settings = SEALConfig(domain="few_shot_learning", data_config=config(options=options))
    domain = make_domain(settings, None)
    assert isinstance(domain, FewShotLearning)
    assert (domain.cap, domain.space.epochs, domain.batch_size) == (30, (1,), 1)
    wrong = SEALConfig(domain="few_shot_learning", data_config=config(options={"cup": 30}))
    with pytest.raises(ConfigError, match="cup"):
        make_domain(wrong, None)


# --- layouts, and tests without a solution --------------------------------------------------------------


def solved(colour: int) -> dict[str, Any]:
    return {
        "train": [{"input": [[colour]], "output": [[1]]}],
        "test": [{"input": [[colour]], "output": [[2]]}],
    }


def kaggle(folder: Path, half: str, *names: str, solutions: bool = True, spell: str = "challenges") -> None:
    """A pair of Kaggle's files; the colours tell the tasks of one file apart, the halves' sizes do too."""
    tasks = {name: solved(i) for i, name in enumerate(names, len(half) % 5)}
    answers = {name: [task["test"][0].pop("output")] for name, task in tasks.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"arc-agi_{half}_{spell}.json").write_text(json.dumps(tasks))
    if solutions:
        spelled = "Solutions" if spell[0] == "C" else "solutions"
        (folder / f"arc-agi_{half}_{spelled}.json").write_text(json.dumps(answers))


def test_kaggle_s_folder_has_its_halves(tmp_path: Path) -> None:
    kaggle(tmp_path, "training", "a", "b")
    kaggle(tmp_path, "evaluation", "c", spell="Challenges")
    kaggle(tmp_path, "test", "d", "e", solutions=False)
    (tmp_path / "sample_submission.json").write_text("{}")
    data, tally = config(path=str(tmp_path)), Tally()
    assert (ids(data, "train"), ids(data, "val")) == (["a", "b"], ["c"])
    (task,) = load_split(data, "val", tally)
    assert task.target[0][1] == ((2,),)
    assert [(each.kind, each.count) for each in tally.left_out] == [("file", 1), ("other_split", 2)]


def test_a_nested_folder_and_what_systems_leave_in_it(tmp_path: Path) -> None:
    for i, name in enumerate(("training/a.json", "training/x/b.JSON", "evaluation/c.json")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(solved(i)))
    (tmp_path / "training" / "._a.json").write_bytes(b"\0\5")
    (tmp_path / "LICENSE").write_text("free")
    data, tally = config(path=str(tmp_path)), Tally()
    assert [task.id for task in load_split(data, "train", tally)] == ["a", "b"]
    assert ids(data, "val") == ["c"]
    assert {each.kind: each.count for each in tally.left_out} == {"file": 2}
    (tmp_path / "training" / "x" / "a.json").write_text(json.dumps(solved(9)))
    with pytest.raises(DataError, match=r"two tasks are called 'a': .*training/a\.json and .*x/a\.json"):
        load_split(data, "train")


@pytest.mark.parametrize("spell", ["challenges", "Challenges"])
def test_a_test_without_solution_is_never_scored(tmp_path: Path, spell: str) -> None:
    kaggle(tmp_path, "evaluation", "a", "b", spell=spell)
    data, tally = config(path="unused", val_path=str(tmp_path / f"arc-agi_evaluation_{spell}.json")), Tally()
    answers = next(p for p in tmp_path.iterdir() if "olutions" in p.name)
    answers.write_text(json.dumps({"b": [[[7]]]}))
    assert [task.id for task in load_split(data, "val", tally)] == ["b"]
    assert [str(each) for each in tally.left_out] == ["1 task without a solved test (a)"]
    answers.unlink()
    with pytest.raises(DataError, match="none of its 2 tasks has a test with a solution"):
        load_split(data, "val")
    answers.write_text(json.dumps({"b": [[[7]], [[8]]]}))
    with pytest.raises(DataError, match="task b has 1 tests and 2 solutions"):
        load_split(data, "val")


def test_some_tests_of_a_task_without_solution(tmp_path: Path) -> None:
    record = {**RECORD, "test": [{"input": [[3]]}, {"input": [[4]], "output": [[5]]}]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    tally = Tally()
    (task,) = load_split(config(path="unused", val_path=str(tmp_path / "a.json")), "val", tally)
    assert task.target == ((((3,),), None), (((4,),), ((5,),)))  # every test keeps its number
    assert report_of("val", [task], tally).questions == 1
    domain = FewShotLearning(max_views=1)
    views = [Answer(f"{task.id}.{i}", text) for i, text in enumerate(("[[1]]", "5"))]
    scored = domain.score(task, views)
    assert (scored.n, len(scored.correct), len(scored.details["tests"])) == (1, 1, 2)
    assert [str(each) for each in tally.left_out] == ["1 test without a solution (a, test 0)"]


@pytest.mark.parametrize("form", ["rows.json", "rows.jsonl", "to_json.json"])
def test_rows_and_lists_of_grids(tmp_path: Path, form: str) -> None:
    rows: list[dict[str, Any]] = [{"id": "x", **solved(1)}, {"task_id": 0, **solved(2)}, solved(3)]
    rows[2]["train"] = {"input": [[[3]]], "output": [[[1]]]}  # as `datasets` keeps a list of structures
    text = json.dumps(rows) if form == "rows.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / form).write_text(text)
    tasks = load_arc(str(tmp_path / form))
    assert [task.id for task in tasks] == ["x", "0", "2"]
    assert tasks[2].context == (((((3,),), ((1,),))),)


def test_a_hub_data_set_s_own_halves(tmp_path: Path) -> None:
    for name, colour in (("train", 1), ("evaluation", 2)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, **solved(colour)}))
    data = config(dataset_name=f"hf:{tmp_path}")
    assert (ids(data, "train"), ids(data, "val")) == (["train"], ["evaluation"])


def test_ids_that_are_numbers_are_ids(tmp_path: Path) -> None:
    (tmp_path / "23581191.json").write_text(json.dumps(RECORD))
    data = config(path="unused", val_path=str(tmp_path), options={"val_ids": [23581191]})
    assert ids(data, "val") == ["23581191"]
    for wrong in (1e4, True, None):
        with pytest.raises(ConfigError, match="quotes"):
            load_split(config(path=str(tmp_path), options={"ids": [wrong]}), "train")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", "[3]", '{"a": 3}', '{"train": 3, "test": []}', "\0", '{"a": NaN}']
)
def test_what_is_no_task_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json") as caught:
        load_split(config(path=str(path)), "train")
    assert caught.value.fix
