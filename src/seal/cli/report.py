"""Make a page (or Markdown, or pictures) of a run, or compare several; works on a running one too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def report(
    runs: Annotated[list[Path], Argument(help="Folders of runs; several are compared.")],
    out: Annotated[
        Path | None,
        Option(help="HTML file; default: report.html in the run, or comparison.html here."),
    ] = None,
    png: Annotated[Path | None, Option(help="Also draw the charts into this folder, for papers.")] = None,
    markdown: Annotated[bool, Option("--markdown", help="Print Markdown instead, for issues.")] = False,
    continual: Annotated[Path | None, Option(help="Result of `seal continual` to show too.")] = None,
    tasks: Annotated[int, Option(help="Tasks shown with their self-edits; 0 leaves them out.", min=0)] = 200,
) -> None:
    """Make a self-contained HTML report."""
    from seal.extras import need
    from seal.report import page as pages

    if png is not None:
        need("matplotlib", "--png")
    single = len(runs) == 1
    most = tasks if single and not markdown else 0
    views = [pages.run_view(run, continual if single else None, most) for run in runs]
    if markdown:
        print(pages.markdown(views))
    else:
        target = out or (runs[0] / "report.html" if single else Path("comparison.html"))
        print(pages.write_html(views, target))
    if png is not None:
        from seal.report.gallery import comparison_charts
        from seal.report.plots import save_pngs

        several = comparison_charts([v.history for v in views], [v.metrics for v in views])
        for path in save_pngs(views[0].pictures if single else several, png):
            print(path)
