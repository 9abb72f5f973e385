"""Questions without labels: the names, numbers and last words of a passage's sentences, taken out by rule.

They need neither a model nor questions of a user's. A gap is asked in chat form; its answer is the words that
stood there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from seal.lexical import normalise
from seal.sentences import split_sentences

GAP = "____"
PROMPT = "Fill in the missing word: {text}"
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:]\d+)*")
_NOT_NAMES = frozenset(
    _WORD.findall(
        "a an the this that these those it its he she they we i you his her their our my your in on at by "
        "for from to of with as and but or nor so yet if when while after before during since until "
        "because although though where which who whom whose what how why there here now then once only "
        "nobody nothing no not all each every some many most few both one today never always people under "
        "over through between among against without like is are was were "
    )
)
"""Words that begin a sentence and no name."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A sentence of a passage with something taken out."""

    sentence: str
    answer: str
    """The words taken out, as they stood."""
    text: str
    """The sentence with `GAP` in their place."""

    @property
    def question(self) -> str:
        """The gap as a question to a model."""
        return PROMPT.format(text=self.text)


def gaps(passage: str) -> tuple[Gap, ...]:
    """The gaps of `passage`, in order: every name, every number, and every sentence's last word.

    Names are capitalised words, a run of them is one name; at the beginning of a sentence only where they
    cannot be ordinary words: they stand capitalised within a sentence too, or more of the run follows.
    """
    sentences = split_sentences(passage)
    inner = {m.group() for s in sentences for m in list(_WORD.finditer(s))[1:] if m.group()[0].isupper()}
    return tuple(gap for sentence in sentences for gap in _gaps(sentence, inner))


def _gaps(sentence: str, inner: set[str]) -> list[Gap]:
    words = list(_WORD.finditer(sentence))
    spans = _names(sentence, words, inner) + [m.span() for m in words if _is_number(m.group())]
    if words and not any(a <= words[-1].start() < b for a, b in spans):
        spans.append(words[-1].span())
    whole = [(a, b) for a, b in sorted(set(spans)) if b - a < len(sentence.rstrip(".!? "))]
    return [Gap(sentence, sentence[a:b], f"{sentence[:a]}{GAP}{sentence[b:]}") for a, b in whole]


def _names(sentence: str, words: list[re.Match[str]], inner: set[str]) -> list[tuple[int, int]]:
    """Spans of the runs of capitalised words that are names."""
    runs: list[list[re.Match[str]]] = []
    for word in words:
        if not word.group()[0].isupper() or (word is words[0] and word.group().lower() in _NOT_NAMES):
            continue
        if runs and sentence[runs[-1][-1].end() : word.start()] == " ":
            runs[-1].append(word)
        else:
            runs.append([word])
    spans = []
    for run in runs:
        first = run[0]
        if first is words[0] and len(run) == 1 and _stem(first.group()) not in {_stem(w) for w in inner}:
            continue
        if len(run) == 1 and run[0].group() == "I":
            continue
        spans.append((first.start(), run[-1].start() + len(_stem(run[-1].group()))))
    return spans


def _stem(word: str) -> str:
    """A name without its possessive."""
    return re.sub(r"['’]s$|(?<=s)['’]$", "", word)


def _is_number(word: str) -> bool:
    """Digits, or a number in words; "one" is mostly a pronoun."""
    said = normalise(word)
    return word.lower() != "one" and len(said) == 1 and said[0][0].isdigit()
