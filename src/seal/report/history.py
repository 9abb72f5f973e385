"""What a run's journal holds, as records: the one source of metrics, reports and the live view.

Reading takes no lock and works on running, finished and crashed runs alike.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seal.data.load_report import LoadReport
from seal.errors import RunError, SealError
from seal.records import (
    Answer,
    ArmScore,
    Baseline,
    EditResult,
    Phase,
    Plan,
    PolicyUpdate,
    SelfEdit,
    Task,
    Trial,
    baseline_key,
)
from seal.run import fingerprint
from seal.run.codec import decode
from seal.run.folder import read_config
from seal.run.journal import Journal, Row
from seal.settings import SEALConfig

KINDS: dict[str, type[Any]] = {
    "plan": Plan,
    "baseline": Baseline,
    "edit": SelfEdit,
    "trial": Trial,
    "result": EditResult,
    "update": PolicyUpdate,
    "arm": ArmScore,
    "phase": Phase,
    "loaded": LoadReport,
}
"""Journal kinds that become records; other kinds are left alone."""


@dataclass(frozen=True)
class History:
    """A run as far as it has come. Build it with `of` or `read_history`."""

    path: Path
    config: SEALConfig
    environments: tuple[dict[str, Any], ...]
    """What it ran on: more than one where a resumption ran on something else."""
    rows: int
    started: str
    """When the first row was written, UTC; empty for an empty journal."""
    last: str
    finished: bool
    plans: dict[int, Plan] = field(default_factory=dict)
    baselines: dict[tuple[str, str], Baseline] = field(default_factory=dict)
    """By (policy, task id); without those that had the passage at hand."""
    edits: dict[str, SelfEdit] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    results: tuple[EditResult, ...] = ()
    updates: dict[int, PolicyUpdate] = field(default_factory=dict)
    arms: tuple[ArmScore, ...] = ()
    phases: tuple[Phase, ...] = ()
    loaded: tuple[LoadReport, ...] = ()
    """What each half of the data came to."""

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.path.resolve().name

    @property
    def rounds(self) -> list[int]:
        """Rounds that were begun, ascending."""
        return sorted({*self.plans, *self.results_of})

    @cached_property
    def results_of(self) -> dict[int, list[EditResult]]:
        """Results by round."""
        groups: dict[int, list[EditResult]] = defaultdict(list)
        for result in self.results:
            groups[result.iteration].append(result)
        return dict(groups)

    @cached_property
    def result_of(self) -> dict[str, EditResult]:
        """Results by self-edit."""
        return {result.edit_id: result for result in self.results}

    @cached_property
    def trials_of(self) -> dict[str, list[Trial]]:
        """Trials by self-edit, repeats ascending."""
        groups: dict[str, list[Trial]] = defaultdict(list)
        for trial in sorted(self.trials, key=lambda t: t.repeat):
            groups[trial.edit_id].append(trial)
        return dict(groups)

    @cached_property
    def trials_in(self) -> dict[tuple[str, int], list[Trial]]:
        """Trials by (arm, round), in the order they were measured."""
        groups: dict[tuple[str, int], list[Trial]] = defaultdict(list)
        for trial in self.trials:
            groups[trial.arm, trial.iteration].append(trial)
        return dict(groups)

    def before(self, trial: Trial) -> tuple[Answer, ...]:
        """The answers before training that `trial` is compared with; empty when they were not kept."""
        baseline = self.baselines.get((trial.policy, trial.task_id))
        return trial.outcome.baseline or (baseline.answers if baseline else ())

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        config: SEALConfig,
        path: Path,
        environments: Iterable[dict[str, Any]] = (),
        known: dict[int, Any] | None = None,
    ) -> History:
        """The history that `rows` tell.

        Args:
            known: records by row number from an earlier look at the same journal; it is added to, so that a
                look at a growing journal decodes new rows only.

        Raises:
            RunError: a row of a known kind does not fit its record.
        """
        known = {} if known is None else known
        records: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for row in rows:
            if row.kind in KINDS:
                if row.n not in known:
                    known[row.n] = decode(KINDS[row.kind], row.data)
                records[row.kind].append(known[row.n])
        keys = [row.key for row in rows if row.kind == "baseline"]
        return cls(
            path=path,
            config=config,
            environments=tuple(environments),
            rows=len(rows),
            started=rows[0].time if rows else "",
            last=rows[-1].time if rows else "",
            finished=any(row.kind == "summary" for row in rows),
            plans={plan.iteration: plan for plan in records["plan"]},
            baselines={
                (b.policy, b.task_id): b
                for key, b in zip(keys, records["baseline"], strict=True)
                if key == baseline_key(b.policy, b.task_id)
            },
            edits={edit.id: edit for edit in records["edit"]},
            trials=tuple(records["trial"]),
            results=tuple(records["result"]),
            updates={update.iteration: update for update in records["update"]},
            arms=tuple(records["arm"]),
            phases=tuple(records["phase"]),
            loaded=tuple(records["loaded"]),
        )


def read_history(path: str | Path, known: dict[int, Any] | None = None) -> History:
    """The run in folder `path`, which may be running; `known` is as in `History.of`.

    Raises:
        RunError: it is no run folder, or its journal is corrupt.
    """
    folder = Path(path)
    config = read_config(folder)
    return History.of(Journal.read(folder / "journal.jsonl"), config, folder, _environments(folder), known)


def read_tasks(config: SEALConfig) -> tuple[dict[str, Task], str]:
    """The run's tasks by id, and why they are missing ("" when they are not).

    They are read from where the run read them. Passages and gold answers are not in the journal, so without
    the data a report shows less; that is no error.
    """
    from seal.setup import load_data

    try:
        fingerprint.check_classes(config, Path(config.output_dir))
        data = load_data(config)
    except (SealError, OSError) as error:
        return {}, str(error)
    return {task.id: task for task in (*data.train, *data.val)}, ""


def _environments(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("environment*.json"), key=lambda file: (len(file.name), file.name))
    found = []
    for file in files:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{file}: cannot be read: {error}", "restore the file, or move it away") from None
        found.append(data if isinstance(data, dict) else {})
    return found
