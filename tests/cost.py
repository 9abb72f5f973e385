"""What a Python program costs, told so that it holds on any machine: its own CPU time and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

#: At its end the program tells what it used. On Linux `getrusage` would count its starter's memory too.
_TELL = """
import atexit, json, resource, sys, time
def _tell():
    try:
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([time.process_time(), peak]), file=sys.stderr)
atexit.register(_tell)
"""


class Cost(NamedTuple):
    """What a program used, and what it printed."""

    cpu_s: float
    """Of all its threads. A busy neighbour takes none of it."""
    peak_bytes: int
    output: str


def cost(program: str, *arguments: str, timeout: float = 240) -> Cost:
    """Run `program` in a fresh interpreter."""
    command = [sys.executable, "-c", _TELL + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    cpu_s, peak_bytes = json.loads(done.stderr.splitlines()[-1])
    return Cost(cpu_s, peak_bytes, done.stdout)


def cpu_ratio(program: str, reference: str, *arguments: str, tries: int = 3) -> float:
    """How many times the CPU time of `reference` a program takes: the quickest of some tries of both."""
    mine, other = (min(cost(p, *arguments).cpu_s for _ in range(tries)) for p in (program, reference))
    return mine / other
