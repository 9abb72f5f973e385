"""A report of one run, or of several side by side: one HTML page that needs no network, or Markdown.

Everything comes from journals; passages and gold answers from where the run read them. The page's security
policy allows no request and only its own script, so even text made to attack it can do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from seal import __version__, yaml_lines
from seal.data.load_report import one_line as loaded_line
from seal.errors import RunError
from seal.report.candidates import TaskView, task_views
from seal.report.charts import Chart, svg
from seal.report.diagnosis import Finding, diagnose
from seal.report.estimates import arm_means, paired
from seal.report.gallery import (
    arm_chart,
    arm_name,
    comparison_charts,
    continual_charts,
    time_chart,
    training_charts,
)
from seal.report.headline import Headline, headline
from seal.report.history import History, read_history, read_tasks
from seal.report.metrics import RunMetrics, lines, run_metrics
from seal.report.texts import one_line, plain
from seal.settings import SEALConfig
from seal.whole_file import write_whole
from seal.wording import counted

MARK = "<!-- seal report -->"
MOST_TASKS = 200
CONTINUAL_FILE = "continual.json"
"""A result of `seal continual` with this name in the run folder is shown too."""


@dataclass(frozen=True)
class RunView:
    """Everything that a page shows of one run."""

    history: History
    metrics: RunMetrics
    headline: Headline
    findings: tuple[Finding, ...]
    charts: tuple[Chart, ...]
    arms: Chart | None
    continual: tuple[Chart, ...]
    time: Chart | None
    tasks: tuple[TaskView, ...] = ()
    tasks_in_all: int = 0
    tasks_problem: str = ""

    @property
    def name(self) -> str:
        """Name of the run, safe to show."""
        return one_line(self.history.name)

    @property
    def loaded(self) -> str:
        """The tasks and what was left out of the data; empty while nothing was loaded."""
        return plain(loaded_line(self.history.loaded)) if self.history.loaded else ""

    @property
    def pictures(self) -> list[Chart]:
        """All charts."""
        rest = [chart for chart in (self.arms, *self.continual, self.time) if chart is not None]
        return [*self.charts, *rest]


def run_view(path: str | Path, continual: Path | None = None, most_tasks: int = MOST_TASKS) -> RunView:
    """Read a run folder, which may be running, and work out what there is to show.

    Args:
        path: the run folder.
        continual: a result of continual self-edits to show too.
        most_tasks: candidate views on the page; 0 leaves them out, and the data is not read.

    Raises:
        RunError: it is no run, or a file in it is damaged.
    """
    history = read_history(path)
    metrics = run_metrics(history)
    own = history.path / CONTINUAL_FILE
    files = [file for file in (continual, own if own.is_file() else None) if file is not None]
    tasks, problem = read_tasks(history.config) if most_tasks else ({}, "")
    views, in_all = task_views(history, tasks, most_tasks) if most_tasks else ([], 0)
    return RunView(
        history=history,
        metrics=metrics,
        headline=headline(history, metrics),
        findings=tuple(diagnose(history, metrics)),
        charts=tuple(training_charts(history, metrics)),
        arms=arm_chart(metrics),
        continual=tuple(chart for file in dict.fromkeys(files) for chart in continual_charts(file)),
        time=time_chart(metrics),
        tasks=tuple(views),
        tasks_in_all=in_all,
        tasks_problem=one_line(problem, 400),
    )


def html(views: Sequence[RunView]) -> str:
    """The page of one run, or the comparison of several."""
    single = len(views) == 1
    template = _environment().get_template("report.html.j2" if single else "comparison.html.j2")
    title = views[0].name if single else f"{len(views)} runs compared"
    shared = {"title": title, "css": _file("report.css"), "script": _file("report.js"), "policy": _policy()}
    page: str
    if single:
        page = template.render(run=views[0], numbers=_numbers(views[0]), **_about(views[0]), **shared)
    else:
        page = template.render(runs=views, **_comparison(views), **shared)
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", page)


def write_html(views: Sequence[RunView], path: Path) -> Path:
    """Write the page to `path`; an older report there is replaced, any other file is not.

    Raises:
        RunError: another kind of file is there, or it cannot be written.
    """
    page = html(views)
    try:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:200]:
            raise RunError(f"{path}: is there and is no report", "choose another --out")
        write_whole(path, page)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", "choose another --out") from None
    return path


def markdown(views: Sequence[RunView]) -> str:
    """The same in brief, for issues and notes: headline, tables, findings."""
    template = _environment(escape=False).get_template("report.md.j2")
    text: str = template.render(runs=views, **(_comparison(views) if len(views) > 1 else {}))
    return text


def _about(view: RunView) -> dict[str, Any]:
    """The part of a page that says what was run, and on what."""
    config, history = view.history.config, view.history
    return {
        "changed": _changes(config, SEALConfig()),
        "config_text": plain(config.to_yaml()),
        "environments": [plain(yaml_lines.dump(e)) for e in history.environments],
        "dimensions": _dimensions(view),
        "duration": _duration(sum(view.metrics.seconds.values())),
        "status": status(history),
        "version": __version__,
    }


def status(history: History) -> str:
    """Finished, or when the last item was."""
    if history.finished:
        return "finished"
    return f"not finished; last item {history.last.replace('T', ' ')[:16]} UTC" if history.last else "empty"


def _dimensions(view: RunView) -> list[tuple[str, str]]:
    history, config = view.history, view.history.config
    written = sum(e.n_tokens for e in history.edits.values())
    return [
        ("model", plain(config.model_name)),
        ("domain", plain(config.domain)),
        ("reward", plain(f"{config.reward}, keep {config.keep}")),
        *((("tasks", view.loaded),) if view.loaded else ()),
        ("rounds", f"{len(view.metrics.rounds)} of {config.max_outer_iterations}"),
        ("self-edits", f"{len(history.results):,} rewarded, {counted(written, 'token')} written"),
        ("trainings", f"{len(history.trials):,}"),
        ("seed", str(config.seed)),
        ("began", history.started.replace("T", " ")[:16]),
    ]


def _comparison(views: Sequence[RunView]) -> dict[str, Any]:
    """Arms by run with paired differences to the first run, differing settings, charts."""
    first = {arm.arm: arm for arm in views[0].history.arms}
    names = dict.fromkeys(arm.arm for view in views for arm in view.history.arms)
    table = []
    for name in names:
        cells = []
        for view in views:
            arm = next((a for a in view.history.arms if a.arm == name), None)
            other = first.get(name) if view is not views[0] else None
            difference = paired(arm, other) if arm is not None and other is not None else None
            mean = arm_means(arm)[0] if arm is not None else None
            cells.append({"mean": mean, "difference": difference, "n": arm.n if arm else 0})
        table.append((arm_name(name), cells))
    charts = comparison_charts([v.history for v in views], [v.metrics for v in views])
    return {
        "table": table,
        "settings": _differing([v.history.config for v in views]),
        "comparison_charts": charts,
        "version": __version__,
    }


def _differing(configs: Sequence[SEALConfig]) -> list[tuple[str, list[str]]]:
    flat = [_flat(config.model_dump(mode="json")) for config in configs]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = [(name, [each.get(name, "") for each in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _changes(config: SEALConfig, default: SEALConfig) -> list[tuple[str, str, str]]:
    mine, usual = (_flat(c.model_dump(mode="json")) for c in (config, default))
    return [(name, value, usual.get(name, "")) for name, value in mine.items() if value != usual.get(name)]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[f"{prefix}{key}"] = one_line(text, 200)
    return found


def _numbers(view: RunView) -> dict[str, Any]:
    """The lines of `metrics.jsonl`, so that a page shows the very same numbers."""
    rows = lines(view.metrics)
    return {
        "rounds": [row for row in rows if row["kind"] == "round"],
        "dynamics": next(row for row in rows if row["kind"] == "dynamics"),
        "arms": [row for row in rows if row["kind"] == "arm"],
        "phases": [row for row in rows if row["kind"] == "phase"],
    }


def percent(value: float | None, sign: bool = False) -> str:
    """A share for people, one decimal."""
    if value is None:
        return "–"
    return f"{100 * value:{'+' if sign else ''}.1f} %".replace("-", "−")


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number for people."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _policy() -> str:
    """No request to anywhere; the page's own script by its hash; styles inline."""
    digest = base64.b64encode(hashlib.sha256(_file("report.js").encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment(escape: bool = True) -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup
    from markupsafe import escape as escape_text

    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": number,
        "svg": lambda chart: Markup(svg(chart)),
        "picture": lambda picture: Markup(picture.svg),
        "duration": _duration,
        "arm_name": arm_name,
        "counted": counted,
        "cell": _cell,
        "code": lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape_text(text)))),
        "day": lambda text: datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M UTC") if text else "",
    }
    environment.globals |= {"inline": lambda text: Markup(text)}
    return environment


def _cell(text: str, most: int = 120) -> str:
    """Text for a Markdown table cell, at most `most` characters."""
    return "".join(f"\\{c}" if c in "|\\`*_<>[]#" else c for c in one_line(text, most))


@cache
def _file(name: str) -> str:
    return (resources.files("seal.report") / "templates" / name).read_text(encoding="utf-8")
