"""Answers on the terminal, as they are written."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seal.records import Sampling
    from seal.taught.model import Reply, TaughtModel


def say(text: str) -> None:
    """The next piece of an answer, at once."""
    print(text, end="", flush=True)


def say_source(reply: Reply) -> None:
    """Where the answer should come from, and who gave it, on stderr."""
    if reply.passage is not None:
        where = reply.passage.title or reply.passage.source
        print(f"about: {where} ({reply.passage.source}); answered by {reply.adapter}", file=sys.stderr)
    else:
        print(f"about: no taught passage; answered by {reply.adapter}", file=sys.stderr)


def side_by_side(model: TaughtModel, question: str, sampling: Sampling) -> None:
    """Both answers in two columns; on a terminal they grow as they are written."""
    texts = ["", ""]
    live = sys.stdout.isatty()
    shown = 0

    def grow(number: int, piece: str) -> None:
        nonlocal shown
        texts[number] += piece
        if live:
            shown = _redraw(texts, shown)

    replies = model.compare(question, on_text=grow, sampling=sampling)
    texts = [reply.text for reply in replies]
    if live:
        _redraw(texts, shown)
    else:
        print("\n".join(columns(texts)))
    say_source(replies[1])


def columns(texts: list[str], width: int = 0) -> list[str]:
    """Lines of two columns, headed untaught and taught; one under the other where the terminal is narrow."""
    width = width or shutil.get_terminal_size().columns
    if width < 60:
        pairs = zip(("untaught", "taught"), texts, strict=True)
        return [line for name, text in pairs for line in (f"[{name}]", *textwrap.wrap(text, width))]
    half = (width - 3) // 2
    left, right = (
        [line for part in t.split("\n") for line in textwrap.wrap(part, half) or [""]] for t in texts
    )
    left, right = ["untaught", "-" * 8, *left], ["taught", "-" * 6, *right]
    height = max(len(left), len(right))
    for column in (left, right):
        column += [""] * (height - len(column))
    return [f"{a:<{half}}   {b}".rstrip() for a, b in zip(left, right, strict=True)]


def _redraw(texts: list[str], shown: int) -> int:
    lines = columns(texts)
    back = f"\x1b[{shown}A\x1b[J" if shown else ""
    print(back + "\n".join(lines), flush=True)
    return len(lines)
