"""Look at ARC tasks: show one in the terminal, draw one as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

if TYPE_CHECKING:
    from seal.records import Task

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

TaskName = Annotated[
    str, Argument(help="Task id (ARC-AGI-1 or -2), a task's JSON file, or synthetic:FAMILY for one of ours.")
]


@app.command()
def show(
    task: TaskName,
    solutions: Annotated[bool, Option(help="Show the solutions of the tests.")] = True,
) -> None:
    """Show a task in the terminal."""
    from rich.console import Console

    from seal.arc.draw import terminal_task

    Console(highlight=False).print(terminal_task(_find(task), solutions=solutions))


@app.command()
def draw(
    task: TaskName,
    out: Annotated[Path, Option(help="SVG file to write.")],
    augmentations: Annotated[
        bool, Option("--augmentations", help="Draw every augmentation instead.")
    ] = False,
) -> None:
    """Draw a task as SVG."""
    from seal.arc.draw import augmentation_sheet, task_sheet

    found = _find(task)
    text = augmentation_sheet(found) if augmentations else task_sheet(found)
    out.write_text(text, encoding="utf-8")
    print(out)


def _find(name: str) -> Task:
    from seal.arc.synthetic import synthetic_tasks
    from seal.arc.tasks import find_task

    prefix, _, family = name.partition(":")
    if prefix == "synthetic" and family:
        return synthetic_tasks(1, families=(family,))[0].task
    return find_task(name)
