"""Arms of runs compared in pairs over held-out tasks: `python experiments/study_plans/compare.py RUN...`.

Prints every arm's mean, the plans that it chose, and the paired differences from the arm after RL, with
95 % intervals over the tasks of all runs together.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict

from seal.domains.study_plan import parse_plan
from seal.intervals import GAINS, interval, span
from seal.report.history import read_history


def main(folders: list[str]) -> None:
    """Compare and print."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    plans: dict[str, Counter[str]] = defaultdict(Counter)
    for folder in folders:
        history = read_history(folder)
        for arm in history.arms:
            scores[arm.arm] |= {f"{folder}/{t.task_id}": t.score for t in arm.tasks}
        for trial in history.trials:
            edit = history.edits.get(trial.edit_id)
            if edit is not None and trial.arm != "train" and edit.completion.startswith("{"):
                plan = parse_plan(edit.completion)
                plans[trial.arm][f"{plan.material}, {plan.form}, {plan.learning_rate:g}"] += 1
    after = scores["self_edit_rl"]
    for arm, mine in scores.items():
        common = sorted(set(mine) & set(after))
        found = interval([after[t] - mine[t] for t in common], bounds=GAINS)
        mean = sum(mine.values()) / len(mine)
        print(f"{arm:<18} {mean:6.1%} of {len(mine)} tasks   after RL minus this {found.mean:+6.1%}", end="")
        print("" if arm == "self_edit_rl" else f"  {span(found.low, found.high, sign=True)}")
        for plan, count in plans[arm].most_common(4):
            print(f"    {count:3d} × {plan}")


if __name__ == "__main__":
    main(sys.argv[1:])
