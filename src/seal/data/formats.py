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
from dataclasses import dataclass, replace
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

Located = tuple[str, Mapping[str, Any]]
"""A record and where it stands."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a file, and where it stood (for messages)."""

    title: str
    context: str
    questions: tuple[RawQuestion, ...]
    where: str
    split: str = ""
    """`train`, `val`, `test`, or empty where nothing says."""


def read_passages(path: Path, columns: Columns | None = None, tally: Tally | None = None) -> list[Passage]:
    """All passages of a file or folder, in order.

    Args:
        columns: where records keep their fields, if not under our names.
        tally: is told of files in a folder that were left out.

    Raises:
        DataError: the file is missing, in no known encoding, not valid, or holds no passage; file and line
            (or record) are named.
    """
    if path.is_dir():
        passages = _read_folder(path, columns or {}, tally or Tally())
    else:
        passages = _read_file(path, columns or {})
    if not passages:
        raise DataError(f"{path}: the data set is empty", "add at least one passage")
    return passages


def from_records(records: Iterable[tuple[str, Any]], columns: Columns | None = None) -> list[Passage]:
    """Passages of records that are passages or questions each; questions of one passage join up."""
    columns = columns or {}
    found: list[Passage | Located] = []
    for where, value in records:
        record = renamed(as_object(value, where), columns, _OF_RECORDS, where)
        lists = [name for name in NAMES["questions"] if record.get(name) is not None]
        if not lists:
            record = renamed(record, columns, OF_QUESTIONS, where)
        if record.get("question") is None:
            found.append(_passage(record, where, title_of(record, where), split_of(record, where), columns))
        elif lists:
            raise DataError(f"{where}: has both 'question' and {lists[0]!r}", "keep one of them")
        else:
            found.append((where, record))
    order = {each.where if isinstance(each, Passage) else each[0]: i for i, each in enumerate(found)}
    whole = [each for each in found if isinstance(each, Passage)]
    return sorted(
        [*whole, *group_rows(each for each in found if isinstance(each, tuple))], key=lambda p: order[p.where]
    )


def group_rows(rows: Iterable[Located]) -> list[Passage]:
    """Passages of rows that hold one question each (the hub's SQuAD); rows of one passage join up.

    Rows that repeat a question (with the same id, or without one) give it further answers.
    """
    groups: dict[tuple[str, str, str], dict[tuple[Any, str], tuple[str, RawQuestion]]] = {}
    for where, row in rows:
        key = (title_of(row, where), context_of(row, where), split_of(row, where))
        group = groups.setdefault(key, {})
        asked = question_of(row, where)
        same = (str(row.get("id")), asked.question.strip())
        group[same] = (
            (group[same][0], _joined(group[same][1], asked, where)) if same in group else (where, asked)
        )
    return [
        Passage(title, context, tuple(q for _, q in group.values()), next(iter(group.values()))[0], split)
        for (title, context, split), group in groups.items()
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


def _read_file(path: Path, columns: Columns) -> list[Passage]:
    kind = ending(path)
    if kind in DOCUMENTS:
        return [_read_document(path)]
    if kind in JSON:
        return _read_json(path, columns)
    if kind in tables.ENDINGS:
        return from_records(tables.read_rows(path), columns)
    if not path.exists():
        read_text(path)
    shown = kind or "(no ending)"
    raise DataError(
        f"{path}: unknown kind of file {shown!r}", "use .json, .jsonl, .csv, .parquet, .txt or .md"
    )


def _read_folder(folder: Path, columns: Columns, tally: Tally) -> list[Passage]:
    """Data files if there are any (a data set's README is no passage), else documents."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    known = [p for p in files if not is_hidden(p.relative_to(folder)) and p.name not in ABOUT_DATA]
    data = [p for p in known if ending(p) in (*JSON, *tables.ENDINGS)]
    chosen = data or [p for p in known if ending(p) in DOCUMENTS]
    if not chosen:
        raise DataError(f"{folder}: no .txt or .md file in it", "add documents or data files, or name a file")
    tally.leave_out("file", (str(p) for p in files if p not in set(chosen)))
    labels = {p: label_of(p.relative_to(folder)) for p in data}
    if "train" not in labels.values() or not {"val", "test"}.intersection(labels.values()):
        labels = {}
    passages = []
    for path in chosen:
        label = labels.get(path, "")
        passages += [
            p if p.split or not label else replace(p, split=label) for p in _read_file(path, columns)
        ]
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


def _read_json(path: Path, columns: Columns) -> list[Passage]:
    text = read_text(path)
    if is_lines(text, path):
        return from_records(parse_lines(text, path), columns)
    data = parse_json(text, path)
    if isinstance(data, dict) and "data" in data:
        entries = as_list(data["data"], f"{path}, data")
        if not any(isinstance(e, dict) and any(n in e for n in NAMES["context"]) for e in entries):
            return list(_squad(entries, path, columns))
        data = entries
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise DataError(f"{path}: holds {type(data).__name__}", "use a list of passages, or SQuAD's JSON")
    return from_records(((f"{path}, record {i}", record) for i, record in enumerate(data, 1)), columns)


def _squad(articles: list[Any], path: Path, columns: Columns) -> Iterator[Passage]:
    for a, value in enumerate(articles, 1):
        where = f"{path}, article {a}"
        article = as_object(value, where)
        title, split = title_of(article, where), split_of(article, where)
        for p, paragraph in enumerate(as_list(article.get("paragraphs"), f"{where}, paragraphs"), 1):
            here = f"{path}, article {a} ({title}), paragraph {p}"
            record = renamed(as_object(paragraph, here), columns, _OF_RECORDS, here)
            yield _passage(record, here, title, split_of(record, here) or split, columns)


def _passage(record: Mapping[str, Any], where: str, title: str, split: str, columns: Columns) -> Passage:
    context = context_of(record, where)
    entries: Any = next((record[name] for name in NAMES["questions"] if record.get(name) is not None), [])
    questions = []
    for i, entry in enumerate(as_list(entries, f"{where}, questions"), 1):
        place = f"{where}, question {i}"
        questions.append(question_of(renamed(as_object(entry, place), columns, OF_QUESTIONS, place), place))
    return Passage(title, context, tuple(questions), where, split)
