"""ARC tasks in local files, in the layouts that people have them in.

| layout | is |
|---|---|
| `ID.json` | one task |
| a folder, nested or not | all tasks in it; `training` and `evaluation` in names are the halves |
| `X_challenges.json` | Kaggle's; its tests' solutions are looked for in `X_solutions.json` beside it |
| JSON lines, or a list | rows with `train`, `test` and an `id` or `task_id` |
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.arc.records import to_task
from seal.data.fields import label_of
from seal.data.files import (
    ABOUT_DATA,
    JSON,
    ending,
    is_hidden,
    is_lines,
    parse_json,
    parse_lines,
    read_json,
    read_text,
)
from seal.data.load_report import Tally
from seal.errors import DataError
from seal.records import Task


@dataclass(frozen=True, slots=True)
class Found:
    """A task, the file that it stands in, and the half that the file's name speaks of."""

    task: Task
    where: str
    half: str = ""
    """`train`, `val`, `test`, or empty where nothing says."""


def read_local(path: Path, tally: Tally) -> list[Found]:
    """Every task in a file or folder, in the order of their names.

    Raises:
        DataError: there is none, one is malformed, or two different ones in a half have one id.
    """
    if not path.is_dir():
        return _distinct(_read_file(path, ""), tally)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    chosen = [p for p in files if _is_data(p, path)]
    tally.leave_out("file", (str(p) for p in files if p not in set(chosen) and not _is_solutions(p)))
    if not chosen:
        raise DataError(f"{path} holds no JSON files", "give a folder of tasks")
    found = [f for p in chosen for f in _read_file(p, label_of(p.relative_to(path)))]
    return _distinct(found, tally)


def rows_of(records: Iterable[tuple[str, Any]], half: str = "") -> list[Found]:
    """Tasks of rows; one without an id is called by its number, from 0."""
    found = []
    for number, (where, row) in enumerate(records):
        if not isinstance(row, dict):
            raise DataError(f"{where}: is {row!r:.60}", 'give {"train": [...], "test": [...]}')
        given = row.get("id") if row.get("id") is not None else row.get("task_id")
        name = str(number if given is None else given)
        found.append(Found(to_task(name, row, where=where), where, half))
    return found


def _is_data(path: Path, folder: Path) -> bool:
    name = path.name.casefold()
    if is_hidden(path.relative_to(folder)) or name in ABOUT_DATA or "submission" in name:
        return False
    return ending(path) in JSON and not _is_solutions(path)


def _is_solutions(path: Path) -> bool:
    return "solutions" in path.name.casefold() and ending(path) in JSON


def _read_file(path: Path, half: str) -> list[Found]:
    text = read_text(path)
    if is_lines(text, path):
        return rows_of(parse_lines(text, path), half)
    data = parse_json(text, path)
    if isinstance(data, list):
        return rows_of(((f"{path}, record {i}", row) for i, row in enumerate(data, 1)), half)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: holds no task", 'give {"train": [...], "test": [...]}')
    if "train" in data or "test" in data:
        return [Found(to_task(path.name.partition(".")[0], data, where=str(path)), str(path), half)]
    solutions = _solutions(path)
    tasks = [to_task(n, r, solutions.get(n), where=f"{path}, task {n}") for n, r in data.items()]
    return [Found(task, f"{path}, task {task.id}", half) for task in tasks]


def _solutions(path: Path) -> dict[str, Any]:
    """What the solutions file beside a challenges file holds; nothing if there is none."""
    wanted = re.sub("challenges", "solutions", path.name, flags=re.IGNORECASE).casefold()
    if wanted == path.name.casefold():
        return {}
    for beside in sorted(path.parent.iterdir()):
        if beside.name.casefold() == wanted:
            data = read_json(beside)
            if not isinstance(data, dict):
                raise DataError(f"{beside}: holds {type(data).__name__}", "give {id: [grid, ...]}")
            return data
    return {}


def _distinct(found: list[Found], tally: Tally) -> list[Found]:
    """Each task once in its half; the same id for another task is refused."""
    first: dict[tuple[str, str], Found] = {}
    kept = []
    for each in found:
        known = first.setdefault((each.half, each.task.id), each)
        if known is each:
            kept.append(each)
        elif known.task == each.task:
            tally.leave_out("repeated", [each.where])
        else:
            raise DataError(
                f"two tasks are called {each.task.id!r}: {known.where} and {each.where}", "rename one of them"
            )
    return kept
