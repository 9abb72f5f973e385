"""Train: self-edits, inner loop, ReST-EM, evaluation on held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from seal.cli import _options
from seal.errors import ConfigError, DataError, ModelError


def train(
    preset: Annotated[str | None, Option(help="Settings to begin with; `seal presets` lists them.")] = None,
    config: Annotated[Path | None, Option(help="YAML or JSON file; goes over the preset.")] = None,
    max_iterations: Annotated[int | None, Option(help="ReST-EM rounds.")] = None,
    output_dir: Annotated[Path | None, Option(help="New folder of this run.")] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    log_level: Annotated[str | None, Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
    seed: Annotated[int | None, Option(help="Seed of the run.")] = None,
    workers: Annotated[
        int | None, Option(min=1, help="Processes that train and answer; default: one a core or GPU.")
    ] = None,
    deploy_hook: Annotated[
        str | None,
        Option(metavar="COMMAND", help="Brings a policy to generation.base_url: COMMAND ADAPTER NAME."),
    ] = None,
    changes: _options.Changes = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be done, and what it costs.")] = False,
) -> None:
    """Train: the model writes self-edits, learns from each, and learns to write better ones.

    Settings come from the preset, over it the file, over it the options.
    """
    from seal.config import load_config

    flags = {
        "max_outer_iterations": max_iterations,
        "output_dir": None if output_dir is None else str(output_dir),
        "device": device,
        "log_level": log_level,
        "seed": seed,
        "inner.workers": workers,
        "generation.deploy_hook": deploy_hook,
    }
    overrides = {name: value for name, value in flags.items() if value is not None}
    settings = load_config(config, preset, {**overrides, **_options.parse_changes(changes or [])})
    if dry_run:
        from seal.cli._dry_run import describe

        print(describe(settings))
        return

    from seal.cli._carry_out import carry_out
    from seal.run.folder import Run, next_free

    folder = Path(settings.output_dir)
    if output_dir is None:
        folder = next_free(folder)  # nobody asked for this very folder: a new run gets a new one
    settings = settings.model_copy(update={"output_dir": str(folder)})
    with Run.create(folder, settings) as run:
        print(f"run: {run.path}", flush=True)
        try:
            carry_out(run, settings.log_level)
        except (ConfigError, DataError, ModelError):
            run.abandon()  # a mistyped model or an empty data set leaves no folder in the way
            raise
