"""The live view: real journals that grow between looks, torn lines, absent runs, hostile names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seal.cli import main
from seal.errors import RunError
from seal.report.history import read_history
from seal.report.watch import running, screen, watch


class Terminal:
    """A console without a terminal behind it, and what it showed."""

    def __init__(self, width: int = 80) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=width, force_terminal=False, highlight=False)

    @property
    def text(self) -> str:
        return self.file.getvalue()


def shown(folder: Path) -> str:
    terminal = Terminal(100)
    terminal.console.print(screen(read_history(folder)))
    return terminal.text


def test_a_finished_run_is_shown_and_watching_ends(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=2)
    terminal = Terminal()
    watch(tmp_path / "run", terminal.console, every=0.01)
    history = read_history(tmp_path / "run")
    assert "finished" in terminal.text
    assert "round 2 of 2 done" in terminal.text
    assert "self-edits + RL" in terminal.text
    assert f"{history.arms[-1].mean:.1%}" in terminal.text
    assert "…" not in terminal.text  # every number fits 80 columns
    assert running(history) is None


def test_forty_columns_are_enough(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=2)
    terminal = Terminal(40)
    watch(tmp_path / "run", terminal.console, once=True)
    history = read_history(tmp_path / "run")
    assert "…" not in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= 40
    assert "round reward" in terminal.text
    assert f"{history.arms[-1].mean:.1%}" in terminal.text
    assert "self-edits + RL" in terminal.text


def test_rounds_appear_as_they_end(made_up: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    whole = tmp_path / "whole"
    made_up.MadeUpRun(whole, rounds=2)
    lines = (whole / "journal.jsonl").read_bytes().splitlines(keepends=True)
    terminal, looks = Terminal(), iter(range(99))
    parts = [len(lines) // 3, 2 * len(lines) // 3, len(lines)]

    def grow(_: float) -> None:
        look = next(looks)
        if look == 0:
            folder.mkdir()
            (folder / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
        else:
            content = b"".join(lines[: parts[min(look - 1, 2)]])
            (folder / "journal.jsonl").write_bytes(content + b'{"n": 99, "torn' * (look < 3))

    watch(folder, terminal.console, every=0.0, sleep=grow)
    assert "finished" in terminal.text


def test_a_run_that_is_not_there_is_waited_for_but_not_with_once(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(_: float) -> None:
        raise Enough

    terminal = Terminal()
    with pytest.raises(Enough):
        watch(tmp_path / "later", terminal.console, sleep=stop)
    assert "waiting for a run" in terminal.text
    with pytest.raises(RunError, match="not a run folder"):
        watch(tmp_path / "later", terminal.console, once=True)


def test_a_corrupt_journal_is_an_error(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=1)
    journal = tmp_path / "run" / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:100] + b"x" + content[101:])
    with pytest.raises(RunError, match="corrupt"):
        watch(tmp_path / "run", Terminal().console)


def test_progress_of_the_stage_under_way(made_up: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = made_up.MadeUpRun(folder, rounds=2, tasks=4, edits=3, repeats=2, finished=False)
    content = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(content) if b'"kind":"trial"' in line)
    (folder / "journal.jsonl").write_bytes(b"".join(content[: last - 2]))
    history = read_history(folder)
    progress = running(history)
    assert progress is not None
    assert (progress.stage, progress.of) == ("round 2", 4 * 3 * 2)
    mine = history.trials_in["train", 1]
    assert progress.done == len(mine) < 24
    gains = [t.after.score - t.before.score for t in mine if t.after is not None]
    assert progress.gain == pytest.approx(sum(gains) / len(gains))
    assert f"round 2: {len(mine)} of 24 trainings" in shown(folder)
    assert run.config.repeats == 2


def test_hostile_names_cannot_steer_the_terminal(made_up: Any, tmp_path: Path) -> None:
    made_up.MadeUpRun(tmp_path / "run\x1b[31m [bold]x", rounds=1, hostile=True, finished=False)
    text = shown(tmp_path / "run\x1b[31m [bold]x")
    assert "\x1b" not in text
    assert "run\\x1b[31m [bold]x" in text


def test_the_command(made_up: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up.MadeUpRun(tmp_path / "run", rounds=1)
    before = sorted(tmp_path.rglob("*"))
    assert main(["watch", str(tmp_path / "run"), "--once"]) == 0
    assert "finished" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["watch", str(tmp_path / "none"), "--once"]) == 2
