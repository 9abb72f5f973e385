"""SFT data from result files: equal to the official data, byte for byte, through both commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seal.cli import main
from seal.errors import DataError
from seal.recipes.build_sft import build_sft
from seal.recipes.results import QuestionResult, make_article, make_completion, make_run

ROOT = Path(__file__).resolve().parents[2]
OFFICIAL = [
    ("rank_iter1.json", "sft_best1of5_iter1.jsonl", 17, 8),
    ("rank_iter0_prompt-self-qa.json", "sft_best1of5_iter0_prompt-self-qa.jsonl", 11, 7),
]


def result_file(folder: Path, *accuracies: float | None) -> Path:
    """One article; every completion has four questions, of which the given share is answered."""
    completions = []
    for n, accuracy in enumerate(accuracies):
        questions = [
            QuestionResult(
                rep=0,
                question=f"q{i}",
                answer="a",
                baseline_answer="",
                adapter_answer="",
                baseline_correct=i < 2,
                adapter_correct=None if accuracy is None else i < accuracy * 4,
            )
            for i in range(4)
        ]
        completions.append(make_completion(f" text {n}\n", questions))
    path = folder / "run.json"
    make_run([make_article("t", "c", "the prompt\n", completions)]).write(path)
    return path


def completions(path: Path) -> list[str]:
    return [json.loads(line)["completion"] for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("run", "expected", "tied", "no_better"), OFFICIAL)
def test_official_data_byte_for_byte(
    shared: Path, tmp_path: Path, run: str, expected: str, tied: int, no_better: int
) -> None:
    official = shared / "data/official"
    built = build_sft(official / run, tmp_path)
    assert built.path.read_bytes() == (official / expected).read_bytes()
    assert (built.n, built.tied, built.no_better, built.skipped) == (50, tied, no_better, 0)
    assert re.fullmatch(r"sft_best1of5_\d{4}_\d{6}\.jsonl", built.path.name)


def test_the_specs_command(shared: Path, tmp_path: Path) -> None:
    run, expected, *_ = OFFICIAL[0]
    script = ROOT / "general-knowledge/src/EM/build_SFT_dataset.py"
    arguments = [str(shared / "data/official" / run), "--output_dir", str(tmp_path), "--k_best", "1"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1])
    assert path.read_bytes() == (shared / "data/official" / expected).read_bytes()


def test_the_best_k_with_the_first_of_equals(tmp_path: Path) -> None:
    run = result_file(tmp_path, 0.25, 0.75, 0.75, 1.0, 0.5)
    built = build_sft(run, k_best=2)
    assert completions(built.path) == ["text 3", "text 1"]
    assert (built.n, built.tied, built.no_better) == (2, 1, 0)
    assert built.path.parent == tmp_path
    assert built.path.name.startswith("sft_best2of5_")
    assert json.loads(built.path.read_text().splitlines()[0])["prompt"] == "the prompt\n"


def test_what_was_not_graded_is_not_chosen(tmp_path: Path) -> None:
    built = build_sft(result_file(tmp_path, None, 0.25, None))
    assert completions(built.path) == ["text 1"]
    assert built.no_better == 1
    with pytest.raises(DataError, match="no completion of this run was measured"):
        build_sft(result_file(tmp_path, None))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = result_file(tmp_path, 1.0)
    paths = [build_sft(run, tmp_path / "out").path for _ in range(3)]
    assert len({*paths}) == 3
    assert {path.read_text() for path in paths} == {'{"prompt": "the prompt\\n", "completion": "text 0"}\n'}


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = result_file(tmp_path, 0.5, 0.5)
    assert main(["build-sft", str(run), "--output-dir", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "1 prompt-completion pairs",
        "1 articles had a tie at the cut; the first completion was taken",
        "1 kept completions are not better than the baseline",
    ]
    assert completions(Path(lines[3])) == ["text 0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "missing.json: no such file"),
        (["run.json", "--k_best", "3"], "k_best is 3 and an article has 2 completions"),
        (["run.json", "--k_best", "0"], "--k_best"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    result_file(tmp_path, 0.5, 0.75)
    monkeypatch.chdir(tmp_path)
    assert main(["build-sft", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
