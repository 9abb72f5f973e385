"""The one sentence a report begins with: did it work, and is the gain more than chance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seal.records import ArmScore
from seal.report.charts import label
from seal.report.estimates import Mean, arm_means, paired
from seal.report.history import History
from seal.report.metrics import RunMetrics
from seal.wording import counted

Tone = Literal["good", "bad", "open"]
#: With fewer, even the same direction on every task is no surprise (sign test: 2 · 2⁻⁵ is over 5 %).
FEWEST_TASKS = 6


@dataclass(frozen=True, slots=True)
class Headline:
    """`text` in one sentence; `details` say how sure it is and what it is compared with."""

    tone: Tone
    text: str
    details: tuple[str, ...]


def _likelihood(name: str, metrics: RunMetrics) -> list[str]:
    """How much likelier the gold answers became, which shows before answers change."""
    arm = next((arm for arm in metrics.arms if arm["arm"] == name), None)
    gain: Mean | None = arm["log_likelihood_gain"] if arm else None
    if gain is None or gain.low is None or gain.high is None:
        return []
    low, mean, high = (f"{v:+.2f}".replace("-", "−") for v in (gain.low, gain.mean, gain.high))
    return [f"Log-likelihood of the gold answers: {mean} nats a token, 95 % interval {low} to {high}."]


def headline(history: History, metrics: RunMetrics) -> Headline:
    """What the run showed so far."""
    arms = {arm.arm: arm for arm in history.arms}
    best = next((arms[name] for name in ("self_edit_rl", "self_edit") if name in arms), None)
    if best is not None and "base" in arms:
        return _held_out(best, arms, history, metrics)
    if metrics.rounds:
        return _training_only(history, metrics)
    what = "No round has ended yet" if history.rows else "Nothing has happened yet"
    return Headline("open", what, (f"Finished so far: {counted(history.rows, 'item')}.",))


def _held_out(best: ArmScore, arms: dict[str, ArmScore], history: History, metrics: RunMetrics) -> Headline:
    base = arms["base"]
    gain = paired(best, base) or arm_means(best)[1]
    before = {task.task_id: task.score for task in base.tasks}
    what = "Self-edits after RL" if best.arm == "self_edit_rl" else "Self-edits"
    span = f"from {_share(base.mean)} to {_share(best.mean)}"
    size = f"{counted(base.n, 'held-out question')} of {counted(len(base.tasks), 'task')}"
    sure = f"Change {_points(gain.mean)}, 95 % interval {interval(gain)}, over {size}."
    tone: Tone = "open"
    if all(task.score == before.get(task.task_id) for task in best.tasks):
        headline = f"{what} left the held-out score of every task as it was, {_share(base.mean)}"
    elif gain.low is None or gain.high is None or len(base.tasks) < FEWEST_TASKS:
        few = "one task is" if len(base.tasks) == 1 else f"{len(base.tasks)} tasks are"
        headline = f"{what} moved the held-out score {span}; {few} too few to tell a gain from chance"
    elif gain.low > 0:
        tone, headline = "good", f"{what} raised the held-out score {span}"
    elif gain.high < 0:
        tone, headline = "bad", f"{what} lowered the held-out score {span}"
    else:
        headline = f"{what} moved the held-out score {span}, which chance alone could do"
    details = [sure, *_comparisons(best, arms), *_likelihood(best.arm, metrics)]
    if not history.finished:
        details.append("The run is not finished.")
    elif best.arm == "self_edit" and history.rounds and not any(u.updated for u in history.updates.values()):
        details.append("No round updated the policy, so there is nothing to compare after RL.")
    return Headline(tone, headline, tuple(details))


def _comparisons(best: ArmScore, arms: dict[str, ArmScore]) -> list[str]:
    said = []
    names = {"passage": "training on the passage alone", "self_edit": "self-edits before RL"}
    for name, words in names.items():
        if name in arms and name != best.arm:
            difference = paired(best, arms[name])
            if difference is not None:
                said.append(f"Against {words}: {_points(difference.mean)}, {interval(difference)}.")
    return said


def _training_only(history: History, metrics: RunMetrics) -> Headline:
    last = metrics.rounds[-1]
    headline = (
        f"In round {last.iteration + 1} self-edits moved the score on their own tasks "
        f"from {_share(last.before.mean)} to {_share(last.after.mean)}"
    )
    why = "Held-out tasks were not measured" + ("." if history.finished else " yet.")
    return Headline(
        "open",
        headline,
        (
            f"Average change {_points(last.gain.mean)}, 95 % interval {interval(last.gain)}.",
            f"{why} Kept self-edits were chosen by these very numbers, so they look better than they are.",
        ),
    )


def interval(mean: Mean) -> str:
    """An interval of shares in points, for people."""
    if mean.low is None or mean.high is None:
        return "unknown"
    return f"{_points(mean.low, unit=False)} to {_points(mean.high, unit=False)} points"


def _points(value: float, unit: bool = True) -> str:
    text = f"{100 * value:+.1f}".replace("-", "−")
    return f"{text} points" if unit else text


def _share(value: float) -> str:
    return label(round(value, 3), True)
