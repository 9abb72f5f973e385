"""ARC tasks: show or draw one, warm up on synthetic ones, compare what runs solved, write a submission."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from seal.wording import counted

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


@app.command()
def warm_start(
    output_dir: Annotated[Path, Option(help="New folder for the checkpoint, a run's `model_name`.")],
    model: Annotated[
        str, Option(help="Hub id, folder, .gguf file or built-in name.")
    ] = "smollm2-135m-instruct",
    tasks: Annotated[int, Option(help="Synthetic tasks, one training row each.", min=1)] = 500,
    learning_rate: Annotated[float, Option(help="Peak learning rate.")] = 7e-4,
    seed: Annotated[int, Option(help="Seed of tasks, start values and order.")] = 0,
    chat: Annotated[bool, Option("--chat", help="For runs that use the chat template.")] = False,
    device: Annotated[str, Option(help="auto, cpu, mps, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str, Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Train a model on synthetic tasks before a run; an adapter, merged into a checkpoint."""
    from dataclasses import replace

    from seal.recipes import warm_start as recipe

    settings = recipe.WarmStart(tasks, seed=seed, recipe=replace(recipe.RECIPE, learning_rate=learning_rate))
    done = recipe.warm_start(settings, model, output_dir, device=device, dtype=dtype, chat=chat)
    tenth = max(1, len(done.losses) // 10)
    first, last = (sum(part) / tenth for part in (done.losses[:tenth], done.losses[-tenth:]))
    print(
        f"{counted(tasks, 'task')}, loss {first:.3f} nats a token in the first tenth, {last:.3f} in the last"
    )
    print(done.folder)


@app.command()
def results(
    runs: Annotated[list[Path], Argument(help="Folders of few-shot runs, one a seed.")],
) -> None:
    """What each arm solved, synthetic and real tasks apart, and the recipes that the policy picks."""
    from seal.report.few_shot import lines
    from seal.report.history import read_history

    for line in lines([read_history(run) for run in runs]):
        print(line)


@app.command()
def submission(
    run: Annotated[Path, Argument(help="Folder of a few-shot run.")],
    out: Annotated[Path, Option(help="New file to write.")] = Path("submission.json"),
    arm: Annotated[str, Option(help="Held-out arm; default: the one measured last.")] = "",
) -> None:
    """Write Kaggle's submission file: two attempts at every held-out test."""
    from seal.arc.submission import write_submission
    from seal.report.arc_attempts import attempts_by_test
    from seal.report.history import read_history

    chosen, attempts = attempts_by_test(read_history(run), arm)
    write_submission(attempts, out)
    print(f"{counted(len(attempts), 'test')}, attempts of the arm {chosen}")
    print(out)


def _find(name: str) -> Task:
    from seal.arc.synthetic import synthetic_tasks
    from seal.arc.tasks import find_task

    prefix, _, family = name.partition(":")
    if prefix == "synthetic" and family:
        return synthetic_tasks(1, families=(family,))[0].task
    return find_task(name)
