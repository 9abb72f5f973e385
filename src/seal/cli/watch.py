"""See a run's numbers live in the terminal; start and stop it at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def watch(
    run: Annotated[Path, Argument(help="Folder of the run; it may not exist yet.")],
    every: Annotated[float, Option(help="Seconds between looks.", min=0.1)] = 2.0,
    once: Annotated[bool, Option("--once", help="Show it once and end.")] = False,
) -> None:
    """Show rounds, held-out arms and warnings until the run is finished."""
    from rich.console import Console

    from seal.report.watch import watch as show

    show(run, Console(highlight=False), every, once)
