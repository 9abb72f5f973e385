"""Rules that compare an answer with its gold answer by words alone: offline, instant, deterministic.

They decide what the paper's judge decides: does the answer, given without the passage, say what the gold
answer says? In order:

1. Only the answer counts: thoughts (`<think>`) and a next question that the model wrote are cut off.
2. Words are compared as `seal.lexical.words` folds them. Number words, digits and scales are one number
   ("forty-five million" is 45,000,000), thousands may be separated, an ordinal or fraction has one form.
   Only English questions allow inflection ("divided", "divides"), and hardly any between names.
3. A yes or no must agree. A short answer that negates what the gold answer affirms is wrong, and so are the
   reverse, and a choice ("1720 or 1850") where the gold answer offers none. Of words that exclude each other
   (months, north and south, before and after, more and less) the answer may not name another.
4. Numbers decide: every gold number must be said, with its sign, and without another unit or currency. Order
   counts in what is written together (scores, ranges, ratios, times, dates); an end of a range is not the
   number. Measures may be rounded. Of a full date the year is enough when the question does not ask for the
   day and the answer names no month; a year inside a gold decade is right.
5. Recall: two thirds of the gold answer's weight must be said, in any order. A word weighs 1, a number 2, a
   word that the question already gave away 0.3, a function word nothing. No other name may stand in the place
   of one that is missing ("University of South Carolina").
6. A terse answer that is all gold words ("Antigen" for "an antigen from a pathogen") needs one third, and a
   word of each member of a list; asked "who", it must hold the last name.
7. Where the gold answer gives alternatives ("a frontier or emerging market"), one is enough.
8. In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) the gold characters must
   stand together in the answer, and be a word there (`seal.lexical.spaceless`).

Measured against GPT-4.1's verdicts on 1,928 answers of the published runs: `seal.grading.LexicalGrader`. The
rules are for English first; elsewhere they are stricter, since an ending or a synonym there is another word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from seal.lexical import tables as t
from seal.lexical.contradiction import contradicts, counts_another_kind, puts_another_name
from seal.lexical.numbers import Token
from seal.lexical.said import YEAR, Said, content_words, says_number
from seal.lexical.tokens import each, read, tokens
from seal.lexical.words import ENGLISH, Language, language, same_word
from seal.thoughts import without_thoughts

__all__ = ["RECALL", "TERSE_RECALL", "is_correct", "normalise", "own_words", "same_word"]

RECALL = 0.66
"""Share of the gold answer's weight that must be said (rule 5)."""
TERSE_RECALL = 0.33
"""The same for an answer of nothing but gold words (rule 6)."""
GIVEN_AWAY = 0.3
"""Weight of a gold word that stands in the question."""

_END = 2_000
"""Characters of either end of a very long answer that are read."""

_NEXT_TURN = re.compile(
    r"\n[ \t]*(?:q[ \t]*\d*[ \t]*[:.]|question\b|(?:topic|passage|user|human)[ \t]*:|you are an? )",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(r"\s*\W{0,4}(?:answer|a)\W{0,4}:\W{0,4}\s", re.IGNORECASE)
_ALTERNATIVES = re.compile(r"\bor\b|[;()]", re.IGNORECASE)


def own_words(answer: str) -> str:
    """The answer without thoughts, a lead-in "Answer:", and a next question the model went on to write.

    Of more than 4,000 characters (what a judge reads) the first and the last 2,000 are kept.
    """
    text = without_thoughts(answer)
    lead = _LEAD_IN.match(text)
    text = (text[lead.end() :] if lead else text).strip()
    cut = _NEXT_TURN.search(text, 1)
    text = text[: cut.start()] if cut else text
    return text if len(text) <= 2 * _END else f"{text[:_END]}\n{text[-_END:]}"


@lru_cache(maxsize=4096)
def normalise(text: str) -> tuple[str, ...]:
    """The words of an English text in comparable form, in order: `forty-five million` is `45000000`.

    Each word and number by itself, without signs: the same wherever it stands.
    """
    return tuple(part.text.lstrip("-") for token in each(text, ENGLISH) for part in token.parts or (token,))


def is_correct(question: str, gold: str, answer: str) -> bool:
    """Whether `answer` says what `gold` says, by the rules at the head of this module."""
    if answer.strip() == gold.strip():
        return bool(gold.strip())
    lang = language(question if any(c.isalpha() for c in question) else gold)
    own = own_words(answer)
    asked, want, said = tokens(question, lang), tokens(gold, lang), Said(read(own, lang), lang, question)
    if not want or not said.tokens:
        return False
    if want[0].text in t.POLARITY and said.tokens[0].text in t.POLARITY:
        return t.POLARITY[want[0].text] == t.POLARITY[said.tokens[0].text]
    if contradicts(asked, want, said):
        return False
    words = {w.text for w in want}
    parts = [p for p in _ALTERNATIVES.split(gold) if tokens(p, lang)] if "or" in words else []
    return any(_covers(asked, g, said) for g in [want, *(tokens(p, lang) for p in parts)])


def _covers(asked: tuple[Token, ...], want: tuple[Token, ...], said: Said) -> bool:
    """Rules 4 to 6 for one gold answer."""
    content = content_words(want, said.lang)
    given = Said(asked, said.lang)
    numbers = [w for w in content if w.strict]
    if any(counts_another_kind(w, want, said, given) for w in numbers):
        return False
    years = [w for w in numbers if YEAR.fullmatch(w.text)]
    dated = bool(years) and any(w.text in t.MONTHS for w in content)
    if dated and not {"day", "date", *t.MONTHS} & {*given.words, *said.words}:
        return says_number(years[-1], said.tokens)
    if not all(says_number(n, said.tokens) for n in numbers):
        return False
    weight = [2.0 if w.strict else GIVEN_AWAY if given.says(w) else 1.0 for w in content]
    missing = [w for w in content if not said.says(w)]
    recall = 1 - sum(x for x, w in zip(weight, content, strict=True) if w in missing) / sum(weight)
    if missing and puts_another_name(want, missing, said, given):
        return False
    if recall >= RECALL:
        return True
    wanted = Said(want, said.lang)
    own = [w for w in content_words(said.tokens, said.lang) if not given.says(w)]
    terse = bool(own) and len(own) <= len(content) and all(wanted.says(w) for w in own)
    terse = terse and all(any(said.says(w) for w in part) for part in _members(want, said.lang))
    return terse and recall >= TERSE_RECALL and ("who" not in given.words or said.says(content[-1]))


def _members(want: Sequence[Token], lang: Language) -> list[list[Token]]:
    """The content words of each member of a gold list ("red and blue")."""
    members: list[list[Token]] = [[]]
    content = {w.text for w in content_words(want, lang)}
    for w in want:
        if w.text in (("and",) if lang.english else t.AND):
            members.append([])
        elif w.text in content:
            members[-1].append(w)
    return [m for m in members if m]
