"""Texts of models and data made safe to look at: what a terminal or browser would act on is shown."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """`text` without control characters: they are shown by their codes, as in `\\x1b[31m` and `\\u202e`.

    New lines and tabs stay; marks that turn the direction of writing count as control characters.
    """
    return _UNSAFE.sub(_shown, text)


def one_line(text: str, most: int = 120) -> str:
    """`text` plain, on one line of at most `most` characters."""
    words = " ".join(plain(text).split())
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def clipped(text: str, most: int) -> str:
    """`text` plain, cut behind `most` characters with a word on what is missing."""
    shown = plain(text[:most])
    return shown if len(text) <= most else f"{shown}\n[… {len(text) - most:,} more characters]"


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
