"""From the bytes of a file to text and JSON values; what would be read wrongly is refused, with its place.

Read as they are: UTF-8 with or without a byte order mark, UTF-16 and UTF-32, `.gz`, any line end, JSON lines
in a `.json` file and a whole JSON document in a `.jsonl` file.
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seal.errors import DataError

_BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
JSON = (".json", ".jsonl", ".ndjson", ".jsonlines")
ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the `datasets` library writes beside the data."""
_GZIP = b"\x1f\x8b"


class Number(float):
    """A number with a fraction or an exponent, as it was written: an answer of 7.50 is no 7.5."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def ending(path: Path) -> str:
    """The file's ending in lower case; that of the packed file for `.gz`."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def is_hidden(path: Path) -> bool:
    """Whether a file or a folder in `path` is one that systems leave behind: `._x`, `.git`, `~$x`."""
    return any(part.startswith((".", "~$")) for part in path.parts)


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzip. Raises `DataError`."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "check the path; `builtin` needs none") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is broken gzip ({error})", "pack it again, or give it unpacked") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", "make the file readable") from None


def read_text(path: Path) -> str:
    """The text of a file, every line end as `\\n`, without a byte order mark.

    Raises:
        DataError: the file is missing, in no Unicode encoding, or holds null characters.
    """
    content = read_bytes(path)
    encoding = next((name for mark, name in _BOMS.items() if content.startswith(mark)), None)
    if encoding is None:
        encoding = json.detect_encoding(content[:4]) if b"\0" in content[:4] else "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        named = encoding.removesuffix("-sig").upper()
        raise DataError(f"{path}: byte {error.start} is not {named}", "save the file as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("version https://git-lfs"):
        raise DataError(f"{path}: is a Git LFS pointer, not the file", "run: git lfs pull")
    at = text.find("\0")
    if at >= 0:
        line = text.count("\n", 0, at) + 1
        raise DataError(f"{path}, line {line}: a null character", "give a text file, saved as UTF-8")
    return text


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises `DataError` with line and column."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """The JSON value in `text`, the content of `path`. Raises `DataError` with line and column."""
    try:
        return _loads(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise DataError(f"{path}, line 1: the file is empty", "write data in it") from None
        place = f"{path}, line {error.lineno}, column {error.colno}"
        raise DataError(f"{place}: {error.msg}", "correct the JSON") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {_why(error)}", "correct the JSON") from None


def parse_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON values in the lines of `text`, each with its place. Raises `DataError` with the line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", _loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: {_why(error)}", "write one JSON object a line"
                ) from None


def is_lines(text: str, path: Path) -> bool:
    """Whether `text` is JSON lines: a whole value on its first line, and more below it."""
    first, _, rest = text.lstrip().partition("\n")
    if not rest.strip():
        return False
    try:
        _loads(first)
    except (ValueError, RecursionError):
        return ending(path) != ".json" and not text.lstrip().startswith("[")
    return True


def is_blank(text: str) -> bool:
    """Whether nothing in `text` can be seen: blanks, control and zero-width characters only."""
    return all(unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in text)


def check_text(text: str, where: str) -> str:
    """`text`, which no tokenizer or file chokes on.

    Raises:
        DataError: it holds half a surrogate pair or a null character.
    """
    bad = re.search("[\ud800-\udfff\0]", text)
    if bad:
        kind = "a null character" if bad[0] == "\0" else f"half a character, \\u{ord(bad[0]):04x}"
        raise DataError(f"{where}: holds {kind}, behind {text[: bad.start()][-20:]!r}", "remove it")
    return text


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_float=Number)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.60} is given twice in one object, {dict(pairs[:1])!r:.60}")
    return made


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
