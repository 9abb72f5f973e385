"""Which families make a policy read the puzzle? `python experiments/few_shot_learning/choose.py GATE_RUN`.

Reads the arms `geometry`, `colours` and `both` of a gate run (no reinforcement learning). Of the families
that geometry keeps, the two are taken where it is furthest ahead of the better of the other two recipes;
likewise of those that new colours keep. Families that their own recipe solves in fewer than 60 % come last.
Prints the table, and the families of both halves, in turn, as the last line.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from statistics import fmean

from seal.arc.synthetic import synthetic_tasks
from seal.report.history import read_history

GEOMETRY, COLOURS, BOTH = "geometry", "colours", "both"
ENOUGH = 0.6


def main(folder: str) -> None:
    """Read, choose and print."""
    solved: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for arm in read_history(folder).arms:
        for task in arm.tasks:
            solved[task.task_id.split("-")[0]][arm.arm].append(task.score)
    halves: dict[str, list[tuple[bool, float, str]]] = {GEOMETRY: [], COLOURS: []}
    for family, arms in solved.items():
        means = {arm: fmean(scores) for arm, scores in arms.items()}
        print(f"{family:<16}", *(f"{arm} {mean:4.0%}" for arm, mean in means.items()), sep="  ")
        kept = synthetic_tasks(1, families=(family,))[0].preserved
        for own, other, group in ((GEOMETRY, COLOURS, "basic"), (COLOURS, GEOMETRY, "colour")):
            if group in kept:
                ahead = means[own] - max(means[other], means[BOTH])
                halves[own].append((means[own] >= ENOUGH, ahead, family))
    best = [[name for *_, name in sorted(half, reverse=True)[:2]] for half in halves.values()]
    print(",".join(name for pair in zip(*best, strict=True) for name in pair))


if __name__ == "__main__":
    main(*sys.argv[1:])
