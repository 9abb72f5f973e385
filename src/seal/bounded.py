"""Bounds on what somebody else's program may take, such as a chat template: it is run in a fork first.

Nothing inside a process can stop a loop in a C function or one large allocation; the kernel can, in a process
of its own. The fork computes nothing that is used: it only shows that the work ends.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_WAIT_S = 120.0
"""A fork that has used less processor time than it may by then is stuck, or the machine is."""
_ENDED, _MEMORY = 0, 3


def overrun(work: Callable[[], object], *, seconds: int, mebibytes: int) -> str:
    """What `work` takes too much of, run in a fork of this process; empty: it ends within the bounds.

    Whatever else `work` raises is not told: it will be raised again where it is really done.

    Args:
        seconds: of processor time.
        mebibytes: of memory, beside what this process has already (known on Linux only).
    """
    if not hasattr(os, "fork"):
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # there are threads: the fork touches none of theirs
        pid = os.fork()
    if pid == 0:
        _run(work, seconds, mebibytes)
    code = _wait(pid, time.monotonic() + _WAIT_S)
    if code == _ENDED:
        return ""
    if code == _MEMORY:
        return f"needs more than {mebibytes} MiB of memory"
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"takes more than {seconds} s"
    return "ends the process that runs it"


def _run(work: Callable[[], object], seconds: int, mebibytes: int) -> None:
    """The fork: does not return, and runs nothing of this process's own ends."""
    code = _ENDED
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_DFL)
        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_CPU, seconds)
        _lower_memory(mebibytes)
        work()
    except MemoryError:
        code = _MEMORY
    except BaseException:  # noqa: BLE001 (told where it is really done; a fork must not come back)
        pass
    finally:
        os._exit(code)


def _lower(limit: int, value: int) -> None:
    """Set a limit, unless a lower one holds."""
    soft, hard = resource.getrlimit(limit)
    known = [value, *(n for n in (soft, hard) if n != resource.RLIM_INFINITY)]
    resource.setrlimit(limit, (min(known), hard))


def _lower_memory(mebibytes: int) -> None:
    """Let this process have so much more address space than it has; not known outside Linux."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + mebibytes * 2**20)


def _wait(pid: int, until: float) -> int:
    """How a fork ended (negative: the signal); one that is still there at `until` is killed."""
    pause = 0.001
    while True:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # a host that ignores SIGCHLD: how it ended is lost
            return _ENDED
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
