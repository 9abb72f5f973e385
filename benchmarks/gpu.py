"""The engine on one GPU, beside tuned PEFT and `generate`, in one command: `python -m benchmarks.gpu`.

Needs no network, no data and no checkpoint: the 7B model has random weights. The JSON is written after every
step; one that fails, runs out of memory or past its deadline is written down as that, and the next begins.
With `--quick` a tiny model goes through everything, on the CPU too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks import devices, equality, probes, shape, versions
from benchmarks.gpu_measures import decoding, job, launches, peft, training
from benchmarks.gpu_plan import Plan, State, free, guarded

#: Steps in order, each with its deadline in seconds.
STEPS: dict[str, tuple[Callable[[State], dict[str, Any]], int]] = {
    "versions": (versions, 30),
    "probes": (probes, 30),
    "equality": (equality, 60),
    "devices": (devices, 60),
    "shape": (shape, 60),
    "training": (training, 120),
    "launches": (launches, 40),
    "decoding": (decoding, 60),
    "job": (job, 60),
    "peft": (peft, 40),
}


def run(plan: Plan, out: Path, steps: Sequence[str], say: Callable[[str], None] = print) -> dict[str, Any]:
    """Take the steps, and write what is known after each to `out`."""
    state, found = State(plan), dict[str, Any]()
    for name in steps:
        step, limit = STEPS[name]
        started = time.perf_counter()
        found[name] = guarded(lambda step=step: step(state), limit)  # type: ignore[misc]
        found[name]["seconds"] = round(time.perf_counter() - started, 2)
        say(f"{name}: {json.dumps(found[name])}")
        unfinished = out.with_suffix(".part")
        unfinished.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        unfinished.replace(out)
        free(plan.device)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    from benchmarks.inner_loop import parts

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model, a minute, on the CPU too")
    parser.add_argument("--only", help=f"some of {','.join(STEPS)}")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.json"), help="the JSON file, written step by step"
    )
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.quick:
        parser.error("there is no CUDA device; --quick tries everything on the CPU")
    steps = parts(options.only, tuple(STEPS)) if options.only else tuple(STEPS)
    quick = Plan(device, True, counts=((1, 8), (8, 8)), rounds=2, rows=4)
    run(quick if options.quick else Plan(device, False), options.out, steps)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
