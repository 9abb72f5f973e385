"""Metrics against hand computations, and findings against journals that call for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import pytest
from scipy.stats import t

from seal.data.invented import world
from seal.intervals import GAINS, interval
from seal.records import ArmScore, EditFinding, EditResult, Reward, SelfEdit, TaskScore
from seal.report.diagnosis import diagnose
from seal.report.edit_quality import edit_quality, in_words
from seal.report.estimates import (
    Mean,
    clustered,
    distribution,
    paired,
    reliability,
    spikes,
    trend,
)
from seal.report.history import History, read_history, read_tasks
from seal.report.metrics import flat, lines, run_metrics
from seal.run.journal import Journal


def result(
    task: str,
    k: int,
    repeats: tuple[float, ...],
    *,
    iteration: int = 0,
    before: float = 0.25,
    kept: bool = False,
    problem: str = "",
) -> EditResult:
    value = fmean(repeats)
    return EditResult(
        f"{task}.e{k}",
        task,
        iteration,
        before,
        before + value,
        repeats,
        Reward(value, {}, kept),
        problem,
    )


def test_a_mean_takes_a_task_as_one_observation() -> None:
    groups = {"a": [1.0, 1.0, 1.0], "b": [0.0], "c": [0.25, 0.75]}
    found = clustered(groups)
    assert (found.mean, found.low, found.high) == interval([1.0, 0.0, 0.5], [3.0, 1.0, 2.0])
    assert found.mean == fmean(v for values in groups.values() for v in values)
    assert clustered({"a": [0.2, 0.4], "b": [0.1]}).low is None
    assert clustered({}).mean == 0.0


def test_reliability_is_the_analysis_of_variance_by_hand() -> None:
    results = [result("a", 0, (0.0, 0.2)), result("a", 1, (0.6, 0.8)), result("b", 0, (0.5, 0.5))]
    found = reliability(results)
    within = fmean([0.02, 0.02, 0.0])  # sample variances of the repeats
    between = variance([0.1, 0.7]) - within / 2
    assert found.repeats == 2
    assert found.repeat_std == pytest.approx(within**0.5)
    assert found.edit_std == pytest.approx(between**0.5)
    assert found.ratio == pytest.approx(between / (between + within / 2))


def test_reliability_needs_repeats_and_never_goes_below_zero() -> None:
    assert reliability([result("a", 0, (0.1,)), result("a", 1, (0.9,))]).ratio is None
    assert reliability([result("a", 0, (0.0, 1.0)), result("a", 1, (1.0, 0.0))]).ratio == 0.0
    assert reliability([result("a", 0, (0.3, 0.3)), result("a", 1, (0.9, 0.9))]).ratio == 1.0


def test_the_published_round_is_mostly_chance(shared: Path) -> None:
    data = json.loads((shared / "data/official/rank_iter1.json").read_text())
    results = []
    for number, article in enumerate(data["articles"]):  # titles repeat
        for k, completion in enumerate(article["completions"]):
            mean, std = completion["stats"]["adapter_mean"], completion["stats"]["adapter_std"]
            # three numbers with this mean and this sample standard deviation
            results.append(result(f"article{number}", k, (mean - std, mean, mean + std)))
    found = reliability(results)
    # computed apart from this code: repeat sd 0.229, between-edit sd 0.060, reliability 0.170
    assert found.repeat_std == pytest.approx(0.22947, abs=1e-4)
    assert found.edit_std == pytest.approx(0.05990, abs=1e-4)
    assert found.ratio == pytest.approx(0.16974, abs=1e-4)


def test_the_histogram_is_centred_on_zero_and_counts_everything() -> None:
    values = [-0.25, 0.0, 0.0, 1e-17, 0.25, 0.5]
    spread = distribution(values)
    assert sum(spread.counts) == len(values)
    middle = next(i for i, edge in enumerate(spread.edges) if edge > 0) - 1
    assert spread.counts[middle] == 3
    assert spread.edges[middle] == -spread.edges[middle + 1]
    assert distribution([0.3]).counts == (1,)


def test_a_trend_is_the_slope_of_the_means() -> None:
    rounds = [{"a": [i / 5], "b": [i / 5 + 0.1], "c": [i / 5 + 0.2]} for i in range(3)]
    found = trend(rounds)
    assert found is not None
    assert found.mean == pytest.approx(0.2)
    # variance of a mean of three: 0.01 / 3; the slope's weights are -1/2, 0, 1/2, so two parts of 2 degrees
    assert found.high == pytest.approx(0.2 + t.ppf(0.975, 4) * (2 * 0.25 * 0.01 / 3) ** 0.5)
    assert trend([{"a": [0.0], "b": [0.2]}, {"a": [0.2], "b": [0.4]}]) == Mean(pytest.approx(0.2))
    assert trend(rounds[:1]) is None


def test_spikes() -> None:
    assert not spikes([3.0, 2.0, 2.5, 1.0])
    assert spikes([3.0, 2.0, 6.5])
    assert spikes([3.0, float("nan")])


def test_paired_differences_use_the_shared_tasks() -> None:
    def arm(scores: dict[str, float]) -> ArmScore:
        tasks = tuple(TaskScore(name, score, 2) for name, score in scores.items())
        return ArmScore("x", "p", tasks, 4, 0, 0, 0, 0, 0, 0)

    mine, other = {"a": 1.0, "b": 0.5, "c": 0.5, "only": 0.0}, {"a": 0.5, "b": 0.5, "c": 0.25}
    found = paired(arm(mine), arm(other))
    assert found is not None
    assert (found.mean, found.low, found.high) == interval([0.5, 0.0, 0.25], bounds=GAINS)
    assert paired(arm({"a": 1.0}), arm({"b": 1.0})) is None


def test_a_round_by_hand(made_up: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_up.MadeUpRun(folder, rounds=2, tasks=3, edits=4, repeats=2)
    history = read_history(folder)
    metrics = run_metrics(history)
    first = metrics.rounds[0]
    rows = [r for r in history.results if r.iteration == 0]
    gains = [r.after - r.before for r in rows]
    assert len(metrics.rounds) == 2
    assert (first.tasks, first.edits, first.trials, first.kept) == (3, 12, 24, 3)
    assert first.reward.mean == pytest.approx(fmean(r.reward.value for r in rows))
    assert first.success_rate.mean == pytest.approx(fmean(r.reward.value > 0 for r in rows))
    assert first.gain.mean == pytest.approx(fmean(gains))
    assert first.after.mean - first.before.mean == pytest.approx(first.gain.mean)
    assert first.improved + first.unchanged + first.worsened == 12
    assert first.improved == sum(g > 0 for g in gains)
    assert first.questions.mean == 4.0
    assert first.first_loss == pytest.approx(fmean(t.outcome.losses[0] for t in _in(history)))
    assert metrics.tokens["adapt"] == 30000
    assert metrics.seconds["write"] == 25.0
    assert metrics.dynamics.reward_jump == pytest.approx(
        abs(metrics.rounds[1].reward.mean - first.reward.mean)
    )
    base, *_, best = metrics.arms
    assert base["arm"] == "base"
    assert best["arm"] == "self_edit_rl"
    assert best["gain"].mean == pytest.approx(best["score"].mean - base["score"].mean)
    unaided = {t: b.performance.log_likelihood for (p, t), b in history.baselines.items() if p == "policy0"}
    rises = [t.after.log_likelihood - unaided[t.task_id] for t in history.trials if t.arm == "self_edit_rl"]
    assert best["log_likelihood_gain"].mean == pytest.approx(fmean(rises))
    assert base["log_likelihood_gain"] is None


def _in(history: History) -> list[Any]:
    return [t for t in history.trials if t.arm == "train" and t.iteration == 0]


def test_best_of_k_rewards_count_as_success_only_above_the_score_before(made_up: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = made_up.MadeUpRun(folder, rounds=0, held_out=0, finished=False)
    config = run.config.model_copy(update={"reward": "best_of_k"})
    rows = [
        EditResult("e0", "a", 0, 0.5, 0.5, (0.5,), Reward(0.5)),
        EditResult("e1", "a", 0, 0.5, 0.75, (0.75,), Reward(0.75)),
    ]
    with Journal(folder / "journal.jsonl") as journal:
        for row in rows:
            journal.append("result", row.edit_id, row)
        history = History.of(journal.rows(), config, folder)
    assert run_metrics(history).rounds[0].success_rate.mean == 0.5


def test_running_and_crashed_runs_are_read(made_up: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_up.MadeUpRun(folder, rounds=1, finished=False)
    whole = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(whole[:-40])  # torn in its last line
    history = read_history(folder)
    assert not history.finished
    assert history.rows == whole.count(b"\n") - 1
    assert run_metrics(history).rounds[0].edits == 12
    (folder / "journal.jsonl").write_bytes(b"")
    assert run_metrics(read_history(folder)).rounds == ()


def test_lines_are_json_and_flatten_to_numbers(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run")
    rows = lines(run_metrics(read_history(tmp_path / "run")))
    assert [row["kind"] for row in rows[:3]] == ["round", "round", "dynamics"]
    json.dumps(rows, allow_nan=False)
    values = flat(rows[0], "round/")
    assert values["round/reward/mean"] == rows[0]["reward"]["mean"]
    assert values["round/reliability/ratio"] == rows[0]["reliability"]["ratio"]
    assert not any("edges" in name or "policy" in name for name in values)


def test_tasks_are_read_again_or_it_says_why(made_up: Any, tmp_path: Path) -> None:
    run = made_up.MadeUpRun(tmp_path / "run", rounds=0)
    tasks, problem = read_tasks(run.config)
    assert problem == ""
    assert set(tasks) == {t.id for t in (*run.train, *run.val)}
    Path(run.config.data_config.path).unlink()
    tasks, problem = read_tasks(run.config)
    assert "train.json" in problem


class TestFindings:
    """Each finding appears for a journal that calls for it, and not for one that does not."""

    @staticmethod
    def titles(history: History) -> str:
        return " | ".join(f.title for f in diagnose(history, run_metrics(history)))

    @staticmethod
    def history(made_up: Any, folder: Path, results: list[EditResult], **update: Any) -> History:
        run = made_up.MadeUpRun(folder, rounds=0, held_out=0, finished=False)
        config = run.config.model_copy(update=update)
        with Journal(folder / "journal.jsonl") as journal:
            for row in results:
                journal.append("result", row.edit_id, row)
            return History.of(journal.rows(), config, folder)

    def test_reward_collapse(self, made_up: Any, tmp_path: Path) -> None:
        rows = [result(task, k, (0.0, 0.0)) for task in "ab" for k in range(3)]
        found = self.titles(self.history(made_up, tmp_path / "run", rows))
        assert "Reward collapse" in found
        assert "The success rate is low" in found

    def test_ties_within_every_task(self, made_up: Any, tmp_path: Path) -> None:
        rows = [result(task, k, (value,)) for task, value in (("a", 0.0), ("b", 0.5)) for k in range(3)]
        found = self.titles(self.history(made_up, tmp_path / "run", rows))
        assert "All ties" in found
        assert "Reward collapse" not in found
        assert "Nobody can tell how reliable" in found

    def test_chance(self, made_up: Any, tmp_path: Path) -> None:
        rows = [result("a", k, (0.0, 1.0) if k % 2 else (1.0, 0.0)) for k in range(4)]
        assert "mostly chance" in self.titles(self.history(made_up, tmp_path / "run", rows))

    def test_invalid_and_high_success(self, made_up: Any, tmp_path: Path) -> None:
        rows = [result("a", k, (0.1 * (k + 1),)) for k in range(3)]
        rows.append(result("a", 3, (0.0,), problem="no JSON recipe"))
        found = self.titles(self.history(made_up, tmp_path / "run", rows, keep="positive"))
        assert "could not be applied" in found
        assert "success rate is high" in found
        best = self.titles(self.history(made_up, tmp_path / "best", rows, keep="best_of_k"))
        assert "success rate is high" not in best

    def test_a_good_round_raises_none_of_these(self, made_up: Any, tmp_path: Path) -> None:
        rows = [
            result(t, k, (0.6, 0.62) if k == 0 else (-0.1 * k, -0.1 * k - 0.02))
            for t in "abcd"
            for k in range(4)
        ]
        rows = [EditResult(*[getattr(r, f) for f in r.__slots__]) for r in rows]
        assert self.titles(self.history(made_up, tmp_path / "run", rows)) == ""

    def test_duplicates_cut_off_and_length(self, made_up: Any, tmp_path: Path) -> None:
        run = made_up.MadeUpRun(tmp_path / "run", rounds=2, tasks=2, edits=2, held_out=0)
        history = read_history(tmp_path / "run")
        edits = {
            name: replace(
                edit, completion="the same\n words", finish="length", n_tokens=10 if ".i0." in name else 90
            )
            for name, edit in history.edits.items()
        }
        found = self.titles(replace(history, edits=edits))
        assert run.config.generation.max_new_tokens == 512
        assert "duplicates" in found
        assert "cut off" in found
        assert "Length drift" in found
        assert "duplicates" not in self.titles(history)

    def test_grader_errors_and_spikes(self, made_up: Any, tmp_path: Path) -> None:
        from seal.records import Verdict

        made_up.MadeUpRun(tmp_path / "run", rounds=1, held_out=0)
        history = read_history(tmp_path / "run")
        broken = []
        for trial in history.trials:
            answers = (replace(trial.outcome.adapted[0], verdict=Verdict.ERROR), *trial.outcome.adapted[1:])
            outcome = replace(trial.outcome, adapted=answers, losses=(2.0, 9.0, 1.0))
            broken.append(replace(trial, outcome=outcome))
        history = replace(history, trials=tuple(broken))
        found = self.titles(history)
        assert "grader failed" in found
        assert "loss jumps" in found
        assert run_metrics(history).rounds[0].judge_errors == len(broken)


def test_few_shot_metrics_and_augmentation_effectiveness(made_up: Any, tmp_path: Path) -> None:
    run = made_up.MadeUpRun(tmp_path / "run", rounds=0, held_out=0, finished=False)
    made_up.few_shot_round(tmp_path / "run")
    history = read_history(tmp_path / "run")
    few_shot = run_metrics(history).rounds[0].few_shot
    assert few_shot is not None
    assert run.config.seed == 42
    assert few_shot.cell_after.mean == pytest.approx(0.75)
    assert few_shot.cell_before.mean == pytest.approx(0.5)
    assert few_shot.grid_after.mean == pytest.approx(0.5)
    assert few_shot.augmentations["basic"] == {"on": 1.0, "off": 0.0, "n_on": 1, "n_off": 1}


class TestEditQuality:
    """What self-edits are like, beside what they earned."""

    def test_by_hand(self, made_up: Any, tmp_path: Path) -> None:
        made_up.MadeUpRun(tmp_path / "run", rounds=1, tasks=1, edits=2, held_out=0)
        trial = read_history(tmp_path / "run").trials[0]
        made = world(0, 3, "train")
        facts = [fact.statement for fact in made.facts]
        wrong = facts[0].replace(made.facts[0].value, made.reward[0].wrong[-1])
        texts = {"a": "\n".join(facts[:3]), "b": "\n".join([wrong, facts[1]]), "c": "Nothing.", "d": ""}
        edits = {name: SelfEdit(name, made.id, "", text, 0, "p") for name, text in texts.items()}
        loop = EditFinding("loop", "x", 0, 1)
        trials = [replace(trial, edit_id=name) for name in "abbcd"]
        trials[1] = replace(trials[1], findings=(loop, loop))
        quality = edit_quality(trials, edits)
        assert quality is not None
        assert (quality.edits, quality.loops, quality.echoes) == (3, 1 / 3, 0)
        assert quality.coverage is not None
        assert quality.coverage.mean == pytest.approx((3 / 6 + 1 / 6 + 0) / 3)
        assert quality.faithfulness is not None
        assert quality.faithfulness.mean == pytest.approx((1 + 1 / 2) / 2)
        assert in_words(edits["b"], trials[1:2]) == "states 1 of 6 facts, gets 1 wrong; check: 2 loop ('x')"
        assert edit_quality([trials[-1]], edits) is None

    def test_a_run_on_other_passages_has_no_facts(self, made_up: Any, tmp_path: Path) -> None:
        made_up.MadeUpRun(tmp_path / "run", rounds=1, tasks=2, edits=2)
        metrics = run_metrics(read_history(tmp_path / "run"))
        quality = metrics.rounds[0].quality
        assert quality is not None
        assert (quality.edits, quality.coverage, quality.faithfulness) == (4, None, None)
        arms = {arm["arm"]: arm["quality"] for arm in metrics.arms}
        assert arms["passage"] is None
        assert arms["self_edit"].edits > 0

    def test_many_loops_and_unsupported_names_are_worth_a_warning(self, made_up: Any, tmp_path: Path) -> None:
        made_up.MadeUpRun(tmp_path / "run", rounds=1, tasks=2, edits=2)
        history = read_history(tmp_path / "run")
        found = (EditFinding("loop", "x", 0, 1), EditFinding("unsupported", "Torholm", 0, 7))
        worse = replace(history, trials=tuple(replace(t, findings=found) for t in history.trials))
        titles = {f.title for f in diagnose(worse, run_metrics(worse))}
        new = {"Self-edits repeat themselves or the instruction", "Self-edits bring in names and numbers"}
        assert new <= titles
        assert not new & {f.title for f in diagnose(history, run_metrics(history))}
