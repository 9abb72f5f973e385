"""One record's fields: what may stand in them, and what is refused by name.

| field | other names | holds |
|---|---|---|
| `context` | `passage`, `text` | the passage |
| `title` | | its title; underscores of Wikipedia's titles become blanks |
| `questions` | `qas` | a list of questions, where a record is a passage |
| `question` | | a question, where a record is one |
| `answer`, `answers` | | a text or number, `{"text": [...]}`, or a list of them: any of them counts |
| `is_impossible` | | true: the passage does not answer it (SQuAD v2) |
| `split` | | `train`, or `val`, `validation`, `dev`, `test` |

`null` is the same as no such field. `columns` says where a record keeps its fields under other names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.data.files import check_text, is_blank
from seal.errors import DataError

Columns = Mapping[str, str | Sequence[str]]
"""Field -> the name of a column, dotted for what lies deeper (`answer.aliases`); several for `answers`."""

NAMES = {
    "context": ("context", "passage", "text"),
    "title": ("title",),
    "questions": ("questions", "qas"),
    "question": ("question",),
    "answers": ("answer", "answers"),
    "is_impossible": ("is_impossible",),
    "split": ("split",),
    "id": ("id",),
}
"""Every field, and the names that it has without `columns`."""
OF_QUESTIONS = ("question", "answers", "is_impossible")
LABELS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("val", "validation", "valid", "dev", "eval", "evaluation", "held-out", "held_out"), "val"
    ),
    **dict.fromkeys(("test", "testing"), "test"),
}
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_LARGEST_WHOLE = 2**53
"""Beyond it a float no longer tells neighbouring whole numbers apart."""


@dataclass(frozen=True, slots=True)
class RawQuestion:
    """A question as it stands in a file; `answer` is None where the file says it has none."""

    question: str
    answer: str | None
    also: tuple[str, ...] = ()


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """`value`, a JSON object. Raises `DataError`."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: is {value!r:.60}", "give a JSON object")
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """`value`, a JSON list. Raises `DataError`."""
    if not isinstance(value, list):
        raise DataError(f"{where}: is {value!r:.60}", "give a JSON list")
    return value


def renamed(
    record: Mapping[str, Any], columns: Columns, fields: Sequence[str], where: str
) -> Mapping[str, Any]:
    """The record with those `fields` that `columns` names under their own names.

    Raises:
        DataError: it has no such column; those that it has are named.
    """
    wanted = {field: columns[field] for field in fields if field in columns}
    if not wanted:
        return record
    hidden = {name for field in wanted for name in NAMES[field]}
    out = {name: value for name, value in record.items() if name not in hidden}
    for field, names in wanted.items():
        paths = (names,) if isinstance(names, str) else names
        values = [_dig(record, path, where) for path in paths]
        flat = [
            v for value in values for v in (value if isinstance(value, list) else [value]) if v is not None
        ]
        out[field] = values[0] if len(values) == 1 else flat
    return out


def context_of(record: Mapping[str, Any], where: str) -> str:
    """The passage's text. Raises `DataError`."""
    there = [name for name in NAMES["context"] if name in record]
    texts = [record[name] for name in there if isinstance(record[name], str)]
    if any(text != texts[0] for text in texts):
        raise DataError(
            f"{where}: {' and '.join(map(repr, there))} hold different texts",
            "keep one of them, or name it: data_config.columns: {context: ...}",
        )
    if not there:
        fix = 'give it "context": "..." (or "passage", "text"), or name its column in data_config.columns'
        only = f", only {', '.join(map(str, record))}" if record else ""
        raise DataError(f"{where}: no passage in it{only:.120}", fix)
    name = next((name for name in there if record[name] is not None), there[0])
    value = record[name]
    if not isinstance(value, str) or is_blank(value):
        given = "" if isinstance(value, str) else f": {value!r:.40}"
        raise DataError(f"{where}: {name!r} is empty or no text{given}", "give the passage's text")
    return check_text(value, f"{where}, {name}")


def title_of(record: Mapping[str, Any], where: str) -> str:
    """The title, as it is shown to the model; empty where there is none. Raises `DataError`.

    Wikipedia's titles in SQuAD have underscores and no blanks; the official SEAL data and every prompt have
    blanks.
    """
    title = record.get("title")
    if title is None:
        return ""
    if not isinstance(title, str):
        raise DataError(f"{where}: the title is {title!r:.60}", "give a text, or leave it out")
    title = check_text(title, f"{where}, title").strip()
    return title if " " in title else title.replace("_", " ").strip()


