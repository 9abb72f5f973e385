"""How a round's batches share out over many workers: a simulation of the pool's rule with measured times.

    python -m benchmarks.scaling --batch-s 60 --batch 8 --job-ms 4

Free workers pull the dearest batch; the driver hands out one batch at a time and reads one at a time, for
`--job-ms` a job; a worker fails on average every `--failure-h` hours, and its batch is done again whole by a
replacement. Efficiency is the work done over workers × time.
"""

from __future__ import annotations

import argparse
import heapq
import random


def round_time(
    batches: list[float], workers: int, jobs: int, job_s: float, failure_s: float, up_s: float, seed: int = 0
) -> tuple[float, int]:
    """Seconds until the last batch is in, and how many batches were done twice.

    Args:
        batches: seconds of each on one worker.
        jobs: in a batch.
        job_s: seconds of the driver for one job.
        failure_s: mean time between two ends of one worker.
        up_s: seconds until a worker, or its replacement, is up.
    """
    dice = random.Random(seed)
    todo = sorted(batches)  # the dearest is taken from the end
    free = [(up_s, worker) for worker in range(workers)]
    heapq.heapify(free)
    driver, again, end = 0.0, 0, 0.0
    while todo:
        at, worker = heapq.heappop(free)
        driver = max(driver, at) + jobs * job_s
        batch, dies = todo.pop(), dice.expovariate(1 / failure_s)
        if dies < batch:
            again += 1
            todo.append(batch)
            heapq.heappush(free, (driver + dies + up_s, worker))
            continue
        heapq.heappush(free, (driver + batch, worker))
        end = max(end, driver + batch)
    return end, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-s", type=float, required=True, help="seconds of a batch on one worker")
    parser.add_argument("--batch", type=int, default=8, help="jobs in it")
    parser.add_argument("--spread", type=float, default=0.3, help="sigma of the logarithm of a batch's time")
    parser.add_argument("--job-ms", type=float, default=4.0, help="the driver's time for a job")
    parser.add_argument("--up-s", type=float, default=10.0, help="until a worker is up")
    parser.add_argument("--failure-h", type=float, default=2.0, help="between two ends of one worker")
    given = parser.parse_args()
    dice = random.Random(1)
    print("edits  workers  round (min)  speed-up  efficiency  done twice")
    for edits in (750, 15_000):
        count = -(-edits // given.batch)
        batches = [given.batch_s * dice.lognormvariate(0, given.spread) for _ in range(count)]
        for workers in (1, 8, 32, 64, 128, 256, 512, 1024):
            took, again = round_time(
                batches, workers, given.batch, given.job_ms / 1e3, given.failure_h * 3600, given.up_s
            )
            gain = sum(batches) / took
            print(f"{edits:6d} {workers:8d} {took / 60:12.1f} {gain:9.1f} {gain / workers:11.2f} {again:11d}")


if __name__ == "__main__":
    main()
