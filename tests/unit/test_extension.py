"""The specification's three snippets: a domain, a reward model, a loader of one's own, as written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seal import BaseDomain, BaseRewardModel, DataLoader, SEALFramework
from seal.cli import main
from seal.config import load_config
from seal.errors import ConfigError
from seal.models.load import load_model
from seal.plugins import load_named, load_object
from seal.records import Performance
from seal.reward import make_reward
from seal.run.folder import Run

MODULE = '''
"""What a user writes: nothing but what the README shows."""
import hashlib

from seal import BaseDomain, BaseRewardModel

seen = []


class MyDomain(BaseDomain):
    def create_self_edit_prompt(self, context):
        return f"Say it in other words: {context}\\n"

    def evaluate(self, model, tokenizer, task):
        import torch

        ids = torch.tensor([tokenizer(task.target)["input_ids"]])
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=ids).loss)
        seen.append((model, task, loss))
        return 1 / (1 + loss)

    def compute_reward(self, performance, task):
        return performance.score


class MyRewardModel(BaseRewardModel):
    def compute_reward(self, before, after, task):
        reward_value = 10 * (after.score - before.score)
        return reward_value


class MyDataLoader:
    def load_data(self):
        pairs = [(f"The {n}th stone is of colour {n * n}.", f"colour {n * n}") for n in range(10)]
        return [(context, task) for context, task in pairs]


class Questions:
    """For the knowledge domain: a task is a list of questions."""

    def __init__(self, split, town):
        self.split, self.town = split, town

    def load_data(self):
        numbers = range(3) if self.split == "train" else range(3, 5)
        return [(f"House {n} of {self.town} is {n} ells high.", self.questions(n)) for n in numbers]

    def questions(self, n):
        return [{"question": f"How high is house {n}?", "answer": f"{n} ells"}]


class NoDomain:
    pass
'''
QUICK = {
    "max_outer_iterations": 1,
    "generation.max_new_tokens": 8,
    "evaluation.max_new_tokens": 4,
    "data_config.max_samples": None,
}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The user's module, found in the working directory."""
    (tmp_path / "my_seal.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_seal", raising=False)
    load_object("my_seal:MyDomain")
    return sys.modules["my_seal"]


def rows(overrides: dict[str, Any], folder: str = "run") -> Callable[[str], list[dict[str, Any]]]:
    config = load_config(preset="test", overrides=QUICK | overrides | {"output_dir": folder})
    with Run.create(folder, config) as run:
        SEALFramework(config, run=run).run()
        found = run.journal.rows()
    return lambda kind: [row.data for row in found if row.kind == kind]


def test_the_three_classes_work_alone(user: ModuleType) -> None:
    domain = user.MyDomain()
    assert isinstance(domain, BaseDomain)
    assert not domain.batched
    model = make_reward("my_seal:MyRewardModel")
    assert isinstance(model, BaseRewardModel)
    assert model.compute_reward(Performance(0.25), Performance(0.5), None) == 2.5
    tasks = DataLoader("my_seal:MyDataLoader").load_tasks()
    assert [(t.context, t.target) for t in tasks] == user.MyDataLoader().load_data()


def test_all_three_from_a_config_file(user: ModuleType, tmp_path: Path) -> None:
    config = {
        "preset": "test",
        "domain": "my_seal:MyDomain",
        "reward": "my_seal:MyRewardModel",
        "keep": "best_of_k",
        "tasks_per_iteration": 2,
        "data_config": {"loader": "my_seal:MyDataLoader", "max_samples": 4, "max_val_samples": 2},
        "max_outer_iterations": 1,
        "generation": {"max_new_tokens": 8},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["train", "--config", "config.json", "--output-dir", "run", "--log-level", "ERROR"]) == 0
    found = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    trials = {r["data"]["edit_id"]: r["data"] for r in found if r["kind"] == "trial"}
    results = [r["data"] for r in found if r["kind"] == "result"]
    assert len(results) == 4
    for result in results:
        trial = trials[result["edit_id"]]
        gain = trial["after"]["score"] - trial["before"]["score"]
        assert result["reward"]["value"] == pytest.approx(10 * gain)
        assert trial["before"]["score"] != trial["after"]["score"]
    edits = [r["data"] for r in found if r["kind"] == "edit"]
    assert all(e["prompt"].startswith("Say it in other words: The ") for e in edits)


def test_without_a_reward_model_the_domain_s_own_reward_counts(user: ModuleType) -> None:
    own = {"domain": "my_seal:MyDomain", "data_config.loader": "my_seal:MyDataLoader", "reward": "auto"}
    found = rows(own)
    trials = {t["edit_id"]: t for t in found("trial")}
    for result in found("result"):
        assert result["reward"]["value"] == trials[result["edit_id"]]["after"]["score"] > 0


