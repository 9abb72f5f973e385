"""Query and CPT: the official result files, measured by the real engine, interrupted and taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from seal.recipes.full_finetune import full_finetune

from double_precision import SAME, DoublePrecision
from seal.errors import AdaptError, DataError, RunError, ServeError
from seal.graded import Graded
from seal.grading import LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.models.load import load_model
from seal.recipes.cpt import PAPER_CPT_FULL, CPTSettings, cpt, cpt_full
from seal.recipes.query import QuerySettings, query
from seal.recipes.results import read_run
from seal.records import TrainingConfig, TrainingSequence
from seal.seeds import derive
from seal.self_edit import sequence_texts
from seal.serve.messages import TTTRequest
from seal.serve.requests import Answered, Ask, LocalTTT, Requests

TRAINING = TrainingConfig(rank=4, alpha=8.0, epochs=2, learning_rate=0.02)


@pytest.fixture
def ttt(tiny: Any) -> LocalTTT:
    loaded = tiny()
    return LocalTTT(Graded(LocalInnerLoop(loaded), LexicalGrader()), Requests(loaded))


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


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> QuerySettings:
    return QuerySettings(data, tmp_path / "out" / "run.json", training=TRAINING, repeats=2, exp_name="x")


class Tapped:
    """A TTT that counts, and fails what `fails` says."""

    def __init__(self, inner: LocalTTT, fails: Any = None, dies_after: int = 10**9) -> None:
        self.inner, self.fails, self.dies_after = inner, fails or (lambda ask: False), dies_after
        self.policy, self.asked = inner.policy, 0

    def run(self, asks: Iterable[Ask]) -> Iterator[Answered]:
        for ask in asks:
            if self.asked >= self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            if self.fails(ask):
                yield Answered(ask.id, error="GradingError: the judge is away")
            else:
                yield from self.inner.run([ask])


def test_the_file_has_the_official_shape(settings: QuerySettings, ttt: LocalTTT, shared: Path) -> None:
    query(settings, ttt)
    mine = json.loads(settings.out.read_text())
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
    assert read_run(settings.out).overall.mean_gain == mine["overall"]["mean_gain"]


def test_what_is_reported_is_what_the_engine_said(settings: QuerySettings, ttt: LocalTTT, data: Path) -> None:
    run = query(settings, ttt)
    record = json.loads(data.read_text())[2]
    texts = sequence_texts(record["completions"][1], record["title"], record["context"], True)
    questions = [{"title": record["title"], "context": record["context"], **q} for q in record["questions"]]
    request = TTTRequest.of(TRAINING, train_sequences=texts, eval_questions=questions)
    (answered,) = ttt.run([Ask("a", request, derive(0, "query", "Same", "2/1/1"))])
    assert answered.reply is not None
    mine = [q for q in run.articles[2].completions[1].questions if q.rep == 1]
    assert [q.adapter_answer for q in mine] == answered.reply.adapter_texts
    assert [q.adapter_correct for q in mine] == answered.reply.adapter_correct
    assert len({q.adapter_answer for c in run.articles[2].completions for q in c.questions}) > 2


def test_interrupted_and_taken_up_again(settings: QuerySettings, ttt: LocalTTT, tmp_path: Path) -> None:
    whole = query(replace(settings, out=tmp_path / "whole.json"), ttt)
    with pytest.raises(KeyboardInterrupt):
        query(replace(settings, write_every_s=0), Tapped(ttt, dies_after=7))
    partly = read_run(settings.out)
    assert len(partly.articles) == 1
    assert partly.articles[0] == whole.articles[0]
    again = Tapped(ttt)
    resumed = query(settings, again)
    assert again.asked == 12 - 7
    assert resumed.articles == whole.articles
    assert resumed.overall == whole.overall
    query(settings, Tapped(ttt, dies_after=0))


def test_a_failed_measurement_is_not_scored_and_is_redone(settings: QuerySettings, ttt: LocalTTT) -> None:
    with pytest.raises(ServeError, match=r"2 of 12 measurements failed, first 1/0/0: GradingError"):
        query(settings, Tapped(ttt, fails=lambda ask: ask.id.startswith("1/0/")))
    assert [a.title for a in read_run(settings.out).articles] == ["First", "Same"]
    again = Tapped(ttt)
    assert len(query(settings, again).articles) == 3
    assert again.asked == 2


def test_other_settings_or_another_model_do_not_mix(
    settings: QuerySettings, ttt: LocalTTT, tiny: Any
) -> None:
    query(settings, ttt)
    with pytest.raises(RunError, match="other data"):
        query(replace(settings, seed=1), ttt)
    other = tiny("gpt2")
    with pytest.raises(RunError, match="other data"):
        query(settings, LocalTTT(Graded(LocalInnerLoop(other), LexicalGrader()), Requests(other)))
    with pytest.raises(DataError, match="5 were asked for"):
        query(replace(settings, k=5), ttt)


def test_cpt_trains_one_adapter_on_everything(
    data: Path, tmp_path: Path, ttt: LocalTTT, shared: Path
) -> None:
    seen: list[Ask] = []

    class Spy(Tapped):
        def run(self, asks: Iterable[Ask]) -> Iterator[Answered]:
            seen.extend(asks)
            yield from self.inner.run(seen)

    settings = CPTSettings(data, tmp_path / "cpt.json", training=TRAINING, split_newlines=False)
    result = cpt(settings, Spy(ttt))
    official = json.loads((shared / "data/official/cpt_base.json").read_text())
    assert set(official) <= set(result)
    assert result["server_reply"].keys() == official["server_reply"].keys()
    assert (result["train_sequences"], result["eval_questions"]) == (12, 9)
    assert len(seen) == 1
    assert seen[0].request.train_sequences[:2] == ["First\nfact 0 0\nother 0", "First\npassage 0"]
    per = result["per_article"]
    assert {title: len(v["adapter_correct"]) for title, v in per.items()} == {"First": 2, "Same": 7}
    flat = [v for article in per.values() for v in article["adapter_correct"]]
    assert flat == result["server_reply"]["adapter_correct"]
    assert json.loads(settings.out.read_text()) == result
    assert cpt(settings, Tapped(ttt, dies_after=0))["server_reply"] == result["server_reply"]
    passages = cpt(replace(settings, k=0, out=tmp_path / "p.json"), ttt)
    assert (passages["train_sequences"], passages["k_completions"]) == (3, 0)


def test_full_finetuning_equals_plain_adamw_without_pads(tiny: Any) -> None:
    import torch

    rows = [TrainingSequence(tuple(range(5, 5 + n))) for n in (3, 9, 6, 4)]
    rows[1] = TrainingSequence(rows[1].ids, ((4, 9),))
    recipe = TrainingConfig(
        epochs=3, batch_size=2, accumulation=2, learning_rate=1e-3, shuffle=False, schedule="linear"
    )
    mine, theirs = (tiny().model.double() for _ in range(2))
    with DoublePrecision():
        losses = full_finetune(mine, rows, recipe, seed=1)
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
            with DoublePrecision():
                loss = theirs(input_ids=ids, labels=labels).loss * len(row.labelled()) / counted
                loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = 1e-3 * (1 - step / 3)
        optimiser.step()
        optimiser.zero_grad()
        assert losses[step] == pytest.approx(total, rel=SAME)
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert (a - b).norm() <= SAME * b.norm(), name
        assert not a.requires_grad
    with pytest.raises(AdaptError, match="window"):
        full_finetune(mine, [TrainingSequence((1,) * 100_000)], recipe, 1)


def test_cpt_with_all_weights_saves_the_model_and_resumes(data: Path, tmp_path: Path, tiny: Any) -> None:
    settings = CPTSettings(data, tmp_path / "full.json", training=replace(PAPER_CPT_FULL, learning_rate=0.01))

    def inner_of(loaded: Any) -> Graded:
        return Graded(LocalInnerLoop(loaded), LexicalGrader())

    def lost(folder: Path) -> Any:
        raise KeyboardInterrupt

    def reload(folder: Path) -> Any:
        return load_model(str(folder), device="cpu", dtype="float32")

    with pytest.raises(KeyboardInterrupt):
        cpt_full(settings, tiny(), inner_of, tmp_path / "model", lost)
    untouched = tiny()
    before = [p.clone() for p in untouched.model.parameters()]
    result = cpt_full(settings, untouched, inner_of, tmp_path / "model", reload)
    assert all((a == b).all() for a, b in zip(before, untouched.model.parameters(), strict=True))
    assert (result["method"], result["steps"]) == ("full", 3)
    reply = result["server_reply"]
    assert reply["adapter_texts"] != reply["baseline_texts"]
    tuned = reload(tmp_path / "model")
    assert tuned.version != untouched.version
    whole = cpt_full(
        replace(settings, out=tmp_path / "whole.json"), tiny(), inner_of, tmp_path / "model2", reload
    )
    assert whole["server_reply"] == reply
