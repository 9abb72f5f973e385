"""What a person sees in a terminal: help, colours, plurals, how to go on after an outage."""

from __future__ import annotations

import re

import pytest

from seal.cli import going_on, main
from seal.errors import GenerationError, GradingError, SealError, ServeError
from seal.evaluation import Summary
from seal.records import PolicyUpdate
from seal.wording import counted

Output = pytest.CaptureFixture[str]


def run(capsys: Output, *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    return code, *capsys.readouterr()


def test_both_ways_to_ask_for_help(capsys: Output) -> None:
    assert run(capsys, "train", "-h") == run(capsys, "train", "--help")
    assert run(capsys, "-h") == run(capsys, "--help")


def test_no_colour_where_none_is_wanted(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = re.compile(r"\x1b\[(?:\d+;)*[34]\d")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours.search(run(capsys, "arc", "show", "6150a2bd")[1])
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = run(capsys, "arc", "show", "6150a2bd")
    assert code == 0
    assert not colours.search(out)
    assert re.search(r"[1-9].*[1-9]", out)  # the cells can still be told apart


@pytest.mark.parametrize("kind", [GenerationError, GradingError, ServeError])
def test_an_outage_names_the_way_to_go_on(kind: type[SealError]) -> None:
    with pytest.raises(kind) as caught, going_on("seal resume outputs/x continues"):
        raise kind("the server is away", "bring it back")
    assert caught.value.fix == "bring it back; then seal resume outputs/x continues"


def test_counts_in_words() -> None:
    assert [counted(n, "task") for n in (0, 1, 2, 1234)] == ["0 tasks", "1 task", "2 tasks", "1,234 tasks"]
    assert counted(2, "batch", "batches") == "2 batches"


def test_the_summary_says_which_self_edits_are_kept() -> None:
    update = PolicyUpdate(0, "p1", "", True, 1, 1, (), ())
    summary = Summary((), (update,), (0.125,), rule="the best of each task that beat no training")
    assert str(summary) == (
        "round 1: 12% of rewards positive, kept 1 of 1 self-edit"
        " (the best of each task that beat no training); policy p1"
    )
