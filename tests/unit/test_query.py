"""Query and CPT: the official result files, measured by the real engine, interrupted and taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ttt_in_process
from seal import setup
from seal.errors import DataError, GradingError, ModelError, RunError
from seal.estep import EStep
from seal.models.load import load_model
from seal.recipes import pipeline
from seal.recipes.articles import read_articles
from seal.recipes.cpt import PAPER_CPT_FULL, cpt, cpt_full
from seal.recipes.query import query
from seal.recipes.results import read_run
from seal.records import AdaptJob, AdaptOutcome, TrainingConfig, TrainingSequence
from seal.report.history import read_history, read_tasks
from seal.report.regrade import regrade
from seal.restem import finetune
from seal.self_edit import sequence_texts
from seal.serve.messages import TTTRequest

TRAINING = TrainingConfig(rank=4, alpha=8.0, epochs=2, learning_rate=0.02)


class Tapped:
    """An inner loop that counts, and fails what `fails` says."""

    def __init__(self, inner: Any, fails: Any = None, dies_after: int = 10**9) -> None:
        self.inner, self.fails, self.dies_after = inner, fails or (lambda job: False), dies_after
        self.jobs: list[AdaptJob] = []

    @property
    def slots(self) -> int:
        return 1  # two adapters a chunk

    def close(self) -> None:
        self.inner.close()

    def run(self, jobs: Iterable[AdaptJob], follow_up: Any = None) -> Iterator[AdaptOutcome]:
        for job in jobs:
            if len(self.jobs) >= self.dies_after:
                raise KeyboardInterrupt
            self.jobs.append(job)
            (outcome,) = self.inner.run([job])
            if self.fails(job):
                answers = tuple(replace(a, verdict=None, note="the judge is away") for a in outcome.adapted)
                outcome = replace(outcome, adapted=answers)
            yield outcome

    @property
    def trained(self) -> list[AdaptJob]:
        return [job for job in self.jobs if job.sequences]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [
        {
            "title": "Same" if i else "First",
            "context": f"passage {i}",
            "questions": [{"question": f"q{i}{q}?", "answer": f"a{i}"} for q in range(2 + i)],
            "completions": [f"fact {i} {j}\nother {j}" for j in range(2)],
            "prompt": f"prompt {i}",
        }
        for i in range(3)
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    return path


class Step:
    """A step of the pipeline in a fresh process, as far as this one can be one."""

    def __init__(self, data: Path, folder: Path, tiny: Any) -> None:
        self.data, self.folder, self.tiny = data, folder, tiny
        self.out = folder / "out" / "run.json"

    def __call__(
        self,
        do: Callable[[EStep, list[pipeline.Pair], Path], Any],
        model: str = "llama",
        tap: Callable[[Any], Tapped] = Tapped,
        training: TrainingConfig = TRAINING,
        k: int | None = None,
        out: Path | None = None,
        **changes: Any,
    ) -> tuple[Any, Tapped]:
        out, loaded = out or self.out, self.tiny(model)
        settings = {"repeats": 2, "seed": 0, "dtype": "float32", "inner__batch": 2} | changes
        config = pipeline.settings(
            "tiny", str(self.data), out, **pipeline.inner_settings(training), **settings
        )
        pairs = pipeline.pair_with_tasks(read_articles(self.data, None, k), config, loaded.tokenizer)
        with pipeline.open_run(config, pipeline.Step("query", str(out))) as run:
            grader = setup.grader(config, loaded)
            estep = setup.estep(config, run, setup.make_domain(config, grader), grader, loaded)
            tapped = tap(estep.evaluator.loop)
            estep.evaluator.loop = tapped
            return do(estep, pairs, out), tapped


@pytest.fixture
def step(data: Path, tmp_path: Path, tiny: Any) -> Step:
    return Step(data, tmp_path, tiny)


def test_the_file_has_the_official_shape(step: Step, shared: Path) -> None:
    step(lambda *given: query(*given, exp_name="x"))
    mine = json.loads(step.out.read_text())
    official = json.loads((shared / "data/official/rank_iter0_prompt-self-qa.json").read_text())
    assert set(official) <= set(mine)
    assert mine["overall"].keys() == official["overall"].keys()
    assert mine["lora_params"].keys() == official["lora_params"].keys()
    article, theirs = mine["articles"][0], official["articles"][0]
    assert article.keys() == theirs.keys()
    assert article["completions"][0].keys() == theirs["completions"][0].keys()
    assert article["completions"][0]["stats"].keys() == theirs["completions"][0]["stats"].keys()
    assert article["completions"][0]["questions"][0].keys() == theirs["completions"][0]["questions"][0].keys()
    assert (mine["n_articles"], mine["k_completions"], mine["eval_times"]) == (3, 2, 2)
    assert [len(a["completions"][0]["questions"]) for a in mine["articles"]] == [4, 6, 8]
    assert read_run(step.out).overall.mean_gain == mine["overall"]["mean_gain"]


def test_what_is_reported_is_what_the_engine_said(step: Step, data: Path, tiny: Any) -> None:
    run, tapped = step(query)
    record = json.loads(data.read_text())[2]
    texts = sequence_texts(record["completions"][1], record["title"], record["context"], True)
    questions = [{"title": record["title"], "context": record["context"], **q} for q in record["questions"]]
    request = TTTRequest.of(TRAINING, train_sequences=texts, eval_questions=questions)
    job = next(job for job in tapped.trained if job.id.endswith(".i0.e1/r1") and len(job.eval_prompts) == 4)
    (reply,) = ttt_in_process.replies(tiny(), [request.model_dump(mode="json") | {"seed": job.seed}])
    mine = [q for q in run.articles[2].completions[1].questions if q.rep == 1]
    assert [q.adapter_answer for q in mine] == reply["adapter_texts"]
    assert [q.adapter_correct for q in mine] == reply["adapter_correct"]
    assert [q.baseline_answer for q in mine] == reply["baseline_texts"]
    assert len({q.adapter_answer for c in run.articles[2].completions for q in c.questions}) > 2


def test_interrupted_and_taken_up_again(step: Step, tmp_path: Path) -> None:
    whole, _ = step(query, out=tmp_path / "whole.json")
    with pytest.raises(KeyboardInterrupt):
        step(query, tap=lambda inner: Tapped(inner, dies_after=3 + 7))
    partly = read_run(step.out)
    assert len(partly.articles) == 1
    assert partly.articles[0] == whole.articles[0]
    resumed, again = step(query)
    assert len(again.trained) == 12 - 6  # the batch of two that was cut short is run again whole
    assert resumed.articles == whole.articles
    assert resumed.overall == whole.overall
    step(query, tap=lambda inner: Tapped(inner, dies_after=0))


def test_a_failed_measurement_is_not_scored_and_is_redone(step: Step) -> None:
    with pytest.raises(GradingError, match=r"4 items could not be graded: .*the judge is away"):
        step(query, tap=lambda inner: Tapped(inner, lambda job: len(job.eval_prompts) == 3 and job.sequences))
    assert [a.title for a in read_run(step.out).articles] == ["First", "Same"]
    run, again = step(query)
    assert len(run.articles) == 3
    assert len(again.trained) == 4


def test_a_self_edit_that_cannot_be_applied_is_data(step: Step, data: Path) -> None:
    records = json.loads(data.read_text())
    records[0]["completions"][0] = "long " * 3000
    data.write_text(json.dumps(records))
    run, _ = step(query)
    broken = run.articles[0].completions[0]
    assert "a training row has" in (broken.model_extra or {})["error"]
    assert (broken.questions, broken.stats.adapter_mean) == ((), None)
    assert run.articles[0].completions[1].stats.adapter_mean is not None


def test_other_settings_or_another_model_do_not_mix(step: Step) -> None:
    step(query)
    with pytest.raises(RunError, match="began with seed 0, now it is 1"):
        step(query, seed=1)
    with pytest.raises(RunError, match=r"plan '0' stands on line \d+ with other data"):
        step(query, model="gpt2")
    with pytest.raises(DataError, match="5 were asked for"):
        step(query, k=5)


def test_the_work_is_a_run_that_is_reported_and_regraded_like_any_other(step: Step) -> None:
    run, _ = step(query)
    history = read_history(step.out.with_suffix(".run"))
    assert history.rounds == [0]
    assert len(history.results) == 6
    gains = {r.edit_id: r.reward.parts["gain"] for r in history.results}
    shown = {
        f"{task}.i0.e{j}": c.stats.gain_mean
        for task, article in zip(history.plans[0].task_ids, run.articles, strict=True)
        for j, c in enumerate(article.completions)
    }
    assert gains == pytest.approx(shown, abs=1e-4)
    tasks, missing = read_tasks(history.config)
    assert (len(tasks), missing) == (3, "")
    again = regrade(history, tasks, setup.grader(history.config, None), "lexical")  # type: ignore[arg-type]
    assert (again.agreement, again.errors) == (1.0, 0)
    assert all(edit.old_reward >= 0 for edit in again.edits)


def test_cpt_trains_one_adapter_on_everything(step: Step, tmp_path: Path, shared: Path) -> None:
    result, tapped = step(cpt, data_config__split_newlines=False)
    official = json.loads((shared / "data/official/cpt_base.json").read_text())
    assert set(official) <= set(result)
    assert result["server_reply"].keys() == official["server_reply"].keys()
    assert (result["train_sequences"], result["eval_questions"]) == (12, 9)
    (job,) = tapped.trained
    assert len(job.sequences) == 12
    decode = step.tiny().tokenizer.decode
    texts = [decode(s.ids, skip_special_tokens=True) for s in job.sequences[:2]]
    assert texts == ["First\nfact 0 0\nother 0", "First\npassage 0"]
    per = result["per_article"]
    assert {title: len(v["adapter_correct"]) for title, v in per.items()} == {"First": 2, "Same": 7}
    flat = [v for article in per.values() for v in article["adapter_correct"]]
    assert flat == result["server_reply"]["adapter_correct"]
    assert json.loads(step.out.read_text()) == result
    again, _ = step(cpt, tap=lambda inner: Tapped(inner, dies_after=0), data_config__split_newlines=False)
    assert again == result
    low, high = result["intervals"]["gain"]
    assert low <= result["overall"]["gain"] <= high
    arms = {arm.arm: arm for arm in read_history(step.out.with_suffix(".run")).arms}
    assert arms["cpt"].mean == pytest.approx(result["overall"]["adapter_accuracy"], abs=1e-4)
    passages, _ = step(lambda *given: cpt(*given, passages_only=True), out=tmp_path / "p.json")
    assert (passages["train_sequences"], passages["k_completions"]) == (3, 0)


def test_full_finetuning_equals_plain_adamw_without_pads(tiny: Any) -> None:
    import torch

    rows = [TrainingSequence(tuple(range(5, 5 + n))) for n in (3, 9, 6, 4)]
    rows[1] = TrainingSequence(rows[1].ids, ((4, 9),))
    training = TrainingConfig(epochs=3, batch_size=2, accumulation=2, learning_rate=1e-3, shuffle=False)
    loaded, theirs = tiny(), tiny().model
    losses = finetune(loaded, rows, training, seed=1)
    for parameter in theirs.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(3):
        counted = sum(len(row.labelled()) for row in rows)
        total = 0.0
        for row in rows:
            ids = torch.tensor([row.ids])
            labels = torch.full_like(ids, -100)
            labels[0, row.labelled()] = ids[0, row.labelled()]
            loss = theirs(input_ids=ids, labels=labels).loss * len(row.labelled()) / counted
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 - step / 3)
        optimiser.step()
        optimiser.zero_grad()
        assert losses[step] == pytest.approx(total, rel=1e-4)
    start = dict(tiny().model.named_parameters())
    for (name, a), b in zip(loaded.model.named_parameters(), theirs.parameters(), strict=True):
        assert (a - b).norm() <= 0.02 * (b - start[name]).norm() + 1e-6, name
        assert not a.requires_grad
    with pytest.raises(ModelError, match="window"):
        finetune(loaded, [TrainingSequence((1,) * 100_000)], training, 1)


def test_cpt_with_all_weights_saves_the_model_and_resumes(step: Step, tmp_path: Path) -> None:
    def with_all_weights(folder: Path, fails: bool = False) -> Callable[..., Any]:
        def do(estep: EStep, pairs: list[pipeline.Pair], out: Path) -> Any:
            def tuned(saved: Path) -> EStep:
                if fails:
                    raise KeyboardInterrupt
                config, loaded = estep.run.config, load_model(str(saved), "cpu", "float32")
                grader = setup.grader(config, loaded)
                return setup.estep(config, estep.run, setup.make_domain(config, grader), grader, loaded)

            return cpt_full(estep, pairs, out, folder, tuned)

        return do

    settings = {"training": replace(PAPER_CPT_FULL, learning_rate=0.01)}
    with pytest.raises(KeyboardInterrupt):
        step(with_all_weights(tmp_path / "model", fails=True), **settings)
    result, tapped = step(with_all_weights(tmp_path / "model"), **settings)
    assert not tapped.jobs  # nothing but the tuned model's answers was missing
    assert (result["method"], result["steps"]) == ("full", 3)
    reply = result["server_reply"]
    assert reply["adapter_texts"] != reply["baseline_texts"]
    assert load_model(str(tmp_path / "model")).version != step.tiny().version
    whole, _ = step(with_all_weights(tmp_path / "model2"), out=tmp_path / "whole.json", **settings)
    assert whole["server_reply"] == reply


def test_a_control_token_in_a_passage_is_refused_by_name(step: Step, data: Path) -> None:
    found = json.loads(data.read_text())
    found[1]["completions"][0] += " <|im_end|>"
    data.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"holds <\|im_end\|>, which the model reads as a control token"):
        step(query)
