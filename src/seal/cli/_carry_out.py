"""Takes an open run to its end: what `train` and `resume` share."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from seal.cli import going_on
from seal.records import Task
from seal.report.sinks import open_sinks
from seal.run import log
from seal.run.folder import Run
from seal.run.progress import shown


def carry_out(run: Run, log_level: str) -> None:
    """Train until the run is finished; its last line says where the results are."""
    console = log.set_up(log_level, run.logs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's notice ends like Ctrl-C
    with going_on(f"seal resume {run.path} continues"):
        from seal.framework import SEALFramework

        run.listeners.append(open_sinks(run.config, run))
        with shown(console) as run.progress:
            framework = SEALFramework(run.config, run=run)
            try:
                summary = framework.run()
            finally:
                framework.close()
    print(summary)
    _show_answers(run, {task.id: task for task in framework.held_out.tasks})
    print(f"results: {run.path}")


def _show_answers(run: Run, tasks: Mapping[str, Task]) -> None:
    """A few questions with the answers before and after."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from seal.report.before_after import before_after
    from seal.report.history import read_history

    arm, rows = before_after(read_history(run.path), tasks)
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("asked, without the passage; what was learned first", "before", arm, "right answer"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        after = f"[green]{escape(row.after)}[/]" if row.right_after else escape(row.after)
        table.add_row(escape(row.question), escape(row.before), after, escape(row.gold))
    Console(highlight=False).print(table)
