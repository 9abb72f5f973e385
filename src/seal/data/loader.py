"""From a source (built-in corpus, file, folder, hub name, a loader of the user's) to tasks.

Nothing is dropped or changed silently: what a `LoadReport` counts is all that happened.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from seal.cloze import cloze_questions
from seal.data.formats import UNANSWERABLE, Passage, group_rows, read_passages
from seal.errors import ConfigError, DataError
from seal.plugins import build, is_import_path, load_object
from seal.records import Question, Task
from seal.seeds import derive

HUB_NAMES = {"squad": "rajpurkar/squad", "squad_v2": "rajpurkar/squad_v2"}
INVENTED = "invented"
SPLITS = {"train": "train", "val": "val", "validation": "val", "all": "all"}
VAL_SHARE = 0.2
"""Share of a file that is its validation half, where the file itself says nothing of splits."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading did."""

    passages: int
    """Passages in the source, before the split was chosen."""
    tasks: int
    questions: int
    unanswerable: int = 0
    """Questions without an answer in their passage (SQuAD v2), dropped or kept."""
    passages_dropped: int = 0
    """Passages left out because all their questions were unanswerable."""
    duplicates: int = 0
    """Passages whose title and text stood in the source before; they are kept."""


class DataLoader:
    """Loads tasks from one source.

    Args:
        source: `builtin`, `invented` (made-up worlds, `seal.data.invented`), `squad`, `squad_v2` (the hub's),
            a file or folder (`seal.data.formats`), or the import path `package.module:Class` of a loader with
            `load_data()`.
        split: `train`, `val` or `all`. A file without `split` fields is divided by `split_tasks`.
        max_samples: at most so many tasks, the first ones; None means all.
        unanswerable: what happens to unanswerable SQuAD v2 questions: `drop` them, or `keep` them with the
            gold answer "unanswerable".
        require_questions: a passage without questions is an error; False for documents to learn.
        questions: `own`: the source's; `fill`: cloze questions (`seal.cloze`) for a passage that has none;
            `cloze`: cloze questions for every passage.
        seed: of the division into train and val.
        options: of `seal.data.invented.tasks`, for `invented` only.
    """

    def __init__(
        self,
        source: str | Path = "builtin",
        *,
        split: str = "all",
        max_samples: int | None = None,
        unanswerable: Literal["drop", "keep"] = "drop",
        require_questions: bool = True,
        questions: Literal["own", "fill", "cloze"] = "own",
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}", "choose train, val or all")
        if unanswerable not in ("drop", "keep"):
            raise ConfigError(f"unanswerable is {unanswerable!r}", "choose drop or keep")
        if max_samples is not None and max_samples < 1:
            raise ConfigError(f"max_samples is {max_samples}", "give at least 1, or nothing for all")
        self.source, self.split, self.max_samples = str(source), SPLITS[split], max_samples
        self.unanswerable, self.require_questions, self.seed = unanswerable, require_questions, seed
        if questions not in ("own", "fill", "cloze"):
            raise ConfigError(f"questions is {questions!r}", "choose own, fill or cloze")
        self.questions, self.options = questions, dict(options or {})
        self.report = LoadReport(0, 0, 0)

    def load_data(self) -> list[tuple[Any, Task]]:
        """The tasks as (context, task) pairs."""
        return [(task.context, task) for task in self.load_tasks()]

    def load_tasks(self) -> list[Task]:
        """The tasks, in the order of the source; `self.report` then says what was left out.

        Raises:
            DataError: the source cannot be had, is malformed, empty, or lacks questions or answers.
        """
        if self.source == INVENTED:
            tasks = _invented(self.split, self.max_samples, self.options)
            found, dropped, unanswerable = len(tasks), 0, 0
        elif is_import_path(self.source):
            tasks = tasks_from_loader(load_object(self.source))
            found, dropped, unanswerable = len(tasks), 0, 0
            tasks = self._divided(tasks)
        else:
            passages = self._passages()
            found = len(passages)
            labelled = any(p.split for p in passages)
            if labelled and self.split != "all":
                passages = [p for p in passages if SPLITS.get(p.split, p.split) == self.split]
            unanswerable = sum(q.answer is None for p in passages for q in p.questions)
            kept = [p for p in passages if self._has_answers(p)]
            dropped = len(passages) - len(kept)
            tasks = self._tasks(kept)
            if not labelled:
                tasks = self._divided(tasks)
        if not tasks:
            raise DataError(f"{self.source}: no passage for split {self.split!r}", "choose another split")
        tasks = [self._asked(task) for task in tasks[: self.max_samples]]
        self.report = LoadReport(
            passages=found,
            tasks=len(tasks),
            questions=sum(len(t.target) for t in tasks if isinstance(t.target, tuple)),
            unanswerable=unanswerable,
            passages_dropped=dropped,
            duplicates=len(tasks) - len({(t.title, str(t.context)) for t in tasks}),
        )
        return tasks

    def _asked(self, task: Task) -> Task:
        """The task with the questions that `self.questions` says."""
        wanted = self.questions == "cloze" or (self.questions == "fill" and not task.target)
        if not wanted or not isinstance(task.context, str):
            return task
        made = cloze_questions(task.context, task.title)
        if not made:
            raise DataError(
                f"task {task.id!r}: no name, number or last word to ask for",
                "write questions for the passage",
            )
        return replace(task, target=made)

    def _passages(self) -> list[Passage]:
        if self.source == "builtin":
            corpus = resources.files("seal.data") / "builtin" / "passages.json"
            with resources.as_file(corpus) as path:
                return read_passages(path)
        if self.source in HUB_NAMES:
            return _from_hub(self.source, self.split)
        path = Path(self.source).expanduser()
        if self.source.isidentifier() and not path.exists():
            raise DataError(
                f"no data set is called {self.source!r}",
                f"choose builtin, {INVENTED}, {' or '.join(HUB_NAMES)}, or give the path of a file or folder",
            )
        return read_passages(path)

    def _has_answers(self, passage: Passage) -> bool:
        """False for a passage that loses all its questions; raises where it never had one."""
        if not passage.questions:
            if self.require_questions and self.questions == "own":
                raise DataError(
                    f"{passage.where}: the passage has no questions",
                    "add questions, or set data_config.questions to fill (gaps in its sentences)",
                )
            return True
        return self.unanswerable == "keep" or any(q.answer is not None for q in passage.questions)

    def _tasks(self, passages: Sequence[Passage]) -> list[Task]:
        ids = unique_ids([task_id(p.title, p.context) for p in passages])
        return [
            Task(
                id=name,
                context=p.context,
                title=p.title,
                target=tuple(
                    Question(q.question, q.answer if q.answer is not None else UNANSWERABLE, p.title)
                    for q in p.questions
                    if q.answer is not None or self.unanswerable == "keep"
                ),
            )
            for name, p in zip(ids, passages, strict=True)
        ]

    def _divided(self, tasks: list[Task]) -> list[Task]:
        if self.split == "all":
            return tasks
        train, val = split_tasks(tasks, VAL_SHARE, self.seed)
        return train if self.split == "train" else val


