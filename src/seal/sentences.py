"""Where sentences end, by rule: neither behind an abbreviation nor behind a list's number."""

from __future__ import annotations

import re

_END = re.compile(r"""(?<=[.!?])(?:["'”’)\]]*)\s+(?=["'“‘(\[]*[A-Z0-9])""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|prof|gen|col|capt|lt|sgt|rev|hon|no|vol|fig|vs|etc|approx|ca|e\.g|i\.e|cf|al|jr|sr|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)|\b[A-Z]|^\s*\d{1,3})\.$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """The sentences of `text` in order, stripped; a line break ends a sentence too."""
    out = []
    for line in text.splitlines():
        start = 0
        for end in _END.finditer(line):
            piece = line[start : end.start()]
            if not _ABBREVIATION.search(piece):
                out.append(line[start : end.end()].strip())
                start = end.end()
        out.append(line[start:].strip())
    return [sentence for sentence in out if sentence]
