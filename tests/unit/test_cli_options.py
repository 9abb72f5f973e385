"""Options in groups: one field, one option; a group's values arrive as one frozen record."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer import Option
from typer.testing import CliRunner

from seal.cli import _options


@dataclass(frozen=True)
class Pair:
    left: Annotated[int, Option(min=0, help="The left one.")] = 1
    right: Annotated[int | None, Option("--other", help="The right one.")] = 2


SEVEN = Pair(left=7)


def test_a_group_is_spread_into_options_and_gathered_again() -> None:
    seen: list[object] = []

    @_options.grouped
    def verb(*, name: Annotated[str, Option()], pair: Pair = SEVEN, last: bool = False) -> None:
        """What it does."""
        seen.append((name, pair, last))

    assert list(inspect.signature(verb).parameters) == ["name", "left", "right", "last"]
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(verb)
    run = CliRunner().invoke
    first = run(app, ["--name", "a"])
    assert first.exit_code == 0, first.output
    assert run(app, ["--name", "b", "--left", "3", "--other", "4", "--last"]).exit_code == 0
    assert seen == [("a", Pair(7, 2), False), ("b", Pair(3, 4), True)]
    refused = run(app, ["--name", "c", "--left", "-1"])
    assert refused.exit_code == 2
    assert "--left" in refused.output
    assert "What it does." in run(app, ["--help"]).output
