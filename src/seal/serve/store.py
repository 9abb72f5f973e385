"""Stored replies, so that the same key trains once, also across a restart of the server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from seal.errors import ServeError
from seal.serve.messages import WireError


class Store:
    """Replies by key, at most `capacity` of them; the oldest leave first.

    Args:
        path: SQLite file; empty: memory only.
        policy: version of the model; replies of another model are not found.

    Raises:
        ServeError: the file cannot be opened or is no store.
    """

    def __init__(self, path: str | Path = "", policy: str = "", capacity: int = 100_000) -> None:
        self.policy, self.capacity = policy, capacity
        try:
            self._db = sqlite3.connect(str(path) or ":memory:", isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS replies (n INTEGER PRIMARY KEY, policy TEXT, key TEXT,"
                " digest TEXT, body BLOB, UNIQUE (policy, key))"
            )
        except sqlite3.Error as error:
            raise ServeError(f"the store {path} cannot be used: {error}", "name another file") from None

    def get(self, key: str, digest: str) -> bytes | None:
        """The stored reply, or None.

        Raises:
            WireError: the key belongs to a request with other content.
        """
        row = self._db.execute(
            "SELECT digest, body FROM replies WHERE policy = ? AND key = ?", (self.policy, key)
        ).fetchone()
        if row is None:
            return None
        if row[0] != digest:
            raise WireError(
                f"the key {key[:60]!r} was used for other content", "use a new key", "key_conflict"
            )
        return bytes(row[1])

    def put(self, key: str, digest: str, body: bytes) -> None:
        """Keep a reply; a full disk is an error for the caller to report, not to hide."""
        try:
            done = self._db.execute(
                "INSERT OR REPLACE INTO replies (policy, key, digest, body) VALUES (?, ?, ?, ?)",
                (self.policy, key, digest, body),
            )
            self._db.execute("DELETE FROM replies WHERE n <= ?", ((done.lastrowid or 0) - self.capacity,))
        except sqlite3.Error as error:
            raise ServeError(f"the reply could not be stored: {error}", "free some disk space") from None

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
