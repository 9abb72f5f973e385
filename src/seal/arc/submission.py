"""Kaggle's `submission.json`: two attempts for every test input of every task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from seal.arc.grid import Grid
from seal.arc.vote import Attempts
from seal.errors import DataError

Entry = dict[str, Sequence[Sequence[int]]]
EMPTY: Grid = ((0,),)


def submission(predictions: Mapping[str, Attempts | None]) -> dict[str, list[Entry]]:
    """Attempts by test name (`task-0`, `task-1`, ...) as a submission, tests in their order.

    A test below the highest one named, or one without an answer, gets two 1x1 grids of 0: Kaggle refuses
    files with gaps.

    Raises:
        DataError: a name does not end in the number of a test.
    """
    tests: dict[str, dict[int, Attempts | None]] = {}
    for name, attempts in predictions.items():
        task, dash, number = name.rpartition("-")
        if not dash or not number.isdigit():
            raise DataError(f"{name!r} does not name a test", "use the task id, a dash and the test's number")
        tests.setdefault(task, {})[int(number)] = attempts
    return {
        task: [_entry(numbered.get(i)) for i in range(max(numbered) + 1)]
        for task, numbered in sorted(tests.items())
    }


def _entry(attempts: Attempts | None) -> Entry:
    first, second = attempts or (EMPTY, EMPTY)
    return {"attempt_1": [list(row) for row in first], "attempt_2": [list(row) for row in second]}


def write_submission(predictions: Mapping[str, Attempts | None], path: Path) -> None:
    """Write `submission(predictions)` as JSON.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    text = json.dumps(submission(predictions))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise DataError(f"{path} exists already", "choose another --out") from None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}", "choose another --out") from None
