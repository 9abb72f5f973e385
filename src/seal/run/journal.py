"""The journal: what a run has finished, one checksummed JSON line an item, on disk before it counts.

    {"n":3,"kind":"reward","key":"task7/edit1","data":{…},"time":"2025-06-12T10:00:00+00:00","sum":"8f…"}

`n` counts lines from 1; `sum` covers everything before it on the line. A process killed at any moment
leaves whole lines and at most one torn line at the end, which the next opening sets aside.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from seal.errors import RunError
from seal.run.codec import decode, encode

__all__ = ["Journal", "Row", "decode", "encode"]

log = logging.getLogger(__name__)
_SUM_CHARS = 16
_TAIL = len(',"sum":""}') + _SUM_CHARS


@dataclass(frozen=True, slots=True)
class Row:
    """One finished item. `data` is shared with the journal: read it, do not change it."""

    n: int
    kind: str
    key: str
    data: dict[str, Any]
    time: str
    """When it was written, UTC, for people only: nothing is computed from it."""


class Journal:
    """The journal at `path`, open for this process alone. Safe to use from several threads.

    Raises:
        RunError: another process has it open, a line in its middle is corrupt, or it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notice = ""
        """What was repaired on opening; empty when nothing was."""
        self._guard = threading.Lock()
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        if not self.path.parent.is_dir():
            raise RunError(f"{self.path.parent}: no such folder", "give the folder of a run")
        self._aside = self.path.with_name(self.path.name + ".torn")
        for file in (self.path, self._aside, Path(self._lock.lock_file)):
            if file.is_symlink():
                raise RunError(f"{file}: is a link", "put the file in its place: a run writes nowhere else")
        self._file = -1
        try:
            self._lock.acquire()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
            # The lock file may be deleted under a process that is stopped; the journal's own lock cannot.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (Timeout, BlockingIOError):
            self.close()
            fix = "wait for it to end, or end it; `seal watch` and `seal report` may read meanwhile"
            raise RunError(f"{self.path.parent}: another process has this run open", fix) from None
        except OSError as error:
            self.close()
            raise RunError(f"{self.path}: cannot be opened: {error.strerror}", "check the folder") from None
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def append(self, kind: str, key: str, data: Any) -> None:
        """Write one finished item; when this returns it is on disk.

        `data` is a record or a mapping. The same kind and key with the same data again does nothing.

        Raises:
            RunError: the item is there with other data, or the disk is full (nothing is then left behind).
        """
        self.append_all(kind, {key: data})

    def append_all(self, kind: str, items: Mapping[str, Any]) -> None:
        """Write finished items of one kind, by key, with one flush; see `append`.

        A process that is killed meanwhile leaves the first of them, as whole lines.
        """
        plain = {key: _plain(data) for key, data in items.items()}
        with self._guard:
            new = [(key, data) for key, data in plain.items() if not self._stands(kind, key, data)]
            now, n = datetime.now(UTC).isoformat(timespec="seconds"), len(self._rows)
            rows = [Row(n + i, kind, key, data, now) for i, (key, data) in enumerate(new, 1)]
            if rows:
                self._write(b"".join(map(_line, rows)))
            for row in rows:
                self._rows.append(row)
                self._index[row.kind, row.key] = row

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The data of an item, or None when it is not finished."""
        row = self._index.get((kind, key))
        return None if row is None else row.data

    def rows(self, kind: str | None = None) -> list[Row]:
        """All items (of one kind), in the order they were finished."""
        return [row for row in self._rows if kind is None or row.kind == kind]

    def close(self) -> None:
        """Let another process open it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def read(path: str | Path) -> list[Row]:
        """The finished items of a run that may be running: takes no lock, ignores a torn last line."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror}", "give the folder of a run") from None
        return _parse(content, Path(path))[0]

    def _load(self) -> None:
        content = self.path.read_bytes()
        self._rows, good = _parse(content, self.path)
        self._index = {(row.kind, row.key): row for row in self._rows}
        self._size = good
        if good == len(content):
            return
        with self._aside.open("ab") as out:
            out.write(content[good:] + b"\n")
            out.flush()
            os.fsync(out.fileno())
        os.ftruncate(self._file, good)
        os.fsync(self._file)
        self.notice = (
            f"{self.path}: the last line was torn and is kept in {self._aside.name}; it will be done again"
        )
        log.warning(self.notice)

    def _stands(self, kind: str, key: str, data: dict[str, Any]) -> bool:
        """Whether the item is there. Raises `RunError` if it is, with other data."""
        known = self._index.get((kind, key))
        if known is not None and known.data != data:
            raise RunError(
                f"{self.path}: {kind} {key!r} stands on line {known.n} with other data",
                "begin a new run: the code or the settings have changed since",
            )
        return known is not None

    def _write(self, lines: bytes) -> None:
        """Append whole lines or nothing."""
        if self._file < 0:
            raise RunError(f"{self.path}: the journal is closed", "open the run again")
        self._check_alone()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self.close()  # nothing may follow a torn line; the next opening sets it aside
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            cause = "the disk is full" if full else f"cannot be written: {error.strerror}"
            fix = "free some space" if full else "check the disk"
            raise RunError(f"{self.path}: {cause}", f"{fix}, then `seal resume {self.path.parent}`") from None
        self._size += len(lines)

    def _check_alone(self) -> None:
        """Refuse to write where another file took the journal's place, or another process wrote to it."""
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            there = None
        here = os.fstat(self._file)
        if there is None or (there.st_dev, there.st_ino, there.st_size) != (
            here.st_dev,
            here.st_ino,
            self._size,
        ):
            self.close()
            raise RunError(
                f"{self.path}: was changed by another process while this one had it open",
                f"let one process have the run, then `seal resume {self.path.parent}`",
            )


def _plain(data: Any) -> dict[str, Any]:
    plain = encode(data)
    if not isinstance(plain, dict):
        raise RunError(f"journal data must be a record or a mapping, given {type(data).__name__}")
    return plain


def _line(row: Row) -> bytes:
    body = {"n": row.n, "kind": row.kind, "key": row.key, "data": row.data, "time": row.time}
    # ASCII escapes carry every string that Python can hold, lone surrogates included
    text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")
    return text[:-1] + b',"sum":"' + _checksum(text) + b'"}\n'


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_SUM_CHARS].encode()


def _parse(content: bytes, path: Path) -> tuple[list[Row], int]:
    """The rows of a journal, and how many bytes of it are whole lines (the rest is a torn last line)."""
    rows: list[Row] = []
    good = 0
    while good < len(content):
        end = content.find(b"\n", good)
        row = _row(content[good:end], len(rows) + 1) if end >= 0 else None
        if row is None:
            if 0 <= end < len(content) - 1:
                fix = "restore the file from a copy, or begin a new run"
                raise RunError(f"{path}:{len(rows) + 1}: the line is corrupt", fix)
            break
        rows.append(row)
        good = end + 1
    return rows, good


def _row(line: bytes, n: int) -> Row | None:
    body = line[:-_TAIL] + b"}"
    if line[-_TAIL:] != b',"sum":"' + _checksum(body) + b'"}':
        return None
    fields = json.loads(body)
    return Row(**fields) if fields["n"] == n else None
