"""Submit a round (data, server, query, SFT data, SFT) to SLURM, chained by dependencies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.errors import ConfigError


def slurm(
    steps: Annotated[
        list[str] | None, Argument(help="Scripts by name, in order; default: a whole round.")
    ] = None,
    changes: Annotated[
        list[str] | None, Option("--set", metavar="NAME=VALUE", help="A setting of config.env, for all jobs.")
    ] = None,
    site: Annotated[Path, Option(help="What is true of this cluster (GPUs, partition).")] = Path(
        "general-knowledge/site.env"
    ),
    dry_run: Annotated[bool, Option("--dry-run", help="Print what would be submitted, as a script.")] = False,
) -> None:
    """Submit from the repository root. Every job starts when the one before it has ended well."""
    from seal.cluster import slurm as cluster

    pairs = [change.partition("=") for change in changes or []]
    wrong = [name for name, equals, _ in pairs if not equals or not name.isidentifier()]
    if wrong:
        raise ConfigError(f"--set {wrong[0]!r} is no setting", "write --set NAME=VALUE")
    settings = {name: value for name, _, value in pairs}
    jobs = cluster.plan(steps or cluster.ROUND, cluster.read_site(site), settings)
    if dry_run:
        print(cluster.as_script(jobs))
        return
    for step, job in cluster.submit(jobs, os.environ).items():
        print(f"{step}: job {job}")
    print("see them: squeue --me; logs: general-knowledge/logs", file=sys.stderr)
