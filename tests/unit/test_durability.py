"""What is acknowledged is on the disk: files are flushed before they count, and folders after a rename."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seal.models.checkpoint import write_checkpoint
from seal.run.journal import Journal
from seal.whole_file import write_whole

Event = tuple[str, str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Every flush and rename, in order; they really happen."""
    seen: list[Event] = []
    fsync, replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        fsync(handle)
        seen.append(("fsync", os.path.realpath(f"/proc/self/fd/{handle}")))

    def rename(source: Any, target: Any) -> None:
        replace(source, target)
        seen.append(("replace", str(target)))

    def path_rename(self: Path, target: Any) -> Path:
        rename(self, target)
        return Path(target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(Path, "replace", path_rename)
    return seen


def test_a_journal_line_is_flushed_before_it_counts(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for n in (1, 2):
            journal.append("a", str(n), {})
            assert events == [("fsync", str(path))] * n
        flush = os.fsync

        def fails(handle: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(Exception, match="cannot be written"):
            journal.append("a", "3", {})
        assert journal.get("a", "3") is None
        monkeypatch.setattr(os, "fsync", flush)
        journal.append("a", "4", {})
    assert [row.key for row in Journal.read(path)] == ["1", "2", "4"]


def test_lines_of_a_batch_are_flushed_together_and_none_counts_before(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append_all("a", {str(n): {"n": n} for n in range(3)})
        assert events == [("fsync", str(path))]
        journal.append_all("a", {"1": {"n": 1}, "3": {"n": 3}})
        assert events == [("fsync", str(path))] * 2
        journal.append_all("a", {"2": {"n": 2}})
        assert len(events) == 2, "nothing new, nothing written"
        flush, before = os.fsync, path.read_bytes()

        def fails(handle: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(Exception, match="cannot be written"):
            journal.append_all("a", {"4": {}, "5": {}})
        assert (journal.get("a", "4"), journal.get("a", "5"), path.read_bytes()) == (None, None, before)
        monkeypatch.setattr(os, "fsync", flush)
        with pytest.raises(Exception, match="stands on line 1 with other data"):
            journal.append_all("a", {"6": {}, "0": {"n": 9}})
        assert path.read_bytes() == before
    assert [(row.n, row.key) for row in Journal.read(path)] == [(n + 1, str(n)) for n in range(4)]


def test_lines_flushed_together_and_cut_anywhere_leave_the_first_of_them_whole(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "journal.jsonl"
    with Journal(whole) as journal:
        journal.append_all("a", {str(n): {"text": "x" * n} for n in range(3)})
    content = whole.read_bytes()
    ends = [n + 1 for n, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        with Journal(path) as journal:
            assert len(journal.rows()) == sum(end <= cut for end in ends)


def test_a_torn_line_is_kept_on_disk_before_it_is_cut_off(tmp_path: Path, events: list[Event]) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("a", "1", {})
    with path.open("ab") as file:
        file.write(b'{"n":2')
    events.clear()
    Journal(path).close()
    assert events == [("fsync", f"{path}.torn"), ("fsync", str(path))]


def test_a_whole_file_is_flushed_before_it_takes_its_place(tmp_path: Path, events: list[Event]) -> None:
    write_whole(tmp_path / "file", "text")
    assert [kind for kind, _ in events] == ["fsync", "replace"]


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", "old")

    def fails(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", "new")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


def test_a_checkpoint_is_flushed_before_it_takes_its_place(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run" / "policy-1"

    def write(target: Path) -> None:
        (target / "config.json").write_text("{}")
        (target / "model.safetensors").write_bytes(b"x")

    write_checkpoint(folder, write)
    at = events.index(("replace", str(folder)))
    before = {Path(name).name for kind, name in events[:at] if kind == "fsync"}
    staging = next(Path(name).parent.name for _, name in events if name.endswith("config.json"))
    assert {"config.json", "model.safetensors", "manifest.json", staging} <= before
    assert ("fsync", str(folder.parent)) in events[at:]


@pytest.mark.parametrize("failing", ["write", "flush"])
def test_a_checkpoint_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run" / "policy-1"

    def writing(text: str, error: bool = False) -> Callable[[Path], None]:
        def write(target: Path) -> None:
            (target / "config.json").write_text(text)
            if error:
                raise OSError(28, "No space left on device")

        return write

    write_checkpoint(folder, writing("{}"))
    if failing == "flush":

        def fails(handle: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Exception, match="cannot write the checkpoint"):
        write_checkpoint(folder, writing('{"new": 1}', failing == "write"))
    assert (folder / "config.json").read_text() == "{}"
    assert [entry.name for entry in folder.parent.iterdir()] == ["policy-1"]
