"""Temporary folders: gone after use, and after a kill by the next one's start."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from seal.scratch import scratch_folder

HOLD = """
import sys
from seal.scratch import scratch_folder
with scratch_folder("sft") as folder:
    (folder / "weights").write_text("x")
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def hold() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_after_use_and_after_an_error(tmp_path: Path) -> None:
    with suppress(ValueError), scratch_folder("sft") as folder:
        (folder / "file").write_text("x")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    (dead, left), (alive, held) = hold(), hold()
    try:
        os.kill(dead.pid, 9)
        dead.wait(20)
        assert left.is_dir()
        (tmp_path / "seal-thesis").mkdir()
        (tmp_path / "seal-taught-abcdefgh").mkdir()  # `seal.teach` without `out`: somebody's model
        (tmp_path / "seal-scratch-sft-abcdefgh").symlink_to(tmp_path / "seal-thesis")
        with scratch_folder("sft"):
            assert not left.exists()
            assert (held / "weights").exists()
        assert {p.name for p in tmp_path.iterdir()} == {
            held.name,
            "seal-thesis",
            "seal-taught-abcdefgh",
            "seal-scratch-sft-abcdefgh",
        }
    finally:
        alive.communicate("go on\n", timeout=20)
        dead.communicate()
