"""An E-step whose reward only scores gold answers beside one that answers: `python -m benchmarks.scoring`.

Both train the same adapters and measure each job with and without its own. Times are of CPU, so that a busy
neighbour has no part in them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.workload import SAMPLING, load_workload
from seal.evaluator import scored
from seal.inner.loop import LocalInnerLoop
from seal.models.load import load_model
from seal.records import AdaptJob


def seconds(loop: LocalInnerLoop, jobs: Sequence[AdaptJob]) -> float:
    """CPU seconds of a run of `jobs`."""
    started = time.process_time()
    outcomes = list(loop.run(jobs))
    assert all(o.error is None for o in outcomes)
    return time.process_time() - started


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--epochs", default="1,5", help="of training, several separated by commas")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loaded = load_model(options.model, "cpu", options.dtype)
    loop, workload = LocalInnerLoop(loaded), load_workload(loaded.tokenizer)
    sampling = replace(SAMPLING, max_new_tokens=options.tokens)
    for epochs in map(int, options.epochs.split(",")):
        times: dict[str, list[float]] = {"answers": [], "scores": []}
        for turn in range(options.repeats):
            for kind in sorted(times, reverse=bool(turn % 2)):
                jobs = [
                    replace(j, eval_prompts=tuple(replace(p, sampling=sampling) for p in j.eval_prompts))
                    for j in workload.with_training(options.jobs, epochs=epochs)
                ]
                if kind == "scores":
                    jobs = [replace(j, eval_prompts=scored(j.eval_prompts)) for j in jobs]
                times[kind].append(seconds(loop, jobs))
        ratio = statistics.median(a / b for a, b in zip(times["answers"], times["scores"], strict=True))
        each = {kind: [round(t / options.jobs, 2) for t in every] for kind, every in times.items()}
        print(
            f"{epochs} epochs: CPU seconds a job {each}; only scoring is {ratio:.2f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
