"""Arms of runs compared in pairs over held-out tasks: `python experiments/compare.py RUN... [--png FOLDER]`.

Prints every run's arms in a line; then, over the tasks of all runs together, every arm's mean and the tokens
that its adapters were trained on, the paired difference from the arm after RL with its 95 % interval over
tasks and, of three runs or more, over the runs' means, and the plans or recipes that were chosen most.
`--png` draws the arms.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from seal.arc.recipe import RecipeError, parse_recipe
from seal.domains.study_plan import parse_plan
from seal.errors import DataError
from seal.intervals import GAINS, SCORES, interval, span
from seal.report.charts import Bar, BarChart
from seal.report.history import read_history
from seal.report.plots import save_pngs

AFTER = "self_edit_rl"
DRAWN = {
    "base": "base",
    "passage": "passage alone",
    "fixed_prompts": "fixed prompts",
    "self_edit": "self-edit before RL",
    "self_edit_placebo": "placebo",
    AFTER: "self-edit after RL",
    "constant": "best constant",
    "oracle": "oracle",
}
"""Arms of the picture, from top to bottom."""
Scores = dict[str, dict[str, float]]
"""Of one arm: run -> task -> score."""


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


def values(scores: Scores) -> list[float]:
    """All scores of an arm."""
    return [score for tasks in scores.values() for score in tasks.values()]


def difference(mine: Scores, after: Scores) -> str:
    """`after` minus `mine` on the tasks that both have, in words; empty where there are none."""
    by_run = {
        run: [after[run][task] - score for task, score in tasks.items() if task in after[run]]
        for run, tasks in mine.items()
        if run in after
    }
    over = [one for found in by_run.values() for one in found]
    if not over:
        return ""
    found = interval(over, bounds=GAINS)
    line = f"   after RL minus this {found.mean:+6.1%}  {span(found.low, found.high, sign=True)}"
    line += f" over {len(over)}" * (len(over) < len(values(mine)))
    means = [fmean(found) for found in by_run.values() if found]
    if len(means) > 2:
        runs = interval(means, bounds=GAINS)
        line += f"; over {len(means)} runs {span(runs.low, runs.high, sign=True)}"
    return line


def chart(arms: Mapping[str, Scores]) -> BarChart:
    """The arms as bars with their intervals over tasks."""
    bars = []
    for arm, label in DRAWN.items():
        if arm in arms:
            found = interval(values(arms[arm]), bounds=SCORES)
            style = {AFTER: "second", "self_edit": "main"}.get(arm, "quiet")
            bars.append(Bar(label, found.mean, found.low, found.high, style))  # type: ignore[arg-type]
    return BarChart("Held-out tasks", "; ".join(f"{bar.label} {bar.value:.1%}" for bar in bars), tuple(bars))


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Arms of runs compared in pairs over held-out tasks.")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="draw the arms into this folder")
    options = parser.parse_args()
    arms: dict[str, Scores] = defaultdict(dict)
    choices: dict[str, Counter[str]] = defaultdict(Counter)
    tokens: dict[str, list[int]] = defaultdict(list)
    for folder in options.runs:
        history = read_history(folder)
        print(f"{folder}: " + ", ".join(f"{arm.arm} {arm.mean:.1%}" for arm in history.arms))
        for arm in history.arms:
            arms[arm.arm][folder] = {t.task_id: t.score for t in arm.tasks}
        for trial in history.trials:
            if trial.outcome.timings.train_tokens:  # a twin of another adapter has none of its own
                tokens[trial.arm].append(trial.outcome.timings.train_tokens)
            edit = history.edits.get(trial.edit_id)
            if edit is not None and trial.arm != "train" and (choice := chosen(edit.completion)):
                choices[trial.arm][choice] += 1
    for name, mine in arms.items():
        line = f"{name:<18} {fmean(values(mine)):6.1%} of {len(values(mine))} tasks"
        if trained := tokens[name]:
            line += f"   {fmean(trained):.0f} tokens"
        print(line + ("" if name == AFTER else difference(mine, arms.get(AFTER, {}))))
        for choice, count in choices[name].most_common(4):
            print(f"    {count:3d} × {choice}")
    if options.png:
        print(*save_pngs([chart(arms)], options.png), sep="\n")


if __name__ == "__main__":
    main()
