"""Where sentences end, by rule: neither behind an abbreviation nor behind a list's number."""

from __future__ import annotations

import re

_END = re.compile(r"""(?<=[.!?])(?:["'”’)\]]*)\s+(?=["'“‘(\[]*[A-Z0-9])""")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|prof|gen|col|capt|lt|sgt|rev|hon|no|vol|fig|vs|etc|approx|ca|e\.g|i\.e|cf|al|jr|sr|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)|\b[A-Z])\.$",
    re.IGNORECASE,
)
_LONGEST = 10
"""Characters of an abbreviation, and one before it: no text is searched whole at every full stop."""
_NUMBER = re.compile(r"\s*\d{1,3}\.")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text` in order, stripped; a line break ends a sentence too."""
    out = []
    for line in text.splitlines():
        start = 0
        for end in _END.finditer(line):
            stop = end.start()
            abbreviated = _ABBREVIATION.search(line[max(start, stop - _LONGEST) : stop])
            if not abbreviated and not _NUMBER.fullmatch(line, start, stop):
                out.append(line[start : end.end()].strip())
                start = end.end()
        out.append(line[start:].strip())
    return [sentence for sentence in out if sentence]
