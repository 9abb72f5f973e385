"""Pick the best completions of a query run as SFT data for the next ReST-EM round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from seal.cli import _backend


def build_sft(
    run: Annotated[Path, Argument(help="Result file of `seal query` (run_<timestamp>.json).")],
    output_dir: Annotated[
        Path | None, Option("--output_dir", "--output-dir", help="Folder for the data; default: the run's.")
    ] = None,
    k_best: Annotated[
        int, Option("--k_best", "--k-best", min=1, help="Completions to keep of every article.")
    ] = 1,
) -> None:
    """Write the completions with the best mean accuracy to sft_best<k>of<n>_<timestamp>.jsonl."""
    from seal.recipes import build_sft as recipe

    built = recipe.build_sft(run, output_dir, k_best)
    print(f"{built.n} prompt-completion pairs")
    if built.skipped:
        print(f"{built.skipped} articles left out: none of their completions was measured")
    if built.tied:
        print(f"{built.tied} articles had a tie at the cut; the first completion was taken")
    if built.no_better:
        print(f"{built.no_better} kept completions are not better than the baseline")
    print(built.path)
    _backend.say_next(f"seal train-sft {built.path} --model MODEL --output-dir FOLDER")
