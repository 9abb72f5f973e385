"""Which charts a run has, from its metrics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seal.errors import RunError
from seal.report.charts import STYLES, Bar, BarChart, Chart, Dot, HeatMap, Histogram, LineChart, Series, label
from seal.report.diagnosis import AIM
from seal.report.estimates import Mean, distribution
from seal.report.history import History
from seal.report.metrics import RunMetrics

ARM_NAMES = {
    "base": "base model",
    "passage": "passage only",
    "self_edit": "self-edits",
    "self_edit_rl": "self-edits + RL",
    "base_rl": "RL, no training",
}


def arm_name(arm: str) -> str:
    """How an arm is called on a page."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


def training_charts(history: History, metrics: RunMetrics) -> list[Chart]:
    """Rewards, success rate, scores, improvement, stability and losses by round; none before the first.

    A run of one round has no course to draw: its self-edits, its score before and after, its improvements.
    """
    rounds = metrics.rounds
    if not rounds:
        return []
    if len(rounds) == 1:
        return [_before_and_after(metrics), _improvement(history), *_loss_charts(history)]
    x = tuple(str(r.iteration + 1) for r in rounds)
    reward = _series("mean reward", [r.reward for r in rounds])
    dots = tuple(
        Dot(i, result.reward.value, result.reward.kept)
        for i, r in enumerate(rounds)
        for result in history.results_of[r.iteration]
    )
    charts: list[Chart] = [
        LineChart(
            "Reward", f"Mean reward a round with its interval: {_course(reward)}", x, (reward,), dots=dots
        ),
        _success_chart(metrics, x),
        LineChart(
            "Score before and after",
            f"Mean score a round, before: {_course(_series('', [r.before for r in rounds]), True)}; "
            f"after training: {_course(_series('', [r.after for r in rounds]), True)}",
            x,
            (
                _series("before", [r.before for r in rounds], "quiet"),
                _series("after", [r.after for r in rounds]),
            ),
            percent=True,
            zero=True,
        ),
        _improvement(history),
        _stability(metrics, x),
    ]
    return charts + _loss_charts(history)


def _before_and_after(metrics: RunMetrics) -> BarChart:
    """The only round's mean scores without training and with it."""
    (only,) = metrics.rounds
    means = {"before": only.before, "after training": only.after}
    bars = tuple(
        Bar(name, mean.mean, mean.low, mean.high, "quiet" if name == "before" else "main")
        for name, mean in means.items()
    )
    said = "; ".join(f"{bar.label} {label(bar.value, True)}" for bar in bars)
    return BarChart("Score before and after", f"Mean score of the round's tasks: {said}", bars)


def arm_chart(metrics: RunMetrics) -> BarChart | None:
    """The held-out arms with their intervals; None without any."""
    if not metrics.arms:
        return None
    bars = tuple(
        Bar(
            arm_name(arm["arm"]),
            arm["score"].mean,
            arm["score"].low,
            arm["score"].high,
            {"self_edit_rl": "second", "self_edit": "main"}.get(arm["arm"], "quiet"),  # type: ignore[arg-type]
            f"of {arm['n']} questions",
        )
        for arm in metrics.arms
    )
    said = "; ".join(f"{bar.label} {label(bar.value, True)}" for bar in bars)
    return BarChart("Held-out score", f"Held-out score of every arm: {said}", bars)


def time_chart(metrics: RunMetrics) -> BarChart | None:
    """Minutes by phase; None when no phase has ended."""
    if not metrics.seconds:
        return None
    bars = tuple(Bar(name, round(seconds / 60, 3)) for name, seconds in metrics.seconds.items())
    said = "; ".join(f"{bar.label} {bar.value:.3g} minutes" for bar in bars)
    return BarChart("Time by phase", f"Time by phase: {said}", bars, percent=False, unit=" min")


def continual_charts(path: Path) -> list[HeatMap]:
    """One heat map a method of a result of `seal continual` (or an official one).

    Raises:
        RunError: the file cannot be read or holds no matrix.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        methods: dict[str, Any] = data.get("methods") or {"official": data}
        charts = [_matrix(name, m["mean_over_sequences"]) for name, m in methods.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: no result of continual self-edits: {error!r:.120}", "give the JSON of `seal continual`"
        ) from None
    if not charts:
        raise RunError(f"{path}: holds no matrix", "give the JSON of `seal continual`")
    return charts


def comparison_charts(histories: Sequence[History], all_metrics: Sequence[RunMetrics]) -> list[Chart]:
    """Several runs side by side: mean rewards by round, and each arm's score."""
    charts: list[Chart] = []
    most = max((len(m.rounds) for m in all_metrics), default=0)
    if most > 1:
        lines = tuple(
            Series(
                h.name,
                tuple(r.gain.mean for r in m.rounds) + (None,) * (most - len(m.rounds)),
                style=STYLES[i % len(STYLES)],
            )
            for i, (h, m) in enumerate(zip(histories, all_metrics, strict=True))
        )
        x = tuple(str(i + 1) for i in range(most))
        alt = "Mean gain in score a round, by run: " + "; ".join(
            f"{s.name} {_course(s, True)}" for s in lines
        )
        charts.append(LineChart("Gain by round", alt, x, lines, percent=True, zero=True))
    names = dict.fromkeys(arm["arm"] for m in all_metrics for arm in m.arms)
    for name in names:
        bars = tuple(
            Bar(h.name, arm["score"].mean, arm["score"].low, arm["score"].high, STYLES[i % len(STYLES)])
            for i, (h, m) in enumerate(zip(histories, all_metrics, strict=True))
            for arm in m.arms
            if arm["arm"] == name
        )
        said = "; ".join(f"{bar.label} {label(bar.value, True)}" for bar in bars)
        charts.append(BarChart(f"Held-out: {arm_name(name)}", f"{arm_name(name)} by run: {said}", bars))
    return charts


