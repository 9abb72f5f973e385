"""One file of documents as Markdown text, or the one line that says why it cannot be read.

Readers return what a person would read, with headings as Markdown's `#`, so that one splitter serves all.
The packages for PDF, Word and HTML are the extra `documents`; each is imported where it is needed.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.errors import DataError, MissingExtra
from seal.extras import need

MAX_BYTES = 64 * 2**20
"""Larger files are refused: no adapter learns so much text."""
_MAX_UNPACKED = 256 * 2**20
_MAX_RATIO = 200
"""Of a Word file's unpacked size to its packed size; XML packs about tenfold."""
_CHARS_A_PAGE = 16
"""A PDF with fewer characters a page, on average, holds pictures of text."""
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file."""

    title: str
    text: str
    """Markdown."""
    notes: tuple[str, ...] = ()
    """What the reader had to guess or leave out, one line each."""


def read_document(path: Path) -> Document:
    """The document in `path`.

    Raises:
        DataError: it cannot be read, is too large, holds no text, or is of an unknown kind.
        MissingExtra: the package that reads this kind of file is not installed.
    """
    check_size(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of file {path.suffix or '(no ending)'!r}", f"use {KINDS}")
    try:
        document = reader(path)
    except (DataError, MissingExtra):
        raise
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", "make the file readable") from None
    except Exception as error:  # noqa: BLE001 (parsers raise every kind of error on a broken file)
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise DataError(f"{path}: is broken ({cause})", "restore the file, or leave it out") from None
    if not document.text.strip():
        raise DataError(f"{path}: holds no text", "write something in it, or leave it out")
    return document


def check_size(path: Path) -> None:
    """Raise `DataError` for a file that is missing, empty, no regular file or larger than `MAX_BYTES`."""
    if not path.exists():
        raise DataError(f"{path}: no such file", "check the path")
    if not path.is_file():
        raise DataError(f"{path}: is no regular file", "give a file or a folder")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: is empty", "write something in it, or leave it out")
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: has {size / 2**20:,.0f} MB, at most {MAX_BYTES / 2**20:.0f} are read",
            "split it, and give the parts that matter",
        )


def decode(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a file in any encoding, and a note where the encoding was guessed.

    Raises:
        DataError: it is binary, or in no encoding that can be told.
    """
    content = path.read_bytes()
    if not content.startswith(_BOMS):
        controls = sum(content.count(byte) for byte in range(9))
        if controls and (b"\0" in content[:4096] or controls > len(content) // 100):
            raise DataError(f"{path}: is binary, not text", "give it its true ending, or leave it out")
        try:
            return content.decode("utf-8"), ()
        except UnicodeDecodeError:
            pass
    from_bytes = need("charset_normalizer", "reading a text of unknown encoding").from_bytes

    best = from_bytes(content).best()
    if best is None:
        raise DataError(f"{path}: is in no known text encoding", "save it as UTF-8")
    text = str(best).removeprefix("\ufeff")
    sure = best.bom or best.encoding in ("utf_8", "ascii")
    return text, () if sure else (f"read as {best.encoding}; save it as UTF-8 if letters look wrong",)


def name_of(path: Path) -> str:
    """A file's name as a title."""
    return re.sub(r"[\s_-]+", " ", path.stem).strip() or path.name


def plain(heading: str) -> str:
    """A Markdown heading's words, without emphasis, code marks and closing `#`."""
    return re.sub(r"[*`]|\s*#*\s*$", "", heading).strip()


def _text(path: Path) -> Document:
    text, notes = decode(path)
    return Document(name_of(path), text, notes)


def _markdown(path: Path) -> Document:
    text, notes = decode(path)
    text = re.sub(r"\A---\n.*?\n---\n", "", text.replace("\r\n", "\n"), flags=re.DOTALL)  # front matter
    first = re.match(r"\s*#\s+(.+)", text)
    return Document(plain(first[1]) if first else name_of(path), text, notes)


def _pdf(path: Path) -> Document:
    pypdf = need("pypdf", f"{path}: reading {path.suffix}")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # repairs that it makes are no news
    with path.open("rb") as file:
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{path}: is encrypted", "save a copy without its password")
        pages = [page.extract_text() or "" for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "").strip()
    if sum(len(page.strip()) for page in pages) < _CHARS_A_PAGE * max(len(pages), 1):
        raise DataError(
            f"{path}: its {len(pages)} pages hold no text, only pictures of it",
            "recognise the text first, for example with ocrmypdf",
        )
    bare = sum(not page.strip() for page in pages)
    notes = (f"{bare} of {len(pages)} pages hold no text",) if bare else ()
    return Document(title or name_of(path), "\n\n".join(map(_unwrapped, pages)), notes)


def _unwrapped(page: str) -> str:
    """Lines of a printed page joined to paragraphs; a blank line, or a short line that ends a sentence,
    ends one."""
    lines = [line.strip() for line in page.split("\n")]
    usual = sorted(map(len, lines))[len(lines) * 3 // 4]
    text = ""
    for line in lines:
        if text.endswith("-") and line[:1].islower():
            text = text[:-1] + line
        else:
            text += line
        ends = not line or (line[-1] in ".!?:" and len(line) < usual * 0.8)
        if not text.endswith("-"):
            text += "\n\n" if ends else " "
    return re.sub(r"\s*\n\n\s*", "\n\n", text).strip()


def _docx(path: Path) -> Document:
    docx = need("docx", f"{path}: reading {path.suffix}")
    _check_archive(path)
    document = docx.Document(str(path))
    parts = [_block(block) for block in document.iter_inner_content()]
    title = (document.core_properties.title or "").strip()
    text = "\n\n".join(part for part in parts if part)
    first = re.match(r"#\s+(.+)", text)
    return Document(title or (first[1] if first else name_of(path)), text)


def _block(block: Any) -> str:
    """A paragraph or a table of a Word file, as Markdown."""
    if hasattr(block, "rows"):
        rows = [" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in block.rows]
        return "\n".join(rows)
    text: str = block.text.strip()
    style = (block.style.name if block.style is not None else "") or ""
    level = re.match(r"Heading (\d)", style)
    if text and (level or style == "Title"):
        return f"{'#' * min(int(level[1]), 6) if level else '#'} {' '.join(text.split())}"
    return f"- {text}" if text and style.startswith("List") else text


def _check_archive(path: Path) -> None:
    """Refuse what is no zip archive, or unpacks to more than a document ever holds."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"\xd0\xcf\x11\xe0":
        raise DataError(
            f"{path}: is encrypted, or in the old .doc format", "save a copy as .docx without a password"
        )
    with zipfile.ZipFile(path) as archive:  # its reader never goes beyond the sizes that it states
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MAX_UNPACKED or unpacked > _MAX_RATIO * max(path.stat().st_size, 2**16):
        raise DataError(
            f"{path}: unpacks to {unpacked / 2**20:,.0f} MB, which no document does",
            "leave it out, or save it again with a word processor",
        )


def _html(path: Path) -> Document:
    bs4 = need("bs4", f"{path}: reading {path.suffix}")
    markdownify = need("markdownify", f"{path}: reading {path.suffix}")
    content = path.read_bytes()
    if b"\0" in content[:4096] and not content.startswith(_BOMS):
        raise DataError(f"{path}: is binary, not HTML", "give it its true ending, or leave it out")
    soup = bs4.BeautifulSoup(content, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(
        ["head", "title", "script", "style", "noscript", "template", "nav", "iframe", "svg", "button"]
    ):
        tag.decompose()
    options = {
        "heading_style": "ATX",
        "strip": ["a", "img", "b", "strong", "i", "em"],
        "escape_underscores": False,
    }
    text = markdownify.MarkdownConverter(**options, escape_asterisks=False).convert_soup(soup)
    return Document(title or name_of(path), re.sub(r"\n{3,}", "\n\n", text).strip())


READERS: dict[str, Callable[[Path], Document]] = {
    ".txt": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".pdf": _pdf,
    ".docx": _docx,
    ".html": _html,
    ".htm": _html,
}
"""By file ending, in lower case."""
TABLES = (".json", ".jsonl", ".csv", ".parquet")
"""Files of passages that are whole already; see `seal.data.documents.tables`."""
KINDS = ", ".join([*READERS, *TABLES])
