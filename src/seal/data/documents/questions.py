"""The user's own questions about documents, in a file of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seal.data.documents.readers import check_size
from seal.data.fields import RawQuestion, as_list, as_object, question_of
from seal.data.files import ending, parse_lines, read_json, read_text
from seal.data.tables import ENDINGS, read_rows
from seal.errors import DataError


def read_questions(path: Path) -> list[RawQuestion]:
    """Every question of a JSON, JSONL, CSV, TSV or Parquet file with `question` and `answer` (or `answers`).

    Raises:
        DataError: the file cannot be read, or a record is no question; file and place are named.
    """
    check_size(path)
    found = [question_of(as_object(record, where), where) for where, record in _records(path)]
    if not found:
        raise DataError(f"{path}: holds no question", "give records with question and answer")
    return found


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    if ending(path) in ENDINGS:
        yield from ((where, dict(row)) for where, row in read_rows(path))
    elif ending(path) == ".jsonl":
        yield from parse_lines(read_text(path), path)
    elif ending(path) == ".json":
        records = as_list(read_json(path), str(path))
        yield from ((f"{path}, record {i}", record) for i, record in enumerate(records, 1))
    else:
        raise DataError(f"{path}: unknown kind of file", f"use .json, .jsonl, {', '.join(ENDINGS)}")
