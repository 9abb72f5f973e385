"""Worlds without end: every (seed, index, split) is a short passage on something that never was.

A world is made of drafts (subject, relation, value), written out by `prose` and asked about in two wordings
(reward and test questions), with wrong answers of the same type beside every right one. No two facts of a
passage have the same answer, no answer stands in its question, and no name of a training world occurs in a
held-out one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from seal.data.invented.families import FAMILIES, Relation, family, pools
from seal.data.invented.names import STYLES, Split, draw_name
from seal.data.invented.prose import Draft, Entity, named_statement, write
from seal.errors import ConfigError
from seal.lexical import same_word
from seal.records import Question
from seal.seeds import derive

FACTS = 6
"""Facts (and questions of each kind) a world has by default."""
MOST_FACTS = 24
WRONG = 5
"""Wrong answers a question comes with."""
_IT, _SHE, _HE = ("it", "it", "its"), ("she", "her", "her"), ("he", "him", "his")
#: Families of subjects that appear as a value first, by the value's type.
_GROWS = {"person": "person", "place": "settlement"}
_RANGES = {"year": (1101, 1899), "count": (11, 98)}


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of a world, where the passage states it, and what asks for it."""

    subject: str
    """Name of what the fact is about."""
    relation: str
    kind: str
    """Type of the value: colour, year, person, ..."""
    value: str
    sentence: str
    """The passage's sentence with the fact; it may hold a second fact, and a pronoun for the subject."""
    statement: str
    """A sentence that states the fact by itself."""
    cue: str
    """Pattern of words by which a sentence on this relation is known."""


@dataclass(frozen=True, slots=True)
class World:
    """A passage about something that never was. Question i of either kind asks for fact i."""

    id: str
    split: Split
    title: str
    """Name of what the passage is about."""
    noun: str
    """What that is: village, law, ship."""
    passage: str
    facts: tuple[Fact, ...]
    reward: tuple[Question, ...]
    """Questions that rewards are measured on."""
    test: tuple[Question, ...]
    """Questions on the same facts in other words, for held-out evaluation."""

    @property
    def names(self) -> frozenset[str]:
        """Every made-up name: in the passage, and among the wrong answers."""
        values = {
            v
            for q, f in zip(self.reward, self.facts, strict=True)
            if f.kind in STYLES
            for v in (f.value, *q.wrong)
        }
        return frozenset(values | {f.subject for f in self.facts})


def world(seed: int, index: int, split: Split, facts: int = FACTS) -> World:
    """World number `index` of a split; equal arguments give equal worlds, on every machine.

    Raises:
        ConfigError: unknown split, negative index, or a number of facts outside 2 to `MOST_FACTS`.
    """
    if split not in ("train", "val") or index < 0 or not 2 <= facts <= MOST_FACTS:
        raise ConfigError(
            f"invented world {index} of split {split!r} with {facts} facts",
            f"choose train or val, an index from 0 and 2 to {MOST_FACTS} facts",
        )
    return _Maker(random.Random(derive(seed, "invented", split, index, facts)), split, facts).made(
        f"invented-{split}-s{seed}-f{facts}-{index:05d}"
    )


