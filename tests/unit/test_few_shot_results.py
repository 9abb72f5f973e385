"""What few-shot runs solved: counted by hand on journals with known scores and recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seal.arc.recipe import ArcRecipe
from seal.cli import main
from seal.config import load_config
from seal.errors import DataError
from seal.records import (
    AdaptOutcome,
    ArmScore,
    Baseline,
    Performance,
    SelfEdit,
    Task,
    TaskScore,
    Trial,
)
from seal.report.few_shot import compare, keeps_rule
from seal.report.history import read_history
from seal.run.folder import Run
from seal.setup import load_tasks

REAL = ("6150a2bd", "3c9b0459")


def recipe(*on: str) -> ArcRecipe:
    flags = {name: name in on for name in ("basic", "size", "chain", "repeat", "colour")}
    return ArcRecipe(**flags, strategy="train_using_output_tokens", learning_rate=1e-3, epochs=1)  # type: ignore[arg-type]


def made_up(folder: Path, seed: int, solved: dict[str, list[int]], picks: dict[int, list[ArcRecipe]]) -> Run:
    """A run whose arms have the given scores, in the order of the held-out tasks: 2 synthetic, 2 real."""
    config = load_config(
        preset="few_shot_demo",
        overrides={
            "seed": seed,
            "output_dir": str(folder),
            "data_config.options.val_ids": list(REAL),
            "data_config.options.synthetic.val_n": 2,
            "data_config.options.synthetic.families": ["colour_swap"],
            "data_config.options.space.groups": ["basic", "size"],
        },
    )
    tasks: list[Task] = load_tasks(config, "val")
    run = Run.create(folder, config)
    for arm, scores in solved.items():
        rows = tuple(TaskScore(t.id, float(s), 1) for t, s in zip(tasks, scores, strict=True))
        run.record("arm", arm, ArmScore(arm, "p", rows, 4, 0, 0, 0, 0, 0, 0))
    for iteration, written in picks.items():
        for task, pick in zip(tasks, written, strict=False):
            name = f"{task.id}.i{iteration}.e0"
            run.record("edit", name, SelfEdit(name, task.id, "", pick.to_json(), 0, "p"))
    return run


def test_a_recipe_keeps_a_rule_if_it_does_something_and_nothing_that_breaks_it() -> None:
    preserved = frozenset({"basic", "size"})
    assert [keeps_rule(recipe(*on), preserved) for on in (("basic",), ("basic", "size"))] == [True, True]
    assert [keeps_rule(recipe(*on), preserved) for on in ((), ("basic", "colour"))] == [False, False]


def test_arms_are_counted_by_kind_and_among_the_solvable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = recipe("basic"), recipe("basic", "colour")
    runs = [
        made_up(
            tmp_path / "one",
            1,
            {"base": [0, 0, 1, 0], "random": [1, 0, 0, 0], "self_edit_rl": [1, 0, 0, 1]},
            {-1: [good, bad], 0: [bad, bad], -2: [good, good]},
        ),
        made_up(
            tmp_path / "two",
            2,
            {"base": [0, 0, 0, 0], "random": [0, 0, 0, 0], "self_edit_rl": [0, 1, 0, 1]},
            {-1: [bad, bad], -2: [bad, good]},
        ),
    ]
    for run in runs:
        run.close()
    (synthetic, real), picks = compare([read_history(run.path) for run in runs])
    assert (synthetic.kind, synthetic.n, synthetic.n_solvable) == ("synthetic", 4, 2)
    rows = {row.arm: row for row in synthetic.arms}
    assert rows["self_edit_rl"].everything.mean == 0.5
    assert rows["self_edit_rl"].solvable.mean == 1.0  # one a run: what that run's recipes solved
    assert rows["random"].everything.mean == 0.25
    assert rows["random"].solvable.mean == 0.5
    assert {other: gain.mean for other, gain in synthetic.gains} == {"random": 0.25}  # (0 + 0 + 0 + 1) / 4
    assert (real.n, real.n_solvable) == (4, 2)  # base solves one without training, which is no recipe's doing
    assert {row.arm: row.everything.mean for row in real.arms}["base"] == 0.25
    assert picks is not None
    assert picks.chance == 0.375  # colour off and one of two groups on: 3 of 8 recipes
    assert picks.before is not None
    assert picks.after is not None
    assert (picks.before.mean, picks.after.mean) == (0.25, 0.75)

    assert main(["arc", "results", *(str(run.path) for run in runs)]) == 0
    printed = capsys.readouterr().out
    assert "2 runs, seeds 1, 2" in printed
    assert "self_edit_rl is 2.00 times random" in printed


def test_runs_of_another_domain_are_refused(tmp_path: Path) -> None:
    config = load_config(preset="test", overrides={"output_dir": str(tmp_path / "other")})
    with Run.create(tmp_path / "other", config) as run:
        pass
    with pytest.raises(DataError, match="knowledge_incorporation"):
        compare([read_history(run.path)])


def test_a_run_s_attempts_become_a_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_up(tmp_path / "run", 1, {"base": [0] * 4, "random": [1, 0, 0, 0]}, {})
    tasks = [t.task_id for t in read_history(run.path).arms[0].tasks]
    first, second, blank = [[1, 2]], [[3]], [[0]]

    def measured(*attempts: Any) -> Performance:
        return Performance(0.0, n=1, details={"tests": [{"attempts": a} for a in attempts]})

    answers = [measured([first, second]), measured(None), measured([second, first], None), measured(None)]
    for number, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        run.record("baseline", f"p/{task}", Baseline(task, "p", measured([blank, blank])))
        for edit, after in enumerate(
            (answer, measured([blank, second]))
        ):  # of two self-edits the first counts
            trial = Trial(
                f"{task}.e{edit}", task, 0, "random", -1, "p", answer, after, AdaptOutcome(str(number))
            )
            run.record("trial", f"{task}.e{edit}/r0", trial)
    run.close()
    out = tmp_path / "submission.json"
    assert main(["arc", "submission", str(run.path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == ["5 tests, attempts of the arm random", str(out)]
    nothing = {"attempt_1": blank, "attempt_2": blank}
    assert json.loads(out.read_text()) == {
        tasks[0]: [{"attempt_1": first, "attempt_2": second}],
        tasks[1]: [nothing],
        tasks[2]: [{"attempt_1": second, "attempt_2": first}, nothing],
        tasks[3]: [nothing],
    }
    for command, says in (
        (["--out", str(out)], "submission.json exists already"),
        (["--arm", "self_edit_rl"], "has no held-out arm 'self_edit_rl'. Name one of base, random"),
    ):
        assert main(["arc", "submission", str(run.path), *command]) == 2
        assert says in capsys.readouterr().err
    assert main(["arc", "submission", str(run.path), "--arm", "base", "--out", str(tmp_path / "b.json")]) == 0
    assert json.loads((tmp_path / "b.json").read_text())[tasks[1]] == [nothing]
