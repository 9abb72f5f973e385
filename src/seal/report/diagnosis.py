"""What the numbers of a run warn of, in plain words, each with what to try (see docs/troubleshooting.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from seal.report.estimates import Mean
from seal.report.history import History
from seal.report.metrics import RoundMetrics, RunMetrics
from seal.restem import FEW_UPDATES
from seal.wording import counted

Level = Literal["problem", "warning", "note"]
_ORDER: tuple[Level, ...] = ("problem", "warning", "note")

AIM = (0.10, 0.30)
"""The success rate to aim at: below, there is little to learn from; above, the reward tells little apart."""
LOW_RELIABILITY = 0.4
MANY = 0.2
"""Share of duplicates, spikes, cut-off or invalid self-edits that is worth a warning."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about the run."""

    level: Level
    title: str
    what: str
    try_: str
    rounds: tuple[int, ...] = ()


def diagnose(history: History, metrics: RunMetrics) -> list[Finding]:
    """Findings, the gravest first; one of a kind, with the rounds (from 0) that it was seen in."""
    found: dict[str, Finding] = {}
    for metric in metrics.rounds:
        for finding in _round(metric, history):
            before = found.get(finding.title)
            rounds = (*(before.rounds if before else ()), metric.iteration)
            # the last round's words: they carry the numbers that hold now
            found[finding.title] = Finding(finding.level, finding.title, finding.what, finding.try_, rounds)
    for finding in (*_whole(metrics), *_held_out(metrics)):
        found[finding.title] = finding
    return sorted(found.values(), key=lambda f: _ORDER.index(f.level))


def _round(m: RoundMetrics, history: History) -> Iterator[Finding]:
    yield from _rewards(m, history)
    yield from _edits(m, history)
    if m.judge_errors:
        yield Finding(
            "problem",
            "The grader failed on some answers",
            f"{m.judge_errors} answers have no verdict; they count neither as right nor as wrong.",
            "Check the judge's address and key, then `seal resume` the run; or `seal regrade` it.",
        )
    if m.loss_spikes >= MANY:
        yield Finding(
            "warning",
            "The loss jumps while adapters train",
            f"{_percent(m.loss_spikes)} of the trainings pass a loss twice as high as at their start.",
            "Lower `learning_rate`, or set `inner.warmup_ratio` to 0.1.",
        )
    update = history.updates.get(m.iteration)
    if update is not None and update.updated and len(update.losses) < FEW_UPDATES:
        yield Finding(
            "warning",
            "The policy was hardly trained",
            f"Its M-step was {counted(len(update.losses), 'update')} of the weights; "
            f"below {FEW_UPDATES} little moves.",
            "Set `sft.steps` to 40 or more, or keep more self-edits a round.",
        )
    first, last = m.update_first_loss, m.update_last_loss
    if first is not None and last is not None and not last <= 1.5 * first:
        yield Finding(
            "warning",
            "The policy's own training diverges",
            f"Its loss went from {first:.2f} to {last:.2f} nats a token.",
            "Lower `sft.learning_rate`, or `sft.epochs`.",
        )


def _rewards(m: RoundMetrics, history: History) -> Iterator[Finding]:
    rate = m.success_rate.mean
    if m.edits > 1 and m.reward_spread.minimum == m.reward_spread.maximum:
        yield Finding(
            "problem",
            "Reward collapse: every self-edit earned the same",
            f"All {m.edits} rewards are {m.reward_spread.minimum:.3g}: there is nothing to prefer.",
            "Use `reward: log_likelihood` or `accuracy_gain`, which tell smaller differences apart; "
            "ask more questions a task; check that training changes the answers at all.",
        )
    elif m.edits > 1 and m.zero_variance_tasks == m.tasks:
        yield Finding(
            "warning",
            "All ties: within every task the self-edits earned the same",
            f"In {m.zero_variance_tasks} of {m.tasks} tasks no self-edit beat another.",
            "Raise `samples_per_iteration` and `generation.temperature`, or use a finer reward.",
        )
    elif m.tied_tasks * 2 >= m.tasks:
        yield Finding(
            "note",
            "Order decided between equal rewards",
            f"In {m.tied_tasks} of {m.tasks} tasks the kept self-edit was tied with one that was not kept.",
            "Raise `repeats` or use `reward: log_likelihood`, which hardly ever ties.",
        )
    if rate < AIM[0]:
        yield Finding(
            "warning",
            "The success rate is low",
            f"{_percent(rate)} of the self-edits helped; aim at {_percent(AIM[0])} to {_percent(AIM[1])}.",
            _to_help_more(history),
        )
    elif rate > AIM[1] and history.config.keep == "positive":  # the best of a task are few anyway
        yield Finding(
            "note",
            "The success rate is high",
            f"{_percent(rate)} of the self-edits helped; above {_percent(AIM[1])} the reward picks out few.",
            "Keep only the best of each task (`keep: best_of_k`), or raise `reward_threshold`.",
        )
    if not m.kept and m.finished:
        yield Finding(
            "problem",
            "Nothing was kept",
            f"None of {m.edits} self-edits was kept, so the policy stayed as it was.",
            "See docs/troubleshooting.md: the reward, the prompt or the inner loop has to change.",
        )


