"""The file formats that hold passages: each becomes a list of `Passage`, or one error that names the place.

| format | looks like |
|---|---|
| SQuAD v1.1, v2 | `{"data": [{"title", "paragraphs": [{"context", "qas": [...]}]}]}` |
| SEAL, custom JSON | a list of `{"title", "context", "questions": [{"question", "answer"}]}` |
| custom JSONL | the same, one object a line; one question a line works too |
| documents | `.txt` and `.md` files, or a folder of them; no questions |

A passage may also be called `passage` or `text`, its questions `qas`, an answer `answers`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.errors import DataError

DOCUMENTS = (".txt", ".md")
UNANSWERABLE = "unanswerable"
"""The gold answer of a SQuAD v2 question that its passage does not answer, when such are kept."""


@dataclass(frozen=True, slots=True)
class RawQuestion:
    """A question as it stands in a file; `answer` is None where the file says it has none."""

    question: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of a file, and where it stood (for messages)."""

    title: str
    context: str
    questions: tuple[RawQuestion, ...]
    where: str
    split: str = ""


def read_passages(path: Path) -> list[Passage]:
    """All passages of a file or a folder of documents, in order.

    Raises:
        DataError: the file is missing, not UTF-8, not valid, or holds no passage; file and line are named.
    """
    if path.is_dir():
        passages = _read_folder(path)
    elif path.suffix in DOCUMENTS:
        passages = [_read_document(path)]
    elif path.suffix == ".jsonl":
        passages = _from_records(_read_jsonl(path))
    elif path.suffix == ".json":
        passages = _read_json(path)
    else:
        raise DataError(
            f"{path}: unknown kind of file {path.suffix or '(no ending)'!r}", "use .json, .jsonl, .txt or .md"
        )
    if not passages:
        raise DataError(f"{path}: the data set is empty", "add at least one passage")
    return passages


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped). Raises `DataError`."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "check the path; `builtin` needs none") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", "make the file readable") from None


def group_rows(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Passage]:
    """Passages of rows that hold one question each (the hub's SQuAD); rows of one passage join up."""
    groups: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for where, row in rows:
        groups.setdefault((_title(row, where), _context(row, where)), []).append((where, row))
    return [
        Passage(title, context, tuple(_question(r, w) for w, r in group), group[0][0], _split(group[0][1]))
        for (title, context), group in groups.items()
    ]


def _read_folder(folder: Path) -> list[Passage]:
    files = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix in DOCUMENTS
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"{folder}: no .txt or .md file in it", "add documents, or name a .json file")
    return [_read_document(path) for path in files]


def _read_document(path: Path) -> Passage:
    """A document: its title is the first Markdown heading, else the file's name."""
    text = read_text(path).strip()
    if not text:
        raise DataError(f"{path}: the document is empty", "write something in it, or remove it")
    first, _, rest = text.partition("\n")
    if path.suffix == ".md" and first.startswith("# ") and rest.strip():
        return Passage(first[2:].strip(), rest.strip(), (), str(path))
    return Passage(path.stem.replace("_", " ").replace("-", " ").strip(), text, (), str(path))


def _read_json(path: Path) -> list[Passage]:
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}", "correct the JSON"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply", "use one of the documented formats") from None
    if isinstance(data, dict) and "data" in data:
        return list(_squad(data["data"], path))
    if isinstance(data, dict):
        data = [data]
    if not isinstance(data, list):
        raise DataError(f"{path}: holds {type(data).__name__}", "use a list of passages, or SQuAD's JSON")
    return _from_records((f"{path}, record {i}", record) for i, record in enumerate(data, 1))


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise DataError(f"{path}, line {number}: {why}", "write one JSON object a line") from None


def _squad(articles: Any, path: Path) -> Iterator[Passage]:
    for a, article in enumerate(_list(articles, f"{path}, data"), 1):
        where = f"{path}, article {a}"
        title = _title(_object(article, where), where).replace("_", " ")
        for p, paragraph in enumerate(_list(article.get("paragraphs"), f"{where}, paragraphs"), 1):
            here = f"{path}, article {a} ({title}), paragraph {p}"
            yield _passage(_object(paragraph, here), here, title)


def _from_records(records: Iterable[tuple[str, Any]]) -> list[Passage]:
    found = [(where, _object(record, where)) for where, record in records]
    if found and all("question" in record for _, record in found):
        return group_rows(found)
    return [_passage(record, where, _title(record, where)) for where, record in found]


def _passage(record: Mapping[str, Any], where: str, title: str) -> Passage:
    context = _context(record, where)
    entries = record.get("questions", record.get("qas", []))
    questions = tuple(
        _question(_object(q, f"{where}, question {i}"), f"{where}, question {i}")
        for i, q in enumerate(_list(entries, f"{where}, questions"), 1)
    )
    return Passage(title, context, questions, where, _split(record))


def _question(record: Mapping[str, Any], where: str) -> RawQuestion:
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: has no question text", 'give it "question": "..."')
    if record.get("is_impossible") is True:
        return RawQuestion(question, None)
    value = record.get("answer", record.get("answers"))
    if isinstance(value, Mapping):
        value = value.get("text")
    if value == [] and "answers" in record and ("is_impossible" in record or "id" in record):
        return RawQuestion(question, None)  # how SQuAD v2 says it on the hub
    if isinstance(value, list) and value:
        value = value[0].get("text") if isinstance(value[0], Mapping) else value[0]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {question[:60]!r} has no answer", 'give it "answer": "..."')
    return RawQuestion(question, value)


def _context(record: Mapping[str, Any], where: str) -> str:
    for key in ("context", "passage", "text"):
        if key in record:
            if not isinstance(record[key], str) or not record[key].strip():
                raise DataError(f"{where}: {key!r} is empty or no text", "give the passage's text")
            return str(record[key])
    raise DataError(f"{where}: no passage in it", 'give it "context": "..." (or "passage", "text")')


def _title(record: Mapping[str, Any], where: str) -> str:
    title = record.get("title", "")
    if not isinstance(title, str):
        raise DataError(f"{where}: the title is {title!r:.60}", "give a text, or leave it out")
    return title.strip()


def _split(record: Mapping[str, Any]) -> str:
    return str(record.get("split", ""))


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: is {value!r:.60}", "give a JSON object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: is {value!r:.60}", "give a JSON list")
    return value
