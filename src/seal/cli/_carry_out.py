"""Takes an open run to its end: what `train` and `resume` share."""

from __future__ import annotations

import signal

from seal.cli import Interrupted
from seal.report.sinks import open_sinks
from seal.run import log
from seal.run.folder import Run


def carry_out(run: Run, log_level: str) -> None:
    """Train until the run is finished; its last line says where the results are."""
    log.set_up(log_level, run.logs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's notice ends like Ctrl-C
    try:
        from seal.framework import SEALFramework

        run.listeners.append(open_sinks(run.config, run))
        summary = SEALFramework(run.config, run=run).run()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; seal resume {run.path} continues") from None
    print(summary)
    print(f"results: {run.path}")
