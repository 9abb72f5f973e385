"""Algorithm 1 from outside: settings in, journal out. Real engine, tiny model, numbers checked by hand."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal import SEALFramework
from seal.cli import main
from seal.config import load_config
from seal.errors import ConfigError
from seal.evaluation import base_arm, trained_arm
from seal.evaluator import TrialSpec
from seal.framework import sample_tasks
from seal.inner.loop import LocalGenerator, LocalInnerLoop
from seal.intervals import GAINS, interval
from seal.models.load import LoadedModel, load_model
from seal.records import AdaptOutcome, Baseline, Completion, Performance, SelfEdit, Trial, Verdict
from seal.run.folder import Run
from seal.run.journal import Journal, Row

PLACES = ("Vell", "Orrin", "Tasp", "Quell", "Marn", "Issk", "Dorr")


def passage(name: str, split: str = "train", text: str = "") -> dict[str, Any]:
    return {
        "title": name,
        "context": text or f"{name} lies on the river Osk. Its bridge has nine arches of green stone.",
        "questions": [
            {"question": f"On which river does {name} lie?", "answer": "the Osk"},
            {"question": "How many arches has its bridge?", "answer": "nine"},
        ],
        "split": split,
    }


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a run that takes a second or two, over the preset `test`."""

    def make(
        n: int = 3, n_val: int = 2, passages: list[dict[str, Any]] | None = None, **more: Any
    ) -> dict[str, Any]:
        path = tmp_path / "passages.json"
        if passages is None:
            passages = [passage(name) for name in PLACES[:n]] + [
                passage(f"{x}-on-Sea", "val") for x in PLACES[:n_val]
            ]
        path.write_text(json.dumps(passages))
        return {
            "data_config": {"dataset_name": "json", "path": str(path), "max_samples": None},
            "generation.max_new_tokens": 12,
            "evaluation.max_new_tokens": 4,
            "reward": "log_likelihood",
            "output_dir": str(tmp_path / "run"),
            **more,
        }

    return make


def carry_out(overrides: dict[str, Any], folder: Path | None = None) -> list[Row]:
    """One run from its settings to its journal."""
    config = load_config(preset="test", overrides=overrides)
    with Run.create(folder or config.output_dir, config) as run:
        SEALFramework(config, run=run).run()
        return run.journal.rows()


def of(rows: list[Row], kind: str) -> list[dict[str, Any]]:
    return [row.data for row in rows if row.kind == kind]


def results(rows: list[Row]) -> dict[tuple[str, str], Any]:
    """What a run found, by kind and key; how long it took is left out."""

    def untimed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k not in ("train_s", "answer_s", "seconds")}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    return {(r.kind, r.key): untimed(r.data) for r in rows if r.kind != "phase"}


