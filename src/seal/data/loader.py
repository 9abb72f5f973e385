"""From a source (built-in corpus, file, folder, hub name, a loader of the user's) to tasks.

Nothing is dropped or changed silently: what a `LoadReport` says is all that happened.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from seal.cloze import cloze_questions
from seal.data.choice import VAL_SHARE, same_passage, split_tasks, task_id, unique_ids
from seal.data.fields import Columns, question_of
from seal.data.files import check_text
from seal.data.formats import UNANSWERABLE, Passage, Reading, from_records, read_passages
from seal.data.hub import HubSource, hub_rows, is_hub
from seal.data.load_report import LoadReport, Tally, content_of
from seal.errors import ConfigError, DataError, SealError
from seal.plugins import LOADERS, build, is_import_path, load_kind
from seal.records import Question, Task
from seal.seeds import derive

INVENTED = "invented"
SPLITS = {"train": "train", "val": "val", "validation": "val", "all": "all"}
_ROWS_A_TASK = 8
"""Rows of a stream read at first for each task wanted; twice as many when they were too few."""

log = logging.getLogger(__name__)


class DataLoader:
    """Loads tasks from one source.

    Args:
        source: `builtin`, `invented` (made-up worlds, `seal.data.invented`), `squad`, `squad_v2` (the hub's),
            `hf:OWNER/NAME[:SPLIT]`, a file or folder (`seal.data.formats`), or the import path
            `package.module:Class` of a loader with `load_data()`.
        split: `train`, `val` or `all`. A source without halves of its own is divided by `split_tasks`.
        max_samples: at most so many tasks, the first ones; None means all.
        unanswerable: what happens to unanswerable SQuAD v2 questions: `drop` them, or `keep` them with the
            gold answer "unanswerable".
        require_questions: a passage without questions is an error; False for documents to learn.
        questions: `own`: the source's; `fill`: cloze questions (`seal.cloze`) for a passage that has none;
            `cloze`: cloze questions for every passage; `both`: those, then the source's.
        seed: of the division into train and val.
        options: of `seal.data.invented.tasks`, for `invented` only.
        malformed: a record that cannot be read is an `error`, or left out (`drop`) and counted.
        columns: where records keep their fields, if not under our names (`seal.data.fields`).
        subset: configuration of a data set of the hub.
        splits: `train` and `val` -> the names of its splits.
    """

    def __init__(
        self,
        source: str | Path = "builtin",
        *,
        split: str = "all",
        max_samples: int | None = None,
        unanswerable: Literal["drop", "keep"] = "drop",
        require_questions: bool = True,
        questions: Literal["own", "fill", "cloze", "both"] = "own",
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        malformed: Literal["error", "drop"] = "error",
        columns: Columns | None = None,
        subset: str | None = None,
        splits: Mapping[str, str] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}", "choose train, val or all")
        if unanswerable not in ("drop", "keep"):
            raise ConfigError(f"unanswerable is {unanswerable!r}", "choose drop or keep")
        if malformed not in ("error", "drop"):
            raise ConfigError(f"malformed is {malformed!r}", "choose error or drop")
        if max_samples is not None and max_samples < 1:
            raise ConfigError(f"max_samples is {max_samples}", "give at least 1, or nothing for all")
        self.source, self.split, self.max_samples = str(source), SPLITS[split], max_samples
        self.unanswerable, self.require_questions, self.seed = unanswerable, require_questions, seed
        if questions not in ("own", "fill", "cloze", "both"):
            raise ConfigError(f"questions is {questions!r}", "choose own, fill, cloze or both")
        self.questions, self.options = questions, dict(options or {})
        self.malformed, self.columns = malformed, columns or {}
        self.subset, self.splits = subset, splits
        self.report = LoadReport()

    def load_data(self) -> list[tuple[Any, Task]]:
        """The tasks as (context, task) pairs."""
        return [(task.context, task) for task in self.load_tasks()]

    def load_tasks(self) -> list[Task]:
        """The tasks, in the order of the source; `self.report` then says what was left out.

        Raises:
            DataError: the source cannot be had, is malformed, empty, or lacks questions or answers.
        """
        tally = Tally()
        if self.source == INVENTED:
            tasks = _invented(self.split, self.max_samples, self.options)
        elif is_hub(self.source):
            tasks = self._hub_tasks(tally)
        elif is_import_path(self.source):
            tasks = self._divided(
                tasks_from_loader(load_kind(LOADERS, self.source, "data loader", method="load_data"))
            )
        else:
            tasks = self._chosen(self._passages(tally), self._divided, tally)
        if not tasks:
            raise DataError(f"{self.source}: no passage for split {self.split!r}", "choose another split")
        tasks = [self._asked(task) for task in tally.first(tasks, self.max_samples)]
        self.report = report_of(self.split, tasks, tally)
        return tasks

    def _asked(self, task: Task) -> Task:
        """The task with the questions that `self.questions` says."""
        wanted = self.questions in ("cloze", "both") or (self.questions == "fill" and not task.target)
        if not wanted or not isinstance(task.context, str):
            return task
        made = cloze_questions(task.context, task.title)
        if not made:
            raise DataError(
                f"task {task.id!r}: no name, number or last word to ask for",
                "write questions for the passage",
            )
        own = tuple(task.target) if self.questions == "both" else ()
        return replace(task, target=made + own)

    def _passages(self, tally: Tally) -> list[Passage]:
        if self.source == "builtin":
            corpus = resources.files("seal.data") / "builtin" / "passages.json"
            with resources.as_file(corpus) as path:
                return read_passages(path)
        path = Path(self.source).expanduser()
        if not path.exists() and not path.suffix and not path.is_absolute():
            raise DataError(
                f"no data set is called {self.source!r}",
                f"choose builtin, {INVENTED}, squad, squad_v2 or hf:OWNER/NAME, or give a file or folder",
            )
        return read_passages(path, self._reading(tally))

    def _reading(self, tally: Tally) -> Reading:
        return Reading(self.columns, self.malformed == "drop", tally)

    def _hub_tasks(self, tally: Tally) -> list[Task]:
        """Tasks of a data set of the hub. With `max_samples` no more of it is read than they need."""
        source = HubSource.parse(self.source, self.subset, self.splits)
        read = hub_rows(source, self.split, stream=self.max_samples is not None)
        if read.unread:
            tally.notes.append(f"{source.name}: not read: {', '.join(read.unread)}")
        divide = self._by_hash if read.divide else lambda tasks: tasks
        if self.max_samples is None:
            return self._chosen(from_records(read.rows, self._reading(tally)), divide, tally)
        rows = iter(read.rows)
        taken = list(islice(rows, _ROWS_A_TASK * self.max_samples))
        while True:
            more = list(islice(rows, max(len(taken), 1)))
            tried = Tally()
            passages = from_records(taken, self._reading(tried))
            # the last passage may go on in the rows that follow
            tasks = self._chosen(passages[:-1] if more else passages, divide, tried)
            if len(tasks) >= self.max_samples or not more:
                tally.take(report_of(self.split, tasks, tried))
                if not more:
                    return tasks
                tally.notes.append(f"{source.name}: read up to row {len(taken)}")
                return tasks[: self.max_samples]  # nobody knows how many more there are
            taken += more

    def _chosen(
        self, passages: Sequence[Passage], divide: Callable[[list[Task]], list[Task]], tally: Tally
    ) -> list[Task]:
        """Tasks of the passages in this half that have questions."""
        labelled = any(p.split for p in passages)
        if labelled and self.split != "all":
            passages = _half(passages, self.split, tally)
        if self.malformed == "drop" and self.require_questions and self.questions == "own":
            tally.leave_out("malformed", (f"{p.where}: no questions" for p in passages if not p.questions))
            passages = [p for p in passages if p.questions]
        unanswerable = [p.where for p in passages for q in p.questions if q.answer is None]
        if self.unanswerable == "drop":
            tally.leave_out("unanswerable", unanswerable)
        answered = [self._has_answers(p) for p in passages]
        kept = [p for p, has in zip(passages, answered, strict=True) if has]
        tally.leave_out("passage", (p.where for p, has in zip(passages, answered, strict=True) if not has))
        twice = len(kept) - len({(p.title, p.context) for p in kept})
        if twice:
            tally.notes.append(f"{twice} repeated passage{'s are' if twice > 1 else ' is'} kept")
        tasks = self._tasks(kept)
        return tasks if labelled else divide(tasks)

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
                    Question(q.question, q.answer if q.answer is not None else UNANSWERABLE, p.title, q.also)
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

    def _by_hash(self, tasks: list[Task]) -> list[Task]:
        """This half, each task by its content alone, so that it does not depend on how much was read."""
        if self.split == "all":
            return tasks
        share = [derive(self.seed, "split", same_passage(task)) % 1000 / 1000 for task in tasks]
        return [t for t, s in zip(tasks, share, strict=True) if (s < VAL_SHARE) == (self.split == "val")]


def report_of(split: str, tasks: Sequence[Task], tally: Tally) -> LoadReport:
    """What loading `tasks` came to."""
    targets = [q for t in tasks if isinstance(t.target, tuple) for q in t.target]
    questions = sum(not (isinstance(q, tuple) and q[1:] == (None,)) for q in targets)  # no unsolved puzzle
    content = content_of(tasks)
    return LoadReport(split, len(tasks), questions, tally.left_out, tuple(tally.notes), content)


def _half(passages: Sequence[Passage], split: str, tally: Tally) -> list[Passage]:
    """The passages labelled `split`; `test` is the held-out half where nothing is labelled `val`.

    A passage in both halves is left out of the one to train on.
    """
    held = "val" if any(p.split == "val" for p in passages) else "test"
    tally.leave_out("unlabelled", (p.where for p in passages if not p.split))
    tally.leave_out("other_split", (p.where for p in passages if p.split not in ("", "train", held)))
    if split == "val":
        return [p for p in passages if p.split == held]
    text = {p.where: " ".join(unicodedata.normalize("NFC", p.context).split()) for p in passages}
    out = {text[p.where] for p in passages if p.split == held}
    train = [p for p in passages if p.split == "train"]
    tally.leave_out("leak", (p.where for p in train if text[p.where] in out))
    return [p for p in train if text[p.where] not in out]


def load_tasks(source: str | Path, **options: Any) -> list[Task]:
    """Tasks of `source`; the options are those of `DataLoader`. What was left out is logged."""
    loader = DataLoader(source, **options)
    tasks = loader.load_tasks()
    log.info("%s: %s", source, loader.report)
    return tasks


def tasks_from_loader(loader: Any) -> list[Task]:
    """Tasks of any object (or class) whose `load_data()` returns (context, task) pairs.

    A `task` that is no `Task` becomes the target of one; of a list of `{"question", "answer"}` questions.

    Raises:
        DataError: no `load_data`, it fails, or returns something else or nothing.
    """
    loader = build(loader)
    name = type(loader).__name__
    if not callable(getattr(loader, "load_data", None)):
        raise DataError(f"{name} has no load_data method", "return a list of (context, task) from load_data")
    try:
        pairs = loader.load_data()
    except SealError:
        raise
    except Exception as error:  # the user's own code may raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise DataError(f"{name}.load_data failed: {cause}", "mend it; --debug shows where") from error
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(p, list | tuple) and len(p) == 2 for p in pairs
    ):
        raise DataError(f"{name}.load_data returned {pairs!r:.60}", "return a list of (context, task) pairs")
    if not pairs:
        raise DataError(f"{name}.load_data returned nothing", "return at least one (context, task) pair")
    ids = unique_ids([t.id if isinstance(t, Task) else task_id("", c, i) for i, (c, t) in enumerate(pairs)])
    return [_wrapped(name, context, task) for name, (context, task) in zip(ids, pairs, strict=True)]


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
    if isinstance(context, str):
        check_text(context, f"task {name}")
    if isinstance(task, list | tuple) and task and all(isinstance(q, Question) for q in task):
        return Task(name, context, tuple(task))
    if not isinstance(task, list | tuple) or not task or not all(_is_question(q) for q in task):
        return Task(name, context, task)
    read = [question_of(q, f"task {name}, question {i}") for i, q in enumerate(task, 1)]
    return Task(
        name, context, tuple(Question(q.question, q.answer or UNANSWERABLE, "", q.also) for q in read)
    )


def _is_question(value: Any) -> bool:
    """Whether it is a question with texts as answers; anything else is for a domain of the user's."""
    if not isinstance(value, dict) or not isinstance(value.get("question"), str):
        return False
    answers = value.get("answer", value.get("answers"))
    return all(isinstance(a, str) for a in (answers if isinstance(answers, list) and answers else [answers]))
