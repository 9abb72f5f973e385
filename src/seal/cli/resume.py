"""Go on with a run that was interrupted; what its journal holds is not done again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import main


def resume(
    run: Annotated[Path, Argument(help="Folder of the run.")],
    log_level: Annotated[str | None, Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> int:
    """Go on with an interrupted run, and end with the numbers it would have had uninterrupted."""
    if not (run / "config.yaml").exists() and (run / "passages").is_dir():
        from seal.cli._teach import go_on

        go_on(run, log_level or "WARNING")
        return 0
    from seal.cli._carry_out import carry_out
    from seal.config import load_config
    from seal.recipes import pipeline
    from seal.run.folder import Run

    step = pipeline.step_of(run)
    if step is not None and step.command:
        os.chdir(step.place)
        return main(list(step.command))
    level = load_config(overrides={"log_level": log_level}).log_level if log_level else None
    with Run.open(run) as opened:
        carry_out(opened, level or opened.config.log_level)
    return 0
