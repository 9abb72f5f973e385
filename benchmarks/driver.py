"""The driver's share of a job: what one process does for each adapter that others train.

    python -m benchmarks.driver --domain knowledge --jobs 240
    python -m benchmarks.driver --domain arc --profile

Jobs are trained once by a tiny model in this process. Then an E-step of the same self-edits is measured
whose workers give those outcomes at once: what is left is to make jobs, to send and receive them (pickled),
to grade answers, to write the journal and to show progress. CPU seconds are this process's, so neighbours
count little; wall seconds also have the flushes to the disk.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pickle
import pstats
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from seal.arc.recipe import ArcRecipe
from seal.batches import Batch
from seal.config import load_config
from seal.estep import EStep
from seal.framework import SEALFramework
from seal.graded import Graded
from seal.pool import Pool
from seal.protocols import FollowUp, InnerLoop
from seal.records import AdaptJob, AdaptOutcome, SelfEdit, Task
from seal.run import log
from seal.run.folder import Run
from seal.settings import SEALConfig
from seal.workers.protocol import Began, Done, Event, Outcome

LINE = "The harbour of Vell is lit by {n} lamps, which burn the oil of nuts from the hills behind Osk. {k}"
SYNTHETIC = {"n": 24, "val_n": 2, "families": ["recolour", "first_column"], "sizes": [3, 3], "seed": 1}


class Remembered:
    """`InnerLoop` that keeps the outcomes of another one."""

    def __init__(self, loop: InnerLoop) -> None:
        self.loop, self.outcomes = loop, dict[str, bytes]()
        self.slots, self.close = loop.slots, loop.close

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """See `InnerLoop.run`."""
        for outcome in self.loop.run(jobs, follow_up):
            self.outcomes[outcome.job_id] = pickle.dumps(outcome)
            yield outcome


class AtOnce:
    """`Worker` that has the outcome of every job of the second round from the first, as bytes."""

    slots, ahead, ready = 8, 1, True

    def __init__(self, known: dict[str, bytes]) -> None:
        self.known, self.events = known, list[Event]()

    def start(self) -> None:
        """It is up."""

    def send(self, batch: Batch) -> None:
        """What a process or an actor at the other end would tell."""
        pickle.dumps(batch)
        self.events.append(Began(batch.number))
        for job in batch.jobs:
            outcome = pickle.loads(self.known[job.id.replace(".i1.", ".i0.")])
            self.events.append(Outcome(batch.number, replace(outcome, job_id=job.id)))
        self.events.append(Done(batch.number))

    def poll(self) -> list[Event]:
        """All at once."""
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        """Nothing is held."""


def config_of(domain: str, folder: Path) -> SEALConfig:
    """A run of a tiny model."""
    data = {"dataset_name": "builtin", "max_samples": 8, "max_val_samples": 2}
    given = {"output_dir": str(folder / "run"), "reward": "binary", "data_config": data}
    if domain == "arc":
        space = {"groups": ["basic"], "colour": True}
        data = {"options": {"synthetic": SYNTHETIC, "val_ids": [], "space": space}}
        given |= {"preset": "few_shot_demo", "model_name": "tiny-random-llama", "data_config": data}
        del given["reward"]
    file = folder / "config.json"
    file.write_text(json.dumps({"preset": "test", "inner": {"epochs": 1, "workers": 1}} | given), "utf-8")
    return load_config(str(file))


def edits_of(domain: str, tasks: Iterable[Task], each: int, iteration: int) -> list[SelfEdit]:
    """Self-edits of an ordinary make-up: ten sentences, or recipes that differ."""
    made = []
    for task in tasks:
        for k in range(each):
            text = "\n".join(LINE.format(n=n, k=k) for n in range(10))
            if domain == "arc":
                rate, basic = 1e-3 / (1 + k), k % 2 == 0
                chosen = ArcRecipe(
                    basic, False, False, False, "train_using_output_tokens", rate, 1, colour=k % 4 < 2
                )
                text = chosen.to_json()
            name = f"{task.id}.i{iteration}.e{k}"
            made.append(SelfEdit(name, task.id, "Write.", text, 1, "p"))
    return made


def measure(step: EStep, domain: str, tasks: dict[str, Task], jobs: int, profile: bool) -> dict[str, object]:
    """CPU and wall milliseconds a job of the second round."""
    each = -(-jobs // len(tasks))
    before = step.baselines(list(tasks.values()), 0)
    graded = step.evaluator.loop
    assert isinstance(graded, Graded)
    graded.loop = kept = Remembered(graded.loop)
    step.adapt(edits_of(domain, tasks.values(), each, 0), 1, "train", 0, tasks, before)
    graded.loop = Pool([AtOnce(kept.outcomes) for _ in range(4)], 8)
    edits = edits_of(domain, tasks.values(), each, 1)
    for row in step.run.journal.rows("trial"):
        row.data["work"] = ""  # or they would be taken from there
    watch = cProfile.Profile()
    cpu, wall = time.process_time(), time.perf_counter()
    go = partial(step.adapt, edits, 1, "train", 1, tasks, before)
    trials = watch.runcall(go) if profile else go()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if profile:
        pstats.Stats(watch).sort_stats("cumulative").print_stats(45)
    n = len(trials)
    sequences = sum(bool(t.outcome.losses) for t in trials)
    return {
        "domain": domain, "jobs": n, "trained": sequences,
        "cpu_ms_a_job": round(1e3 * cpu / n, 2), "wall_ms_a_job": round(1e3 * wall / n, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--domain", choices=("knowledge", "arc"), default="knowledge")
    parser.add_argument("--jobs", type=int, default=240)
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(given.domain, Path(folder))
        with Run.create(config.output_dir, config) as run:
            log.set_up("WARNING", run.logs)
            framework = SEALFramework(config, run)
            step, tasks = framework.estep, framework.tasks
            print(json.dumps(measure(step, given.domain, tasks, given.jobs, given.profile)))
            framework.close()
            log.set_up("WARNING")


if __name__ == "__main__":
    main()
