"""Rows of CSV, TSV and Parquet files. A CSV's cells are texts as they stand: `007` is no number."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seal.data.fields import NAMES
from seal.data.files import ending, read_bytes, read_text
from seal.errors import DataError

ENDINGS = (".csv", ".tsv", ".parquet")
_STANDARD = {name for names in NAMES.values() for name in names}
_LONGEST_CELL = 2**24
"""Characters of a CSV cell; the standard library's own limit is 131,072, fewer than a long document has."""


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table with their places. Raises `DataError`."""
    return _parquet(path) if ending(path) == ".parquet" else _csv(path)


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = read_text(path)
    head = text.lstrip("\n").partition("\n")[0]
    csv.field_size_limit(_LONGEST_CELL)
    reader = None
    try:
        delimiter = "\t" if ending(path) == ".tsv" else max(",;\t|", key=lambda each: _known(head, each))
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [_name(name) for name in reader.fieldnames or ()]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DataError(f"{path}, line 1: two columns are called {twice[0]!r}", "rename one")
        reader.fieldnames = names
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise DataError(f"{where}: more cells than columns", "put texts with commas in quotes")
            yield where, {name: _cell(name, value, where) for name, value in row.items()}
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise DataError(f"{path}, line {line}: {error}", "correct the quotes") from None


def _known(head: str, delimiter: str) -> int:
    """How many columns of ours the header has when it is cut at `delimiter`."""
    return sum(_name(cell) in _STANDARD for cell in next(csv.reader([head], delimiter=delimiter), []))


def _name(cell: str) -> str:
    """A column's name; those of our fields in lower case."""
    name = cell.strip()
    return name.casefold() if name.casefold() in _STANDARD else name


def _cell(name: str, value: str | None, where: str) -> Any:
    """A cell; None for an empty one, a list where `answers` or `questions` hold one, as JSON or Python."""
    if not value:
        return None
    if name not in ("answers", "questions", "qas") or not value.lstrip().startswith(("[", "{")):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            made: Any = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(made, list | dict):
            return made
    raise DataError(f"{where}: {name} is {value!r:.60}", "write a text, or a list as JSON")


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from pyarrow import BufferReader, parquet

    number = 0
    try:
        with parquet.ParquetFile(BufferReader(read_bytes(path))) as file:
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        cause = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: is broken or no Parquet file ({cause})", "restore the file") from None
