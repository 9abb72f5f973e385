"""Charts as data, and as SVG that takes its colours from the page, light or dark; `plots` makes PNGs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Style = Literal["main", "second", "third", "fourth", "quiet"]
STYLES: tuple[Style, ...] = ("main", "second", "third", "fourth", "quiet")
_WIDTH, _HEIGHT = 560.0, 290.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 16.0, 14.0, 42.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line; `low` and `high` (both or neither) are drawn as a band."""

    name: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    style: Style = "main"


@dataclass(frozen=True, slots=True)
class Dot:
    """One self-edit: its place on the x axis, its value, whether it was kept."""

    x: int
    y: float
    kept: bool


@dataclass(frozen=True, slots=True)
class LineChart:
    """Values over rounds (or steps)."""

    title: str
    alt: str
    x: tuple[str, ...]
    series: tuple[Series, ...]
    x_label: str = "round"
    dots: tuple[Dot, ...] = ()
    aim: tuple[float, float, str] | None = None
    """A shaded range of y, and what it means."""
    percent: bool = False
    zero: bool = False
    """Whether the y axis begins at 0."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    style: Style = "main"
    note: str = ""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Horizontal bars."""

    title: str
    alt: str
    bars: tuple[Bar, ...]
    percent: bool = True
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in bins; `kept` is the part of each bin that was kept."""

    title: str
    alt: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    kept: tuple[int, ...]
    percent: bool = True
    x_label: str = ""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Shares in [0, 1] by row and column; None: not measured."""

    title: str
    alt: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


Chart = LineChart | BarChart | Histogram | HeatMap


def svg(chart: Chart) -> str:
    """The chart as one `<svg>` element, with its description as label and no id, style or script."""
    if isinstance(chart, LineChart):
        return _line_chart(chart)
    if isinstance(chart, BarChart):
        return _bar_chart(chart)
    if isinstance(chart, Histogram):
        return _histogram(chart)
    return _heat_map(chart)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    if not high > low:
        low, high = min(low, 0.0), max(high, 0.0) or float(low == 0)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float, percent: bool, signed: bool = False) -> str:
    """A tick or bar label."""
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.4g} %" if percent else f"{value:{sign}.4g}"
    return text.replace("-", "−")


@dataclass
class _Plot:
    """Maps data to the drawing and collects its parts."""

    x0: float
    x1: float
    y0: float
    y1: float
    left: float = _LEFT
    height: float = _HEIGHT

    def x(self, value: float) -> float:
        return self.left + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        return (
            self.height - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (self.height - _BOTTOM - _TOP)
        )

    def horizontal_grid(self, values: Sequence[float], percent: bool) -> Iterable[str]:
        for value in values:
            y = self.y(value)
            kind = "zero" if value == 0 else "grid"
            yield f'<path class="{kind}" d="M{self.left:g} {y:.1f}H{_WIDTH - _RIGHT:g}"/>'
            yield _text(self.left - 8, y + 4, label(value, percent), "end")


def _line_chart(chart: LineChart) -> str:
    everything = [v for s in chart.series for v in (*s.values, *s.low, *s.high) if v is not None]
    everything += [dot.y for dot in chart.dots]
    everything += [chart.aim[0], chart.aim[1]] if chart.aim else []
    everything += [0.0] if chart.zero or not everything else []
    marks = ticks(min(everything), max(everything))
    n = len(chart.x)
    plot = _Plot(-0.5, n - 0.5, marks[0], marks[-1])
    parts = list(plot.horizontal_grid(marks, chart.percent))
    if chart.aim:
        low, high, words = chart.aim
        parts.append(_rect(_LEFT, plot.y(high), _WIDTH - _LEFT - _RIGHT, plot.y(low) - plot.y(high), "aim"))
        parts.append(_text(_WIDTH - _RIGHT - 6, plot.y(high) + 14, words, "end", "t aim-text"))
    parts += [_text(plot.x(i), _HEIGHT - _BOTTOM + 18, chart.x[i], "middle") for i in _some(n, 10)]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, chart.x_label, "middle"))
    for series in chart.series:
        parts += _band(series, plot)
    parts += _dots(chart.dots, plot, n)
    for series in chart.series:
        parts += _line(series, plot, chart)
    return _svg(chart.alt, _WIDTH, _HEIGHT, parts)


def _band(series: Series, plot: _Plot) -> Iterable[str]:
    spans = [(i, a, b) for i, (a, b) in enumerate(zip(series.low, series.high, strict=True))]
    whole = [(i, a, b) for i, a, b in spans if a is not None and b is not None]
    if len(whole) > 1:
        up = " ".join(f"{plot.x(i):.1f} {plot.y(b):.1f}" for i, _, b in whole)
        down = " ".join(f"{plot.x(i):.1f} {plot.y(a):.1f}" for i, a, _ in reversed(whole))
        yield f'<polygon class="band {series.style}" points="{up} {down}"/>'
    elif whole:
        ((i, a, b),) = whole
        x = plot.x(i)
        yield f'<path class="whisker {series.style}" d="M{x:.1f} {plot.y(a):.1f}V{plot.y(b):.1f}"/>'


def _line(series: Series, plot: _Plot, chart: LineChart) -> Iterable[str]:
    points = [(i, v) for i, v in enumerate(series.values) if v is not None]
    path = "L".join(f"{plot.x(i):.1f} {plot.y(v):.1f}" for i, v in points)
    if len(points) > 1:
        yield f'<path class="line {series.style}" d="M{path}"/>'
    if len(points) <= 60:
        for i, v in points:
            tip = f"{series.name}, {chart.x_label} {chart.x[i]}: {label(v, chart.percent)}"
            yield (
                f'<circle class="point {series.style}" cx="{plot.x(i):.1f}" cy="{plot.y(v):.1f}" r="4">'
                f"<title>{escape(tip)}</title></circle>"
            )