def _success_chart(metrics: RunMetrics, x: tuple[str, ...]) -> LineChart:
    series = _series("success rate", [r.success_rate for r in metrics.rounds])
    aim = (*AIM, f"aim: {AIM[0]:.0%} to {AIM[1]:.0%}".replace("%", " %"))
    alt = f"Share of self-edits that helped: {_course(series, True)}. The aim is 10 to 30 %."
    return LineChart("Success rate", alt, x, (series,), aim=aim, percent=True, zero=True)


def _improvement(history: History) -> Histogram:
    gains = [r.after - r.before for r in history.results]
    spread = distribution(gains)
    edges, counts = spread.edges, spread.counts
    width = edges[1] - edges[0]
    while len(counts) < 5:  # a single bin would fill the picture
        edges = (edges[0] - width, *edges, edges[-1] + width)
        counts = (0, *counts, 0)
    kept = [0] * len(counts)
    for result in history.results:
        if result.reward.kept:
            place = int((result.after - result.before - edges[0]) / width + 1e-9)
            kept[min(place, len(kept) - 1)] += 1
    up, down = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    alt = (
        f"Gains of {len(gains)} self-edits: {up} improved, {len(gains) - up - down} unchanged, {down} worse."
    )
    name = "gain in score, all rounds"
    return Histogram("Improvement", alt, edges, counts, tuple(kept), x_label=name)


def _stability(metrics: RunMetrics, x: tuple[str, ...]) -> LineChart:
    spread = Series("spread of rewards (sd)", tuple(r.reward_spread.std for r in metrics.rounds))
    repeat = Series(
        "between repeats (sd)",
        tuple(r.reliability.repeat_std for r in metrics.rounds),
        style="second",
    )
    lines = (spread, repeat) if any(v is not None for v in repeat.values) else (spread,)
    alt = f"Standard deviation of the rewards in a round: {_course(spread)}."
    return LineChart("Stability", alt, x, lines, zero=True)


def _loss_charts(history: History) -> list[Chart]:
    updates = [update.losses for update in history.updates.values() if update.losses]
    count = sum(map(len, updates))
    if count < 2:  # a single step has no course
        return []
    series, first = [], 0
    for losses in updates:
        series.append(Series("", (None,) * first + losses + (None,) * (count - first - len(losses))))
        first += len(losses)
    steps = tuple(str(i + 1) for i in range(count))
    ends = f"from {updates[0][0]:.3g} at the first step to {updates[-1][-1]:.3g} at the last"
    alt = f"Loss of the policy's own training, one line a round, {ends}, in nats a token."
    return [LineChart("Policy loss", alt, steps, tuple(series), x_label="step")]


def _matrix(method: str, rows: Sequence[Sequence[float]]) -> HeatMap:
    size = len(rows[0])
    values = tuple(
        tuple(float(v) if r == 0 or c < r else None for c, v in enumerate(row)) for r, row in enumerate(rows)
    )
    seen = [v for v in values[-1] if v is not None]
    first = [v for v in values[0] if v is not None]
    alt = (
        f"Accuracy by passage (columns) after every edit (rows), method {method}: the unedited model has "
        f"{label(sum(first) / len(first), True)} on average, the model after {size} edits "
        f"{label(sum(seen) / len(seen), True)}."
    )
    names = ("unedited", *(f"edit {i + 1}" for i in range(len(rows) - 1)))
    return HeatMap(f"Continual edits: {method}", alt, names, tuple(f"P{i + 1}" for i in range(size)), values)


def _series(name: str, means: Sequence[Mean], style: Any = "main") -> Series:
    return Series(
        name,
        tuple(m.mean for m in means),
        tuple(m.low for m in means),
        tuple(m.high for m in means),
        style,
    )


def _course(series: Series, percent: bool = False) -> str:
    known = [v for v in series.values if v is not None]
    if not known:
        return "not measured"
    ends = [label(round(v, 4), percent) for v in (known[0], known[-1])]
    return ends[0] if len(known) == 1 else f"from {ends[0]} to {ends[1]} over {len(known)} rounds"
