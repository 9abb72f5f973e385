"""Ray actors beside local processes, in one run: the same jobs, one thread each, taken in turns.

    python benchmarks/cluster.py --model smollm2-135m-instruct --jobs 16 --turns 3

Prints seconds a pass of all jobs, the ratio of each turn, and whether every outcome was bit-equal. Nothing of
start-up is counted. With `tiny-random-llama` the jobs are nearly empty and the difference is Ray's own cost.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

from seal.cluster.crew import RaySettings
from seal.engine import EngineSettings, inner_loop
from seal.models.load import LoadedModel, load_model
from seal.protocols import InnerLoop
from seal.records import AdaptJob, EvalPrompt, Sampling, TrainingConfig, TrainingSequence

TEXT = "The harbour of Vell is lit by forty lamps, which burn the oil of nuts from the hills behind Osk. "


def jobs_of(loaded: LoadedModel, count: int, epochs: int, rows: int) -> list[AdaptJob]:
    """Self-edits of `rows` sequences of about fifty tokens, asked twice."""
    made = []
    for i in range(count):
        sequences = tuple(
            TrainingSequence(tuple(loaded.tokenizer(f"{i}.{r}: {TEXT * 2}")["input_ids"][:50]))
            for r in range(rows)
        )
        prompt = tuple(loaded.tokenizer("How many lamps light the harbour?")["input_ids"])
        asked = tuple(EvalPrompt(f"q{n}", prompt, Sampling(0.0, 1.0, 8)) for n in range(2))
        made.append(AdaptJob(f"j{i}", sequences, TrainingConfig(rank=16, epochs=epochs), asked, seed=i))
    return made


def timed(loop: InnerLoop, jobs: list[AdaptJob]) -> tuple[float, dict[str, object]]:
    """Seconds for all jobs, and outcomes without their times."""
    began = time.perf_counter()
    found = {o.job_id: {**asdict(o), "timings": None} for o in loop.run(jobs)}
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    loaded = load_model(given.model, "cpu")
    jobs = jobs_of(loaded, given.jobs, given.epochs, given.rows)
    settings = {"workers": given.workers, "slots": given.batch, "token_budget": 512}
    local = inner_loop(loaded, EngineSettings(**settings), given.batch)
    ray = inner_loop(loaded, EngineSettings(**settings, ray=RaySettings(f"bench-{os.getpid()}")), given.batch)
    try:
        began = time.perf_counter()
        timed(local, jobs[: given.batch * given.workers])
        local_up = time.perf_counter() - began
        began = time.perf_counter()
        timed(ray, jobs[: given.batch * given.workers])
        ray_up = time.perf_counter() - began
        turns, equal = [], True
        for turn in range(given.turns):
            pair = {}
            for name, loop in (("local", local), ("ray", ray))[:: 1 if turn % 2 == 0 else -1]:
                pair[name] = timed(loop, jobs)
            equal &= pair["local"][1] == pair["ray"][1]
            turns.append((pair["local"][0], pair["ray"][0]))
            print(f"turn {turn + 1}: local {turns[-1][0]:.3f} s, ray {turns[-1][1]:.3f} s", flush=True)
    finally:
        local.close()
        ray.close()
    ratio = median(r / p for p, r in turns)
    cost = median((r - p) / given.jobs for p, r in turns)
    told = {
        "model": given.model, "jobs": given.jobs, "local_s": median(p for p, _ in turns),
        "ray_s": median(r for _, r in turns), "ratio": round(ratio, 4), "ms_a_job_more": round(1e3 * cost, 2),
        "equal": equal, "local_up_s": round(local_up, 1), "ray_up_s": round(ray_up, 1),
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
