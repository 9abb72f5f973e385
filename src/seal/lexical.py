"""Rules that compare an answer with its gold answer by words alone: offline, instant, deterministic.

They decide what the paper's judge decides: does the answer, given without the passage, say what the gold
answer says? In order:

1. Only the answer counts: a next question that the model went on to write is cut off.
2. Words are compared after folding case, accents, dashes, number words ("forty-five million" is 45000000),
   ordinals ("eleventh" is "11th"), a few abbreviations, and inflection ("Catholic", "Catholicism").
3. A yes or no must agree. A short answer that negates what the gold answer affirms is wrong, and so is one
   that offers a choice ("1720 or 1850") where the gold answer does not.
4. Numbers decide: every gold number must be said; measures may be rounded. Of a full date the year
   is enough when the question does not ask for the day and the answer names no month; a year inside a gold
   decade is right.
5. Recall: two thirds of the gold answer's weight must be said, in any order. A word weighs 1, a number 2, a
   word that the question already gave away 0.3, a function word nothing.
6. A terse answer that is all gold words ("Antigen" for "an antigen from a pathogen") needs one third; asked
   "who", it must hold the last name.
7. Where the gold answer gives alternatives ("a frontier or emerging market"), one is enough.

Measured against GPT-4.1's verdicts on 1,928 answers of the published runs (`verdicts_dev.jsonl`; the rules
and their four numbers were chosen on the even lines only): see `seal.grading.LexicalGrader`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import takewhile

RECALL = 0.66
"""Share of the gold answer's weight that must be said (rule 5)."""
TERSE_RECALL = 0.33
"""The same for an answer of nothing but gold words (rule 6)."""
GIVEN_AWAY = 0.3
"""Weight of a gold word that stands in the question."""
SAME_PREFIX = 0.65
"""Two words are inflections of one when they share this part of the longer one, and 4 letters."""

ROUNDING = 0.005
"""Numbers that measure rather than count are the same within this share."""

