"""Submits the scripts of a round to SLURM, chained: data → server → query → SFT data → SFT.

A plan is a list of `sbatch` command lines; `as_script` prints it as a bash script that does the same, and
`submit` runs it. What a job asks for besides its `#SBATCH` lines comes from the site file.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seal.errors import ConfigError, RunError

FOLDER = Path("general-knowledge")
STEPS = (
    "make_squad_data",
    "make_squad_data_openai",
    "TTT_server",
    "query_server",
    "CPT",
    "build_SFT_dataset",
    "train_SFT",
    "continual_self_edits",
)
"""What can be submitted, in the order of a round."""

ROUND = ("make_squad_data", "TTT_server", "query_server", "build_SFT_dataset", "train_SFT")
_CLIENTS = ("query_server", "CPT")


@dataclass(frozen=True, slots=True)
class Job:
    """One submission. Dependencies name earlier steps of the plan."""

    step: str
    command: tuple[str, ...]
    """`sbatch` and its options, without dependencies."""
    after_ok: tuple[str, ...] = ()
    """Steps that must have ended well."""
    after_start: tuple[str, ...] = ()
    """Steps that must have begun (the server)."""
    environment: tuple[tuple[str, str], ...] = ()
    ends_server: str = ""
    """Step whose job it ends when it is done."""


def plan(
    steps: Sequence[str], site: Mapping[str, str], settings: Mapping[str, str], root: Path = Path(".")
) -> list[Job]:
    """The jobs of `steps`, each after the one before; clients of the server start with it.

    Args:
        site: `SEAL_GRES` (for `--gres`) and `SEAL_SBATCH` (more options of `sbatch`).
        settings: environment variables of every job, by name.
        root: the repository.

    Raises:
        ConfigError: an unknown or doubled step, or no scripts in `root`.
    """
    unknown = [step for step in steps if step not in STEPS]
    if unknown or not steps or len(set(steps)) < len(steps):
        raise ConfigError(f"steps {' '.join(steps)!r}", f"choose among {', '.join(STEPS)}, each once")
    if not (root / FOLDER / "scripts" / "common.sh").is_file():
        raise ConfigError(f"no {FOLDER}/scripts in {root.resolve()}", "run it from the repository root")
    options = ["--parsable", "--kill-on-invalid-dep=yes"]
    if gres := site.get("SEAL_GRES"):
        options.append(f"--gres={gres}")
    options += shlex.split(site.get("SEAL_SBATCH", ""))
    clients = [step for step in steps if step in _CLIENTS]
    jobs: list[Job] = []
    before = ""
    for step in steps:
        served = "TTT_server" if step in _CLIENTS and "TTT_server" in [j.step for j in jobs] else ""
        environment = dict(settings)
        if served and step == clients[-1] == "query_server":
            environment["SEAL_SHUTDOWN"] = "1"
        jobs.append(
            Job(
                step,
                ("sbatch", *options, str(FOLDER / "scripts" / f"{step}.sh")),
                (before,) if before else (),
                (served,) if served else (),
                tuple(sorted(environment.items())),
                served if environment.get("SEAL_SHUTDOWN") == "1" else "",
            )
        )
        before = step if step != "TTT_server" else before
    return jobs


def as_script(jobs: Sequence[Job]) -> str:
    """The plan as a bash script."""
    lines = ["set -euo pipefail"]
    for job in jobs:
        ids = {step: f"${{{step}}}" for step in (*job.after_ok, *job.after_start, job.ends_server) if step}
        words = [f"{name}={shlex.quote(value)}" for name, value in _environment(job, ids).items()]
        words += [shlex.quote(word) for word in job.command[:-1]]
        if dependency := _dependency(job, ids):
            words.append(dependency)
        words.append(shlex.quote(job.command[-1]))
        line = " ".join(words)
        for reference in ids.values():  # quoted as text above; they are meant as variables
            line = line.replace(f"'{reference}'", reference)
        lines.append(f"{job.step}=$({line})")
        lines.append(f'echo "{job.step}: job ${{{job.step}}}"')
    return "\n".join(lines)


def submit(jobs: Sequence[Job], environment: Mapping[str, str], root: Path = Path(".")) -> dict[str, str]:
    """Submit the plan; job ids by step. What was submitted before a failure is cancelled.

    Raises:
        RunError: there is no `sbatch`, or it refused a job.
    """
    if shutil.which("sbatch") is None:
        raise RunError("there is no sbatch here", "log in to the cluster, or run the scripts with bash")
    ids: dict[str, str] = {}
    for job in jobs:
        command = [*job.command[:-1], *_as_list(_dependency(job, ids)), job.command[-1]]
        done = subprocess.run(
            command,
            cwd=root,
            env={**environment, **_environment(job, ids)},
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.match(r"\d+", done.stdout)
        if done.returncode or not found:
            if ids:
                subprocess.run(["scancel", *ids.values()], check=False, capture_output=True)
            why = (done.stderr or done.stdout).strip().splitlines()
            raise RunError(
                f"sbatch refused {job.step}: {why[-1] if why else 'no message'}", "check the site file"
            )
        ids[job.step] = found.group()
    return ids


def read_site(path: Path) -> dict[str, str]:
    """`SEAL_GRES` and `SEAL_SBATCH` as the site file sets them; it is bash, like all settings of the scripts.

    Raises:
        ConfigError: the file cannot be read by bash.
    """
    if not path.exists():
        return {}
    script = 'source "$1"; printf "%s\\0%s\\0" "${SEAL_GRES:-}" "${SEAL_SBATCH:-}"'
    done = subprocess.run(
        ["bash", "-euc", script, "bash", str(path.resolve())], capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = done.stderr.strip().splitlines()
        raise ConfigError(f"{path} cannot be used: {why[-1] if why else 'bash failed'}")
    gres, more = done.stdout.split("\0")[:2]
    return {name: value for name, value in (("SEAL_GRES", gres), ("SEAL_SBATCH", more)) if value}


def _environment(job: Job, ids: Mapping[str, str]) -> dict[str, str]:
    values = dict(job.environment)
    if any(word.startswith("--gres=") for word in job.command):
        values["SEAL_GRES_ASKED"] = "1"
    if job.ends_server:
        values["SEAL_SERVER_JOB"] = ids[job.ends_server]
    return values


def _dependency(job: Job, ids: Mapping[str, str]) -> str:
    parts = [f"afterok:{ids[step]}" for step in job.after_ok] + [
        f"after:{ids[step]}" for step in job.after_start
    ]
    return f"--dependency={','.join(parts)}" if parts else ""


def _as_list(word: str) -> list[str]:
    return [word] if word else []
