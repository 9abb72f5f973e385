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
    accept_settings: Annotated[
        bool,
        Option(
            "--accept-settings",
            help="Go on although config.yaml was changed, or names classes and the run was begun elsewhere.",
        ),
    ] = False,
    max_cost: Annotated[float | None, Option(help="A new budget.cost, for servers.")] = None,
    max_tokens: Annotated[int | None, Option(help="A new budget.tokens, for servers.")] = None,
) -> int:
    """Go on with an interrupted run, and end with the numbers it would have had uninterrupted."""
    if not (run / "config.yaml").exists() and (run / "passages").is_dir():
        from seal.cli._teach import go_on

        go_on(run, log_level or "WARNING")
        return 0
    from seal.cli._carry_out import carry_out
    from seal.config import load_config
    from seal.errors import RunError
    from seal.recipes import pipeline
    from seal.run.folder import Run

    step = pipeline.step_of(run)
    if step is not None and step.command and accept_settings:
        Run.open(run, accept_settings=True).close()
    if step is not None and step.command:
        if step.command[0] not in pipeline.STEPS:
            raise RunError(f"{run}: its journal asks for seal {step.command[0]}", "begin a new run")
        os.chdir(step.place)
        limits = {"--max-cost": max_cost, "--max-total-tokens": max_tokens}
        more = [part for name, value in limits.items() if value is not None for part in (name, str(value))]
        return main([*step.command, *more])
    level = load_config(overrides={"log_level": log_level}).log_level if log_level else None
    raised = {
        name: value for name, value in (("cost", max_cost), ("tokens", max_tokens)) if value is not None
    }
    with Run.open(run, accept_settings=accept_settings) as opened:
        if raised:
            budget = load_config(overrides={"budget": {**opened.config.budget.model_dump(), **raised}}).budget
            opened.config = opened.config.model_copy(update={"budget": budget})
        carry_out(opened, level or opened.config.log_level)
    return 0
