"""Where the time of a piece of work goes, by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def profile_rows(work: Callable[[], object], top: int = 15) -> list[dict[str, Any]]:
    """The `top` operators by their own time: name, share of the whole, milliseconds, calls."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    events = sorted(recorded.key_averages(), key=lambda e: -e.self_cpu_time_total)
    whole = sum(e.self_cpu_time_total for e in events)
    return [
        {
            "name": e.key,
            "share": e.self_cpu_time_total / whole,
            "ms": e.self_cpu_time_total / 1e3,
            "calls": e.count,
        }
        for e in events[:top]
    ]