def test_an_old_policy_leaves_the_memory_before_the_next_one_comes(
    settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(preset="test", overrides=settings())
    with Run.create(config.output_dir, config) as run:
        framework = SEALFramework(config, run=run)
        first = weakref.ref(framework.estep.policy.model)
        gone: list[bool] = []

        def load(*given: str) -> LoadedModel:
            gone.append(first() is None)
            return load_model(*given)

        monkeypatch.setattr("seal.framework.load_model", load)
        framework.run()
    assert gone
    assert all(gone)


# --- the algorithm --------------------------------------------------------------------------------------


def test_two_rounds_by_hand(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = carry_out(settings(repeats=2, tasks_per_iteration=2, samples_per_iteration=3, keep_k=1))
    trials, baselines = of(rows, "trial"), {(b["policy"], b["task_id"]): b for b in of(rows, "baseline")}
    for result in of(rows, "result"):
        mine = [t for t in trials if t["edit_id"] == result["edit_id"]]
        assert [t["repeat"] for t in mine] == [0, 1]
        gains = []
        for trial in mine:
            before = baselines[trial["policy"], trial["task_id"]]["performance"]
            assert trial["before"] == before
            gold = [a["log_likelihood"] / a["reference_tokens"] for a in trial["outcome"]["adapted"]]
            assert trial["after"]["log_likelihood"] == pytest.approx(fmean(gold))
            gains.append(trial["after"]["log_likelihood"] - before["log_likelihood"])
        assert result["repeats"] == pytest.approx(gains)
        assert result["reward"]["value"] == pytest.approx(fmean(gains))
        assert mine[0]["outcome"]["losses"] != mine[1]["outcome"]["losses"], "repeats have seeds of their own"
    for n, update in enumerate(of(rows, "update")):
        mine = [r for r in of(rows, "result") if r["iteration"] == n]
        for task in {r["task_id"] for r in mine}:
            ranked = sorted((r for r in mine if r["task_id"] == task), key=lambda r: -r["reward"]["value"])
            assert [r["reward"]["kept"] for r in ranked] == [True, False, False]
        assert (update["updated"], update["kept"], update["of"]) == (True, 2, 6)
        saved = load_model(str(tmp_path / "run" / update["checkpoint"]), "cpu")
        assert saved.version == update["policy"]
    first, second = (u["policy"] for u in of(rows, "update"))
    assert [p["policy"] for p in of(rows, "plan")] == [load_model("tiny-random-llama").version, first]
    assert {a["arm"]: a["policy"] for a in of(rows, "arm")}["self_edit_rl"] == second


def test_self_edits_come_from_the_policy_of_their_round(settings: Callable[..., dict[str, Any]]) -> None:
    rows = carry_out(settings(samples_per_iteration=1, evaluation={"enabled": False}))
    plans = {p["iteration"]: p for p in of(rows, "plan")}
    edits = of(rows, "edit")
    for trial in of(rows, "trial"):
        edit = next(e for e in edits if e["id"] == trial["edit_id"])
        assert edit["policy"] == trial["policy"] == plans[trial["iteration"]]["policy"]
    assert len({e["policy"] for e in edits}) == 2
    assert not of(rows, "arm"), "nothing is held out when evaluation is off"


def test_every_task_is_seen_before_any_is_seen_again(settings: Callable[..., dict[str, Any]]) -> None:
    rows = carry_out(
        settings(n=7, max_outer_iterations=7, tasks_per_iteration=2, reward_threshold=9.0, keep="positive")
        | {"data_config.prompt_type": "none", "evaluation.enabled": False, "inner.epochs": 1}
    )
    plans = [plan["task_ids"] for plan in of(rows, "plan")]
    assert all(len(set(names)) == 2 for names in plans)
    order = [name for names in plans for name in names]
    assert len(set(order[:7])) == len(set(order[7:])) == 7


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_sampling_tasks(n: int, count: int, seed: int) -> None:
    names, count = [str(i) for i in range(n)], min(n, count)
    rounds = [sample_tasks(names, count, seed, iteration) for iteration in range(2 * n)]
    assert all(len(set(chosen)) == count for chosen in rounds), "a round never has a task twice"
    order = [name for chosen in rounds for name in chosen]
    assert all(set(order[i : i + n]) == set(names) for i in range(0, n * count, n)), "sweep after sweep"


def test_a_baseline_is_measured_once_a_policy_and_task(settings: Callable[..., dict[str, Any]]) -> None:
    asked: list[str] = []

    class Spy(LocalInnerLoop):
        def run(self, jobs: Any, follow_up: Any = None) -> Iterator[AdaptOutcome]:
            jobs = list(jobs)
            asked.extend(f"{self.loaded.version}/{job.id}" for job in jobs if not job.sequences)
            return super().run(jobs, follow_up)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seal.inner.loop.LocalInnerLoop", Spy)
        rows = carry_out(settings(n=2, max_outer_iterations=3, reward_threshold=9.0, keep="positive"))
    assert len(of(rows, "plan")) == 3
    assert len(asked) == len(set(asked)) == 4, "two tasks and two held-out ones, under one policy"
    assert sorted(asked) == sorted(r.key.replace("+scored", "") for r in rows if r.kind == "baseline")


def test_nothing_kept_means_no_update_and_it_is_said(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    overrides = settings(max_outer_iterations=1, reward_threshold=9.0, keep="positive")
    config = load_config(preset="test", overrides=overrides)
    with Run.create(config.output_dir, config) as run:
        summary = SEALFramework(config, run=run).run()
        update = of(run.journal.rows(), "update")[0]
    assert (update["updated"], update["kept"], update["checkpoint"]) == (False, 0, "")
    assert update["policy"] == load_model("tiny-random-llama").version
    assert "no self-edit was kept" in str(summary)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert [a.arm for a in summary.arms] == ["base", "passage", "self_edit"], "there is no policy after RL"


# --- edits that cannot be applied -----------------------------------------------------------------------


def test_training_that_diverges_is_a_problem_of_its_edit_alone(
    settings: Callable[..., dict[str, Any]],
) -> None:
    rows = carry_out(settings(max_outer_iterations=1, lora_alpha=1e38, learning_rate=1.0))
    trials, update = of(rows, "trial"), of(rows, "update")[0]
    assert trials
    assert all(t["after"] is None and "the loss became" in t["problem"] for t in trials)
    assert all(r["reward"]["value"] == 0.0 and not r["reward"]["kept"] for r in of(rows, "result"))
    assert all(r["before"] == r["after"] for r in of(rows, "result"))
    assert not update["updated"]
    base, *others = of(rows, "arm")
    assert all(arm["mean"] == base["mean"] and arm["gain"] == 0 for arm in others)


def test_every_arm_is_checked_and_the_reasons_are_journalled(
    settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check finds stands beside every trial, and an arm without a self-edit has nothing to find."""

    def looped(self: Any, *args: Any, **kwargs: Any) -> list[Completion]:
        text = "It is old.\nIt is old.\nSo is Torholm itself."
        return [replace(c, text=text) for c in write(self, *args, **kwargs)]

    write = LocalGenerator.generate
    monkeypatch.setattr(LocalGenerator, "generate", looped)
    rows = carry_out(settings())
    trials = of(rows, "trial")
    assert {t["arm"] for t in trials} >= {"passage", "self_edit", "train"}
    for trial in trials:
        kinds = [f["kind"] for f in trial["findings"]]
        assert kinds == ([] if trial["arm"] == "passage" else ["loop", "unsupported"]), trial["arm"]


def test_a_self_edit_that_is_too_long_is_data_with_a_reason(
    settings: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of 100 tokens hold the passages, and of the self-edits those that ended early."""
    rows = carry_out(
        settings(max_outer_iterations=1, tasks_per_iteration=3, samples_per_iteration=4, max_length=100)
        | {"data_config.split_newlines": False, "generation.max_new_tokens": 60, "evaluation.enabled": False}
    )
    tokenizer = load_model("tiny-random-llama").tokenizer
    edits = {e["id"]: e for e in of(rows, "edit")}
    titles = {name.lower(): name for name in PLACES}
    failed = []
    for result in of(rows, "result"):
        edit = edits[result["edit_id"]]
        title = titles[edit["task_id"].rpartition("-")[0]]
        parts = [p.strip() for p in edit["completion"].split("---") if p.strip()]
        longest = max((len(tokenizer(f"{title}\n{part}")["input_ids"]) for part in parts), default=0)
        assert bool(result["problem"]) == (longest > 100)
        if result["problem"]:
            failed.append(edit["id"])
            assert f"has {longest} tokens, more than 100" in result["problem"]
            assert (result["reward"]["value"], result["reward"]["kept"]) == (0.0, False)
    assert 0 < len(failed) < len(edits)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert all(any(f"self-edit {name} cannot be applied" in line for line in said) for name in failed)


# --- same numbers again ---------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_results_and_another_seed_others(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    overrides = settings(max_outer_iterations=1)
    first, second, other = (
        carry_out(overrides | {"seed": seed}, tmp_path / str(n)) for n, seed in enumerate((1, 1, 2))
    )
    assert results(first) == results(second)

    def texts(rows: list[Row]) -> list[str]:
        return [e["completion"] for e in of(rows, "edit")]

    assert not set(texts(first)) & set(texts(other))
    assert of(first, "update")[0]["policy"] != of(other, "update")[0]["policy"]


class Crash(Exception):
    """A stand-in for losing power right after a line reached the disk."""


@contextmanager
def counted_work() -> Iterator[dict[str, list[int]]]:
    """How many adapters were asked for, and how many texts written, call by call."""
    work: dict[str, list[int]] = {"jobs": [], "texts": []}
    run, generate = LocalInnerLoop.run, LocalGenerator.generate

    def counting_run(self: LocalInnerLoop, jobs: Any, follow_up: Any = None) -> Any:
        jobs = list(jobs)
        work["jobs"].append(len(jobs))
        return run(self, jobs, follow_up)

    def counting_generate(self: LocalGenerator, prompts: Any, *rest: Any) -> Any:
        work["texts"].append(len(prompts))
        return generate(self, prompts, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalInnerLoop, "run", counting_run)
        patch.setattr(LocalGenerator, "generate", counting_generate)
        yield work


def crash_after(run: Run, lines: int) -> None:
    def listener(kind: str, record: Any) -> None:
        if len(run.journal.rows()) >= lines:
            raise Crash

    run.listeners.append(listener)


def lose_from(output_dir: str, lines: int) -> None:
    """Lines that are flushed together may be lost from any of them on."""
    journal = Path(output_dir) / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:lines]))


def small(settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return settings(n=2, n_val=1, tasks_per_iteration=1) | {"inner.epochs": 1, "generation.max_new_tokens": 6}


def test_a_run_that_crashes_after_every_single_line_ends_with_the_same_results(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    whole = carry_out(small(settings), tmp_path / "whole")
    config = load_config(preset="test", overrides=small(settings) | {"output_dir": str(tmp_path / "torn")})
    Run.create(config.output_dir, config).close()
    crashes, finished = 0, False
    while not finished:
        with Run.open(config.output_dir) as run:
            held = run.journal.rows()
            crash_after(run, len(held) + 1)
            try:
                SEALFramework(config, run=run).run()
                finished = True
            except Crash:
                crashes += 1
            assert run.journal.rows()[: len(held)] == held
            rows = run.journal.rows()
        assert finished == (len(rows) == len(held)), "every start gets on"
        if not finished:
            lose_from(config.output_dir, len(held) + 1)
    assert results(rows) == results(whole)
    assert crashes >= len(results(whole)), "every line was once the last one"


def test_what_the_journal_holds_is_not_done_again(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Adapters and texts are counted: only the group that was cut short is done twice."""
    overrides = small(settings) | {"samples_per_iteration": 3, "inner.batch": 2}
    with counted_work() as at_once:
        whole = carry_out(overrides, tmp_path / "whole")
    trials = [n for n, row in enumerate(whole, 1) if row.kind == "trial" and ".i0." in row.key]
    assert len(trials) == 3
    for stop, twice in zip(trials, (2, 0, 0), strict=True):
        config = load_config(
            preset="test", overrides=overrides | {"output_dir": str(tmp_path / f"cut{stop}")}
        )
        with counted_work() as in_two:
            with Run.create(config.output_dir, config) as run:
                crash_after(run, stop)
                with pytest.raises(Crash):
                    SEALFramework(config, run=run).run()
            lose_from(config.output_dir, stop)
            with Run.open(config.output_dir) as run:
                SEALFramework(config, run=run).run()
                assert results(run.journal.rows()) == results(whole)
        assert sum(in_two["jobs"]) - sum(at_once["jobs"]) == twice
        assert sum(in_two["texts"]) == sum(at_once["texts"])


def test_self_edits_that_come_to_the_same_are_one_adapter(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """In one arm and in two, and what is shared is what training would have given."""
    config = load_config(preset="test", overrides=settings())
    with Run.create(config.output_dir, config) as run:
        framework = SEALFramework(config, run=run)
        estep, tasks = framework.estep, framework.tasks
        before = estep.baselines(list(tasks.values()), 0)
        name = min(tasks)

        def edits(arm: str, *texts: str) -> list[SelfEdit]:
            return [SelfEdit(f"{name}.{arm}{n}", name, "", text, n, "v") for n, text in enumerate(texts)]

        with counted_work() as first:
            one, two, three = estep.adapt(edits("a", "Nine.", "Green.", "Nine."), 1, "a", 0, tasks, before)
        with counted_work() as later:
            again, new = estep.adapt(edits("b", "Nine.", "Osk."), 1, "b", 0, tasks, before)
        with counted_work() as resumed:
            estep.adapt(edits("b", "Nine.", "Osk."), 1, "b", 0, tasks, before)
        assert [sum(w["jobs"]) for w in (first, later, resumed)] == [2, 1, 0]
        for twin, key in ((three, f"{name}.a2/r0"), (again, f"{name}.b0/r0")):
            assert (twin.after, twin.outcome.adapted, twin.work) == (one.after, one.outcome.adapted, one.work)
            assert twin.outcome.job_id == key, "it answers for itself"
            assert twin.outcome.timings.train_tokens == 0, "and cost nothing"
        spec = TrialSpec(edits("c", "Nine.")[0], 0, "c", 0)
        ((trained,),) = estep.evaluator.trials(estep.evaluator.prepared([spec], tasks), tasks, before)
        assert trained.outcome.losses == pytest.approx(one.outcome.losses, abs=1e-5)
        assert len({one.work, two.work, new.work}) == 3
        (other,) = estep.evaluator.prepared([TrialSpec(edits("c", "Nine.")[0], 1, "c", 0)], tasks)
        assert other.work not in ("", one.work)


def test_resuming_a_finished_run_computes_nothing_and_says_the_same(
    settings: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(preset="test", overrides=small(settings))
    with Run.create(config.output_dir, config) as run:
        summary = SEALFramework(config, run=run).run()
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with counted_work() as work:
        assert main(["resume", config.output_dir]) == 0
    assert work == {"jobs": [], "texts": []}
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
    said = capsys.readouterr().out
    assert f"{summary}\n" in said
    assert said.endswith(f"results: {config.output_dir}\n")


# --- a grader that fails --------------------------------------------------------------------------------


class Judge(ThreadingHTTPServer):
    """An OpenAI-compatible judge that says yes to about half of all answers, always to the same ones."""

    daemon_threads = True
    up = True
    answers_before_outage = 10**9

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Reply)
        self.asked = 0


class _Reply(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        judge = self.server
        judge.asked += 1
        if not judge.up or judge.asked > judge.answers_before_outage:
            self.send_error(503)
            return
        prompt = json.loads(text)["messages"][0]["content"]
        word = "yes" if sha256(prompt.encode()).digest()[0] % 2 else "no"
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": word}}
        body = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "j", "choices": [message]}
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[Judge]:
    with Judge() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=10)


def judged(judge: Judge, settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return small(settings) | {
        "grader.kind": "judge",
        "grader.model": "j",
        "grader.base_url": f"http://127.0.0.1:{judge.server_address[1]}/v1",
        "grader.api_key_env": "",
        "grader.max_attempts": 1,
        "reward": "accuracy_gain",
        "samples_per_iteration": 3,
    }


def flags(overrides: dict[str, Any]) -> list[str]:
    return [part for key, value in overrides.items() for part in ("--set", f"{key}={json.dumps(value)}")]


@pytest.mark.parametrize("answers", [0, 5])
def test_a_grader_outage_stops_the_run_and_scores_nothing(
    settings: Callable[..., dict[str, Any]],
    judge: Judge,
    answers: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides = judged(judge, settings)
    judge.answers_before_outage = answers
    folder = tmp_path / "run"
    command = [
        "train",
        "--preset",
        "test",
        "--output-dir",
        str(folder),
        "--log-level",
        "ERROR",
        *flags(overrides),
    ]
    assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "could not be graded" in error
    assert "seal resume" in error
    assert "\n" not in error
    for row in Journal.read(folder / "journal.jsonl"):
        graded = row.data.get("answers", []) + row.data.get("outcome", {}).get("adapted", [])
        assert all(answer["verdict"] in (Verdict.CORRECT, Verdict.WRONG) for answer in graded)
    judge.answers_before_outage = 10**9
    assert main(["resume", str(folder), "--log-level", "ERROR"]) == 0
    unbroken = carry_out(overrides, tmp_path / "unbroken")
    assert results(Journal.read(folder / "journal.jsonl")) == results(unbroken)
    scores = [t["after"]["score"] for t in of(unbroken, "trial")]
    assert 0 < fmean(scores) < 1, "this judge tells answers apart"


# --- held-out arms --------------------------------------------------------------------------------------


def test_arms_and_paired_intervals_by_hand(settings: Callable[..., dict[str, Any]], judge: Judge) -> None:
    rows = carry_out(
        judged(judge, settings) | settings(n_val=4, max_outer_iterations=1) | {"evaluation.samples": 2}
    )
    arms = {a["arm"]: a for a in of(rows, "arm")}
    assert list(arms) == ["base", "passage", "self_edit", "base_rl", "self_edit_rl"]
    base = {t["task_id"]: t["score"] for t in arms["base"]["tasks"]}
    for name in ("passage", "self_edit", "self_edit_rl"):
        arm, mine = arms[name], [t for t in of(rows, "trial") if t["arm"] == name]
        assert len(mine) == 4 * (1 if name == "passage" else 2)
        scores = {
            task: fmean(t["after"]["score"] for t in mine if t["task_id"] == task)
            for task in {t["task_id"] for t in mine}
        }
        assert {t["task_id"]: t["score"] for t in arm["tasks"]} == pytest.approx(scores)
        assert arm["n"] == 8
        assert arm["mean"] == pytest.approx(fmean(scores.values()))
        gains = [scores[t["task_id"]] - base[t["task_id"]] for t in arm["tasks"]]
        assert arm["gain"] == pytest.approx(fmean(gains))
        assert (arm["gain_low"], arm["gain_high"]) == interval(gains, [2.0] * 4, GAINS)[1:]


def test_a_paired_gain_is_surer_than_its_parts() -> None:
    """Tasks differ widely, the gain does not: pairing has to show that."""
    scores = [i / 40 for i in range(40)]
    base = base_arm([Baseline(str(i), "p", Performance(s, n=5)) for i, s in enumerate(scores)])
    trials = [
        Trial(
            f"e{i}",
            str(i),
            0,
            "self_edit",
            -1,
            "p",
            Performance(s, n=5),
            Performance(s + 0.1, n=5),
            AdaptOutcome("j"),
        )
        for i, s in enumerate(scores)
    ]
    arm = trained_arm("self_edit", trials, base)
    assert arm.gain == pytest.approx(0.1)
    assert arm.gain_low is not None
    assert arm.gain_low > 0
    assert arm.low is not None
    assert arm.low < 0.5, "its own mean is far less sure"
    assert (base.gain, base.gain_low, base.gain_high) == (0, None, None)
    assert arm.n == 200


def test_questions_weigh_the_same_and_a_failed_edit_changes_nothing() -> None:
    base = base_arm([Baseline("a", "p", Performance(0.5, n=2)), Baseline("b", "p", Performance(0.0, n=8))])
    assert base.mean == pytest.approx(0.1)
    done = Trial("e", "a", 0, "x", -1, "p", Performance(0.5, n=2), Performance(1.0, n=2), AdaptOutcome("j"))
    failed = Trial("f", "b", 0, "x", -1, "p", Performance(0.0, n=8), None, AdaptOutcome("j"), "too long")
    arm = trained_arm("x", [done, failed], base)
    assert (arm.mean, arm.gain) == pytest.approx((0.2, 0.1))
    assert all(a.score <= b.score for a, b in pairwise(sorted(arm.tasks, key=lambda t: t.score)))


def test_the_context_in_the_prompt_is_an_arm_of_its_own(settings: Callable[..., dict[str, Any]]) -> None:
    config = settings(**{"evaluation.in_context": True, "max_outer_iterations": 0})
    arms = {a["arm"]: a for a in of(carry_out(config), "arm")}
    assert {"base", "in_context", "passage", "self_edit"} == set(arms)
    assert arms["in_context"]["n"] == arms["base"]["n"]
    assert arms["in_context"]["policy"] == arms["base"]["policy"]


def test_an_arm_that_there_is_not_is_refused(settings: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"names 'self_edits'"):
        carry_out(settings() | {"evaluation.arms": ["base", "self_edits"]})


def test_without_rounds_there_is_nothing_to_compare_rl_with(settings: Callable[..., dict[str, Any]]) -> None:
    asked = ["base", "constant", "placebo"]
    rows = carry_out(small(settings) | {"max_outer_iterations": 0, "evaluation.arms": asked})
    assert [a["arm"] for a in of(rows, "arm")] == ["base"]


def test_rl_is_compared_with_the_best_constant_and_a_placebo(
    settings: Callable[..., dict[str, Any]], judge: Judge, tmp_path: Path
) -> None:
    """The placebo is another policy, made from as many self-edits; and a resumed run changes none of it."""
    asked = ["base", "self_edit", "placebo", "self_edit_rl", "in_context"]
    more = {"evaluation.arms": asked, "samples_per_iteration": 6}
    rows = carry_out(judged(judge, settings) | settings(max_outer_iterations=2) | more, tmp_path / "run")
    arms = {a["arm"]: a for a in of(rows, "arm")}
    assert set(arms) == {*asked, "base_rl", "base_placebo", "self_edit_placebo"} - {"placebo"}
    policies = [arms[name]["policy"] for name in ("base", "self_edit_rl", "self_edit_placebo")]
    assert len(set(policies)) == 3
    kept = [(u["iteration"], u["kept"], u["updated"]) for u in of(rows, "update")]
    assert [(u["iteration"], u["kept"], u["updated"]) for u in of(rows, "placebo")] == kept
    assert len(list((tmp_path / "run" / "checkpoints").glob("placebo-*"))) == 1


@pytest.mark.parametrize("kind", ["study_plan", "implications"])
def test_fixed_prompts_are_free_texts_in_one_adapter(
    settings: Callable[..., dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    """Whatever form a policy's self-edits have; and a resumed run writes none of them again."""
    more = {"evaluation.arms": ["base", "fixed_prompts"], "max_outer_iterations": 0}
    rows = carry_out(settings(**more) | {"data_config.prompt_type": kind}, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        framework = SEALFramework(run.config, run=run)
        framework.run()
        assert run.journal.rows() == rows
    texts = {e["id"]: e for e in of(rows, "edit")}
    arm = next(a for a in of(rows, "arm") if a["arm"] == "fixed_prompts")
    assert len(arm["tasks"]) == len(framework.data.val) > 0
    assert not any(e["completion"].startswith("{") for e in texts.values())
    for task in framework.data.val:
        mine = [e for e in texts.values() if e["task_id"] == task.id]
        tokenizer = framework.estep.policy.tokenizer
        assert [e["prompt"] for e in mine] == list(framework.domain.fixed_prompts(task, tokenizer))
        joined = framework.domain.joined(task, [e["completion"] for e in mine])
        expected = framework.domain.training_sequences(task, joined, tokenizer)
        own = [framework.domain.training_sequences(task, e["completion"], tokenizer)[:-1] for e in mine]
        assert [*(row for part in own for row in part), expected[-1]] == list(expected)


def test_only_the_newest_policies_stay_on_disk(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = settings(max_outer_iterations=4, keep_checkpoints=2)
    updates = of(carry_out(config, tmp_path / "run"), "update")
    assert all(u["updated"] for u in updates)
    assert sorted(f.name for f in (tmp_path / "run" / "checkpoints").iterdir()) == ["policy-3", "policy-4"]
