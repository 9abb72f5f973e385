"""What a killed process left half-written goes with the next write in that place; a living one's stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from seal.whole_file import own_folder, whole_folder, write_whole

#: Writes a file and a folder, and stops before either is in its place.
HOLD = """
import os, sys, time
from pathlib import Path
from seal.whole_file import whole_folder, write_whole
with whole_folder(Path("model")) as folder:
    (folder / "weights").write_text("half")
    os.fsync = lambda handle: (print("held", flush=True), time.sleep(600))
    write_whole(Path("report"), "half")
"""


@contextmanager
def writing(place: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD], cwd=place, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def names(place: Path) -> list[str]:
    return sorted(p.name for p in place.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    (tmp_path / ".model.backup00").mkdir()  # somebody's own
    with writing(tmp_path):
        assert len(names(tmp_path)) == 3
        write_whole(tmp_path / "report", "whole")
        with whole_folder(tmp_path / "model") as folder:
            (folder / "weights").write_text("whole")
        assert len(names(tmp_path)) == 5, "a living process keeps what it writes"
    write_whole(tmp_path / "report", "whole")
    with whole_folder(tmp_path / "model", replace=True) as folder:
        (folder / "weights").write_text("new")
    assert names(tmp_path) == [".model.backup00", "model", "report"]
    assert (tmp_path / "model" / "weights").read_text() == "new"


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with suppress(ValueError), whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("half")
        raise ValueError("stop")
    assert names(tmp_path) == []
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_that_another_process_took_for_a_dead_ones_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its lock it looks like one that a killed process left."""
    made: list[str] = []
    make = tempfile.mkdtemp

    def taken_at_first(**where: Any) -> str:
        made.append(make(**where))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken_at_first)
    with own_folder(tmp_path, "x-") as folder:
        assert str(folder) == made[1]
        assert folder.is_dir()


def test_a_link_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / ".model.part-abcdefgh").symlink_to(tmp_path / "thesis")
    with own_folder(tmp_path, ".model.part-"):
        pass
    assert names(tmp_path) == [".model.part-abcdefgh", "thesis"]
