"""Which passages: the official choice, the division into halves, and ids from content."""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeVar

from seal.errors import ConfigError, DataError
from seal.records import Task
from seal.seeds import derive

VAL_SHARE = 0.2
"""Share of a file that is its validation half, where the file itself says nothing of splits."""

T = TypeVar("T")


def official_subset(records: Sequence[T], start: int, n: int, seed: int = 42) -> list[T]:
    """The official choice of passages: shuffle all with `seed`, then take `[start, start + n)`.

    Raises:
        DataError: the range is not within the records.
    """
    if start < 0 or n < 1 or start + n > len(records):
        raise DataError(
            f"passages {start} to {start + n} of {len(records)}", "choose start and n within the data set"
        )
    shuffled = list(records)
    random.Random(seed).shuffle(shuffled)
    return shuffled[start : start + n]


def split_tasks(tasks: Sequence[Task], val_share: float, seed: int = 0) -> tuple[list[Task], list[Task]]:
    """Train and val parts, each in the given order; which task goes where depends on its id and the seed.

    Tasks with the same passage stay together. Both parts get at least one where there are two passages.

    Raises:
        ConfigError: `val_share` is not within (0, 1).
    """
    if not 0 < val_share < 1:
        raise ConfigError(f"validation share is {val_share}", "give a number between 0 and 1")
    groups: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        groups.setdefault(same_passage(task), []).append(i)
    ranked = sorted(groups.values(), key=lambda group: (derive(seed, "split", tasks[group[0]].id), group[0]))
    count = max(1, round(len(tasks) * val_share))
    val: set[int] = set()
    for group in ranked[:-1]:  # one stays to train on
        if len(val) < count:
            val.update(group)
    return (
        [t for i, t in enumerate(tasks) if i not in val],
        [t for i, t in enumerate(tasks) if i in val],
    )


def same_passage(task: Task) -> str:
    """Equal for tasks that teach the same: texts that differ in blanks and Unicode form only, equal grids."""
    if isinstance(task.context, str):
        return " ".join(unicodedata.normalize("NFC", task.context).split())
    try:
        return json.dumps(task.context, sort_keys=True)
    except (TypeError, ValueError):
        return f"task {task.id}"


def task_id(title: str, context: Any, number: int = 0) -> str:
    """A stable id from the content: slug of the title, and a short hash of title and context.

    A context that JSON cannot hold is named by its `number` instead.
    """
    text = unicodedata.normalize("NFKD", title.casefold()).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:40].strip("-") or "task"
    try:
        content = context if isinstance(context, str) else json.dumps(context, sort_keys=True)
    except (TypeError, ValueError):
        return f"{slug}-{number:04d}"
    digest = hashlib.sha256(f"{title}\n{content}".encode("utf-8", "replace")).hexdigest()
    return f"{slug}-{digest[:8]}"


def unique_ids(ids: Sequence[str]) -> list[str]:
    """The same ids, with `-2`, `-3`, ... behind those that occurred before."""
    taken, out = set(ids), []
    seen: set[str] = set()
    for name in ids:
        unique, number = name, 2
        while unique in seen or (unique != name and unique in taken):
            unique, number = f"{name}-{number}", number + 1
        seen.add(unique)
        out.append(unique)
    return out
