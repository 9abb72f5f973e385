"""One ARC task as it stands in a file or a row of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seal.arc.grid import as_grid
from seal.data.files import check_text
from seal.data.load_report import Tally
from seal.errors import DataError
from seal.records import Task

_FIX = 'give {"train": [...], "test": [...]}'


def to_task(name: str, record: Any, solutions: Any = None, where: str = "") -> Task:
    """A record `{"train": [{"input", "output"}], "test": [...]}` as a task; grids are validated.

    Args:
        solutions: outputs of the tests when they lie apart (Kaggle).
        where: the file, for messages.

    Raises:
        DataError: something is missing or malformed; the pair is named.
    """
    place = where or f"task {name}"
    check_text(name, f"{place}, id")
    if not isinstance(record, dict):
        raise DataError(f"{place} has no list of train pairs", _FIX)
    train, tests = _pairs(record.get("train")), _pairs(record.get("test"))
    if train is None:
        raise DataError(f"{place} has no list of train pairs", _FIX)
    if not tests or not train:
        raise DataError(f"{place} has no test or no demonstration", "give at least one of each")
    context = tuple(_pair(pair, f"{place}, train {i}", True) for i, pair in enumerate(train))
    if solutions is not None:
        if not isinstance(solutions, list) or len(solutions) != len(tests):
            count = len(solutions) if isinstance(solutions, list) else f"{solutions!r:.40} as"
            raise DataError(f"{place} has {len(tests)} tests and {count} solutions", "give one a test")
        tests = [
            {**test, "output": output} if isinstance(test, dict) else test
            for test, output in zip(tests, solutions, strict=True)
        ]
    target = tuple(_pair(pair, f"{place}, test {i}", False) for i, pair in enumerate(tests))
    return Task(name, context, target, title=name)


def with_solutions(tasks: Sequence[Task], tally: Tally, source: str) -> list[Task]:
    """Those `tasks` that have a test whose solution is known: no model is scored on others.

    Tests without one stay in a task that has another, so that every test keeps its number; they are answered
    and not scored.

    Raises:
        DataError: no test of any task has one.
    """
    kept = []
    for task in tasks:
        tests = task.target if isinstance(task.target, tuple) else ()
        missing = [i for i, test in enumerate(tests) if isinstance(test, tuple) and test[1:] == (None,)]
        if missing and len(missing) == len(tests):
            tally.leave_out("unsolved_task", [task.id])
            continue
        tally.leave_out("unsolved_test", (f"{task.id}, test {i}" for i in missing))
        kept.append(task)
    if tasks and not kept:
        raise DataError(
            f"{source}: none of its {len(tasks)} tasks has a test with a solution (first: {tasks[0].id})",
            "put X_solutions.json beside X_challenges.json, or name tasks with solutions",
        )
    return kept


def _pairs(value: Any) -> list[Any] | None:
    """A list of pairs; `datasets` may give a pair of lists for it."""
    if isinstance(value, list):
        return value
    inputs, outputs = (value.get("input"), value.get("output")) if isinstance(value, dict) else (None, None)
    if not isinstance(inputs, list):
        return None
    if outputs is None:
        return [{"input": grid} for grid in inputs]
    if not isinstance(outputs, list) or len(outputs) != len(inputs):
        return None
    return [{"input": a, "output": b} for a, b in zip(inputs, outputs, strict=True)]


def _pair(pair: Any, where: str, solved: bool) -> tuple[Any, Any]:
    if not isinstance(pair, dict) or "input" not in pair or (solved and "output" not in pair):
        raise DataError(f"{where} is not an input and an output: {pair!r:.60}", "give both grids")
    output = pair.get("output")
    known = solved or output is not None
    return as_grid(pair["input"], f"{where} input"), as_grid(output, f"{where} output") if known else None
