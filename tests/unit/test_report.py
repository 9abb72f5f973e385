"""The report: its numbers are those of `metrics.jsonl`, hostile text is text, every run has one."""

from __future__ import annotations

import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cost import cost
from seal.cli import main
from seal.errors import RunError
from seal.grading import Grade
from seal.records import Question, Verdict
from seal.report import page as report
from seal.report.charts import ticks
from seal.report.grids import grid_or_none, grid_svg
from seal.report.history import read_history, read_tasks
from seal.report.metrics import lines, run_metrics
from seal.report.regrade import regrade, save
from seal.report.sinks import open_sinks
from seal.report.texts import clipped, one_line, plain
from seal.wording import counted

SECTIONS = ("findings", "training", "held-out", "tasks", "run")
VOID = {"meta", "link", "input", "br", "img", "circle", "path", "rect"}


class Page(HTMLParser):
    """What a browser would make of a page, as far as the tests look."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.metrics: dict[str, tuple[str, str]] = {}
        self.text = ""
        self._metric = ""
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        self._skip += tag in ("script", "style")
        if "data-metric" in found:
            self._metric = found["data-metric"]
            self.metrics[self._metric] = ("", found["data-kind"])

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("script", "style")
        self._metric = ""

    def handle_data(self, data: str) -> None:
        assert not re.search(r"\d %", data), data  # no line breaks between a number and its sign
        data = data.replace("\N{NO-BREAK SPACE}%", " %")
        if self._metric:
            text, kind = self.metrics[self._metric]
            self.metrics[self._metric] = (text + data, kind)
        if not self._skip:
            self.text += data


@pytest.fixture(scope="module")
def finished(made_up: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "night shift"
    made_up.MadeUpRun(folder, rounds=3, tasks=4, edits=3, repeats=3)
    return folder


def page_of(folder: Path, **options: Any) -> str:
    return report.html([report.run_view(folder, **options)])


def test_numbers_on_the_page_are_those_of_the_metrics_file(
    finished: Path, made_up: Any, tmp_path: Path
) -> None:
    from seal.run.folder import Run

    with Run.open(finished) as run:
        open_sinks(run.config, run).finish()
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    known: dict[str, Any] = {"dynamics": next(r for r in rows if r["kind"] == "dynamics")}
    for row in rows:
        if row["kind"] != "dynamics":
            name = row.get("iteration", row.get("arm", row.get("name")))
            known[f"{row['kind']}.{name}"] = row
    shown = Page(page_of(finished)).metrics
    assert len(shown) > 100
    for key, (text, kind) in shown.items():
        first = next(name for name in known if key.startswith(f"{name}."))
        value = known[first]
        for part in key[len(first) + 1 :].split("."):
            value = value[part]
        if value is None:
            assert text == "–", key
            continue
        said = float(re.sub(r"[%\s]", "", text).replace("−", "-"))
        if kind in ("percent", "amount"):
            assert said == pytest.approx(100 * value if kind == "percent" else value, abs=0.0501), key
        else:
            assert said == pytest.approx(value, abs=0.000501), key


def test_every_section_is_there_and_every_picture_has_a_description(finished: Path) -> None:
    page = Page(page_of(finished))
    assert set(SECTIONS) <= {attributes.get("id") for tag, attributes in page.tags if tag == "section"}
    pictures = [a for tag, a in page.tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert len(pictures) >= 8
    assert all(a["role"] == "img" and len(a["aria-label"]) > 15 for a in pictures)
    for title in ("Reward", "Success rate", "Improvement", "Stability", "Policy loss", "Held-out score"):
        assert title in page.text
    assert "Passage" in page.text
    assert "gold: the year" in page.text
    assert page.text.count("kept") > 12


def test_a_run_of_one_round_has_no_chart_of_a_single_dot(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=1, edits=4)
    charts = {chart.title: chart for chart in report.run_view(tmp_path / "run").charts}
    assert list(charts) == ["Score before and after", "Improvement", "Policy loss"]
    row = next(row for row in lines(run_metrics(read_history(tmp_path / "run"))) if row["kind"] == "round")
    means = [(bar.value, bar.low, bar.high) for bar in charts["Score before and after"].bars]
    assert means == [(row[n]["mean"], row[n]["low"], row[n]["high"]) for n in ("before", "after")]
    for chart in charts.values():
        assert not hasattr(chart, "x") or len(chart.x) > 1


def test_the_page_asks_for_nothing(finished: Path) -> None:
    text = page_of(finished)
    page = Page(text)
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "action") if name in a]
    assert [a for a in addresses if not a.startswith("#")] == ["data:,"]
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy


def test_hostile_text_is_shown_as_text(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run", hostile=True, finished=False)
    text = page_of(tmp_path / "run")
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {"img", "textarea", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "<i>title</i>" in page.text
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    assert '<script>window.owned=1;document.title="owned"</script>' in page.text
    assert "\\x1b[31mred\\x1b[0m" in page.text
    assert "\\u202eevil {{ 7*7 }} ${7*7}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    brief = report.markdown([report.run_view(tmp_path / "run", most_tasks=0)])
    assert "\x1b" not in brief


def test_control_characters_and_lone_surrogates() -> None:
    assert plain("a\x1b[0m\x00\x7f\x9b\ud800\tb\nc") == "a\\x1b[0m\\x00\\x7f\\x9b\ufffd\tb\nc"
    assert one_line("a\n\n  b\x07") == "a b\\x07"
    assert one_line("x" * 200, 10) == "x" * 9 + "…"
    assert clipped("abcdef", 4) == "abcd\n[… 2 more characters]"


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_run_that_has_just_begun_has_a_report(made_up: Any, tmp_path: Path, rounds: int) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=rounds, held_out=0, finished=False)
    page = Page(page_of(tmp_path / "run"))
    assert set(SECTIONS) <= {attributes.get("id") for _, attributes in page.tags}
    assert "not finished" in page.text or "empty" in page.text
    assert ("Held-out tasks were not measured" in page.text) == bool(rounds)


def test_without_its_data_a_run_still_has_a_report(made_up: Any, tmp_path: Path) -> None:
    run = made_up.MadeUpRun(tmp_path / "run", rounds=1)
    Path(run.config.data_config.path).unlink()
    Path(run.config.data_config.val_path).unlink()
    page = Page(page_of(tmp_path / "run"))
    assert "could not be read again" in page.text
    assert "What the policy was asked" in page.text
    assert "List what follows from this passage." in page.text
    assert "question 1" in page.text


def test_flips_count_the_majority_of_the_repeats(made_up: Any, tmp_path: Path) -> None:
    from seal.report.candidates import task_views

    made_up.MadeUpRun(tmp_path / "run", rounds=1, tasks=3, edits=2, repeats=3, held_out=0)
    history = read_history(tmp_path / "run")
    views, count = task_views(history, read_tasks(history.config)[0], 99)
    assert count == 3
    for view in views:
        for i, row in enumerate(view.rows):
            for k, cell in enumerate(row.after):
                trials = history.trials_of[f"{view.task_id}.i0.e{k}"]
                right = sum(t.outcome.adapted[i].verdict is Verdict.CORRECT for t in trials)
                was = row.before.mark == "right"
                assert cell.times == f"{right} of 3"
                assert cell.mark == ("right" if right >= 2 else "wrong")
                assert cell.flip == ("" if was == (right >= 2) else "lost" if was else "gained")


def test_the_tasks_with_the_largest_changes_are_shown(finished: Path) -> None:
    view = report.run_view(finished, most_tasks=4)
    whole = report.run_view(finished)
    assert len(view.tasks) == 4
    assert view.tasks_in_all == len(whole.tasks) == 3 * 4 + 3
    assert "The 4 of 15 with the largest changes are shown" in report.html([view])
    assert report.run_view(finished, most_tasks=0).tasks == ()


def test_arc_tasks_are_drawn_with_their_wrong_cells(made_up: Any, tmp_path: Path) -> None:
    from seal.report.candidates import task_views

    made_up.MadeUpRun(tmp_path / "run", rounds=0, held_out=0, finished=False)
    gold = ((1, 2, 2), (3, 3, 4))
    task = made_up.few_shot_round(tmp_path / "run", ((((1, 0),), ((0, 1),)),), ((((5,),), gold),))
    history = read_history(tmp_path / "run")
    (view,), _ = task_views(history, {task.id: task}, 9)
    assert [p.name for row in view.pictures for p in row][-1] == "test 1, solution"
    solved, failed = view.candidates
    assert solved.kept
    assert solved.recipe == "2 epochs at 0.001, loss on all tokens; augmentations: basic"
    assert solved.pictures[0].name == "test 1, attempt 1 (right)"
    assert "wrong cells" not in solved.pictures[0].svg
    assert "3 wrong cells" in failed.pictures[0].svg
    assert failed.pictures[0].svg.count("M0.12 0.12") == 1
    assert view.rows == ()
    text = page_of(tmp_path / "run")
    assert "Augmentation effectiveness" in text


def test_a_domain_of_ones_own_has_a_report_whatever_its_details(made_up: Any, tmp_path: Path) -> None:
    from seal.records import AdaptOutcome, Baseline, Performance, Trial
    from seal.run.journal import Journal

    made_up.MadeUpRun(tmp_path / "run", rounds=0, held_out=0, finished=False)
    odd = Performance(0.5, 1, (), None, {"tests": 7, "cell_accuracy": "high", "note": [None]})
    with Journal(tmp_path / "run/journal.jsonl") as journal:
        journal.append("baseline", "p/odd", Baseline("odd", "p", odd))
        trial = Trial("odd.i0.e0", "odd", 0, "train", 0, "p", odd, odd, AdaptOutcome("odd.i0.e0/r0"))
        journal.append("trial", "odd.i0.e0/r0", trial)
        row = made_up.EditResult("odd.i0.e0", "odd", 0, 0.5, 0.5, (0.0,), made_up.Reward(0.0))
        journal.append("result", "odd.i0.e0", row)
        journal.append("my_kind", "1", {"anything": 1})
    page = Page(page_of(tmp_path / "run"))
    assert "odd" in page.text
    assert "50.0 % → 50.0 %" in page.text


def test_a_grid_is_drawn_cell_by_cell() -> None:
    drawn = grid_svg(((1, 1, 0), (0, 1, 1)), "name")
    assert re.findall(r'fill="(#\w+)" d="([^"]+)"', drawn) == [
        ("#111111", "M2 0h1v1h-1zM0 1h1v1h-1z"),
        ("#1e78d2", "M0 0h2v1h-2zM1 1h2v1h-2z"),
    ]
    assert grid_or_none([[1, 2], [3]]) is None
    assert grid_or_none([[11]]) is None
    assert grid_or_none("no") is None  # type: ignore[arg-type]


def test_several_runs_are_compared_task_by_task(finished: Path, made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "other", rounds=3, tasks=4, edits=3, repeats=3, seed=9, learning_rate=3e-3)
    views = [report.run_view(p, most_tasks=0) for p in (finished, tmp_path / "other")]
    page = Page(report.html(views))
    a, b = (v.history.arms[-1] for v in views)
    difference = sum(x.score - y.score for x, y in zip(b.tasks, a.tasks, strict=True)) / len(a.tasks)
    assert f"{100 * difference:+.1f} %".replace("-", "−") in page.text
    assert "learning_rate" in page.text
    assert "3 runs" not in page.text
    assert "samples_per_iteration" not in page.text  # equal in both
    brief = report.markdown(views)
    assert "## Comparison" in brief
    assert f"{100 * difference:+.1f} %".replace("-", "−") in brief


def test_continual_results_are_a_heat_map(finished: Path, shared: Path, tmp_path: Path) -> None:
    official = shared / "data/official/continual_run0.json"
    view = report.run_view(finished, continual=official, most_tasks=0)
    (chart,) = view.continual
    rows = json.loads(official.read_text())["mean_over_sequences"]
    assert chart.values[0] == tuple(rows[0])
    assert chart.values[3][:4] == (*rows[3][:3], None)
    last = 100 * sum(rows[-1]) / len(rows[-1])
    assert f"{last:.4g} %" in chart.alt
    assert 'id="continual"' in report.html([view])
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(RunError, match=r"bad\.json: no result of continual"):
        report.run_view(finished, continual=tmp_path / "bad.json", most_tasks=0)


def test_markdown_tables_are_whole(finished: Path) -> None:
    text = report.markdown([report.run_view(finished, most_tasks=0)])
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        widths = {line.count("|") for line in table.splitlines()}
        assert len(widths) == 1, table
    assert len(tables[1].splitlines()) == 2 + 3


class TestCommand:
    def test_writes_a_page_pictures_and_replaces_only_reports(
        self, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "page.html"
        assert main(["report", str(finished), "--out", str(out), "--png", str(tmp_path / "png")]) == 0
        assert main(["report", str(finished), "--out", str(out)]) == 0
        assert out.read_text().startswith(report.MARK)
        pictures = sorted((tmp_path / "png").glob("*.png"))
        assert {"reward.png", "held-out-score.png", "improvement.png"} <= {p.name for p in pictures}
        for picture in pictures:
            head = picture.read_bytes()[:24]
            assert head[:8] == b"\x89PNG\r\n\x1a\n"
            assert min(struct.unpack(">II", head[16:])) > 300
        (tmp_path / "notes.html").write_text("my notes")
        assert main(["report", str(finished), "--out", str(tmp_path / "notes.html")]) == 2
        assert "is there and is no report" in capsys.readouterr().err
        assert (tmp_path / "notes.html").read_text() == "my notes"

    def test_prints_markdown(self, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = sorted(finished.iterdir())
        assert main(["report", str(finished), "--markdown"]) == 0
        assert capsys.readouterr().out.startswith("## night shift")
        assert sorted(finished.iterdir()) == before

    def test_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", str(tmp_path)]) == 2
        assert "not a run folder" in capsys.readouterr().err


class Strict:
    """Grades only what begins with "the year" as right, and cannot grade one question."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.asked = broken, 0

    def grade(self, items: Any) -> list[Grade]:
        self.asked += len(items)
        return [self._one(question, answer) for question, answer in items]

    def _one(self, question: Question, answer: str) -> Grade:
        if self.broken and self.broken in question.question:
            return Grade(Verdict.ERROR, "out of order")
        right = answer == question.answer and not question.question.startswith("What is fact 0")
        return Grade(Verdict.CORRECT if right else Verdict.WRONG)


