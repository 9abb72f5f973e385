"""The numbers of a run while it runs, in the terminal. It only reads: start and stop it at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from seal.errors import RunError
from seal.intervals import span
from seal.records import Trial
from seal.report.diagnosis import Finding, diagnose
from seal.report.estimates import Mean
from seal.report.gallery import arm_name
from seal.report.history import History, read_history
from seal.report.metrics import RoundMetrics, RunMetrics, run_metrics
from seal.report.texts import one_line
from seal.wording import counted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

_LAST_ROUNDS = 12
_STYLE = {"problem": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the stage has come that is not over: a round, or an evaluation."""

    stage: str
    done: int
    of: int
    gain: float | None
    """Mean gain of the trainings measured so far in it."""


def watch(
    path: Path,
    console: Console,
    every: float = 2.0,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the run in folder `path` until it is finished (or once).

    A run that has not begun, or a folder that cannot be read for a while (a network drive), is waited for.

    Raises:
        RunError: with `once`, the run cannot be read; or its journal is corrupt.
    """
    from rich.live import Live

    if once:
        console.print(screen(read_history(path)))
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for history in _changes(path, every, sleep):
            if history is None:
                live.update(f"waiting for a run in {path}", refresh=True)
                continue
            live.update(screen(history), refresh=True)
            if history.finished:
                return


def _changes(path: Path, every: float, sleep: Callable[[float], None]) -> Iterator[History | None]:
    """The history whenever the journal has grown; None while there is nothing to read."""
    journal, seen, known = path / "journal.jsonl", -1, dict[int, Any]()
    while True:
        started = time.monotonic()
        try:
            size = journal.stat().st_size
            if size != seen and (path / "config.yaml").is_file():
                history = read_history(path, known)
                seen = size
                yield history
        except OSError:
            yield None
        except RunError:
            if journal.is_file():  # what is there is damaged, and waiting will not mend it
                raise
            yield None
        sleep(max(every, 4 * (time.monotonic() - started)))  # a long journal is looked at less often


def screen(history: History) -> RenderableType:
    """What there is to see of a run now."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    metrics = run_metrics(history)
    parts: list[RenderableType] = [_head(history, metrics)]
    progress = running(history)
    if progress is not None:
        parts.append(_bar(progress))
    if metrics.rounds:
        parts.append(_rounds(metrics.rounds))
    if metrics.arms:
        parts.append(_arms(metrics))
    findings = diagnose(history, metrics)
    parts += [_finding(finding) for finding in findings[:4]]
    if len(findings) > 4:
        parts.append(Text(f"and {len(findings) - 4} more in `seal report`", style="dim"))
    title = Text(f" {one_line(history.name)} ", style="bold")
    return Panel(Group(*parts), title=title, title_align="left", border_style="cyan", padding=(0, 1))


def running(history: History) -> Progress | None:
    """The stage that is under way; None before the first training and when the run is finished."""
    if history.finished or not history.trials:
        return None
    last = history.trials[-1]
    if last.arm == "train" and last.iteration in history.updates:
        return None
    mine = history.trials_in[last.arm, last.iteration]
    known = [t.after.score - t.before.score for t in mine if t.after is not None]
    return Progress(_stage(last), len(mine), _planned(history, last), fmean(known) if known else None)


def _stage(trial: Trial) -> str:
    return f"round {trial.iteration + 1}" if trial.arm == "train" else f"held out, {arm_name(trial.arm)}"


def _planned(history: History, trial: Trial) -> int:
    """Trainings of the stage, from its plan (or, held out, from what was written)."""
    config = history.config
    if trial.arm == "train" and trial.iteration in history.plans:
        tasks = len(history.plans[trial.iteration].task_ids)
        return tasks * config.samples_per_iteration * config.repeats
    base = next((len(arm.tasks) for arm in history.arms if arm.arm == "base"), 0)
    samples = config.evaluation.samples if trial.arm.startswith("self_edit") else 1
    return max(base * samples, len(history.trials_in[trial.arm, trial.iteration]))


def _head(history: History, metrics: RunMetrics) -> RenderableType:
    from rich.text import Text

    config = history.config
    state = "finished" if history.finished else f"last item {_ago(history.last)}"
    text = Text(f"{one_line(config.model_name)} · {one_line(config.domain)} · ", style="dim")
    text.append(state, style="bold green" if history.finished else "bold")
    rounds = sum(r.finished for r in metrics.rounds)
    text.append(f" · round {rounds} of {config.max_outer_iterations} done")
    text.append(
        f" · {counted(len(history.trials), 'training')} · {sum(metrics.seconds.values()) / 60:.1f} min"
    )
    return text


def _bar(progress: Progress) -> RenderableType:
    from rich.columns import Columns
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    words = f"{progress.stage}: {progress.done} of {counted(progress.of, 'training')}"
    if progress.gain is not None:
        words += f", mean gain so far {_signed(progress.gain)}"
    return Columns([ProgressBar(total=progress.of, completed=progress.done, width=24), Text(words)])


@dataclass(frozen=True)
class _Fitting:
    """The first table that fits into the terminal, else the last."""

    tables: tuple[Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        room = options.update(max_width=1000)
        widths = [console.measure(table, options=room).maximum for table in self.tables]
        fitting = [t for t, width in zip(self.tables, widths, strict=True) if width <= options.max_width]
        yield (fitting or self.tables[-1:])[0]


def _rounds(rounds: tuple[RoundMetrics, ...]) -> RenderableType:
    from rich.table import Table

    wide = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("round", "reward", "helped", "before", "after", "gain, 95 % interval", "kept"):
        wide.add_column(heading, justify="right", no_wrap=True)
    narrow = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in ("round", "reward", "after", "gain", "kept"):
        narrow.add_column(heading, justify="right", no_wrap=True)
    for r in rounds[-_LAST_ROUNDS:]:
        good, poor = r.gain.low is not None and r.gain.low > 0, r.gain.high is not None and r.gain.high < 0
        style = "green" if good else "red" if poor else ""
        number, reward, after = str(r.iteration + 1), f"{r.reward.mean:.3f}", f"{r.after.mean:.1%}"
        helped, before, kept = f"{r.success_rate.mean:.0%}", f"{r.before.mean:.1%}", f"{r.kept}/{r.edits}"
        wide.add_row(number, reward, helped, before, after, _with_interval(r.gain), kept, style=style)
        narrow.add_row(number, reward, after, _signed(r.gain.mean), kept, style=style)
    return _Fitting((wide, narrow))


def _arms(metrics: RunMetrics) -> RenderableType:
    from rich.table import Table

    wide = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    narrow = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for table, gain in ((wide, "gain, 95 % interval"), (narrow, "gain")):
        table.add_column("held out", no_wrap=table is wide)
        table.add_column("score", justify="right", no_wrap=True)
        table.add_column(gain, justify="right", no_wrap=True)
    for arm in metrics.arms:
        name, score, base = one_line(arm_name(arm["arm"])), f"{arm['score'].mean:.1%}", arm["arm"] == "base"
        wide.add_row(name, score, "" if base else _with_interval(arm["gain"]))
        narrow.add_row(name, score, "" if base else _signed(arm["gain"].mean))
    return _Fitting((wide, narrow))


def _finding(finding: Finding) -> RenderableType:
    from rich.text import Text

    text = Text(f"{finding.title}. ", style=_STYLE[finding.level])
    text.append(f"{finding.what} {finding.try_}", style="default")
    return text


def _with_interval(mean: Mean) -> str:
    return f"{_signed(mean.mean)}  {span(mean.low, mean.high, sign=True)}"


def _signed(value: float) -> str:
    return f"{value:+.1%}"


def _ago(moment: str) -> str:
    if not moment:
        return "not yet written"
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 0.0)
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.1f} h ago"
