"""The two halves of a run's data: nothing that is held out is trained on, and ids tell all tasks apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seal.data.choice import same_passage, unique_ids
from seal.data.load_report import KINDS, LoadReport, Tally, one_line
from seal.data.loader import report_of
from seal.errors import DataError
from seal.records import Task


@dataclass(frozen=True, slots=True)
class Halves:
    """The tasks of a run, and what was left out of them."""

    train: tuple[Task, ...]
    val: tuple[Task, ...]
    reports: tuple[LoadReport, ...]

    def keep(self, fits: Callable[[Task], bool], kind: str, fix: str) -> Halves:
        """The tasks that fit; the others are left out and counted as `kind`.

        Args:
            kind: a key of `KINDS`.
            fix: what helps where none to train on fits.

        Raises:
            DataError: none to train on fits.
        """
        train, val = ([task for task in half if fits(task)] for half in (self.train, self.val))
        if self.train and not train:
            raise DataError(
                f"all {len(self.train)} tasks to train on are left out: {KINDS[kind][1]}",
                fix,
            )
        reports = []
        for report, before, after in zip(self.reports, (self.train, self.val), (train, val), strict=False):
            tally = Tally()
            tally.take(report)
            tally.leave_out(kind, [task.id for task in before if task not in after])
            reports.append(report_of(report.split, after, tally))
        return Halves(tuple(train), tuple(val), tuple(reports))

    def __str__(self) -> str:
        """The counts and what was left out, in one line."""
        return one_line(self.reports)


def halves(
    train: Sequence[Task], val: Sequence[Task], tallies: tuple[Tally, Tally], n_held_out: int | None = None
) -> Halves:
    """Both halves, made fit for each other.

    A task in both is left out of `train`; different tasks of one id get a number behind the later one's.

    Args:
        val: held-out tasks; none where nothing is held out.
        tallies: what reading each half left out.
        n_held_out: so many held-out tasks are measured, the first ones; None: all.

    Raises:
        DataError: every task to train on is held out.
    """
    held_out = {same_passage(task) for task in val}
    leaked = [task.id for task in train if same_passage(task) in held_out]
    tallies[0].leave_out("leak", leaked)
    kept = [task for task in train if task.id not in set(leaked)]
    if train and not kept:
        raise DataError(
            f"all {len(train)} tasks to train on are held out too (first: {leaked[0]})",
            "give other held-out tasks, or set evaluation.enabled to false",
        )
    ids = unique_ids([task.id for task in (*kept, *val)])
    named = [replace(t, id=name) for t, name in zip((*kept, *val), ids, strict=True)]
    train, val = named[: len(kept)], tallies[1].first(named[len(kept) :], n_held_out)
    reports = [report_of("train", train, tallies[0])]
    if val:
        reports.append(report_of("val", val, tallies[1]))
    return Halves(tuple(train), tuple(val), tuple(reports))