def _to_help_more(history: History) -> str:
    if history.config.domain == "few_shot_learning":
        return (
            "Begin with tasks that some recipe solves (the paper filters its tasks so), allow more epochs "
            "and learning rates, or use a larger model."
        )
    return (
        "Try another `prompt_type` (questions_answers, rewrite), more `inner.epochs`, a higher "
        "`learning_rate`, a lower `reward_threshold`, or a larger model."
    )


def _edits(m: RoundMetrics, history: History) -> Iterator[Finding]:
    if m.duplicates >= MANY:
        yield Finding(
            "warning",
            "Many self-edits are duplicates",
            f"{_percent(m.duplicates)} repeat an earlier self-edit of the same task word for word.",
            "Raise `generation.temperature` or `generation.top_p`.",
        )
    if m.cut_off >= MANY:
        yield Finding(
            "warning",
            "Self-edits are cut off",
            f"{_percent(m.cut_off)} ran into the limit of {history.config.generation.max_new_tokens} tokens.",
            "Raise `generation.max_new_tokens`, or ask for shorter self-edits.",
        )
    if m.quality and max(m.quality.loops, m.quality.echoes) >= MANY:
        yield Finding(
            "warning",
            "Self-edits repeat themselves or the instruction",
            f"{_percent(m.quality.loops)} have loops, {_percent(m.quality.echoes)} echo the instruction.",
            "Lower `generation.temperature` or `generation.max_new_tokens`, or try another `prompt_type`.",
        )
    if m.quality and m.quality.unsupported >= 0.5:
        yield Finding(
            "warning",
            "Self-edits bring in names and numbers",
            f"{_percent(m.quality.unsupported)} have some that the passage lacks; tasks below show which.",
            "Lower `generation.temperature`, or set `generation.check` to refuse.",
        )
    if m.invalid:
        yield Finding(
            "warning" if m.invalid >= MANY * m.edits else "note",
            "Some self-edits could not be applied",
            f"{m.invalid} of {m.edits} were invalid; each says why in its task below.",
            "Read the reasons; often the format is not followed (use a chat model or constrained writing).",
        )


def _whole(metrics: RunMetrics) -> Iterator[Finding]:
    rounds, dynamics = metrics.rounds, metrics.dynamics
    if not rounds:
        return
    first, last = rounds[0].edit_tokens.mean, rounds[-1].edit_tokens.mean
    if len(rounds) > 1 and first > 0 and not 0.5 <= last / first <= 2.0:
        yield Finding(
            "warning",
            "Length drift: the self-edits change their length",
            f"They went from {first:.0f} to {last:.0f} tokens on average.",
            "Look at what is kept: longer is not better. Lower `sft.learning_rate` or `sft.epochs`.",
        )
    ratio = dynamics.reliability.ratio
    if dynamics.reliability.repeats <= 1:
        yield Finding(
            "note",
            "Nobody can tell how reliable the rewards are",
            "Every self-edit was trained once, so a lucky training looks like a good self-edit.",
            "Set `repeats: 3`, as the paper does, and read the reliability here.",
        )
    elif ratio is not None and ratio < LOW_RELIABILITY:
        yield Finding(
            "warning",
            "The rewards are mostly chance",
            f"Reliability {ratio:.2f}: repeats of one self-edit differ about as much as self-edits do.",
            "Raise `repeats`, ask more questions a task, or use `reward: log_likelihood`.",
        )
    trend = dynamics.reward_trend
    if trend is not None and trend.high is not None and trend.high < 0:
        yield Finding(
            "warning",
            "Rewards fall from round to round",
            f"By {-trend.mean:.3f} a round (95 % interval {_span(trend)}).",
            "Lower `sft.learning_rate`, keep fewer self-edits, and compare the checkpoints of each round.",
        )


def _held_out(metrics: RunMetrics) -> Iterator[Finding]:
    arms = {arm["arm"]: arm for arm in metrics.arms}
    for name in ("self_edit_rl", "self_edit"):
        gain: Mean | None = arms[name]["gain"] if name in arms else None
        if gain is not None and gain.high is not None and gain.high < 0:
            yield Finding(
                "problem",
                "Training on self-edits made held-out answers worse",
                f"By {_percent(-gain.mean)} (95 % interval {_span(gain)}) in the arm {name}.",
                "Lower `learning_rate` or `inner.epochs`; look at the answers: broken text is overfitting.",
            )
            return


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _span(mean: Mean) -> str:
    return f"{mean.low:+.3f} to {mean.high:+.3f}"
