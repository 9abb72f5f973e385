"""Training in one process of one thread beside tuned PEFT in another: `python -m benchmarks.one_thread`.

Rates are of CPU time, in which a busy neighbour has no part; several processes of each, one a core, have the
same ratio. PEFT's adapter is in fp32, as ours, and in the model's type, which may be faster.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.measure import Spread, ratios
from benchmarks.peers import TunedPeft
from benchmarks.workload import load_workload
from seal.inner.adapt import train
from seal.inner.runtime import Runtime
from seal.models.load import load_model


def rate(work: Callable[[], int]) -> float:
    """Tokens a second of CPU time."""
    started = time.process_time()
    return work() / (time.process_time() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_thread", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--jobs", type=int, default=8, help="trained at once; PEFT takes the first two")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loaded = load_model(options.model, "cpu", options.dtype)
    jobs = load_workload(loaded.tokenizer).with_training(options.jobs, epochs=1)
    runtime = Runtime.of(loaded.model)
    peers = {
        name: TunedPeft(load_model(options.model, "cpu", options.dtype), jobs[0].training, low)
        for name, low in (("PEFT, fp32 adapter", False), ("PEFT, adapter in the model's type", True))
    }
    contenders: dict[str, Callable[[], int]] = {
        "ours": lambda: sum(t.tokens for t in train(runtime, jobs, options.jobs, 512)),
        **{name: lambda peer=peer: sum(map(peer.fit, jobs[:2])) for name, peer in peers.items()},  # type: ignore[misc]
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.repeats + 1):
        for name, work in contenders.items():
            found = rate(work)
            if turn:  # the first warms up
                rates[name].append(found)
    for name, own in rates.items():
        beside = "" if name == "ours" else f"; ours is {ratios(rates['ours'], own)}"
        print(f"{name}: {Spread.of(own)} tokens a second of CPU time{beside}", flush=True)


if __name__ == "__main__":
    main()
