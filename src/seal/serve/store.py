"""Stored replies, so that the same key trains once, also across a restart of the server."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from pathlib import Path
from typing import Any

from seal.errors import ServeError
from seal.serve.messages import WireError

log = logging.getLogger("seal.serve")

_MOST_REPEATS = 10_000
"""Official requests whose number of repeats is remembered; the oldest are forgotten first."""
_TABLES = """
CREATE TABLE IF NOT EXISTS kept (
    n INTEGER PRIMARY KEY, policy TEXT, key TEXT, digest TEXT, body BLOB, sum TEXT, UNIQUE (policy, key)
);
CREATE TABLE IF NOT EXISTS repeats (
    n INTEGER PRIMARY KEY, policy TEXT, digest TEXT, count INTEGER, UNIQUE (policy, digest)
);
"""
_MOVE = "stop the server, move the file away and start it again: what it held is trained anew"


class Store:
    """Replies by key, at most `capacity` of them; the oldest leave first. A damaged one is never sent.

    Args:
        path: SQLite file; empty: memory only.
        policy: version of the model; replies of another model are not found.

    Raises:
        ServeError: the file cannot be opened, is no store or is damaged.
    """

    def __init__(self, path: str | Path = "", policy: str = "", capacity: int = 100_000) -> None:
        self.path, self.policy, self.capacity = path, policy, capacity
        try:
            self._db = sqlite3.connect(str(path) or ":memory:", isolation_level=None, check_same_thread=False)
            try:
                self._db.execute("PRAGMA synchronous=NORMAL")
                (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
                self._db.executescript(_TABLES)
            except sqlite3.Error:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise ServeError(f"the store {path} cannot be used: {error}", "name another file") from None
        if found != "ok":
            self._db.close()
            raise ServeError(f"the store {path} is damaged: {found.splitlines()[-1]}", _MOVE)

    def get(self, key: str, digest: str) -> bytes | None:
        """The stored reply, or None; also None, and forgotten, where its checksum does not hold.

        Raises:
            WireError: the key belongs to a request with other content, or the file is damaged.
        """
        query = "SELECT digest, body, sum FROM kept WHERE policy = ? AND key = ?"
        row = self._one(query, self.policy, key)
        if row is None:
            return None
        known, body, found = row
        if found != self._sum(key, known, body):
            log.error("the stored reply of key %.80r is damaged; it is trained anew", key)
            self._one("DELETE FROM kept WHERE policy = ? AND key = ?", self.policy, key)
            return None
        if known != digest:
            raise WireError(
                f"the key {key[:60]!r} was used for other content", "use a new key", "key_conflict"
            )
        return bytes(body)

    def put(self, key: str, digest: str, body: bytes) -> None:
        """Keep a reply; a full disk is an error for the caller to report, not to hide."""
        try:
            done = self._db.execute(
                "INSERT OR REPLACE INTO kept (policy, key, digest, body, sum) VALUES (?, ?, ?, ?, ?)",
                (self.policy, key, digest, body, self._sum(key, digest, body)),
            )
            self._db.execute("DELETE FROM kept WHERE n <= ?", ((done.lastrowid or 0) - self.capacity,))
        except sqlite3.Error as error:
            raise ServeError(f"the reply could not be stored: {error}", "free some disk space") from None

    def repeats(self, digest: str) -> int:
        """How often this content was asked for without a seed or key. Raises `WireError`."""
        row = self._one("SELECT count FROM repeats WHERE policy = ? AND digest = ?", self.policy, digest)
        return 0 if row is None else int(row[0])

    def count_repeat(self, digest: str) -> None:
        """It was asked for once more. A count that cannot be kept is only said: the work is accepted."""
        try:
            self._db.execute(
                "INSERT INTO repeats (policy, digest, count) VALUES (?, ?, 1)"
                " ON CONFLICT (policy, digest) DO UPDATE SET count = count + 1",
                (self.policy, digest),
            )
            oldest = "DELETE FROM repeats WHERE n <= (SELECT max(n) FROM repeats) - ?"
            self._db.execute(oldest, (_MOST_REPEATS,))
        except sqlite3.Error as error:
            log.error("after a restart a repeat may get an earlier one's reply: %s", error)

    def __len__(self) -> int:
        row = self._one("SELECT count(*) FROM kept")
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _one(self, query: str, *values: str) -> Any:
        try:
            return self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise WireError(f"the store {self.path} is damaged: {error}", _MOVE, "internal") from None

    def _sum(self, key: str, digest: Any, body: Any) -> str:
        kept = hashlib.sha256()
        for part in (self.policy, key, digest, body):
            raw = part if isinstance(part, bytes) else repr(part).encode()
            kept.update(len(raw).to_bytes(8) + raw)
        return kept.hexdigest()
