"""A program that we start ends with us, and so does what it has started; nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from seal.supervisor import Supervised, free_port

#: Writes its own process id and that of a child which ignores SIGTERM, and waits.
FAMILY = """
import os, subprocess, sys, time
ignore = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print(flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE)
child.stdout.readline()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def ids(file: Path) -> list[int]:
    until(file.exists)
    return [int(word) for word in file.read_text().split()]


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def there(process: int) -> bool:
    """Whether it runs; what has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    program = Supervised([sys.executable, "-c", FAMILY, str(file)], os.environ, tmp_path / "log", 1)
    both = ids(file)
    assert all(map(there, both))
    assert program.status() is None
    program.stop()
    assert not any(map(there, both))
    assert program.status() is not None
    program.stop()


def test_it_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    starter = (
        "import os, sys, time; from seal.supervisor import Supervised\n"
        f"p = Supervised([sys.executable, '-c', {FAMILY!r}, {str(file)!r}], os.environ, None, 1)\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter])
    both = ids(file)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until(lambda: not any(map(there, both)))


def test_a_program_that_ends_by_itself_says_how_and_leaves_nobody(tmp_path: Path) -> None:
    file = tmp_path / "ids"
    leaves = FAMILY.replace("time.sleep(600)\n", "sys.exit(7)\n")
    assert leaves != FAMILY
    program = Supervised([sys.executable, "-c", leaves, str(file)], os.environ, tmp_path / "log", 1)
    assert program.wait() == 7
    assert not any(map(there, ids(file)))
    killed = Supervised(
        [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], os.environ, tmp_path / "log"
    )
    assert killed.wait() == 137


def test_a_free_port_can_be_listened_on() -> None:
    import socket

    with socket.create_server(("127.0.0.1", free_port())):
        pass