def load_tasks(source: str | Path, **options: Any) -> list[Task]:
    """Tasks of `source`; the options are those of `DataLoader`."""
    return DataLoader(source, **options).load_tasks()


def tasks_from_loader(loader: Any) -> list[Task]:
    """Tasks of any object (or class) whose `load_data()` returns (context, task) pairs.

    A `task` that is no `Task` becomes the target of one; of a list of `{"question", "answer"}` questions.

    Raises:
        DataError: no `load_data`, it returns something else, or nothing.
    """
    loader = build(loader)
    name = type(loader).__name__
    if not callable(getattr(loader, "load_data", None)):
        raise DataError(f"{name} has no load_data method", "return a list of (context, task) from load_data")
    pairs = loader.load_data()
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(p, list | tuple) and len(p) == 2 for p in pairs
    ):
        raise DataError(f"{name}.load_data returned {pairs!r:.60}", "return a list of (context, task) pairs")
    if not pairs:
        raise DataError(f"{name}.load_data returned nothing", "return at least one (context, task) pair")
    ids = unique_ids([t.id if isinstance(t, Task) else task_id("", c, i) for i, (c, t) in enumerate(pairs)])
    return [_wrapped(name, context, task) for name, (context, task) in zip(ids, pairs, strict=True)]


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

    Both parts get at least one task when there are two or more.

    Raises:
        ConfigError: `val_share` is not within (0, 1).
    """
    if not 0 < val_share < 1:
        raise ConfigError(f"validation share is {val_share}", "give a number between 0 and 1")
    count = min(max(1, round(len(tasks) * val_share)), len(tasks) - 1) if len(tasks) > 1 else 0
    ranked = sorted(range(len(tasks)), key=lambda i: (derive(seed, "split", tasks[i].id), i))
    val = set(ranked[:count])
    return (
        [t for i, t in enumerate(tasks) if i not in val],
        [t for i, t in enumerate(tasks) if i in val],
    )


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


def _invented(split: str, count: int | None, options: Mapping[str, Any]) -> list[Task]:
    """Made-up worlds as tasks."""
    from seal.data.invented import tasks  # its wordings are read from files: only where they are used

    try:
        return tasks(split, count, **options)
    except TypeError as error:
        raise ConfigError(f"data_config.options: {error}", "remove the option, or correct its name") from None


def _wrapped(name: str, context: Any, task: Any) -> Task:
    if isinstance(task, Task):
        return Task(name, task.context, task.target, task.title)
    if isinstance(task, list | tuple) and task and all(isinstance(q, Question) for q in task):
        return Task(name, context, tuple(task))
    is_qa = (
        isinstance(task, list | tuple)
        and task
        and all(
            isinstance(q, dict) and isinstance(q.get("question"), str) and isinstance(q.get("answer"), str)
            for q in task
        )
    )
    return Task(name, context, tuple(Question(q["question"], q["answer"]) for q in task) if is_qa else task)


def _from_hub(name: str, split: str) -> list[Passage]:
    """The hub's SQuAD, one row a question."""
    wanted = {"train": ["train"], "val": ["validation"], "all": ["train", "validation"]}[split]
    try:
        from datasets import load_dataset

        parts = [load_dataset(HUB_NAMES[name], split=part) for part in wanted]
    except (OSError, ImportError, ValueError) as error:  # no network, no package, or a broken cache
        cause = " ".join(str(error).split())[:120]
        raise DataError(
            f"data set {name!r} cannot be had from the hub: {cause}",
            "give the path of SQuAD's JSON file instead, or use builtin",
        ) from None
    passages = []
    for label, part in zip(wanted, parts, strict=True):
        rows = ((f"{name} {label}, row {i}", {**row, "split": label}) for i, row in enumerate(part))
        passages += group_rows(rows)
    return passages
