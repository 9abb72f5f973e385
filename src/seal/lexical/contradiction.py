"""How an answer can say gold words and yet contradict the gold answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seal.lexical import tables as t
from seal.lexical.numbers import Token
from seal.lexical.said import Said, same_strict
from seal.lexical.spaceless import is_spaceless
from seal.lexical.words import Language

_SHORT = 20
"""Words in an answer short enough that a negation or an "or" in it concerns the answer itself."""


def contradicts(asked: Sequence[Token], want: Sequence[Token], said: Said) -> bool:
    """Rule 3: another negation, a choice that was not offered, or the opposite of a gold word."""
    given, gold = {w.text for w in asked}, {w.text for w in want}
    if len(said.tokens) < _SHORT:
        known = gold | given
        if _either(said.words, said.lang) and not _either(known, said.lang):
            return True
        no = _negations(said.words, said.lang)
        if no and not _negations(known, said.lang):
            return True
        if _negations(gold, said.lang) and not no and not _negations(given, said.lang):
            return True
    return _reversed(want, said) or any(_excludes(group, gold, said.words, given) for group in t.EXCLUSIVE)


def _negations(words: Iterable[str], lang: Language) -> bool:
    listed = t.NEGATIONS if lang.english else t.NEGATIONS | t.FOREIGN_NEGATIONS
    return any(
        (w in listed and not (w == "no" and lang.portuguese))
        or (not w.isascii() and any(mark in w for mark in t.NEGATION_MARKS))
        for w in words
    )


def _either(words: Iterable[str], lang: Language) -> bool:
    return any(
        w == "or"
        or (w in t.EITHER and not lang.english)
        or (is_spaceless(w) and any(mark in w for mark in t.EITHER_MARKS))
        for w in words
    )


def _excludes(group: Sequence[frozenset[str]], gold: set[str], said: frozenset[str], given: set[str]) -> bool:
    """Whether the answer names members of `group`, but none that the gold answer names."""
    wanted = [m for m in group if m & gold]
    named = [m for m in group if m & said and not m & given]
    return bool(wanted and named) and not any(m & said for m in wanted)


def _reversed(want: Sequence[Token], said: Said) -> bool:
    """Whether the answer turns "from London to Paris" round."""
    texts = [w.text for w in said.tokens]
    triples = set(zip(texts, texts[1:], texts[2:], strict=False))
    return any(
        (c.text, b.text, a.text) in triples
        for a, b, c in zip(want, want[1:], want[2:], strict=False)
        if b.text in t.DIRECTED and a.text != c.text
    )


def counts_another_kind(gold: Token, want: Sequence[Token], said: Said, given: Said) -> bool:
    """Whether the answer's number counts something else: "50 people" for 50 %, "5 cats" for 5 dogs."""
    if not gold.unit and (not gold.counts or said.says(Token(gold.counts))):
        return False
    found = [w for w in said.tokens if same_strict(gold, w)]
    wanted = Said(tuple(want), said.lang)

    def other(word: Token) -> bool:
        if word.unit:
            return not gold.unit
        if not word.counts or word.counts in t.FUNCTION | t.FOREIGN_FUNCTION:
            return False
        noun = Token(word.counts)
        return not wanted.says(noun) and not given.says(noun)

    return bool(found) and all(other(w) for w in found)


def puts_another_name(want: Sequence[Token], missing: Sequence[Token], said: Said, given: Said) -> bool:
    """Whether the answer has another name where a missing gold name would stand."""
    wanted = Said(tuple(want), said.lang)
    absent = {w.text for w in missing if w.name}
    for before, gold, after in zip([None, *want[:-1]], want, [*want[1:], None], strict=True):
        if gold.text not in absent:
            continue
        for i, word in enumerate(said.tokens):
            if not word.name or wanted.says(word) or given.says(word):
                continue
            left = before is None or (i > 0 and said.tokens[i - 1].text == before.text)
            right = after is None or (i + 1 < len(said.tokens) and said.tokens[i + 1].text == after.text)
            if left and right and (before or after):
                return True
    return False