class _Maker:
    """The choices of one world; values taken once are not taken again."""

    def __init__(self, rng: random.Random, split: Split, facts: int) -> None:
        self.rng, self.split, self.facts = rng, split, facts
        self.taken: list[str] = []
        self.nouns: tuple[str, ...] = ()

    def made(self, name: str) -> World:
        drafts = self._drafts()
        sentences = write(self.rng, drafts)
        where = {number: sentence for sentence, numbers in sentences for number in numbers}
        facts = tuple(
            Fact(
                d.subject.name, d.relation.key, d.relation.value, d.value, where[i],
                named_statement(self.rng, d), d.relation.cue,
            )
            for i, d in enumerate(drafts)
        )  # fmt: skip
        main = drafts[0].subject
        reward: list[Question] = []
        test: list[Question] = []
        for draft in drafts:
            asked = [
                self._ask(wordings, draft, main) for wordings in (draft.relation.asks, draft.relation.tests)
            ]
            wrong = self._wrong(draft, drafts)
            for questions, text in zip((reward, test), asked, strict=True):
                questions.append(Question(text, draft.value, main.name, wrong=wrong))
        passage = " ".join(sentence for sentence, _ in sentences)
        return World(name, self.split, main.name, main.noun, passage, facts, tuple(reward), tuple(test))

    def _drafts(self) -> list[Draft]:
        """The facts in the order of the passage: the first is on its main subject, and nothing else is the
        subject of a fact before it was named.
        """
        main = self._entity(self.rng.choice(FAMILIES))
        self.nouns = (main.noun,)
        relations = list(main.family.relations)
        self.rng.shuffle(relations)
        most = self.rng.randrange(0, self.facts // 3 + 1)
        side = max(most, self.facts - len(relations))
        own = [Draft(main, r, self._value(r)) for r in relations[: self.facts - side]]
        return self._with_side_facts(own, relations[self.facts - side :])

    def _with_side_facts(self, own: list[Draft], spare: list[Relation]) -> list[Draft]:
        """`own` filled up with facts on people and places that it names, or with `spare` relations."""
        drafts = list(own)
        while len(drafts) < self.facts:
            grown = [
                (i, d) for i, d in enumerate(drafts) if d.relation.value in _GROWS and self._open(d, drafts)
            ]
            if not grown:
                relation = spare.pop()
                drafts.append(Draft(own[0].subject, relation, self._value(relation)))
                continue
            at, source = self.rng.choice(grown)
            entity = next((d.subject for d in drafts if d.subject.name == source.value), None)
            entity = entity or self._entity(_GROWS[source.relation.value], source.value)
            relation = self.rng.choice(self._open(source, drafts))
            drafts.insert(
                self.rng.randrange(at + 1, len(drafts) + 1), Draft(entity, relation, self._value(relation))
            )
        return drafts

    def _open(self, source: Draft, drafts: list[Draft]) -> list[Relation]:
        """Relations of a named person or place that no fact uses yet."""
        used = {d.relation.key for d in drafts if d.subject.name == source.value}
        return [r for r in family(_GROWS[source.relation.value]).relations if r.key not in used]

    def _entity(self, key: str, name: str = "") -> Entity:
        kind = family(key)
        pronouns = self.rng.choice((_SHE, _HE)) if kind.person else _IT
        noun = "" if name else self.rng.choice(kind.nouns)
        return Entity(name or self._draw(kind.name), kind, noun, pronouns)

    def _value(self, relation: Relation) -> str:
        words = " ".join(relation.asks + relation.tests + self.nouns).casefold()
        return self._draw(relation.value, tuple(re.findall(r"[a-z]+", words)))

    def _draw(self, kind: str, unlike: tuple[str, ...] = ()) -> str:
        """A new value of a type, unlike every value before and unlike the given words."""
        while True:
            value = self._any(kind)
            if not _alike(value, (*self.taken, *unlike)):
                self.taken.append(value)
                return value

    def _any(self, kind: str) -> str:
        if kind in STYLES:
            return draw_name(self.rng, kind, self.split)
        if kind in _RANGES:
            return str(self.rng.randint(*_RANGES[kind]))
        return self.rng.choice(pools()[kind])

    def _ask(self, wordings: tuple[str, ...], draft: Draft, main: Entity) -> str:
        subject = draft.subject
        name = subject.called if subject is main and self.rng.random() < 0.5 else subject.short
        text = self.rng.choice(wordings).replace("$N", name)
        return text[0].upper() + text[1:]

    def _wrong(self, draft: Draft, drafts: list[Draft]) -> tuple[str, ...]:
        """Wrong answers of the same type, the passage's own before new ones."""
        kind = draft.relation.value
        own = {d.value for d in drafts} | {d.subject.name for d in drafts}
        same = [d.value for d in drafts if d.relation.value == kind]
        same = [v for v in same if v not in (draft.value, draft.subject.name)]
        wrong = self.rng.sample(same, min(len(same), WRONG))
        while len(wrong) < WRONG:
            other = self._any(kind)
            if not _alike(other, (*own, *wrong)):
                wrong.append(other)
        return tuple(wrong)


def _alike(value: str, others: Iterable[str]) -> bool:
    """Whether the lexical grader could take the one-word `value` for one of the others."""
    return any(same_word(value.casefold(), other.casefold()) for other in others)
