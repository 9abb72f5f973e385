"""How a round's batches share out over many workers: the pool's rule, simulated with measured job times.

    python -m benchmarks.scaling --run runs/arc --job-ms 4 --plot docs/img/scaling.png
    python -m benchmarks.scaling --batch-s 60 --batch 8 --job-ms 4

The times of jobs are those that the journal of a run has, drawn as often as a round needs them; without a run
a batch takes `--batch-s`. Free workers pull the dearest batch; the driver hands out one batch at a time and
reads one at a time, for `--job-ms` a job; the policy goes to each node once, one node after the other; a
worker fails on average every `--failure-h` hours, and its batch is done again whole by a replacement.
Efficiency is the work done over workers x time; the rest is idle.

With a run, its own phases come first: what the simulation says of them for the run's workers, and what they
really took.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

#: Bytes of a job and of its outcome on the wire (docs/scaling.md).
JOB_BYTES, OUTCOME_BYTES = 837, 735
SIZES, WORKERS = (750, 15_000), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Cluster:
    """What the workers are like."""

    job_s: float = 0.004
    """Seconds of the driver for one job."""
    failure_s: float = 7200.0
    """Mean time between two ends of one worker."""
    up_s: float = 10.0
    """Until a worker, or its replacement, is up, the policy there."""
    per_node: int = 8
    policy_bytes: float = 0.0
    link: float = 1.25e9
    """Bytes a second out of the driver's machine."""


@dataclass(frozen=True)
class Round:
    """What a round took."""

    seconds: float
    again: int
    """Batches that were done twice."""
    bytes: float


def simulate(batches: list[float], workers: int, jobs: int, cluster: Cluster, seed: int = 0) -> Round:
    """A round of `batches` (seconds of each on one worker, of `jobs` jobs)."""
    dice = random.Random(seed)
    todo = sorted(batches)  # the dearest is taken from the end
    ship_s = cluster.policy_bytes / cluster.link
    free = [(cluster.up_s + ship_s * (1 + n // cluster.per_node), n) for n in range(workers)]
    heapq.heapify(free)
    driver, again, end, sent = 0.0, 0, 0.0, 0
    while todo:
        at, worker = heapq.heappop(free)
        driver = max(driver, at) + jobs * cluster.job_s
        batch, dies = todo.pop(), dice.expovariate(1 / cluster.failure_s)
        sent += jobs
        if dies < batch:
            again += 1
            todo.append(batch)
            heapq.heappush(free, (driver + dies + cluster.up_s, worker))
            continue
        heapq.heappush(free, (driver + batch, worker))
        end = max(end, driver + batch)
    nodes = -(-workers // cluster.per_node)
    return Round(end, again, nodes * cluster.policy_bytes + sent * (JOB_BYTES + OUTCOME_BYTES))


def measured(run: Path) -> tuple[dict[str, list[float]], dict[str, float], int]:
    """Seconds of every job by phase, in order, and of the phases; and the jobs in a batch."""
    jobs: dict[str, list[float]] = defaultdict(list)
    phases: dict[str, float] = {}
    size = 1
    for line in (run / "journal.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        data = row["data"]
        if row["kind"] == "trial":
            times = data["outcome"]["timings"]
            jobs[f"adapt/{data['iteration']}/{data['arm']}"].append(times["train_s"] + times["answer_s"])
        elif row["kind"] == "phase":
            phases[row["key"]] = data["seconds"]
        elif row["kind"] == "batch":
            size = data["jobs"]
    return jobs, phases, size


def cut(jobs: list[float], size: int) -> list[float]:
    """Seconds of the batches of `size` jobs each."""
    return [sum(jobs[i : i + size]) for i in range(0, len(jobs), size)]


def check(run: Path, workers: int, cluster: Cluster) -> list[float]:
    """Print the run's phases beside what is simulated; seconds of all its jobs."""
    jobs, phases, size = measured(run)
    print("phase                      jobs  really (s)  simulated (s)")
    for name, times in jobs.items():
        if name in phases:
            said = simulate(cut(times, size), workers, size, cluster).seconds
            print(f"{name:26} {len(times):4d} {phases[name]:11.1f} {said:14.1f}")
    return [seconds for times in jobs.values() for seconds in times]


def table(batches_of: dict[int, list[float]], jobs: int, cluster: Cluster) -> dict[int, list[float]]:
    """Print the rounds; speed-up by size and workers."""
    gains: dict[int, list[float]] = {}
    print("edits  workers  round (min)  speed-up  efficiency   idle  done twice       GB")
    for edits, batches in batches_of.items():
        gains[edits] = []
        for workers in WORKERS:
            found = simulate(batches, workers, jobs, cluster)
            gain = sum(batches) / found.seconds
            gains[edits].append(gain)
            share = gain / workers
            print(
                f"{edits:6d} {workers:7d} {found.seconds / 60:12.1f} {gain:9.1f} {share:11.2f}"
                f" {1 - share:6.0%} {found.again:11d} {found.bytes / 1e9:8.2f}"
            )
    return gains


def plot(gains: dict[int, list[float]], file: Path) -> None:
    """Speed-up over workers."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(WORKERS, WORKERS, color="grey", linestyle=":", label="ideal")
    for edits, values in gains.items():
        axes.plot(WORKERS, values, marker="o", label=f"{edits:,} edits a round")
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="speed-up over one", xticks=WORKERS)
    axes.set_xticklabels([str(n) for n in WORKERS])
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run whose job times are taken")
    parser.add_argument("--run-workers", type=int, default=1, help="workers that the run had")
    parser.add_argument("--run-up-s", type=float, default=0.0, help="how long they took to come up")
    parser.add_argument("--faster", type=float, default=1.0, help="how much faster than in the run a job is")
    parser.add_argument("--batch-s", type=float, help="without a run: seconds of a batch on one worker")
    parser.add_argument("--batch", type=int, default=8, help="jobs in it")
    parser.add_argument("--spread", type=float, default=0.3, help="sigma of the logarithm of a batch's time")
    parser.add_argument("--job-ms", type=float, default=4.0, help="the driver's time for a job")
    parser.add_argument("--up-s", type=float, default=10.0, help="until a worker is up")
    parser.add_argument("--failure-h", type=float, default=2.0, help="between two ends of one worker")
    parser.add_argument("--policy-mb", type=float, default=270.0, help="what goes to each node")
    parser.add_argument("--plot", type=Path, help="picture of the speed-ups")
    given = parser.parse_args()
    cluster = Cluster(
        given.job_ms / 1e3, given.failure_h * 3600, given.up_s, policy_bytes=given.policy_mb * 1e6
    )
    dice = random.Random(1)
    if given.run is not None:
        alone = Cluster(given.job_ms / 1e3, 1e12, given.run_up_s)
        known = [seconds / given.faster for seconds in check(given.run, given.run_workers, alone)]
        rounds = {n: cut(dice.choices(known, k=n), given.batch) for n in SIZES}
    elif given.batch_s is not None:
        rounds = {
            n: [given.batch_s * dice.lognormvariate(0, given.spread) for _ in range(-(-n // given.batch))]
            for n in SIZES
        }
    else:
        parser.error("give --run or --batch-s")
    gains = table(rounds, given.batch, cluster)
    if given.plot is not None:
        plot(gains, given.plot)


if __name__ == "__main__":
    main()
