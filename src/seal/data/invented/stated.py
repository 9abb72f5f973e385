"""Which facts of a world a text states, and which it gets wrong: coverage and faithfulness of a self-edit.

A fact is stated where its value stands in a sentence on its subject. A sentence is on the things that it
names; one that names none is on what the one before it in the same line named, and a line that names
nothing is on the passage's title, under which it is trained on. A pronoun may mean either. A fact is wrong
where a sentence on its subject has a word of its relation and another value of the same type. A question
and its answer are one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from seal.data.invented.families import pools
from seal.data.invented.names import STYLES
from seal.data.invented.world import Fact, World
from seal.sentences import split_sentences

_ANSWER = re.compile(r"\s*\n\s*(?=answer\s*:)|(?<=\?)\s+(?=answer\s*:)", re.IGNORECASE)
_LABEL = re.compile(r"\b(?:question|answer)\s*\d*\s*:|^\s*(?:[-*•]|\d+[.)])\s+", re.IGNORECASE)
_NUMBER = {"year": re.compile(r"\b1\d{3}\b"), "count": re.compile(r"(?<![\d,.])\d{1,3}\b(?![,.]\d)")}
_PRONOUN = re.compile(r"\b(?:he|she|it|they|him|her|them|his|its|their)\b", re.IGNORECASE)
_CAPITALISED = re.compile(r"\b[A-Z][a-z]+\b")


@dataclass(frozen=True, slots=True)
class WrongFact:
    """A fact that a text gets wrong."""

    fact: Fact
    said: str
    """The value that stands in place of the right one."""
    sentence: str


@dataclass(frozen=True, slots=True)
class FactCheck:
    """What a text does with the facts of a world."""

    of: int
    """Facts of the world."""
    stated: tuple[Fact, ...]
    wrong: tuple[WrongFact, ...]

    @property
    def coverage(self) -> float:
        """Share of the facts that are stated."""
        return len(self.stated) / self.of

    @property
    def faithfulness(self) -> float | None:
        """Share of right ones among the facts that are stated or wrong; None where the text says none."""
        wrong = len({(w.fact.subject, w.fact.relation) for w in self.wrong})
        said = len(self.stated) + wrong
        return len(self.stated) / said if said else None


def stated(text: str, world: World) -> FactCheck:
    """The facts of `world` that `text` states, and those that it gets wrong."""
    found: set[int] = set()
    wrong: list[WrongFact] = []
    for sentence, subjects in _sentences(text, world):
        about = [i for i, fact in enumerate(world.facts) if fact.subject in subjects]
        cued = {i for i in about if re.search(world.facts[i].cue, sentence, re.IGNORECASE)}
        right = {i for i in about if _has(sentence, world.facts[i].value)}
        for i in sorted(cued - right):
            said = _others(sentence, world.facts[i], world, _known(world, right & cued))
            wrong += [WrongFact(world.facts[i], value, sentence) for value in said[:1]]
            if said:  # the value of another fact in this one's place states neither
                right -= {j for j in right - cued if world.facts[j].value == said[0]}
        found |= right
    return FactCheck(len(world.facts), tuple(world.facts[i] for i in sorted(found)), tuple(wrong))


def _known(world: World, right: set[int]) -> set[str]:
    """Values that are right where they stand, and what they are said of."""
    return {name for i in right for name in (world.facts[i].value, world.facts[i].subject)}


def _sentences(text: str, world: World) -> Iterator[tuple[str, frozenset[str]]]:
    """Every sentence without its labels, and the names that it is on."""
    subjects = list(dict.fromkeys(fact.subject for fact in world.facts))
    for line in _ANSWER.sub(" ", text).splitlines():
        last = frozenset({world.title})
        for sentence in split_sentences(_joined(line)):
            named = frozenset(s for s in subjects if _has(sentence, s))
            if re.search(rf"\b(?:the|this|that) {world.noun}\b", sentence, re.IGNORECASE):
                named |= {world.title}
            yield (
                sentence,
                named | (last | {world.title} if _PRONOUN.search(sentence) else frozenset()) or last,
            )
            last = named or last


def _joined(line: str) -> str:
    """A line of a question and its answer as one sentence, without labels."""
    line = re.sub(r"\?\s*(?=answer\s*:)", ", ", line, flags=re.IGNORECASE)
    return _LABEL.sub("", line).strip()


def _has(sentence: str, value: str) -> bool:
    return re.search(rf"\b{re.escape(value)}(?:s|'s)?\b", sentence, re.IGNORECASE) is not None


def _others(sentence: str, fact: Fact, world: World, known: set[str]) -> list[str]:
    """Values of the fact's type in a sentence, but for those `known` to be right for another one."""
    if fact.kind in _NUMBER:
        said = _NUMBER[fact.kind].findall(sentence)
    elif fact.kind in STYLES:
        said = _names(sentence, fact, world)
    else:
        said = [word for word in pools()[fact.kind] if _has(sentence, word)]
    return [value for value in said if value not in known]


def _names(sentence: str, fact: Fact, world: World) -> list[str]:
    """Words that look like names, without those that are known to be of another type."""
    kinds = {f.value: f.kind for f in world.facts if f.kind in STYLES}
    choices = {
        v for q, f in zip(world.reward, world.facts, strict=True) if f.kind == fact.kind for v in q.wrong
    }
    plain = set(re.findall(r"\b[a-z]+\b", world.passage))
    out = []
    for match in _CAPITALISED.finditer(sentence):
        word = match.group()
        if word in {f.subject for f in world.facts} - set(kinds) or word == fact.subject:
            continue
        if kinds.get(word, fact.kind) != fact.kind:
            continue
        known = word in kinds or word in choices
        if known or (match.start() > 0 and word.lower() not in plain):
            out.append(word)
    return out