def _dots(dots: Sequence[Dot], plot: _Plot, n: int) -> Iterable[str]:
    """Self-edits around their round, spread sideways by a fixed pattern so that equal ones show."""
    room = (_WIDTH - _LEFT - _RIGHT) / n * 0.32
    for k, dot in enumerate(dots[:2000]):
        x = plot.x(dot.x) + room * (((k * 0.618034) % 1.0) - 0.5)
        kind = "dot kept" if dot.kept else "dot"
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{plot.y(dot.y):.1f}" r="{3.4 if dot.kept else 2.6}"/>'


def _bar_chart(chart: BarChart) -> str:
    row, left = 42.0, 142.0
    edges = [0.0, *(v for b in chart.bars for v in (b.value, b.low, b.high) if v is not None)]
    marks = ticks(min(edges), max(edges), 4)
    height = _TOP + row * len(chart.bars) + _BOTTOM - 12
    plot = _Plot(marks[0], marks[-1], 0, 1, left, height)
    parts = []
    for value in marks:
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{plot.x(value):.1f} {_TOP:g}V{height - 30:g}"/>')
        parts.append(_text(plot.x(value), height - 12, label(value, chart.percent) + chart.unit, "middle"))
    for i, bar in enumerate(chart.bars):
        y = _TOP + row * i + 8
        x, zero = plot.x(bar.value), plot.x(max(marks[0], 0.0))
        tip = f"<title>{escape(f'{bar.label}: {label(bar.value, chart.percent)} {bar.note}')}</title>"
        parts.append(_text(left - 12, y + 17, bar.label, "end", "t name"))
        parts.append(
            f'<rect class="bar {bar.style}" x="{min(x, zero):.1f}" y="{y:g}" width="{abs(x - zero):.1f}" '
            f'height="26" rx="3">{tip}</rect>'
        )
        if bar.low is not None and bar.high is not None:
            a, b, middle = plot.x(bar.low), plot.x(bar.high), y + 13
            ends = f"M{a:.1f} {middle - 5:g}v10M{b:.1f} {middle - 5:g}v10"
            parts.append(f'<path class="whisker ink" d="M{a:.1f} {middle:g}H{b:.1f}{ends}"/>')
    return _svg(chart.alt, _WIDTH, height, parts)


def _histogram(chart: Histogram) -> str:
    marks = [m for m in ticks(0, max(chart.counts), 4) if m == int(m)]
    plot = _Plot(chart.edges[0], chart.edges[-1], 0, marks[-1])
    parts = list(plot.horizontal_grid(marks, False))
    for i, (count, kept) in enumerate(zip(chart.counts, chart.kept, strict=True)):
        a, b = plot.x(chart.edges[i]) + 1.5, plot.x(chart.edges[i + 1]) - 1.5
        span = f"{label(chart.edges[i], chart.percent)} to {label(chart.edges[i + 1], chart.percent)}"
        tip = f"<title>{escape(f'{span}: {count} self-edits, {kept} kept')}</title>"
        for kind, n in (("bar quiet", count), ("bar second", kept)):
            if n:
                top = plot.y(n)
                shape = _rect(a, top, max(b - a, 1.0), plot.y(0) - top, kind)
                parts.append(shape.replace("/>", f">{tip}</rect>"))
    for value in ticks(chart.edges[0], chart.edges[-1], 6):
        if chart.edges[0] <= value <= chart.edges[-1]:
            words = label(value, chart.percent, signed=value != 0)
            parts.append(_text(plot.x(value), _HEIGHT - _BOTTOM + 18, words, "middle"))
    if chart.edges[0] < 0 < chart.edges[-1]:
        parts.append(f'<path class="zero" d="M{plot.x(0):.1f} {_TOP:g}V{plot.y(0):.1f}"/>')
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, chart.x_label, "middle"))
    return _svg(chart.alt, _WIDTH, _HEIGHT, parts)


def _heat_map(chart: HeatMap) -> str:
    left, top = 78.0, 26.0
    cell = min((_WIDTH - left - 8) / max(len(chart.columns), 1), 64.0)
    tall = min(cell, 34.0)
    parts = [_text(left + (c + 0.5) * cell, top - 9, name, "middle") for c, name in enumerate(chart.columns)]
    for r, (name, values) in enumerate(zip(chart.rows, chart.values, strict=True)):
        y = top + r * tall
        parts.append(_text(left - 10, y + tall / 2 + 4, name, "end"))
        for c, value in enumerate(values):
            x = left + c * cell
            if value is None:
                parts.append(_rect(x + 1, y + 1, cell - 2, tall - 2, "cell empty"))
                continue
            shape = _rect(x + 1, y + 1, cell - 2, tall - 2, "cell")
            tip = f"{name}, {chart.columns[c]}: {label(value, True)}"
            opening = shape.replace("/>", f' fill-opacity="{0.06 + 0.94 * value:.3f}">')
            parts.append(f"{opening}<title>{escape(tip)}</title></rect>")
            kind = "t on" if value > 0.45 else "t off"
            parts.append(_text(x + cell / 2, y + tall / 2 + 4, f"{100 * value:.0f}", "middle", kind))
    return _svg(chart.alt, _WIDTH, top + tall * len(chart.rows) + 8, parts)


def _svg(alt: str, width: float, height: float, parts: Iterable[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}">'
    return head + "".join(parts) + "</svg>"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "t") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"/>'


def _some(n: int, most: int) -> Iterable[int]:
    """At most about `most` of the places 0..n-1, evenly."""
    return range(0, n, max(1, math.ceil(n / most)))
