"""Grade a run's stored answers again with another grader, without training anything again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from seal.wording import counted

if TYPE_CHECKING:
    from seal.report.regrade import Regrade


def regrade(
    run: Annotated[Path, Argument(help="Folder of the run.")],
    grader: Annotated[str, Option(help="lexical, judge, local, or package.module:Class.")],
    model: Annotated[str | None, Option(help="Judge's model name on its server.")] = None,
    base_url: Annotated[str | None, Option(help="Judge's OpenAI-compatible server.")] = None,
    api_key_env: Annotated[str | None, Option(help="Environment variable with the judge's key.")] = None,
) -> None:
    """Show how far two graders agree, and the rewards under the new one beside the old."""
    from seal.report import regrade as grades
    from seal.report.history import read_history, read_tasks

    history = read_history(run)
    given: dict[str, Any] = {"model": model, "base_url": base_url, "api_key_env": api_key_env}
    settings = {name: value for name, value in given.items() if value is not None}
    built, name = grades.grader_for({"kind": grader, **settings}, history)
    tasks, _ = read_tasks(history.config)
    result = grades.regrade(history, tasks, built, name)
    _show(result, history.config.grader.kind)
    print(f"all of it: {grades.save(result, run)}")


def _show(result: Regrade, old: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from seal.intervals import span

    console = Console(highlight=False)
    print(f"{result.answers} stored answers, {old} against {result.grader}: ", end="")
    print(f"kappa {result.kappa:.3f}, {result.agreement:.1%} agree, {result.errors} not graded")
    known = [e for e in result.edits if e.new_reward is not None]
    if known:
        before = sum(e.old_reward for e in known) / len(known)
        after = sum(e.new_reward or 0.0 for e in known) / len(known)
        print(f"mean reward of {counted(len(known), 'self-edit')}: {before:.3f}, now {after:.3f}", end="")
        print("" if result.same_best is None else f"; same best self-edit in {result.same_best:.0%} of tasks")
    if result.arms:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("held out", old, result.grader, "gain", "gain now, 95 % interval"):
            table.add_column(heading)
        for arm in result.arms:
            new, gain = ("–" if v is None else f"{v:.1%}" for v in (arm.new, arm.new_gain))
            sure = span(arm.new_gain_low, arm.new_gain_high, sign=True)
            table.add_row(arm.arm, f"{arm.old:.1%}", new, f"{arm.old_gain:+.1%}", f"{gain}  {sure}")
        console.print(table)
