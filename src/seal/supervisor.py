"""Another program as a child that never outlives us: `python -m seal.supervisor SECONDS COMMAND …` between.

The supervisor runs COMMAND in a process group of its own, and ends that group, which is all that it started,
when its standard input closes: at our `Supervised.stop`, and however else we end, `kill -9` included.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_GRACE_S = 20.0


class Supervised:
    """COMMAND, from now until `stop`.

    Args:
        log: file that its output is appended to; None: our own standard error.
        grace_s: seconds that it gets to end by itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None,
        grace_s: float = _GRACE_S,
    ) -> None:
        with contextlib.ExitStack() as stack:
            out: IO[bytes] | IO[str] = sys.stderr if log is None else stack.enter_context(log.open("ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "seal.supervisor", str(grace_s), *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=dict(environment),
            )

    def status(self) -> int | None:
        """Its exit status; None: it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait until it ends by itself; its exit status."""
        status = self._process.wait()
        self.stop()
        return status

    def stop(self) -> None:
        """End it and everything that it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def supervise(command: Sequence[str], grace_s: float) -> int:
    """Run `command` until it ends or standard input closes; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all; the one who started us decides
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        _signal(child.pid, signal.SIGTERM)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            _signal(child.pid, signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        end()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end).start())
    status = child.wait()
    # What it started may not have heard that it ended, and a killed process takes a moment to be gone.
    for what in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + grace_s
        while _signal(child.pid, what) and time.monotonic() < until:
            time.sleep(0.05)
    return status if status >= 0 else 128 - status


def _signal(group: int, what: signal.Signals) -> bool:
    """Whether there was anybody to hear it."""
    try:
        os.killpg(group, what)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[2:], float(sys.argv[1])))
