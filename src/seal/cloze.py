"""Questions without labels: the names, numbers and last words of a passage's sentences, taken out by rule.

They need neither a model nor questions of a user's. A gap is asked in chat form; its answer is the words that
stood there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from seal.lexical import normalise, same_word
from seal.records import Question
from seal.sentences import split_sentences

GAP = "____"
PROMPT = "Fill in the missing word: {text}"
_WORD = re.compile(
    r"(?<![^\W_])(?:[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?)(?![^\W_])"
)
_START = re.compile(r"(?:[\"“‘:]\s*|\s')$")
"""Behind these a capital is no sign of a name, as at the beginning of a sentence."""
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
_NO_NUMBERS = frozenset({"one", "first", "second"})


@dataclass(frozen=True, slots=True)
class Gap:
    """A sentence of a passage with something taken out."""

    sentence: str
    answer: str
    """The words taken out, as they stood."""
    text: str
    """The sentence with `GAP` in their place."""
    kind: Literal["name", "number", "word"]

    @property
    def question(self) -> str:
        """The gap as a question to a model."""
        return PROMPT.format(text=self.text)


def gaps(passage: str) -> tuple[Gap, ...]:
    """The gaps of `passage`, in order: every name, every number, and every sentence's last word.

    Names are capitalised words, a run of them is one name; at the beginning of a sentence only where they
    cannot be ordinary words: they stand capitalised within a sentence too, or more of the run follows.
    """
    within = capitals_within(passage)
    return tuple(gap for sentence in split_sentences(passage) for gap in _gaps(sentence, within))


def cloze_questions(passage: str, title: str = "", most: int = 12) -> tuple[Question, ...]:
    """Gaps of `passage` as questions, evenly spread over it; the same for everybody.

    Every other gap that can be asked, at most `most`: the rest is left for study plans to train on. An answer
    is asked for once, and no gap whose answer stands elsewhere in its sentence. The passage's other answers
    of the same kind are the wrong ones; of any kind, where there are none.
    """
    every = gaps(passage)
    first: dict[tuple[str, ...], Gap] = {}
    for gap in every:
        said = normalise(gap.answer)
        if said and not any(same_word(w, o) for w in said for o in normalise(gap.text)):
            first.setdefault(said, gap)
    usable = list(first.values())[::2]
    chosen = [usable[i * len(usable) // most] for i in range(most)] if len(usable) > most else usable
    return tuple(Question(g.question, g.answer, title, wrong=_wrong(g, every)) for g in chosen)


def _wrong(gap: Gap, every: Sequence[Gap], most: int = 5) -> tuple[str, ...]:
    """Answers of other gaps, of the same kind if there are any, that share no word with this one's."""
    own = normalise(gap.answer)
    others = [g for g in every if not any(same_word(a, b) for a in own for b in normalise(g.answer))]
    alike = [g for g in others if g.kind == gap.kind] or others
    return tuple({normalise(g.answer): g.answer for g in alike}.values())[:most]


def capitals_within(text: str) -> frozenset[str]:
    """Words that stand capitalised within a sentence of `text`, without possessives: most are names."""
    sentences = [list(_WORD.finditer(s)) for s in split_sentences(text)]
    return frozenset(_stem(m.group()) for words in sentences for m in words[1:] if m.group()[0].isupper())


def name_spans(sentence: str, within: Collection[str] = ()) -> list[tuple[int, int]]:
    """Where the names of a sentence stand, by the rule of `gaps`; `within`: words known to be names."""
    words = list(_WORD.finditer(sentence))
    starts = {w.start() for w in words[:1]}
    starts |= {w.start() for w in words if _START.search(sentence[max(0, w.start() - 3) : w.start()])}
    runs: list[list[re.Match[str]]] = []
    for word in words:
        if not word.group()[0].isupper() or (word.start() in starts and word.group().lower() in _NOT_NAMES):
            continue
        if runs and sentence[runs[-1][-1].end() : word.start()] == " ":
            runs[-1].append(word)
        else:
            runs.append([word])
    return [
        (run[0].start(), run[-1].start() + len(_stem(run[-1].group())))
        for run in runs
        if len(run) > 1
        or (run[0].group() != "I" and (run[0].start() not in starts or _stem(run[0].group()) in within))
    ]


def number_spans(sentence: str) -> list[tuple[int, int]]:
    """Where numbers stand, in digits or words, but for small words that hardly count."""
    spans: list[tuple[int, int]] = []
    for word in _WORD.finditer(sentence):
        start, stop = word.span()
        if spans and spans[-1][1] == start - 1 and _is_number(sentence[spans[-1][0] : stop]):
            spans[-1] = (spans[-1][0], stop)  # "two hundred"
        elif _is_number(word.group()):
            spans.append((start, stop))
    return spans


def _gaps(sentence: str, within: Collection[str]) -> list[Gap]:
    kinds: dict[tuple[int, int], Literal["name", "number", "word"]] = {}
    kinds |= dict.fromkeys(name_spans(sentence, within), "name")
    kinds |= dict.fromkeys(number_spans(sentence), "number")
    *_, last = [None, *_WORD.finditer(sentence)]
    if last and not any(a <= last.start() < b for a, b in kinds):
        kinds[last.span()] = "word"
    whole = len(sentence.rstrip(".!? "))
    return [
        Gap(sentence, sentence[a:b], f"{sentence[:a]}{GAP}{sentence[b:]}", kinds[a, b])
        for a, b in sorted(kinds)
        if b - a < whole
    ]


def _stem(word: str) -> str:
    """A name without its possessive."""
    return re.sub(r"['’]s$|(?<=s)['’]$", "", word)


def _is_number(word: str) -> bool:
    said = normalise(word)
    return word.lower() not in _NO_NUMBERS and len(said) == 1 and said[0][0].isdigit()
