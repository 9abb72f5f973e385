"""The journal under kills and failing disks: what was acknowledged is there, once."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seal.errors import ModelError, RunError
from seal.models.checkpoint import verify_checkpoint, write_checkpoint
from seal.run.journal import Journal

#: Appends the items that are missing, and says so after each.
WRITER = """
import sys
from seal.run.journal import Journal
with Journal(sys.argv[1]) as journal:
    print("open", flush=True)
    for n in range(100_000):
        if journal.get("item", str(n)) is None:
            journal.append("item", str(n), {"text": "x" * (n % 700)})
            print(n, flush=True)
"""


def test_killed_at_random_moments(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    path, acknowledged, kills = tmp_path / "journal.jsonl", -1, amount(500)
    torn = 0
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n", "ready again"
        time.sleep(rng.random() * 0.03)
        writer.kill()
        said = writer.stdout.read().split("\n")[:-1]
        writer.wait(20)
        writer.stdout.close()
        acknowledged = max([acknowledged, *map(int, said)])
        rows = Journal.read(path)
        keys = [row.key for row in rows]
        assert keys == [str(n) for n in range(len(keys))], "each once, in order"
        assert acknowledged <= len(keys) - 1 <= acknowledged + 1, "at most what was in flight is more"
        acknowledged = len(keys) - 1
        torn += not path.read_bytes().endswith(b"\n") and bool(keys)
    told(killed=kills - torn, killed_within_a_line=torn)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_write_and_flush_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, told: Callable[..., None]
) -> None:
    path, items = tmp_path / "journal.jsonl", 12
    real = getattr(os, call)
    for failing in range(items):
        path.unlink(missing_ok=True)
        calls = 0

        def fails(*arguments: Any, failing: int = failing) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                if call == "write":
                    real(arguments[0], bytes(arguments[1])[:20])  # a part of the line is out already
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        with Journal(path) as journal:
            monkeypatch.setattr(os, call, fails)
            refused: list[str] = []
            for n in range(items):
                try:
                    journal.append("item", str(n), {"text": "x" * 100})
                except RunError as error:
                    refused.append(str(error))
            monkeypatch.setattr(os, call, real)
        assert len(refused) == 1
        assert "disk" in refused[0]
        assert [row.key for row in Journal.read(path)] == [str(n) for n in range(items) if n != failing]
    told(stopped_cleanly=items)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_flush_and_rename_of_a_checkpoint_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: Callable[..., None]
) -> None:
    folder, injected = tmp_path / "checkpoints" / "policy-1", 0

    def writing(text: str) -> Callable[[Path], None]:
        return lambda target: (target / "config.json").write_text(text) and None

    old = write_checkpoint(folder, writing("{}"))
    new = write_checkpoint(tmp_path / "other", writing('{"a": 1}'))
    for call in ("fsync", "replace"):
        real, failing = getattr(os, call), 0
        while True:
            calls = 0

            def fails(*arguments: Any, real: Any = real, failing: int = failing) -> Any:
                nonlocal calls
                calls += 1
                if calls == failing + 1:
                    raise OSError(code, os.strerror(code))
                return real(*arguments)

            monkeypatch.setattr(os, call, fails)
            try:
                write_checkpoint(folder, writing('{"a": 1}'))
                broke = calls > failing
            except ModelError:
                broke = True
            monkeypatch.setattr(os, call, real)
            if not broke:
                break
            injected, failing = injected + 1, failing + 1
            try:
                assert verify_checkpoint(folder) in (old, new), "the one before or the whole new one"
            except ModelError:
                assert call == "replace", "between the two renames only"
                assert not folder.exists()
            write_checkpoint(folder, writing("{}"))
    told(old_or_new=injected)
