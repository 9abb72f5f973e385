"""Files and folders that are there whole or not at all, however the process ends.

What is half-written lies beside its place, locked by who writes it. What a killed process left of that is
unlocked, and goes when somebody writes in the same place again.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Put a file with `text` in the place of `path`, once it is on the disk. Raises `OSError`."""
    _take_away(path.parent.glob(f".{glob.escape(path.name)}.????????.part"), os.unlink)
    part, handle = _own_file(path)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which is in the place of `path` after the block, once it is on the disk.

    After an error there is no trace of it.

    Args:
        replace: what is in that place goes away, after the new folder has come.

    Raises:
        OSError: it cannot be written, or there is a folder with something in it and `replace` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with own_folder(path.parent, f".{path.name}.part-") as place:
        staging = place / "new"
        staging.mkdir()
        yield staging
        for inner in staging.rglob("*"):
            _flush(inner)
        _flush(staging)
        if replace and path.exists():
            os.replace(path, place / "old")
        os.replace(staging, path)
        _flush(path.parent)


@contextmanager
def own_folder(parent: Path, prefix: str, *, sweep: str = "") -> Iterator[Path]:
    """A new folder in `parent`, gone after the block.

    Folders of killed processes go first: those of the same prefix, or that match the pattern `sweep`.
    """
    _take_away(parent.glob(sweep or f"{glob.escape(prefix)}????????"), _remove_folder)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # taken for a dead process's already
            handle = os.open(folder, os.O_RDONLY)
            if _owned(handle, folder):
                break
    try:
        yield folder
    finally:
        _remove_folder(folder)
        os.close(handle)


def _own_file(path: Path) -> tuple[Path, int]:
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        if _owned(handle, part):
            return part, handle


def _owned(handle: int, path: Path) -> bool:
    """Lock what was just made, until `handle` is closed; False: it was taken for a dead process's before."""
    with suppress(OSError):  # a file system without locks: nothing is taken away there
        fcntl.flock(handle, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), os.lstat(path)):
            return True
    os.close(handle)
    return False


def _take_away(paths: Iterable[Path], remove: Callable[[Path], None]) -> None:
    """Remove those that are ours and that nobody has locked; links stay."""
    for path in paths:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.getuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(path)
            finally:
                os.close(handle)


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
