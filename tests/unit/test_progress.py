"""Bars on a terminal, lines elsewhere, and every step at DEBUG."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from seal.cli import main
from seal.run.journal import Journal
from seal.run.log import set_up
from seal.run.progress import Lines, duration, shown


def test_lines_come_at_least_so_often_even_when_nothing_is_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "seal")
    logging.getLogger("seal").propagate = True
    lines = Lines(every=0.02)
    try:
        lines("writing self-edits", 0, 4)
        _until(lambda: caplog.text.count("writing self-edits: 0 of 4") >= 2)
        lines("writing self-edits", 1, 4)
        _until(lambda: "writing self-edits: 1 of 4, about " in caplog.text)
        lines("writing self-edits", 4, 4)
        lines("training the policy", 2, 3)
        _until(lambda: "training the policy: 2 of 3" in caplog.text)
    finally:
        lines.close()
    assert "4 of 4" not in caplog.text


def _until(happened: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_bars_say_items_and_time_left() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with shown(console) as progress:
        for done in range(4):
            progress("writing self-edits", done, 4)
            time.sleep(0.15)
        progress("writing self-edits", 4, 4)
        progress("training adapters", 0, 2)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
    assert re.search(r"writing self-edits .* 3/4 0:00:0\d", plain), plain
    assert "training adapters" in plain


def test_durations() -> None:
    assert [duration(s) for s in (5, 89, 91, 5000, 7200)] == ["5 s", "89 s", "2 min", "83 min", "2.0 h"]


def test_what_a_model_writes_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("INFO")
    logging.getLogger("seal.test").info("it wrote \x1b[2J\x07 and\na line")
    assert "it wrote \\x1b[2J\\x07 and\na line" in capsys.readouterr().err


def test_every_step_stands_in_the_log_file_and_at_debug_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", "--preset", "test", "--max-iterations", "1", "--output-dir", str(out)]
    assert main([*words, "--set", "evaluation.enabled=false"]) == 0
    assert "prompt:" not in capsys.readouterr().err
    lines = [json.loads(line) for line in (out / "logs/seal.jsonl").read_text("utf-8").splitlines()]
    told = "\n".join(line["message"] for line in lines if line["level"] == "DEBUG")
    journal = Journal(out / "journal.jsonl")
    edits, trials = ([row.data for row in journal.rows(kind)] for kind in ("edit", "trial"))
    results = [row.data for row in journal.rows("result")]
    journal.close()
    assert len(edits) == len(trials) == len(results) == 4
    for edit in edits:
        assert f"prompt:\n{edit['prompt']}\ncompletion:\n{edit['completion']}" in told
    for trial in trials:
        losses = " ".join(f"{loss:.4f}" for loss in trial["outcome"]["losses"])
        assert f"losses: {losses}" in told
        assert f"adapter {trial['edit_id']}/r0: seed" in told, "what it was trained on"
        for answer in trial["outcome"]["adapted"]:
            assert f"{answer['text']!r}: {answer['verdict'] or 'not graded'}" in told
    for result in results:
        kept = "kept" if result["reward"]["kept"] else "not kept"
        assert re.search(
            rf"self-edit {result['edit_id']}: reward {result['reward']['value']:.4f} .*{kept}", told
        )
    assert "sequence 1 (" in told
    again = [
        *words[:-1],
        str(tmp_path / "again"),
        "--set",
        "evaluation.enabled=false",
        "--log-level",
        "DEBUG",
    ]
    assert main(again) == 0
    assert "completion:" in capsys.readouterr().err


def on_a_terminal(words: list[str]) -> str:
    """What `seal` shows on a terminal of a hundred columns; it must end well."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(COLUMNS="100", TERM="xterm", OMP_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, "-m", "seal", *words])
    seen = b""
    while True:
        try:
            seen += (part := os.read(terminal, 4096))
        except OSError:
            break
        if not part:
            break
    shown = seen.decode(errors="replace")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    return shown


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_every_phase_of_a_run_has_a_bar(tmp_path: Path) -> None:
    words = ["train", "--preset", "test", "--max-iterations", "1", "--output-dir", str(tmp_path / "run")]
    words += ["--set", "reward=log_likelihood"]  # so that a self-edit is kept, and the policy trained
    seen = on_a_terminal(words)
    for phase in (
        "answering without training",
        "writing self-edits",
        "training adapters",
        "training the policy",
    ):
        assert re.search(rf"{phase}.*\d/\d", seen), phase


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_the_pipeline_s_steps_have_bars(tmp_path: Path) -> None:
    model, data = "tiny-random-llama", tmp_path / "data.json"
    words = ["make-data", "builtin", "--model", model, "--n", "2", "--k", "2", "--out", str(data)]
    assert re.search(r"writing self-edits.*\d/4", on_a_terminal([*words, "--max-tokens", "8"]))
    words = ["query", "--local", model, "--data", str(data), "--out", str(tmp_path / "run.json")]
    seen = on_a_terminal([*words, "--eval-times", "1", "--epochs", "1"])
    for phase in ("answering without training", "training adapters"):
        assert re.search(rf"{phase}.*\d/\d", seen), phase
