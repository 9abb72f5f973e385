"""The official result file: statistics reproduced, official files read and written back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seal.errors import DataError
from seal.recipes.results import (
    CompletionStats,
    QueryRun,
    QuestionResult,
    completion_stats,
    make_article,
    make_completion,
    make_run,
    read_run,
)

OFFICIAL = ("rank_iter0_prompt-self-qa.json", "rank_iter1.json")


def question(rep: int, before: bool | None, after: bool | None) -> QuestionResult:
    return QuestionResult(
        rep=rep,
        question="Where?",
        answer="Vell",
        baseline_answer="Orm",
        adapter_answer="Vell",
        baseline_correct=before,
        adapter_correct=after,
    )


def restated(run: QueryRun) -> QueryRun:
    """The run with every statistic computed afresh from its verdicts."""
    articles = [
        make_article(
            a.title, a.context, a.prompt, [make_completion(c.text, c.questions) for c in a.completions]
        )
        for a in run.articles
    ]
    return make_run(articles, **(run.model_extra or {}))


def test_all_statistics_of_the_official_run_come_out_exactly(shared: Path) -> None:
    path = shared / "data/official" / OFFICIAL[0]
    official: dict[str, Any] = json.loads(path.read_text("utf-8"))
    ours = restated(read_run(path)).to_dict()
    compared = 0
    for mine, theirs in zip(ours["articles"], official["articles"], strict=True):
        assert mine["stats"] == theirs["stats"]
        compared += len(mine["stats"])
        for a, b in zip(mine["completions"], theirs["completions"], strict=True):
            assert a["stats"] == b["stats"]
            compared += len(a["stats"])
    assert compared == 1500
    assert ours["overall"] == official["overall"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_survive_reading_and_writing(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "data/official" / name
    read_run(source).write(tmp_path / "run.json")
    assert json.loads((tmp_path / "run.json").read_text("utf-8")) == json.loads(source.read_text("utf-8"))
    written = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert next(iter(written)) == "overall"
    assert [*written][-1] == "articles"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_statistics_by_hand() -> None:
    verdicts = [question(0, False, True), question(0, True, True), question(0, False, False)]
    verdicts += [question(1, False, False), question(1, True, False), question(1, False, False)]
    stats = completion_stats(verdicts)
    assert stats.model_dump() == {
        "baseline_mean": 0.3333,
        "baseline_std": 0.0,
        "adapter_mean": pytest.approx(0.33335),  # 0.6667 and 0
        "adapter_std": pytest.approx(0.6667 / 2**0.5),
        "gain_mean": 0.0,  # 1/3 and −1/3
    }


def test_an_ungraded_answer_counts_nowhere() -> None:
    stats = completion_stats([question(0, True, None), question(0, False, True), question(1, None, None)])
    assert stats == CompletionStats(
        baseline_mean=0.5, baseline_std=0.0, adapter_mean=1.0, adapter_std=0.0, gain_mean=1.0
    )


def test_an_article_without_measurements_has_no_numbers() -> None:
    failed = make_completion("text", [], error="out of memory")
    good = make_completion("text", [question(0, False, True)])
    run = make_run(
        [make_article("t", "c", "p", [failed]), make_article("t", "c", "p", [good])], timestamp="now"
    )
    assert run.articles[0].stats.adapter_mean_accuracy is None
    assert run.overall.adapter_mean_accuracy == 1.0
    written = run.to_dict()
    assert written["timestamp"] == "now"
    assert written["articles"][0]["completions"][0]["error"] == "out of memory"


def test_files_that_are_no_result_say_so(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with pytest.raises(DataError, match=r"run\.json"):
        read_run(path)
    path.write_text('{"overall": {},\n "articles": [}')
    with pytest.raises(DataError, match=r"run\.json, line 2"):
        read_run(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="no result of a query run"):
        read_run(path)
    path.write_text('{"articles": []}')
    with pytest.raises(DataError, match="no result of a query run: overall: field required"):
        read_run(path)
