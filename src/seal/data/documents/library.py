"""What a user names (files, folders) as passages to learn, and what was left out and why.

A file that is named itself must be readable, or nothing is taught. In a folder, a file that is not is left
out, and said so; a folder that gives nothing is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seal.data.documents.readers import KINDS, READERS, TABLES, plain, read_document
from seal.data.documents.tables import read_table
from seal.data.formats import Passage
from seal.errors import DataError
from seal.extras import need

PASSAGE_CHARS = (400, 1200)
"""A passage has at most the second number of characters, and at least the first where the text allows."""


@dataclass(frozen=True, slots=True)
class Note:
    """What happened to one file, in one line."""

    path: str
    text: str
    skipped: bool
    """The whole file was left out."""


@dataclass(frozen=True, slots=True)
class Library:
    """Passages to learn, in the order of the files, with titles that tell the files apart."""

    passages: tuple[Passage, ...]
    notes: tuple[Note, ...]
    files: int
    """Files that gave passages."""


def read_library(paths: Sequence[str | Path], size: tuple[int, int] = PASSAGE_CHARS) -> Library:
    """Every passage of `paths`.

    Raises:
        DataError: a named file cannot be read, or there is no passage at all.
        MissingExtra: a file needs a package that is not installed.
    """
    notes: list[Note] = []
    found: list[Passage] = []
    files, titles = 0, dict[str, str]()
    for path, named in _files(paths, notes):
        try:
            passages, remarks = _read(path, size)
        except DataError as error:
            if named:
                raise
            notes.append(Note(str(path), _without(error.message, path), skipped=True))
            continue
        notes += [Note(str(path), remark, skipped=False) for remark in remarks]
        found += _told_apart(passages, path, titles, notes)
        files += 1
    passages = _once(found, notes)
    if not passages:
        skipped = [n for n in notes if n.skipped]
        why = f"; {len(skipped)} left out, the first: {skipped[0].path}: {skipped[0].text}" if skipped else ""
        raise DataError(f"{', '.join(map(str, paths))}: no document to learn{why}", f"give {KINDS} files")
    return Library(tuple(passages), tuple(notes), files)


def split_document(title: str, text: str, where: str, size: tuple[int, int]) -> list[Passage]:
    """Passages of a Markdown text, cut where headings, paragraphs and sentences end.

    Each is titled by the document and the heading that it stands under.
    """
    splitter = need("semantic_text_splitter", "cutting documents into passages").MarkdownSplitter
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    headings = _headings(text)
    passages: list[Passage] = []
    for start, chunk in splitter(size).chunk_indices(text):
        body = re.sub(r"\A\s*#{1,6}\s+.*\n+(?=\s*\S)", "", chunk.strip())
        if not re.search(r"\w", body):
            continue
        under = next(
            (name for at, name in reversed(headings) if at <= start + len(chunk) - len(chunk.lstrip())), ""
        )
        name = f"{title}: {under}" if under and under != title else title
        passages.append(Passage(name, body.strip(), (), where))
    return _numbered(passages)


def _read(path: Path, size: tuple[int, int]) -> tuple[list[Passage], tuple[str, ...]]:
    if path.suffix.lower() in TABLES:
        parts: list[Passage] = []
        for p in read_table(path):
            if p.questions or len(p.context) <= size[1]:
                parts.append(p)
            else:
                parts += split_document(p.title, p.context, p.where, size)
        return parts, ()
    document = read_document(path)
    return split_document(document.title, document.text, str(path), size), document.notes


def _files(paths: Sequence[str | Path], notes: list[Note]) -> Iterator[tuple[Path, bool]]:
    """Every file once, and whether the user named it; what is passed over is noted."""
    seen: set[str] = set()
    for path in (Path(p).expanduser() for p in paths):
        for file in _walk(path, notes, seen) if path.is_dir() else [path]:
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                yield file, file == path


def _walk(folder: Path, notes: list[Note], seen: set[str]) -> Iterator[Path]:
    """Files of a folder and of those below it, sorted; links are followed, but no folder is entered twice."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        notes.append(Note(str(folder), f"cannot be listed: {error.strerror}", skipped=True))
        return
    for entry in entries:
        if entry.name.startswith((".", "~$")):
            notes.append(Note(str(entry), "is hidden", skipped=True))
        elif entry.is_dir():
            yield from _walk(entry, notes, seen)
        elif not entry.is_file():
            notes.append(Note(str(entry), "is a broken link or no regular file", skipped=True))
        elif entry.suffix.lower() not in (*READERS, *TABLES):
            notes.append(Note(str(entry), f"unknown kind of file {entry.suffix or '(no ending)'!r}", True))
        else:
            yield entry


def _headings(text: str) -> list[tuple[int, str]]:
    """Where each Markdown heading begins (outside code blocks), and its words."""
    found, fenced, at = [], False, 0
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        match = re.match(r"#{1,6}\s+(.+)", line)
        if match and not fenced:
            found.append((at, plain(match[1])))
        at += len(line)
    return found


def _numbered(passages: Sequence[Passage]) -> list[Passage]:
    """Titles that occur more than once get `(2)`, `(3)`, …"""
    seen: dict[str, int] = {}
    out = []
    for passage in passages:
        count = seen[passage.title] = seen.get(passage.title, 0) + 1
        out.append(replace(passage, title=f"{passage.title} ({count})") if count > 1 else passage)
    return out


def _told_apart(
    passages: Sequence[Passage], path: Path, titles: dict[str, str], notes: list[Note]
) -> list[Passage]:
    """A title that another file has already is told apart by this file's name."""
    clash = next((p.title for p in passages if p.title and titles.get(p.title, str(path)) != str(path)), None)
    if clash is not None:
        notes.append(
            Note(str(path), f"has the title {clash!r} of {titles[clash]}; its name is added", skipped=False)
        )
        suffix = f" ({path.name})"
        if any(f"{p.title}{suffix}" in titles for p in passages):
            suffix = f" ({path})"
        passages = [replace(p, title=f"{p.title}{suffix}" if p.title else p.title) for p in passages]
    for passage in passages:
        titles.setdefault(passage.title, str(path))
    return list(passages)


def _once(passages: Sequence[Passage], notes: list[Note]) -> list[Passage]:
    """The same text twice is learned once."""
    first: dict[str, Passage] = {}
    out = []
    for passage in passages:
        key = " ".join(passage.context.split())
        if key in first and not passage.questions:
            notes.append(Note(passage.where, f"{passage.title!r} repeats {first[key].where}", skipped=False))
            continue
        first.setdefault(key, passage)
        out.append(passage)
    return out


def _without(message: str, path: Path) -> str:
    return message.removeprefix(f"{path}: ").removeprefix(f"{path}, ")
