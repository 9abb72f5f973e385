"""Ray actors beside local processes, in one run: the same jobs, one thread each, taken in turns.

    python -m benchmarks.cluster --model smollm2-135m-instruct --jobs 16 --turns 3

Prints seconds a pass of all jobs, the ratio of each turn, and whether every outcome was bit-equal; beside
each what the simulator of benchmarks/scaling.py makes of the seconds that every job took in that pass.
Nothing of start-up is counted. With `tiny-random-llama` the jobs are nearly empty and the difference is Ray's
own cost.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.scaling import Cluster, cut, simulate
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


@dataclass(frozen=True)
class Pass:
    """All jobs, once."""

    seconds: float
    outcomes: dict[str, object]
    """By job, without their times."""
    jobs_s: list[float]
    """Seconds of each job."""

    def simulated(self, batch: int, workers: int) -> float:
        """What the simulator makes of the jobs' seconds, without failures and with workers that are up."""
        alone = Cluster(job_s=0.0, failure_s=1e12, up_s=0.0)
        return simulate(cut(self.jobs_s, batch), workers, batch, alone).seconds


def timed(loop: InnerLoop, jobs: list[AdaptJob]) -> Pass:
    """A pass of all jobs."""
    began = time.perf_counter()
    found = {o.job_id: o for o in loop.run(jobs)}
    seconds = time.perf_counter() - began
    times = [found[job.id].timings for job in jobs]
    outcomes: dict[str, object] = {name: {**asdict(o), "timings": None} for name, o in found.items()}
    return Pass(seconds, outcomes, [t.train_s + t.answer_s for t in times])


def beside_simulator(local: InnerLoop, jobs: list[AdaptJob], given: argparse.Namespace) -> None:
    """Print what passes really took, and what the simulator makes of their jobs' seconds."""
    with closing(local):
        timed(local, jobs[: given.batch * given.workers])
        for turn in range(given.turns):
            done = timed(local, jobs)
            said, spent = done.simulated(given.batch, given.workers), sum(done.jobs_s)
            print(
                f"turn {turn + 1}: {given.workers} workers, {len(jobs)} jobs of {spent:.1f} s in all: really"
                f" {done.seconds:.2f} s, simulated {said:.2f} s ({said / done.seconds:.3f})",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--simulator", action="store_true", help="local processes beside the simulator alone")
    given = parser.parse_args()
    loaded = load_model(given.model, "cpu")
    jobs = jobs_of(loaded, given.jobs, given.epochs, given.rows)
    settings = {"workers": given.workers, "slots": given.batch, "token_budget": 512}
    local = inner_loop(loaded, EngineSettings(**settings), given.batch)
    if given.simulator:
        beside_simulator(local, jobs, given)
        return
    ray = inner_loop(loaded, EngineSettings(**settings, ray=RaySettings(f"bench-{os.getpid()}")), given.batch)
    try:
        began = time.perf_counter()
        timed(local, jobs[: given.batch * given.workers])
        local_up = time.perf_counter() - began
        began = time.perf_counter()
        timed(ray, jobs[: given.batch * given.workers])
        ray_up = time.perf_counter() - began
        turns, equal, off = [], True, []
        for turn in range(given.turns):
            pair: dict[str, Pass] = {}
            for name, loop in (("local", local), ("ray", ray))[:: 1 if turn % 2 == 0 else -1]:
                pair[name] = timed(loop, jobs)
            equal &= pair["local"].outcomes == pair["ray"].outcomes
            turns.append((pair["local"].seconds, pair["ray"].seconds))
            said = {name: done.simulated(given.batch, given.workers) for name, done in pair.items()}
            off += [said[name] / done.seconds for name, done in pair.items()]
            words = [f"{name} {pair[name].seconds:.3f} s (simulated {said[name]:.3f})" for name in pair]
            print(f"turn {turn + 1}: {', '.join(words)}", flush=True)
    finally:
        local.close()
        ray.close()
    ratio = median(r / p for p, r in turns)
    cost = median((r - p) / given.jobs for p, r in turns)
    told = {
        "model": given.model, "jobs": given.jobs, "local_s": median(p for p, _ in turns),
        "ray_s": median(r for _, r in turns), "ratio": round(ratio, 4), "ms_a_job_more": round(1e3 * cost, 2),
        "simulated_over_real": [round(x, 4) for x in off],
        "equal": equal, "local_up_s": round(local_up, 1), "ray_up_s": round(ray_up, 1),
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
