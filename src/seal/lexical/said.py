"""What an answer says: whether a gold word or number is in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from seal.lexical import tables as t
from seal.lexical.numbers import Token, same_number, same_unit
from seal.lexical.spaceless import holds, is_spaceless
from seal.lexical.words import Language, bare, same_word

YEAR = re.compile(r"[12]\d{3}")


@dataclass(frozen=True)
class Said:
    """An answer's tokens, and indexes to find a gold word in them."""

    tokens: tuple[Token, ...]
    lang: Language
    given: str = ""
    """The question, whose characters may stand next to the answer's word (`seal.lexical.spaceless`)."""

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(w.text for w in self.tokens)

    @cached_property
    def runs(self) -> str:
        """Its text in scripts without spaces, run by run."""
        return "\n".join(w.text for w in self.tokens if is_spaceless(w.text))

    @cached_property
    def _alike(self) -> dict[str, dict[str, bool]]:
        """Words by their first letters, and last, where prefixes are attached: word -> always a name."""
        found: dict[str, dict[str, bool]] = defaultdict(dict)
        for w in self.tokens:
            for key in _keys(w.text):
                found[key][w.text] = found[key].get(w.text, True) and w.name
        return found

    def says(self, gold: Token) -> bool:
        """Whether the answer says this word or number."""
        if gold.strict:
            return says_number(gold, self.tokens)
        if gold.text in self.words:
            return True
        if is_spaceless(gold.text):
            return holds(self.runs, gold.text, self.given)
        exact = 3 if "who" in self.given.casefold().split() else 2
        return any(
            same_word(gold.text, word, self.lang, exact if gold.name and name else gold.name + name)
            for key in _keys(gold.text)
            for word, name in self._alike.get(key, {}).items()
        )


def _keys(word: str) -> set[str]:
    plain = bare(word)
    return {plain[:1], plain[-1:]} if not plain.isascii() else {plain[:3]}


def says_number(gold: Token, said: Sequence[Token]) -> bool:
    """Whether a token with digits is among `said`: same kind, value, sign, order, and no other unit."""
    return any(same_strict(gold, w) for w in said)


def same_strict(gold: Token, said: Token) -> bool:
    """Whether two tokens with digits say the same."""
    if gold.kind == "code" or said.kind in ("code", "word"):
        return gold.text == said.text and gold.kind != "word"
    if not same_unit(gold.unit, said.unit):
        return False
    if gold.kind == "decade":
        year = said.text.removesuffix("s")
        return said.text == gold.text or (
            bool(YEAR.fullmatch(year)) and year[:3] == gold.text[:3] and "00s" not in gold.text
        )
    if gold.kind == "compound":
        return _same_compound(gold, said)
    if said.kind == "compound":
        inside = said.parts if said.joiner in ("-", "to") and YEAR.fullmatch(gold.text) else ()
        by_value = said.joiner == "/" and said.value is not None and gold.value == said.value
        return by_value or any(same_strict(gold, part) for part in inside)
    if "day" in (gold.kind, said.kind):
        return gold.value == said.value
    if "ordinal" in (gold.kind, said.kind) or "roman" in (gold.kind, said.kind):
        kinds = {gold.kind, said.kind}
        numeral = kinds == {"roman", "number"} and (gold.name or said.name)  # World War 2
        return gold.value == said.value and (numeral or "number" not in kinds)
    if gold.value is None or said.value is None or said.kind == "decade":
        return gold.text == said.text
    return gold.text == said.text if YEAR.fullmatch(gold.text) else same_number(said.value, gold.value)


def _same_compound(gold: Token, said: Token) -> bool:
    if said.kind != "compound":
        return gold.joiner == "/" and gold.value is not None and gold.value == said.value
    joiners = {gold.joiner, said.joiner}
    alike = len(joiners) == 1 or ("to" in joiners and joiners <= {"to", "-", ":"})
    return (
        alike
        and len(gold.parts) == len(said.parts)
        and all(same_strict(g, s) for g, s in zip(gold.parts, said.parts, strict=True))
    )


def content_words(words: Iterable[Token], lang: Language) -> list[Token]:
    """Distinct words that are not function words; all of them when there is nothing else."""
    distinct = list({w.text + w.unit: w for w in words}.values())
    function = t.FUNCTION if lang.english else t.FUNCTION | t.FOREIGN_FUNCTION
    return [w for w in distinct if w.strict or w.text not in function] or distinct
