"""The file formats that hold passages: each becomes a list of `Passage`, or one error that names the place.

| format | looks like |
|---|---|
| SQuAD v1.1, v2 | `{"data": [{"title", "paragraphs": [{"context", "qas": [...]}]}]}` |
| SEAL, custom JSON | a list of `{"title", "context", "questions": [{"question", "answer"}]}` |
| JSON lines | the same, one object a line; one question a line works too, as `Dataset.to_json` writes it |
| CSV, TSV, Parquet | a row a question |
| documents | `.txt` and `.md` files, or a folder of them; no questions |
| a folder of data files | all of them; `train` and `validation` in their names are their halves |

`seal.data.fields` says what may stand in a record, `seal.data.files` which encodings are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seal.data import tables
from seal.data.fields import (
    NAMES,
    OF_QUESTIONS,
    Columns,
    RawQuestion,
    as_list,
    as_object,
    context_of,
    label_of,
    question_of,
    renamed,
    split_of,
    title_of,
    unlike,
)
from seal.data.files import (
    ABOUT_DATA,
    JSON,
    check_text,
    ending,
    is_hidden,
    is_lines,
    parse_json,
    parse_lines,
    read_text,
)
from seal.data.load_report import Tally
from seal.errors import DataError

__all__ = ["DOCUMENTS", "UNANSWERABLE", "Passage", "RawQuestion", "group_rows", "read_passages", "read_text"]

DOCUMENTS = (".txt", ".md")
UNANSWERABLE = "unanswerable"
"""The gold answer of a SQuAD v2 question that its passage does not answer, when such are kept."""
_OF_RECORDS = tuple(field for field in NAMES if field not in OF_QUESTIONS)


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a file, and where it stood (for messages)."""

    title: str
    context: str
    questions: tuple[RawQuestion, ...]
    where: str
    split: str = ""
    """`train`, `val`, `test`, or empty where nothing says."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How records are read."""

    columns: Columns = field(default_factory=dict)
    """Where they keep their fields, if not under our names."""
    drop_malformed: bool = False
    """Leave malformed records out instead of refusing the source."""
    tally: Tally = field(default_factory=Tally)
    """Is told of what was left out."""


def read_passages(path: Path, how: Reading | None = None) -> list[Passage]:
    """All passages of a file or folder, in order.

    Raises:
        DataError: the file is missing, in no known encoding, not valid, or holds no passage; file and line
            (or record) are named.
    """
    how = how or Reading()
    passages = _read_folder(path, how) if path.is_dir() else _read_file(path, how)
    if not passages:
        raise DataError(f"{path}: the data set is empty", "add at least one passage")
    return passages


def from_records(records: Iterable[tuple[str, Any]], how: Reading | None = None) -> list[Passage]:
    """Passages of records that are passages, SQuAD's articles, or questions; those of a passage join up."""
    how = how or Reading()
    found: list[tuple[Passage, str | None]] = []
    for where, value in records:
        try:
            found += _record(value, where, how.columns)
        except DataError as error:
            if not how.drop_malformed:
                raise
            how.tally.leave_out("malformed", [error.message])
    return _joined_up(found)


def group_rows(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Passage]:
    """Passages of rows that hold one question each (the hub's SQuAD); rows of one passage join up.

    Rows that repeat a question (with the same id, or without one) give it further answers.
    """
    return _joined_up([_row(row, where) for where, row in rows])


def _record(value: Any, where: str, columns: Columns) -> list[tuple[Passage, str | None]]:
    """The passages of a record; for a row, with the id of its question."""
    if isinstance(value, dict) and "paragraphs" in value:
        return [(passage, None) for passage in _article(value, where, columns)]
    record = renamed(as_object(value, where), columns, _OF_RECORDS, where)
    lists = [name for name in NAMES["questions"] if record.get(name) is not None]
    if not lists:
        record = renamed(record, columns, OF_QUESTIONS, where)
    if record.get("question") is None:
        return [(_passage(record, where, title_of(record, where), split_of(record, where), columns), None)]
    if lists:
        raise DataError(f"{where}: has both 'question' and {lists[0]!r}", "keep one of them")
    return [_row(record, where)]


def _row(row: Mapping[str, Any], where: str) -> tuple[Passage, str]:
    asked = (question_of(row, where),)
    passage = Passage(title_of(row, where), context_of(row, where), asked, where, split_of(row, where))
    return passage, str(row.get("id"))


def _joined_up(found: Iterable[tuple[Passage, str | None]]) -> list[Passage]:
    """The passages in order, the rows of one passage as one."""
    passages: dict[tuple[str, ...], Passage] = {}
    asked: dict[tuple[str, ...], dict[tuple[str, str], RawQuestion]] = {}
    for passage, name in found:
        if name is None:
            passages["whole", passage.where] = passage
            continue
        key = ("rows", passage.title, passage.context, passage.split)
        passages.setdefault(key, passage)
        questions = asked.setdefault(key, {})
        (question,) = passage.questions
        same = (name, question.question.strip())
        questions[same] = _joined(questions[same], question, passage.where) if same in questions else question
    return [
        replace(p, questions=tuple(asked[key].values())) if key in asked else p for key, p in passages.items()
    ]


