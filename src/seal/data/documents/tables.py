"""Files whose records are passages: JSON, JSON lines, CSV and Parquet, with questions where they have any."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seal.data.documents.readers import check_size, decode
from seal.data.formats import Passage, RawQuestion, group_rows, read_passages
from seal.errors import DataError

_TEXT = ("context", "passage", "text")


def read_table(path: Path) -> list[Passage]:
    """The passages in `path`.

    A CSV or Parquet file has a column `context`, `passage` or `text`, and may have `title`, `question` and
    `answer`; rows with the same title and text are one passage. JSON is read as `seal.data.formats` says.

    Raises:
        DataError: the file cannot be read, or a record is malformed; file and place are named.
    """
    check_size(path)
    if path.suffix.lower() in (".json", ".jsonl"):
        return read_passages(path)
    try:
        rows = list(_csv(path) if path.suffix.lower() == ".csv" else _parquet(path))
    except (csv.Error, ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        cause = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: is broken ({cause})", "restore the file, or leave it out") from None
    if not rows:
        raise DataError(f"{path}: holds no rows", "add some, or leave it out")
    if not any(name in rows[0][1] for name in _TEXT):
        columns = ", ".join(map(str, rows[0][1])) or "no columns"
        raise DataError(
            f"{path}: none of its columns is called {', '.join(_TEXT)} (they are {columns:.120})",
            "rename the column that holds the text",
        )
    if "question" in rows[0][1]:
        return group_rows(rows)
    return [_passage(row, where) for where, row in rows]


def _passage(row: Mapping[str, Any], where: str) -> Passage:
    text = next(row[name] for name in _TEXT if name in row)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: the text is {text!r:.40}", "fill it in, or remove the row")
    questions: tuple[RawQuestion, ...] = ()
    return Passage(str(row.get("title") or "").strip(), text, questions, where)


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text, _ = decode(path)
    csv.field_size_limit(2**24)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    for row in reader:
        if None in row:
            raise DataError(f"{path}, line {reader.line_num}: more values than columns", "quote the text")
        named = {key.strip().casefold(): value for key, value in row.items() if key}
        yield f"{path}, line {reader.line_num}", named


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        wanted = [n for n in file.schema_arrow.names if n in (*_TEXT, "title", "question", "answer")]
        if not any(name in wanted for name in _TEXT):
            wanted = list(file.schema_arrow.names)[:20]
        number = 0
        for batch in file.iter_batches(1024, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
