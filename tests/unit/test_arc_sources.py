"""Which tasks a config means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seal.arc.sources import domain_options, load_split
from seal.arc.tasks import load_arc
from seal.domains.few_shot import FewShotLearning
from seal.errors import ConfigError
from seal.settings import DataConfig, SEALConfig
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
        (tmp_path / f"t{i}.json").write_text(json.dumps(RECORD))
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