def _joined(first: RawQuestion, second: RawQuestion, where: str) -> RawQuestion:
    if (first.answer is None) != (second.answer is None):
        raise DataError(
            f"{where}: {first.question[:60]!r} is answered in one row and not in another", "keep one"
        )
    if first.answer is None or second.answer is None:
        return first
    answer, *also = unlike([first.answer, *first.also, second.answer, *second.also])
    return RawQuestion(first.question, answer, tuple(also))


def _read_file(path: Path, how: Reading) -> list[Passage]:
    kind = ending(path)
    if kind in DOCUMENTS:
        return [_read_document(path)]
    if kind in JSON:
        return _read_json(path, how)
    if kind in tables.ENDINGS:
        return from_records(tables.read_rows(path), how)
    if not path.exists():
        read_text(path)
    shown = kind or "(no ending)"
    raise DataError(
        f"{path}: unknown kind of file {shown!r}", "use .json, .jsonl, .csv, .parquet, .txt or .md"
    )


def _read_folder(folder: Path, how: Reading) -> list[Passage]:
    """Data files if there are any (a data set's README is no passage), else documents."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    known = [p for p in files if not is_hidden(p.relative_to(folder)) and p.name not in ABOUT_DATA]
    data = [p for p in known if ending(p) in (*JSON, *tables.ENDINGS)]
    chosen = data or [p for p in known if ending(p) in DOCUMENTS]
    if not chosen:
        raise DataError(f"{folder}: no .txt or .md file in it", "add documents or data files, or name a file")
    how.tally.leave_out("file", (str(p) for p in files if p not in set(chosen)))
    labels = {p: label_of(p.relative_to(folder)) for p in data}
    if "train" not in labels.values() or not {"val", "test"}.intersection(labels.values()):
        labels = {}
    passages = []
    for path in chosen:
        label = labels.get(path, "")
        passages += [p if p.split or not label else replace(p, split=label) for p in _read_file(path, how)]
    return passages


def _read_document(path: Path) -> Passage:
    """A document: its title is the first Markdown heading, else the file's name."""
    text = check_text(read_text(path), str(path)).strip()
    if not text:
        raise DataError(f"{path}: the document is empty", "write something in it, or remove it")
    first, _, rest = text.partition("\n")
    if ending(path) == ".md" and first.startswith("# ") and rest.strip():
        return Passage(first[2:].strip(), rest.strip(), (), str(path))
    return Passage(re.sub(r"[_-]", " ", path.name.partition(".")[0]).strip(), text, (), str(path))


def _read_json(path: Path, how: Reading) -> list[Passage]:
    text = read_text(path)
    if is_lines(text, path):
        return from_records(parse_lines(text, path), how)
    data = parse_json(text, path)
    name = "record"
    if isinstance(data, dict) and "data" in data:
        data = as_list(data["data"], f"{path}, data")
        if not any(isinstance(each, dict) and any(n in each for n in NAMES["context"]) for each in data):
            name = "article"
            data = [{"paragraphs": None, **each} if isinstance(each, dict) else each for each in data]
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise DataError(f"{path}: holds {type(data).__name__}", "use a list of passages, or SQuAD's JSON")
    return from_records(((f"{path}, {name} {i}", record) for i, record in enumerate(data, 1)), how)


def _article(value: Any, where: str, columns: Columns) -> Iterator[Passage]:
    """The passages of one of SQuAD's articles."""
    article = as_object(value, where)
    title, split = title_of(article, where), split_of(article, where)
    for p, paragraph in enumerate(as_list(article.get("paragraphs"), f"{where}, paragraphs"), 1):
        here = f"{where} ({title}), paragraph {p}"
        record = renamed(as_object(paragraph, here), columns, _OF_RECORDS, here)
        yield _passage(record, here, title, split_of(record, here) or split, columns)


def _passage(record: Mapping[str, Any], where: str, title: str, split: str, columns: Columns) -> Passage:
    context = context_of(record, where)
    lists = [name for name in NAMES["questions"] if record.get(name) is not None]
    if len(lists) > 1:
        raise DataError(f"{where}: has both {' and '.join(map(repr, lists))}", "keep one of them")
    questions = []
    for i, entry in enumerate(as_list(record[lists[0]] if lists else [], f"{where}, questions"), 1):
        place = f"{where}, question {i}"
        asked = renamed(as_object(entry, place), columns, OF_QUESTIONS, place)
        if split_of(asked, place) not in ("", split):
            raise DataError(f"{place}: has a split of its own", "give a split to whole passages")
        questions.append(question_of(asked, place))
    return Passage(title, context, tuple(questions), where, split)
