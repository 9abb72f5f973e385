"""Temporary folders that do not outlive a killed process by more than the next one's start."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_NAME = "seal-scratch-"
"""What such folders alone are called: models and runs that somebody keeps in the same place stay."""
_SETTLED_S = 60.0
"""Age at which a folder without an owner has lost it, and is not one that is being made right now."""


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A temporary folder, gone afterwards. What killed processes left of such folders goes as well."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_NAME}{purpose}-"))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # held until this process ends, however it ends
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_NAME}*-????????"):
        with contextlib.suppress(OSError):
            stat = folder.lstat()
            if stat.st_uid != os.getuid() or time.time() - stat.st_ctime < _SETTLED_S:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