def split_of(record: Mapping[str, Any], where: str) -> str:
    """`train`, `val` or `test`; empty where the record does not say. Raises `DataError`."""
    value = record.get("split")
    if value is None or value == "":
        return ""
    label = LABELS.get(value.strip().casefold()) if isinstance(value, str) else None
    if label is None:
        raise DataError(f"{where}: split is {value!r:.40}", "use train or val, or leave it out everywhere")
    return label


def label_of(path: Path) -> str:
    """The split that a file's name, or else a folder's in `path`, speaks of; empty for none."""
    for part in reversed(path.parts):
        found = [LABELS[word] for word in re.split(r"[^a-z]+", part.casefold()) if word in LABELS]
        if found:
            return found[0]
    return ""


def question_of(record: Mapping[str, Any], where: str) -> RawQuestion:
    """A question with all its gold answers. Raises `DataError`."""
    question = record.get("question")
    if not isinstance(question, str) or is_blank(question):
        other = "" if question is None or isinstance(question, str) else f", but {question!r:.40}"
        raise DataError(f"{where}: has no question text{other}", 'give it "question": "..."')
    check_text(question, f"{where}, question")
    if is_impossible(record, where):
        return RawQuestion(question, None)
    given = [record[name] for name in NAMES["answers"] if record.get(name) is not None]
    if _says_unanswerable(record, given):
        return RawQuestion(question, None)
    place = f"{where}: {question[:60]!r}"
    found = [check_text(text, f"{place}, answer") for value in given for text in _texts(value, place)]
    if not found:
        raise DataError(f"{place} has no answer", 'give it "answer": "..."')
    first, *more = unlike(found)
    return RawQuestion(question, first, tuple(more))


def unlike(texts: Sequence[str]) -> list[str]:
    """`texts` without those that differ from an earlier one in blanks only."""
    seen: dict[str, str] = {}
    for text in texts:
        seen.setdefault(text.strip(), text)
    return list(seen.values())


def is_impossible(record: Mapping[str, Any], where: str) -> bool:
    """Whether SQuAD v2 calls the question unanswerable, be it by true, 1 or "True". Raises `DataError`."""
    value = record.get("is_impossible")
    if value is None:
        return False
    known = _TRUTH.get(str(value).strip().casefold()) if isinstance(value, str | int | float) else None
    if known is None:
        raise DataError(f"{where}: is_impossible is {value!r:.40}", "give true or false")
    return known


def _says_unanswerable(record: Mapping[str, Any], given: list[Any]) -> bool:
    """How SQuAD v2 says it on the hub: a row with an id and an empty list of answers."""
    empty = [[], {"text": []}]
    texts = [{"text": v["text"]} if isinstance(v, dict) and "text" in v else v for v in given]
    return (
        len(texts) == 1
        and texts[0] in empty
        and record.get("answers") is not None
        and record.get("id") is not None
        and record.get("is_impossible") is None
    )


def _texts(value: Any, place: str) -> list[str]:
    """Every answer that `value` holds."""
    if isinstance(value, str):
        if is_blank(value):
            raise DataError(f"{place} has no answer, but {value!r:.20}", 'give it "answer": "..."')
        return [value]
    if isinstance(value, dict):
        if "text" not in value:
            raise DataError(f"{place} has the answer {value!r:.60}", 'give it "answer": "..."')
        return _texts(value["text"], place)
    if isinstance(value, list):
        return [text for each in value for text in _texts(_flat(each, place), place)]
    if isinstance(value, int) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, float) and math.isfinite(value):
        whole = type(value) is float and value.is_integer() and abs(value) < _LARGEST_WHOLE
        return [str(int(value) if whole else value)]  # a column of whole numbers with gaps is one of floats
    raise DataError(f"{place} has the answer {value!r:.60}", 'give it "answer": "..."')


def _flat(value: Any, place: str) -> Any:
    if isinstance(value, list):
        raise DataError(f"{place} has the answer {value!r:.60} in a list of answers", "give a list of texts")
    return value


def _dig(record: Mapping[str, Any], path: str, where: str) -> Any:
    value: Any = record
    if path in record:
        return record[path]
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            there = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"{value!r:.40}"
            raise DataError(f"{where}: has no column {path!r}", f"name one of: {there:.160}")
        value = value[name]
    return value
