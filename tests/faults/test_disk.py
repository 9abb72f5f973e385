"""Whole commands on a small file system that fills up, and under a kernel that fails their writes."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from killed_commands import COMMANDS, QUICK, ForkServer, going_on, inputs, outcome
from seal.run.journal import Journal

pytestmark = pytest.mark.slow

CLONE_NEWNS = 0x00020000
PLENTY = 64 * 2**20


class Disk:
    """A tmpfs that this thread and its children see, as large as it is told to be."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.place)], check=True)

    def used(self) -> int:
        stat = os.statvfs(self.place)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def clear(self) -> None:
        self.resize(PLENTY)
        for entry in self.place.iterdir():
            shutil.rmtree(entry)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={PLENTY}", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or subprocess.run(["unshare", "-m", *tmpfs]).returncode:
        pytest.skip("mounting a small file system needs more rights")
    assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(tmpfs, check=True)
    yield Disk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_ends_a_command_with_a_word(
    disk: Disk,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    amount: Callable[[int], int],
    rng: random.Random,
    told: Callable[..., None],
) -> None:
    """Anywhere in what it writes; and the same command goes on once there is space."""
    server = ForkServer(
        tmp_path_factory.mktemp("seeing")
    )  # begun after the disk was mounted, so that it sees it
    ends, cwd = Counter[str](), disk.place / "work"
    how = {"stub": True, "log": str(tmp_path / "log"), "work": str(tmp_path / "work")}
    for name, command in itertools.islice(itertools.cycle(COMMANDS.items()), amount(20)):
        disk.clear()
        inputs(cwd)
        before = disk.used()
        assert server.run(command.argv, cwd, **how).code == 0
        whole, size = outcome(cwd), disk.used()
        disk.clear()
        inputs(cwd)
        disk.resize(rng.randrange(before, size) // 4096 * 4096)
        (tmp_path / "log").unlink()
        code, said = server.run(command.argv, cwd, **how).code, (tmp_path / "log").read_text()
        assert code in (0, 2), said
        assert "Traceback" not in said
        if code == 2:
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, said
            assert re.search("disk is full|No space left on device", errors[0]), said
            assert re.search("(?i)free (some|disk) space", errors[0]), said
        ends[f"{name}_{'stopped' if code else 'ended_without_its_metrics'}"] += 1
        disk.resize(PLENTY)
        if code == 2:
            assert server.run(going_on(command, cwd), cwd, **how).code == 0, (tmp_path / "log").read_text()
        assert outcome(cwd) == whole
    server.close()
    told(**ends)


def test_the_kernel_fails_a_call(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    """`strace` lets one flush or rename of a run fail: it ends with a word and goes on, or never notices."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"]).returncode:
        pytest.skip("strace is not installed, or may not trace")
    seal = [sys.executable, "-m", "seal"]
    train = ["train", "--preset", "test", "--output-dir", "run", *(w for s in QUICK for w in ("--set", s))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SEAL_CACHE": str(tmp_path / "cache")}
    calls = {"fsync": 40, "rename": 12}
    ends = Counter[str]()
    for n in range(amount(10)):
        cwd = tmp_path / str(n)
        cwd.mkdir()
        call, error = rng.choice([*calls]), rng.choice(["EIO", "ENOSPC"])
        fault = f"inject={call}:error={error}:when={rng.randint(1, calls[call])}"
        traced = [
            strace,
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-o",
            str(cwd / "trace"),
            "-e",
            f"trace={call}",
            "-e",
            fault,
        ]
        done = subprocess.run(
            [*traced, *seal, *train], cwd=cwd, env=environment, capture_output=True, text=True
        )
        injected = (cwd / "trace").read_text().count("(INJECTED)")
        said = f"{fault}: {done.stderr[-2000:]}"
        assert done.returncode in (0, 2), said
        assert "Traceback" not in done.stderr, said
        if done.returncode == 2:
            assert done.stderr.count("error: ") == 1, said
        begun = (cwd / "run" / "config.yaml").exists()
        again = ["resume", "run"] if begun else train
        last = subprocess.run([*seal, *again], cwd=cwd, env=environment, capture_output=True, text=True)
        assert last.returncode == 0, f"{said}{last.stderr}"
        assert [row.key for row in Journal.read(cwd / "run" / "journal.jsonl") if row.kind == "summary"]
        ends[f"{call}_{error}_{'stopped' if done.returncode else 'went_on'}" if injected else "none"] += 1
        shutil.rmtree(cwd)
    told(**ends)
