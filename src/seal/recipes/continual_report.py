"""What continual runs show: the official matrices, a table of what is gained and kept, and a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seal.extras import need
from seal.intervals import GAINS, SCORES, interval
from seal.recipes.articles import ends

HEAT_MAP = "the heat map"

Rows = Sequence[Sequence[float]]
"""Accuracies of one sequence: one row an edit, row 0 before any; row k has the first k passages."""


def matrices(chains: Sequence[Rows]) -> tuple[list[list[float]], list[list[float]]]:
    """(K+1) x K means and sample standard deviations over sequences; what was not asked is 0."""
    width = len(chains[0][0])
    mean = [[0.0] * width for _ in range(width + 1)]
    std = [[0.0] * width for _ in range(width + 1)]
    for i, row in enumerate(chains[0]):
        for j in range(len(row)):
            values = [chain[i][j] for chain in chains]
            mean[i][j] = fmean(values)
            std[i][j] = stdev(values) if len(values) > 1 else 0.0
    return mean, std


def summary(chains: Sequence[Rows], first: Sequence[Rows]) -> dict[str, dict[str, Any]]:
    """What is gained and retained, each the mean over sequences with its 95 % interval.

    `unedited`: accuracy of the unedited model; `after_edit`: on a passage right after its edit; `retention`:
    on all passages after the last edit; `forgetting`: after_edit - retention; `gain_after_edit` and
    `gain_retained`: beyond the unedited model; `after_edit_beyond` and `retention_beyond`: beyond `first`,
    sequence by sequence.
    """
    mine, theirs = _parts(chains), _parts(first)
    parts = dict(mine)
    for name, plus, minus in (
        ("gain_after_edit", mine["after_edit"], mine["unedited"]),
        ("gain_retained", mine["retention"], mine["unedited"]),
        ("forgetting", mine["after_edit"], mine["retention"]),
        ("after_edit_beyond", mine["after_edit"], theirs["after_edit"]),
        ("retention_beyond", mine["retention"], theirs["retention"]),
    ):
        parts[name] = [a - b for a, b in zip(plus, minus, strict=True)]
    return {
        name: {
            "mean": round(fmean(values), 4),
            "interval": ends(interval(values, bounds=SCORES if name in mine else GAINS)),
        }
        for name, values in parts.items()
    }


def _parts(chains: Sequence[Rows]) -> dict[str, list[float]]:
    return {
        "unedited": [fmean(rows[0]) for rows in chains],
        "after_edit": [fmean(rows[k + 1][k] for k in range(len(rows[0]))) for rows in chains],
        "retention": [fmean(rows[-1]) for rows in chains],
    }


def table(result: dict[str, Any]) -> str:
    """The methods side by side, as Markdown, in percent; the last two columns are paired with the first."""
    first = next(iter(result["methods"]))
    columns = {"unedited": "unedited", "after_edit": "accuracy after the edit"}
    columns |= {name: name for name in ("retention", "forgetting")}
    columns |= {"after_edit_beyond": f"after the edit, beyond {first}"}
    columns |= {"retention_beyond": f"retention, beyond {first}"}
    lines = ["| method | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, data in result["methods"].items():
        cells = [
            "" if method == first and name.endswith("_beyond") else _cell(data["summary"][name], name)
            for name in columns
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(part: dict[str, Any], name: str) -> str:
    number = "{:+.1f}" if name.endswith("_beyond") else "{:.1f}"
    bounds = [number.format(100 * end) for end in part["interval"] or ()] or ["unknown"]
    return number.format(100 * part["mean"]) + f" [{', '.join(bounds)}]"


def heat_map(result: dict[str, Any], path: Path) -> Path:
    """Draw the mean matrices of all methods into `path` (PNG or SVG)."""
    need("matplotlib", HEAT_MAP)
    from matplotlib.figure import Figure

    methods = result["methods"]
    k = result["n_datapoints"]
    figure = Figure(figsize=(1.2 + 0.62 * k * len(methods), 1.6 + 0.5 * k), layout="constrained")
    axes = figure.subplots(1, len(methods), squeeze=False)[0]
    highest = max(0.01, *(v for d in methods.values() for row in d["mean_over_sequences"] for v in row))
    for axis, (method, data) in zip(axes, methods.items(), strict=True):
        matrix = [
            [value if i == 0 or j < i else float("nan") for j, value in enumerate(row)]
            for i, row in enumerate(data["mean_over_sequences"])
        ]
        image = axis.imshow(matrix, vmin=0, vmax=highest, cmap="viridis", aspect="auto")
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if value == value:
                    color = "white" if value < 0.6 * highest else "black"
                    axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=color, fontsize=8)
        axis.set_title(method)
        axis.set_xlabel("passage")
        axis.set_ylabel("edits so far")
        axis.set_xticks(range(k), [str(j + 1) for j in range(k)])
        axis.set_yticks(range(k + 1), [str(i) for i in range(k + 1)])
    figure.colorbar(image, ax=list(axes), label="accuracy")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
