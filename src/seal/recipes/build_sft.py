"""From a query run's result file to ReST-EM's SFT data: the best completions of every article.

One JSON line `{"prompt", "completion"}` each, in the order of the articles; the completion is stripped, the
prompt stays as the policy saw it. Ties go to the first.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from seal.errors import DataError
from seal.recipes.results import QueryRun, RunArticle, read_run
from seal.selection import top_k


@dataclass(frozen=True, slots=True)
class BuiltSFT:
    """The written data and what to know about it."""

    path: Path
    n: int
    """Lines."""
    tied: int
    """Articles where order alone decided between equal completions."""
    no_better: int
    """Kept completions whose mean accuracy is not above the baseline."""
    skipped: int
    """Articles without a single measured completion."""


def build_sft(run_file: str | Path, output_dir: str | Path | None = None, k_best: int = 1) -> BuiltSFT:
    """Write `sft_best<k>of<n>_<timestamp>.jsonl`, a new file, in `output_dir` (default: beside the run).

    Raises:
        DataError: the result file cannot be used, or `k_best` is not 1 to the completions an article has.
    """
    run = read_run(run_file)
    lines, counts = sft_lines(run, k_best)
    of = max(len(article.completions) for article in run.articles)
    folder = Path(output_dir) if output_dir is not None else Path(run_file).parent
    folder.mkdir(parents=True, exist_ok=True)
    path = _write_new(folder, f"sft_best{k_best}of{of}_{time.strftime('%m%d_%H%M%S')}", "".join(lines))
    return BuiltSFT(path, len(lines), *counts)


def sft_lines(run: QueryRun, k_best: int = 1) -> tuple[list[str], tuple[int, int, int]]:
    """The lines of the data, with how many articles tied, picks beat no baseline, articles had nothing."""
    most = max((len(article.completions) for article in run.articles), default=0)
    if not 1 <= k_best <= most:
        raise DataError(f"k_best is {k_best} and an article has {most} completions", f"use 1 to {most}")
    lines: list[str] = []
    tied = no_better = skipped = 0
    for article in run.articles:
        best, tie, weak = _best(article, k_best)
        tied, no_better, skipped = tied + tie, no_better + weak, skipped + (not best)
        for text in best:
            pair = {"prompt": article.prompt, "completion": text}
            lines.append(json.dumps(pair, ensure_ascii=False) + "\n")
    if not lines:
        raise DataError("no completion of this run was measured", "see the errors in the result file")
    return lines, (tied, no_better, skipped)


def _best(article: RunArticle, k: int) -> tuple[list[str], bool, int]:
    """The article's best texts, whether a tie was broken, and how many do not beat their baseline."""
    measured = [c for c in article.completions if c.stats.adapter_mean is not None and c.text.strip()]
    chosen, tie = top_k([c.stats.adapter_mean or 0.0 for c in measured], k)
    best = [measured[i] for i in chosen]
    weak = sum((c.stats.gain_mean or 0.0) <= 0 for c in best)
    return [c.text.strip() for c in best], tie, weak


def _write_new(folder: Path, stem: str, text: str) -> Path:
    """Write a file that did not exist; a second one in the same second gets a number."""
    for number in range(1, 1000):
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}_{number}.jsonl")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            continue
        return path
    raise DataError(f"{folder} has a thousand files named {stem}", "choose another folder")
