"""Temporary folders that do not outlive a killed process by more than the next one's start."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from seal.whole_file import own_folder

_NAME = "seal-scratch-"
"""What such folders alone are called: models and runs that somebody keeps in the same place stay."""


def scratch_folder(purpose: str) -> AbstractContextManager[Path]:
    """A temporary folder, gone afterwards. What killed processes left of such folders goes as well."""
    return own_folder(Path(tempfile.gettempdir()), f"{_NAME}{purpose}-", sweep=f"{_NAME}*-????????")
