"""Arms of runs compared in pairs over held-out tasks: `python experiments/compare.py RUN...`.

Prints every run's arms in a line; then, over the tasks of all runs together, every arm's mean, the tokens
that an adapter was trained on, the paired difference from the arm after RL with its 95 % interval, and the
plans or recipes that were chosen most.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from statistics import fmean

from seal.arc.recipe import RecipeError, parse_recipe
from seal.domains.study_plan import parse_plan
from seal.errors import DataError
from seal.intervals import GAINS, interval, span
from seal.report.history import read_history


def chosen(completion: str) -> str:
    """A plan or a recipe in a few words; empty for a self-edit in free text."""
    try:
        plan = parse_plan(completion)
    except DataError:
        pass
    else:
        return f"{plan.material}, {plan.form}, {plan.learning_rate:g}"
    try:
        recipe = parse_recipe(completion)
    except RecipeError:
        return ""
    return ", ".join([*recipe.groups, *["colours"] * recipe.permutes_colours]) or "no augmentation"


def main(folders: list[str]) -> None:
    """Compare and print."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    choices: dict[str, Counter[str]] = defaultdict(Counter)
    tokens: dict[str, list[int]] = defaultdict(list)
    for folder in folders:
        history = read_history(folder)
        print(f"{folder}: " + ", ".join(f"{arm.arm} {arm.mean:.1%}" for arm in history.arms))
        for arm in history.arms:
            scores[arm.arm] |= {f"{folder}/{t.task_id}": t.score for t in arm.tasks}
        for trial in history.trials:
            if trial.outcome.timings.train_tokens:  # a twin of another adapter has none of its own
                tokens[trial.arm].append(trial.outcome.timings.train_tokens)
            edit = history.edits.get(trial.edit_id)
            if edit is not None and trial.arm != "train" and (choice := chosen(edit.completion)):
                choices[trial.arm][choice] += 1
    after = scores.get("self_edit_rl", {})
    for arm, mine in scores.items():
        common = sorted(set(mine) & set(after))
        line = f"{arm:<18} {sum(mine.values()) / len(mine):6.1%} of {len(mine)} tasks"
        if arm != "self_edit_rl" and common:
            found = interval([after[t] - mine[t] for t in common], bounds=GAINS)
            line += f"   after RL minus this {found.mean:+6.1%}  {span(found.low, found.high, sign=True)}"
            line += f" over {len(common)}" * (len(common) < len(mine))
        if trained := tokens[arm]:
            line += f"   {fmean(trained):.0f} tokens"
        print(line)
        for choice, count in choices[arm].most_common(4):
            print(f"    {count:3d} × {choice}")


if __name__ == "__main__":
    main(sys.argv[1:])