_WORD = re.compile(r"\w+")
_UNITS = _WORD.findall(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = _WORD.findall("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = _WORD.findall(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_CARDINAL = {w: i for i, w in enumerate(_UNITS)} | {w: 10 * i for i, w in enumerate(_TENS, 2)}
_ORDINAL = {w: i for i, w in enumerate(_ORDINALS)} | {w[:-1] + "ieth": 10 * i for i, w in enumerate(_TENS, 2)}
_SCALE = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MONTHS = _WORD.findall(
    "january february march april may june july august september october november december"
)
_ALIASES = {m[:3]: m for m in _MONTHS if m != "may"} | {
    "sept": "september", "usa": "us", "ceo": "chief executive officer", "percentage": "percent",
    "km": "kilometre", "kilometer": "kilometre", "kilometers": "kilometre", "meter": "metre",
    "meters": "metre", "ft": "feet", "foot": "feet", "mr": "", "mrs": "", "dr": "doctor", "st": "saint",
    "vs": "versus", "v": "versus",
}  # fmt: skip
_FUNCTION = frozenset(
    _WORD.findall(
        "a an the of in on at to for from by with and or as is are was were be been being it its their his "
        "her they he she that this these those which who whom whose there than then into onto over under "
        "about approximately around roughly nearly almost circa some any such also both either if when "
        "while during through via per has have had do does did would could should can may might will not no"
    )
)
_NEGATION = frozenset({"not", "no", "never", "neither", "nor", "cannot", "none", "nothing", "nobody"})
_POLARITY = {"yes": True, "true": True, "no": False, "false": False}
_SHORT = 20
"""Words in an answer short enough that a negation or an "or" in it concerns the answer itself."""
_NEXT_TURN = re.compile(
    r"\n\s*(?:q\s*\d*\s*[:.]|question\b|topic\s*:|passage\s*:|you are an? |user\s*:|human\s*:)", re.IGNORECASE
)
_LEAD_IN = re.compile(r"^\s*(?:answer|a)\s*:\s*", re.IGNORECASE)
_TOKEN = re.compile(r"\d+(?:\.\d+)?(?:st|nd|rd|th|s)?(?![^\W\d_])|[^\W_]+[#+]*|#[^\W_]+|[%°#]")
_ORDINAL_TOKEN = re.compile(r"(\d+)(?:st|nd|rd|th)")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")
_YEAR = re.compile(r"[12]\d{3}")
_ALTERNATIVES = re.compile(r"\bor\b|[;()]", re.IGNORECASE)


def own_words(answer: str) -> str:
    """The answer without a lead-in "Answer:" and without a next question the model went on to write."""
    text = _LEAD_IN.sub("", answer)
    cut = _NEXT_TURN.search(text, 1)
    return text[: cut.start()] if cut else text


@lru_cache(maxsize=65_536)
def normalise(text: str) -> tuple[str, ...]:
    """The words of `text` in comparable form, in order, function words included.

    Compound numbers become digits (`forty-five million` -> `45000000`), ordinals `11th`.
    """
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"[’‘ʼ]", "'", text)
    text = re.sub(r"\b([a-z])\.(?=[a-z]\.)", r"\1", text)  # u.s. is us
    text = re.sub(r"'s\b|(?<=s)'(?!\w)", "", text)
    text = re.sub(r"n't\b", " not", text).replace("'", "")
    text = text.replace("%", " percent ").replace("&", " and ")
    words = [part for token in _TOKEN.findall(text) for part in _ALIASES.get(token, token).split()]
    return tuple(_join_numbers(words))


def _join_numbers(words: Iterable[str]) -> list[str]:
    """Number words, digits and scales that belong together as one word of digits."""
    out: list[str] = []
    value: float | None = None  # the number being read

    def flush() -> None:
        nonlocal value
        if value is not None:
            out.append(str(int(value)) if value == int(value) else repr(value))
        value = None

    for word in words:
        tens = value is not None and value in range(20, 100, 10)
        if word in _SCALE and value is not None:
            value *= _SCALE[word]
        elif word in _CARDINAL and tens and 0 < _CARDINAL[word] < 10:
            value = (value or 0) + _CARDINAL[word]
        elif word in _CARDINAL or _DECIMAL.fullmatch(word):
            flush()
            value = float(_CARDINAL.get(word, word))
        elif word in _ORDINAL:
            ordinal = _ORDINAL[word]
            if tens and 0 < ordinal < 10:
                ordinal, value = ordinal + int(value or 0), None
            flush()
            out.append(f"{ordinal}th")
        else:
            flush()
            match = _ORDINAL_TOKEN.fullmatch(word)
            out.append(f"{match[1]}th" if match else word)
    flush()
    return out


def same_word(one: str, other: str) -> bool:
    """Whether two normalised words are equal up to inflection; numbers must be equal."""
    if one == other:
        return True
    if not (one.isalpha() and other.isalpha()):
        return False
    if min(len(one), len(other)) < 4:
        return one.removesuffix("s") == other.removesuffix("s")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    if shared == len(one) - 1 == len(other) - 1:
        return False  # another last letter is another name, not an ending
    return shared >= max(4, SAME_PREFIX * max(len(one), len(other)))


def _says_number(gold: str, said: Iterable[str]) -> bool:
    if decade := re.fullmatch(r"(\d{3})0s", gold):
        return any(w == gold or (_YEAR.fullmatch(w) and w.startswith(decade[1])) for w in said)
    if not _DECIMAL.fullmatch(gold) or _YEAR.fullmatch(gold):
        return gold in said
    return any(_same_number(w, gold) for w in said if _DECIMAL.fullmatch(w))


def _same_number(word: str, gold: str) -> bool:
    """Equal, or the same measure rounded: within half a percent, for fractions and from a million on."""
    if word == gold:
        return True
    one, other = float(word), float(gold)
    measure = min(one, other) >= 1e6 or not (one.is_integer() and other.is_integer())
    return measure and abs(one - other) <= ROUNDING * other


def _says(gold: str, said: tuple[str, ...]) -> bool:
    return _says_number(gold, said) if gold[0].isdigit() else any(same_word(gold, w) for w in said)


def _content(words: Iterable[str]) -> list[str]:
    """Distinct words that are not function words; all of them when there is nothing else."""
    distinct = list(dict.fromkeys(words))
    return [w for w in distinct if w not in _FUNCTION] or distinct


def is_correct(question: str, gold: str, answer: str) -> bool:
    """Whether `answer` says what `gold` says, by the rules at the head of this module."""
    asked, want, said = normalise(question), normalise(gold), normalise(own_words(answer))
    if answer.strip() == gold.strip() or not want or not said:
        return bool(gold.strip()) and answer.strip() == gold.strip()
    if want[0] in _POLARITY and said[0] in _POLARITY:
        return _POLARITY[want[0]] == _POLARITY[said[0]]
    if len(said) < _SHORT:
        stated = {*want, *asked}
        if _NEGATION & set(said) and not _NEGATION & stated:
            return False
        if "or" in said and "or" not in stated:
            return False
    parts = [p for p in _ALTERNATIVES.split(gold) if normalise(p)] if "or" in want else []
    return any(_covers(asked, normalise(g), said) for g in [gold, *parts])


def _covers(asked: tuple[str, ...], want: tuple[str, ...], said: tuple[str, ...]) -> bool:
    """Rules 4 to 6 for one gold answer."""
    content = _content(want)
    numbers = [w for w in content if w[0].isdigit()]
    years = [w for w in numbers if _YEAR.fullmatch(w)]
    dated = bool(years) and any(w in _MONTHS for w in content)
    if dated and not {"day", "date", *_MONTHS} & {*asked, *said}:
        return years[-1] in said
    if not all(_says_number(n, said) for n in numbers):
        return False
    weight = {w: _weight(w, asked) for w in content}
    recall = sum(weight[w] for w in content if _says(w, said)) / sum(weight.values())
    if recall >= RECALL:
        return True
    own = [w for w in _content(said) if not any(same_word(w, a) for a in asked)]
    terse = bool(own) and all(any(same_word(w, g) for g in content) for w in own)
    return terse and recall >= TERSE_RECALL and ("who" not in asked or _says(content[-1], said))


def _weight(word: str, asked: tuple[str, ...]) -> float:
    if word[0].isdigit():
        return 2.0
    return GIVEN_AWAY if any(same_word(word, a) for a in asked) else 1.0
