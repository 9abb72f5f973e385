"""The results as JSON, as the tables of `docs/benchmarks.md` (between its markers) and as one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- inner-loop: written by python -m benchmarks.inner_loop -->", "<!-- /inner-loop -->"


def write_report(result: dict[str, Any], out: Path | None, root: Path) -> list[Path]:
    """Write everything below `out`, or in the repository (`root`) when `out` is None; returns the files."""
    data = out or root / "benchmarks" / "results"
    docs = out or root / "docs"
    page, picture, numbers = docs / "benchmarks.md", docs / "img" / "inner-loop.png", data / "inner_loop.json"
    for folder in (data, docs, picture.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if result["settings"]["only"] and numbers.is_file():
        result = merge(json.loads(numbers.read_text("utf-8")), result)
    numbers.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    written = [numbers, page]
    if any("growth" in found for found in result["dtypes"].values()):
        _plot(result, picture)
        written.append(picture)
    write_section(page, BEGIN, END, markdown(result))
    return written


def write_section(page: Path, begin: str, end: str, text: str) -> None:
    """Put `text` between two markers of a page; markers that it lacks come at its end."""
    old = page.read_text("utf-8") if page.is_file() else ""
    if begin not in old:
        old += f"\n{begin}\n{end}\n" if old else f"{begin}\n{end}\n"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new`, which measured some parts, with the other parts of `old`."""
    dtypes = dict(old["dtypes"])
    for dtype, found in new["dtypes"].items():
        before = dtypes.get(dtype, {"measures": []})
        fresh = {(m["what"], m["peer"]): m for m in found["measures"]}
        kept = {(m["what"], m["peer"]): m for m in before["measures"]}
        dtypes[dtype] = before | found | {"measures": list((kept | fresh).values())}
    return old | new | {"dtypes": dtypes}


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    s, machine = result["settings"], result["machine"]
    where = machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}, PEFT {machine['peft']}"
    how = (
        f"Medians of {s['repeats']} interleaved repetitions; ratios are taken within a repetition and shown "
        "with their smallest and largest."
    )
    parts = [f"{where}; {versions}; {s['model']}; {result['workload']}. {how}"]
    for dtype, found in result["dtypes"].items():
        if found["measures"]:
            parts.append(f"**{dtype}** (PEFT's adapter in {found['peer_adapters']})")
            parts.append(_measures(found["measures"]))
    if result.get("memory"):
        parts += ["**Peak memory** of training, each row a process of its own", _memory(result["memory"])]
    if any("growth" in found for found in result["dtypes"].values()):
        parts.append("![Training speed against the number of adapters and the length](img/inner-loop.png)")
    for dtype, found in result["dtypes"].items():
        if "profile" in found:
            parts.append(f"**Where training spends its time** ({dtype}, top operators)")
            parts.append(_profile(found["profile"]))
    return "\n\n".join(parts)


def _measures(measures: list[dict[str, Any]]) -> str:
    lines = ["| measure | seal | peer | peer's | ratio (range) | goal |", "|---|---|---|---|---|---|"]
    for m in measures:
        r, unit = m["ratio"], m["unit"]
        if unit == "GFLOP/s":  # a share of the peak
            ratio, goal = f"{r['median']:.0%} ({r['low']:.0%}–{r['high']:.0%})", f"≥ {m['goal']:.0%}"
        else:
            ratio = f"**{r['median']:.1f} ×** ({r['low']:.1f}–{r['high']:.1f})"
            goal = "" if m["goal"] is None else f"≥ {m['goal']:g} ×"
        if goal and r["median"] < m["goal"]:
            goal += " (missed)"
        ours, theirs = (f"{_number(m[who]['median'])} {unit}" for who in ("ours", "theirs"))
        lines.append(f"| {m['what']} | {ours} | {m['peer']} | {theirs} | {ratio} | {goal} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _memory(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| adapters | rank | before | peak | growth | adapters' own state |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        sizes = [f"{c:,.0f} MiB" for c in (r["before"], r["peak"], r["peak"] - r["before"], r["own"])]
        lines.append(f"| {r['adapters']} | {r['rank']} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def _profile(rows: list[dict[str, Any]]) -> str:
    lines = ["| operator | own time | share | calls |", "|---|---|---|---|"]
    lines += [f"| `{r['name']}` | {r['ms']:,.0f} ms | {r['share']:.1%} | {r['calls']:,} |" for r in rows]
    return "\n".join(lines)


def _plot(result: dict[str, Any], path: Path) -> None:
    """Two small panels: tokens a second by number of adapters, and by sequence length beside PEFT."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
    for colour, (dtype, found) in zip(("C0", "C1"), result["dtypes"].items(), strict=False):
        if "growth" not in found:
            continue
        adapters, lengths = found["growth"]["adapters"], found["growth"]["lengths"]
        left.plot(
            [r["adapters"] for r in adapters],
            [r["tokens_per_s"] for r in adapters],
            "o-",
            color=colour,
            label=dtype,
        )
        xs = [r["length"] for r in lengths]
        right.plot(xs, [r["tokens_per_s"] for r in lengths], "o-", color=colour, label=f"seal, {dtype}")
        right.plot(xs, [r["peft_tokens_per_s"] for r in lengths], "s:", color=colour, label=f"PEFT, {dtype}")
    left.set(xlabel="adapters at once (51 tokens each)", ylabel="training tokens/s")
    right.set(xlabel="tokens a sequence (8 adapters)")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
