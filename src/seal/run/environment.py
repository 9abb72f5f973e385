"""What a run ran on: versions, device, threads, git revision. No environment variables, no secrets."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from seal import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "trl", "safetensors", "numpy")


def describe(device: str = "auto") -> dict[str, Any]:
    """JSON-ready facts about this process. Imports torch."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"seal": __version__, **versions(PACKAGES)},
        "git": git_revision(),
        "device": device,
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def versions(names: tuple[str, ...]) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""

    def one(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: one(name) for name in names}


def git_revision() -> str | None:
    """Revision of the checkout that the package runs from, `-dirty` when it differs; None elsewhere."""
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name, at=here.parent) is None:
        return None  # installed in an environment that happens to lie inside some other repository
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", at=here.parent)


def _git(*arguments: str, at: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(at), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
