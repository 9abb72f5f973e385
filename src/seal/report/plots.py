"""The charts of a report as PNG files for papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seal.errors import RunError
from seal.extras import need
from seal.report.charts import BarChart, Chart, HeatMap, Histogram, LineChart

COLOURS = {
    "main": "#0b7285",
    "second": "#e8590c",
    "third": "#7048e8",
    "fourth": "#2b8a3e",
    "quiet": "#b8c2c9",
}
_INK, _GRID = "#14181f", "#dde2e6"


def save_pngs(charts: Sequence[Chart], folder: Path, dpi: int = 200) -> list[Path]:
    """Draw each chart into `folder`, named by its title.

    Raises:
        RunError: the folder cannot be written.
    """
    need("matplotlib", "drawing PNG files")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}", "choose another folder") from None
    paths = []
    for chart in charts:
        height = 0.5 * len(chart.bars) + 1.4 if isinstance(chart, BarChart) else 3.2
        figure = Figure(figsize=(5.6, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(chart.title, fontsize=10, loc="left", color=_INK, parse_math=False)
        _draw(chart, axes)
        path = folder / f"{_slug(chart.title)}.png"
        figure.savefig(path, dpi=dpi, metadata={"Description": chart.alt, "Software": "seal"})
        paths.append(path)
    return paths


def _draw(chart: Chart, axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)
    if isinstance(chart, LineChart):
        _lines(chart, axes)
    elif isinstance(chart, BarChart):
        _bars(chart, axes)
    elif isinstance(chart, Histogram):
        _histogram(chart, axes)
    else:
        _heat_map(chart, axes)


def _lines(chart: LineChart, axes: Any) -> None:
    x = list(range(len(chart.x)))
    for dot in chart.dots:
        axes.plot(dot.x, dot.y, "o", ms=3, color=COLOURS["second" if dot.kept else "quiet"], alpha=0.7)
    for series in chart.series:
        values = [float("nan") if v is None else v for v in series.values]
        axes.plot(x, values, "-o", ms=4, color=COLOURS[series.style], label=series.name or None)
        known = [
            (i, a, b)
            for i, (a, b) in enumerate(zip(series.low, series.high, strict=True))
            if a is not None and b is not None
        ]
        if known:
            at, low, high = zip(*known, strict=True)
            axes.fill_between(at, low, high, color=COLOURS[series.style], alpha=0.18, linewidth=0)
    if chart.aim:
        axes.axhspan(chart.aim[0], chart.aim[1], color="#2b8a3e", alpha=0.1, linewidth=0)
    axes.set_xticks(x[:: max(1, len(x) // 10)], [chart.x[i] for i in x[:: max(1, len(x) // 10)]])
    axes.set_xlabel(chart.x_label, fontsize=8)
    _percent(axes.yaxis, chart.percent)
    axes.grid(axis="y", color=_GRID)
    if sum(bool(series.name) for series in chart.series) > 1:
        axes.legend(fontsize=8, frameon=False)


def _bars(chart: BarChart, axes: Any) -> None:
    for i, bar in enumerate(chart.bars):
        axes.barh(i, bar.value, color=COLOURS[bar.style], height=0.62)
        if bar.low is not None and bar.high is not None:
            error = [[bar.value - bar.low], [bar.high - bar.value]]
            axes.errorbar(bar.value, i, xerr=error, color=_INK, capsize=3, linewidth=1.2)
    axes.set_yticks(range(len(chart.bars)), [bar.label for bar in chart.bars])
    axes.invert_yaxis()
    _percent(axes.xaxis, chart.percent)
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)


def _histogram(chart: Histogram, axes: Any) -> None:
    widths = [(b - a) * 0.94 for a, b in zip(chart.edges, chart.edges[1:], strict=False)]
    centres = [(a + b) / 2 for a, b in zip(chart.edges, chart.edges[1:], strict=False)]
    axes.bar(centres, chart.counts, widths, color=COLOURS["quiet"], label="not kept")
    axes.bar(centres, chart.kept, widths, color=COLOURS["second"], label="kept")
    axes.set_xlabel(chart.x_label, fontsize=8)
    _percent(axes.xaxis, chart.percent)
    axes.legend(fontsize=8, frameon=False)


def _heat_map(chart: HeatMap, axes: Any) -> None:
    values = [[float("nan") if v is None else v for v in row] for row in chart.values]
    axes.imshow(values, cmap="GnBu", vmin=0, vmax=1, aspect="auto")
    for r, row in enumerate(chart.values):
        for c, value in enumerate(row):
            if value is not None:
                ink = "white" if value > 0.6 else _INK
                axes.text(c, r, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(chart.columns)), chart.columns)
    axes.set_yticks(range(len(chart.rows)), chart.rows)


def _percent(axis: Any, percent: bool) -> None:
    if percent:
        from matplotlib.ticker import PercentFormatter

        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "chart"
