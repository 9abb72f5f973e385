"""What is visibly wrong with a self-edit, found by rule before it is trained on.

| kind | what |
|---|---|
| `loop` | a sentence for the third time, or twice in a row; words that start over in place |
| `echo` | the instruction's words in place of content, an announcement, a mark of the chat template |
| `unsupported` | a name or number that stands neither in the passage nor in its title |

A finding is data, not a verdict: an implication may bring in a name that is right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from seal.cloze import capitals_within, name_spans, number_spans
from seal.lexical import normalise
from seal.records import EditFinding
from seal.sentences import split_sentences

LOOP = 3
"""Rounds of the same words that make a loop; a single word needs one more."""
LONGEST_ROUND = 30
"""Words in the longest round that is looked for."""
ECHO = 0.6
"""Share of a sentence's pairs of neighbouring words that an echo has from the instruction."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_LABEL = re.compile(
    r"(?:[-*•#>]+\s*|\(?\d{1,3}[.):]\s+|(?:question|answer|q|a)\s*\d*\s*[:.]\s*)+", re.IGNORECASE
)
_ASKED = re.compile(r"question \d+:", re.IGNORECASE)
_PIECE = re.compile(r"\n+|(?<=[.!?])\s+(?=[A-Z0-9])|\b(?=(?:question|answer)\s*\d*\s*:)", re.IGNORECASE)
_ANNOUNCED = re.compile(
    r"(?:sure|certainly|of course|okay|here(?: (?:is|are)|['’]s)|below (?:is|are))\b.*:|"
    r".*\b(?:passage|implications|rewritten|facts|statements|versions?)\b[^:]*:",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"<\|[a-z_]+\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_ENDINGS = 2
"""Letters by which a word may be longer than the passage's and still be the same name."""
Span = tuple[int, int]


@lru_cache(maxsize=16)  # what to train on and what to tell are asked one after the other
def check_edit(completion: str, instruction: str, passage: str, title: str = "") -> tuple[EditFinding, ...]:
    """What is wrong with `completion`, in the order of the text.

    Args:
        completion: the self-edit as it was written.
        instruction: what was asked for; a whole prompt will do, the passage in it does not count.
        passage: what the self-edit is about.
        title: the passage's title.
    """
    units = list(_units(completion))
    asked = _pairs(_words(instruction.replace(passage.strip(), " ")))
    found = [*_loops(completion, units), *_echoes(completion, units, asked)]
    found += _unsupported(completion, _outside(units, found), f"{title}\n{passage}")
    return tuple(sorted(found, key=lambda f: (f.start, f.stop, f.kind)))


def _outside(units: Sequence[Span], found: Sequence[EditFinding]) -> list[Span]:
    """The units, in the order of the text, that are not within a finding."""
    spans, rest, reach, n = sorted((f.start, f.stop) for f in found), [], 0, 0
    for start, stop in units:
        while n < len(spans) and spans[n][0] <= start:
            reach, n = max(reach, spans[n][1]), n + 1
        if stop > reach:
            rest.append((start, stop))
    return rest


def without_loops(completion: str, findings: Sequence[EditFinding]) -> str:
    """`completion` without its loops and echoes; unsupported names and numbers stay."""
    out, at = "", 0
    for finding in sorted(findings, key=lambda f: f.start):
        if finding.kind != "unsupported" and finding.stop > at:
            out += completion[at : max(at, finding.start)]
            at = finding.stop
    return out + completion[at:]


def summary(findings: Sequence[EditFinding]) -> str:
    """One line: how many of each kind, and the first of each."""
    count = Counter(f.kind for f in findings)
    first = {f.kind: " ".join(f.text.split())[:40] for f in reversed(findings)}
    return "; ".join(f"{count[kind]} {kind} ({first[kind]!r})" for kind in sorted(count))


def _units(text: str) -> Iterator[Span]:
    """What is looked at as a whole: a question with its answer, else a sentence."""
    starts = [m.start() for m in _ASKED.finditer(text)]
    if starts and "answer:" in text.lower():
        edges = [0, *(s for s in starts if s), len(text)]
        pieces = [text[a:b] for a, b in pairwise(edges)]
    else:
        pieces = split_sentences(text)
    at = 0
    for piece in filter(None, map(str.strip, pieces)):
        at = text.index(piece, at)
        yield at, at + len(piece)
        at += len(piece)


def _loops(text: str, units: Sequence[Span]) -> list[EditFinding]:
    found = []
    seen: Counter[tuple[str, ...]] = Counter()
    before: tuple[str, ...] = ()
    for start, stop in units:
        words = _words(_without_label(text[start:stop]))
        if not words:  # a line such as --- begins another version
            seen.clear()
        seen[words] += 1
        if words and (seen[words] >= LOOP or words == before):
            found.append(_finding("loop", text, start, stop))
        elif again := _again(text, start, stop):
            found.append(_finding("loop", text, *again))
        before = words
    return found


def _again(text: str, start: int, stop: int) -> Span | None:
    """From where the words of a unit start over to where they no longer do; the first round stays."""
    matches = list(_WORD.finditer(text, start, stop))
    words = [m.group().lower() for m in matches]
    for at in range(len(words)):
        for size in range(1, min(LONGEST_ROUND, (len(words) - at) // LOOP) + 1):
            end = at + size
            while end < len(words) and words[end] == words[end - size]:
                end += 1
            if end == len(words) - 1 and words[end - size].startswith(words[end]):
                end += 1  # a last word cut short
            if (end - at) // size >= LOOP + (size == 1):
                return matches[at + size - 1].end(), matches[end - 1].end()
    return None


def _echoes(text: str, units: Sequence[Span], asked: set[tuple[str, str]]) -> list[EditFinding]:
    found = []
    for start, stop in units:
        piece = _without_label(text[start:stop])
        pairs = _pairs(_words(piece))
        echoed = len(pairs) > LOOP and len(pairs & asked) / len(pairs) >= ECHO
        if echoed or _TEMPLATE.search(piece) or _ANNOUNCED.fullmatch(piece):
            found.append(_finding("echo", text, start, stop))
    return found


def _unsupported(text: str, units: Sequence[Span], known: str) -> list[EditFinding]:
    """The first place of every name and number that `known` does not have; a last word cut short is none."""
    have, within, end = set(normalise(known)), capitals_within(known), len(text.rstrip())
    stems = {stem for word in have if word.isalpha() for stem in _stems(word)}
    found, seen = [], set()
    for start, stop in _pieces(text, units):
        piece = text[start:stop]
        for a, b in sorted([*name_spans(piece, within), *number_spans(piece)]):
            said = normalise(piece[a:b])
            if start + b < end and said not in seen and not all(_known(word, have, stems) for word in said):
                seen.add(said)
                found.append(_finding("unsupported", text, start + a, start + b))
    return found


def _pieces(text: str, units: Sequence[Span]) -> Iterator[Span]:
    """The sentences of the units, without labels."""
    for start, stop in units:
        edges = [start, *(m.end() for m in _PIECE.finditer(text, start, stop)), stop]
        for a, b in pairwise(edges):
            label = _LABEL.match(text, a, b)
            yield (label.end() if label else a), b


def _known(word: str, have: set[str], stems: set[str]) -> bool:
    """Whether the passage has the word, up to a short ending; numbers must be equal."""
    return word in have or (word.isalpha() and (word in stems or not have.isdisjoint(_stems(word))))


def _stems(word: str) -> list[str]:
    """The word without its last letters, as far as enough is left to tell it by."""
    return [word[: len(word) - n] for n in range(_ENDINGS + 1) if len(word) - n > LOOP]


def _without_label(text: str) -> str:
    label = _LABEL.match(text)
    return text[label.end() :] if label else text


def _words(text: str) -> tuple[str, ...]:
    return tuple(m.group().lower() for m in _WORD.finditer(text))


def _pairs(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(pairwise(words))


def _finding(kind: Literal["loop", "echo", "unsupported"], text: str, start: int, stop: int) -> EditFinding:
    return EditFinding(kind, text[start:stop], start, stop)
