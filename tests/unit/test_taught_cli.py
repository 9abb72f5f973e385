"""`seal teach`, `seal ask` and `seal chat` from the command line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from seal.cli import main
from seal.cli._ask import columns

MODEL = ["--model", "tiny-random-qwen2", "--device", "cpu", "--updates", "4", "--rank", "4"]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "gate.md").write_text(
        "# Gate\n\nThe gate of Orvane was built in 1874 by Mira Tolstad."
    )
    (tmp_path / "docs" / "photo.jpg").write_bytes(b"\xff\xd8")
    return tmp_path


def test_from_documents_to_answers(
    docs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["teach", "docs", "--out", "m", "--dry-run", *MODEL]) == 0
    said = capsys.readouterr().out
    assert "left out: docs/photo.jpg: unknown kind of file '.jpg'" in said
    assert "1 file, 1 passage" in said
    assert "5 training steps" in said  # 4 of the passage, and a fifth that keeps what the base says
    assert not (docs / "m").exists()

    assert main(["teach", "docs", "--out", "m", *MODEL]) == 0
    out, err = capsys.readouterr()
    assert "knew before  knows now  lost" in out
    assert "training: 5 of 5" in err
    assert 'next: seal ask m "…"' in err

    assert main(["ask", "m", "Who built the gate?", "--max-tokens", "5"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert "about: Gate (docs/gate.md); answered by all" in err
    assert main(["ask", "m", "Who built the gate?", "--compare", "--max-tokens", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["untaught", "taught"]

    turns = "Who built the gate?\n/compare When?\n/new\n\nWhere?\n/quit\nnever asked"
    monkeypatch.setattr("sys.stdin", io.StringIO(turns))
    assert main(["chat", "m", "--max-tokens", "4"]) == 0
    assert "untaught" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["teach", "docs", *MODEL], "one of --out and --into is needed"),
        (["teach", "--out", "m", *MODEL], "no documents were given"),
        (["teach", "docs", "--into", "m", *MODEL], "m is no taught model"),
        (["teach", "gone", "--out", "m", *MODEL], "gone: no such file"),
        (["teach", "docs", "--out", "m", "--undo", "1"], "--undo goes with --into alone"),
        (["teach", "docs", "--out", "docs", *MODEL], "docs exists already; nothing is overwritten"),
        (["ask", "docs", "Why?"], "docs is no taught model"),
    ],
)
def test_bad_input_is_one_line(
    docs: Path, command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_columns_fit_the_terminal() -> None:
    lines = columns(["a b " * 30, "taught"], width=80)
    assert max(map(len, lines)) <= 80
    assert lines[2].endswith("taught")
    narrow = columns(["left", "right"], width=40)
    assert narrow == ["[untaught]", "left", "[taught]", "right"]