def test_one_adapter_at_a_time_on_a_model_that_comes_back_unchanged(user: ModuleType) -> None:
    import torch
    from peft import PeftModel

    found = rows(
        {"domain": "my_seal:MyDomain", "data_config.loader": "my_seal:MyDataLoader", "reward": "binary"}
    )
    adapted = [(model, task, loss) for model, task, loss in user.seen if isinstance(model, PeftModel)]
    bare = [(model, task, loss) for model, task, loss in user.seen if not isinstance(model, PeftModel)]
    assert len(adapted) == len([t for t in found("trial") if t["after"] is not None]) > 0
    assert len(bare) == len(found("baseline"))
    assert len({id(model) for model, _, _ in adapted}) == len(adapted), "an adapter of its own for every edit"
    assert {tuple(model.peft_config) for model, _, _ in adapted} == {("default",)}
    first = bare[0][0]
    fresh = load_model("tiny-random-llama", "cpu").model.state_dict()
    left = first.state_dict()
    assert left.keys() == fresh.keys(), "no adapter stays behind"
    assert all(torch.equal(left[name], fresh[name]) for name in fresh)
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())
    before = {task.id: loss for model, task, loss in bare if model is first}
    assert any(abs(loss - before[task.id]) > 1e-4 for _, task, loss in adapted if task.id in before)


def test_what_a_plain_loader_gives_is_divided_so_that_held_out_tasks_are_held_out(user: ModuleType) -> None:
    found = rows(
        {
            "domain": "my_seal:MyDomain",
            "data_config.loader": "my_seal:MyDataLoader",
            "max_outer_iterations": 8,
        }
        | {"tasks_per_iteration": 1, "samples_per_iteration": 1, "reward_threshold": 9.0, "keep": "positive"}
        | {"reward": "binary", "inner.epochs": 1, "data_config.max_val_samples": None}
    )
    trained = {name for plan in found("plan") for name in plan["task_ids"]}
    held_out = {t["task_id"] for t in found("arm")[0]["tasks"]}
    assert (len(trained), len(held_out)) == (8, 2)
    assert not trained & held_out


def test_a_loader_that_takes_the_split_and_options_of_its_own(user: ModuleType) -> None:
    found = rows(
        {
            "data_config.loader": "my_seal:Questions",
            "data_config.options": {"town": "Vell"},
            "reward": "log_likelihood",
            "tasks_per_iteration": 3,
        }
    )
    assert len(found("plan")[0]["task_ids"]) == 3
    assert found("arm")[0]["n"] == 2
    assert all("of Vell" in e["prompt"] for e in found("edit"))
    assert all(t["after"]["n"] == 1 for t in found("trial"))


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        ({"domain": "my_seal:NoDomain"}, "my_seal:NoDomain is not a domain"),
        ({"domain": "my_seal:Absent"}, "module 'my_seal' has no 'Absent'"),
        ({"domain": "absent_module:X"}, "cannot import 'absent_module'"),
        ({"reward": "my_seal:NoDomain"}, "my_seal:NoDomain is not a reward model"),
        ({"data_config.loader": "my_seal:NoDomain"}, "my_seal:NoDomain is not a data loader"),
    ],
)
def test_classes_that_do_not_fit_are_one_line(
    user: ModuleType,
    overrides: dict[str, Any],
    cause: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    changes = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    assert main(["train", "--preset", "test", "--output-dir", "run", *changes]) == 2
    error = capsys.readouterr().err
    assert cause in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def offer(folder: Path, group: str, **names: str) -> None:
    """What an installed package looks like to Python: its metadata beside its modules."""
    info = folder / f"pack_{folder.name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pack-{folder.name}\nVersion: 1\n")
    lines = "".join(f"{name} = {value}\n" for name, value in names.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")


def test_an_installed_package_offers_classes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offered.py").write_text(MODULE)
    offer(tmp_path / "one", "seal.rewards", tenfold="offered:MyRewardModel", lost="offered:No")
    for folder in (tmp_path, tmp_path / "one"):
        monkeypatch.syspath_prepend(folder)
    assert load_config(overrides={"reward": "tenfold"}).reward == "tenfold"
    assert make_reward("tenfold").compute_reward(Performance(0.1), Performance(0.2), None) == pytest.approx(1)
    with pytest.raises(ConfigError, match=r"must be auto, .*, lost, tenfold or an import path"):
        load_config(overrides={"reward": "tenfol"})
    with pytest.raises(ConfigError, match=r"'lost' \(offered:No\) cannot be loaded"):
        make_reward("lost")
    with pytest.raises(ConfigError, match="no installed package offers 'x'"):
        load_named("seal.loaders", "x")
    offer(tmp_path / "two", "seal.rewards", tenfold="other:Reward")
    monkeypatch.syspath_prepend(tmp_path / "two")
    with pytest.raises(ConfigError, match="'tenfold' is offered by offered:MyRewardModel and other:"):
        make_reward("tenfold")