class TestJudgeAgain:
    def test_the_same_grader_changes_nothing(self, finished: Path) -> None:
        history = read_history(finished)
        from seal.grading import LexicalGrader

        found = regrade(history, read_tasks(history.config)[0], LexicalGrader(), "lexical")
        assert found.kappa == 1.0
        assert found.same_best == 1.0
        assert [e.new_reward for e in found.edits] == pytest.approx([e.old_reward for e in found.edits])
        for arm in found.arms:
            assert (arm.new, arm.new_gain) == pytest.approx((arm.old, arm.old_gain))

    def test_another_grader_by_hand(self, finished: Path) -> None:
        history = read_history(finished)
        grader = Strict()
        found = regrade(history, read_tasks(history.config)[0], grader, "strict")
        stored = [a for b in history.baselines.values() for a in b.answers]
        stored += [a for t in history.trials for a in t.outcome.adapted]
        assert found.answers == len(stored)
        assert grader.asked < len(stored)  # equal answers are asked once
        both = sum(a.verdict is Verdict.CORRECT and not a.prompt_id.endswith(".q0") for a in stored)
        lost = sum(a.verdict is Verdict.CORRECT and a.prompt_id.endswith(".q0") for a in stored)
        assert found.table["correct/correct"] == both
        assert found.table["correct/wrong"] == lost
        assert found.agreement == pytest.approx(1 - lost / len(stored))
        trial = history.trials_of[found.edits[0].edit_id]
        before = history.before(trial[0])
        right = [sum(a.verdict is Verdict.CORRECT for a in t.outcome.adapted[1:]) for t in trial]
        unaided = sum(a.verdict is Verdict.CORRECT for a in before[1:])
        assert found.edits[0].new_reward == pytest.approx(sum(right) / len(right) / 4 - unaided / 4)

    def test_what_cannot_be_graded_is_left_out(self, finished: Path) -> None:
        history = read_history(finished)
        tasks, _ = read_tasks(history.config)
        place = tasks[history.results[0].task_id].title
        found = regrade(history, tasks, Strict(broken=place), "strict")
        assert found.errors > 0
        assert found.edits[0].new_reward is None
        assert any(e.new_reward is not None for e in found.edits)

    def test_results_are_new_files(
        self, made_up: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made_up.MadeUpRun(tmp_path / "run", rounds=1)
        before = (tmp_path / "run/journal.jsonl").read_bytes()
        for number in (1, 2):
            assert main(["regrade", str(tmp_path / "run"), "--grader", "lexical"]) == 0
            assert f"regrade-{number}.json" in capsys.readouterr().out
        data = json.loads((tmp_path / "run/regrade-1.json").read_text())
        assert data["kappa"] == 1.0
        assert len(data["edits"]) == 12
        assert (tmp_path / "run/journal.jsonl").read_bytes() == before
        assert save.__doc__

    def test_settings_that_do_not_fit(self, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["judge-again", str(finished), "--grader", "judge"]) == 2
        assert "needs `model`" in capsys.readouterr().err
        assert main(["judge-again", str(finished), "--grader", "oracle"]) == 2
        assert "error: " in capsys.readouterr().err


class TestVerdict:
    """The headline claims a gain only where its interval lies above 0."""

    @staticmethod
    def of(made_up: Any, folder: Path, base: list[float], trained: list[float]) -> Any:
        from seal.evaluation import base_arm
        from seal.intervals import GAINS, SCORES, interval
        from seal.records import ArmScore, Baseline, Performance, TaskScore
        from seal.run.journal import Journal

        made_up.MadeUpRun(folder, rounds=0, held_out=0, finished=False)
        start = base_arm([Baseline(f"t{i}", "p", Performance(s, 4)) for i, s in enumerate(base)])
        tasks = tuple(TaskScore(f"t{i}", s, 4) for i, s in enumerate(trained))
        weights = [4.0] * len(tasks)
        score = interval(trained, weights, SCORES)
        gain = interval([b - a for a, b in zip(base, trained, strict=True)], weights, GAINS)
        arm = ArmScore("self_edit", "p", tasks, 4 * len(tasks), *score, *gain)
        with Journal(folder / "journal.jsonl") as journal:
            for each in (start, arm):
                journal.append("arm", each.arm, each)
        return report.run_view(folder, most_tasks=0).headline

    @pytest.mark.parametrize(
        ("base", "trained", "tone", "words"),
        [
            (
                2 * [0, 0.25, 0.25],
                2 * [0.5, 0.5, 0.75],
                "good",
                "raised the held-out score from 16.7 % to 58.3 %",
            ),
            (2 * [0.5, 0.5, 0.75], 2 * [0.0, 0.25, 0.25], "bad", "lowered"),
            ([0.0, 0.25, 0.25], [0.5, 0.5, 0.75], "open", "3 tasks are too few"),
            (2 * [0.5, 0.5, 0.5], 2 * [0.75, 0.5, 0.25], "open", "chance alone"),
            ([0.5, 0.5], [0.5, 0.5], "open", "left the held-out score of every task as it was, 50 %"),
            ([0.25], [0.75], "open", "one task is too few"),
        ],
    )
    def test_it_fits_the_interval(
        self, made_up: Any, tmp_path: Path, base: Any, trained: Any, tone: str, words: str
    ) -> None:
        found = self.of(made_up, tmp_path / "run", base, trained)
        assert found.tone == tone
        assert words in found.text
        assert f"{4 * len(base)} held-out questions of {counted(len(base), 'task')}" in found.details[0]


def test_ticks_are_round_and_cover() -> None:
    assert ticks(0, 1) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.13, 0.42)[0] <= -0.13
    assert ticks(-0.13, 0.42)[-1] >= 0.42
    assert ticks(0.3, 0.3)


@pytest.mark.slow
def test_fifty_tasks_make_a_page_under_8_mb(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(
        tmp_path / "run", rounds=2, tasks=50, edits=5, repeats=3, held_out=50, questions=5, hostile=True
    )
    path = report.write_html([report.run_view(tmp_path / "run")], tmp_path / "page.html")
    assert path.stat().st_size < 8_000_000


@pytest.mark.slow
def test_ten_thousand_rows_cost_little_more_than_reading_them(
    made_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # the disk's speed is not what is measured
    made_up.MadeUpRun(tmp_path / "run", rounds=8, tasks=40, edits=6, repeats=3, held_out=60)
    run, journal = str(tmp_path / "run"), str(tmp_path / "run/journal.jsonl")
    assert len(Path(journal).read_bytes().splitlines()) > 10_000
    whole = cost("import sys; from seal.cli import main; assert main(['report', sys.argv[1]]) == 0", run)
    reading = cost("import sys; from seal.run.journal import Journal; Journal.read(sys.argv[1])", journal)
    assert whole.cpu_s < 25 * reading.cpu_s
    assert whole.peak_bytes < 5 * reading.peak_bytes
