"""Facts as prose: an opening says what the subject is; order, wording and form of the sentences vary."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from seal.data.invented.families import Family, Relation

JOINED = 0.35
"""Chance that two facts on one subject share a sentence."""
FACTS_A_JOIN = 5
"""At most one shared sentence for so many facts."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Something that facts are about. `noun` is empty for one that is only mentioned by name."""

    name: str
    family: Family
    noun: str
    pronouns: tuple[str, str, str]
    """Subject, object, possessive."""

    @property
    def short(self) -> str:
        """How it is mentioned: `Torholm`, `the Vrenot`."""
        return self.family.short.format(name=self.name, noun=self.noun) if self.noun else self.name

    @property
    def called(self) -> str:
        """How it is introduced: `the village of Torholm`."""
        return self.family.called.format(name=self.name, noun=self.noun) if self.noun else self.name


@dataclass(frozen=True, slots=True)
class Draft:
    """A fact before it is worded."""

    subject: Entity
    relation: Relation
    value: str


def statement(draft: Draft, form: str, subject: str, obj: str, possessive: str) -> str:
    """One wording of a fact as a sentence."""
    text = form.replace("$V", draft.value).replace("$S", subject)
    return _sentence(text.replace("$O", obj).replace("$P", possessive))


def named_statement(rng: random.Random, draft: Draft) -> str:
    """A sentence that states the fact by itself, with the subject's name in it."""
    name = draft.subject.short
    forms = [f for f in draft.relation.states if "$S" in f or "$O" in f or "$P" in f]
    return statement(draft, rng.choice(forms), name, name, f"{name}'s")


def write(rng: random.Random, drafts: Sequence[Draft]) -> list[tuple[str, tuple[int, ...]]]:
    """The sentences of a passage, each with the numbers of the facts that it states.

    The first draft opens the passage; its subject is what the passage is about.
    """
    main = drafts[0].subject
    out: list[tuple[str, tuple[int, ...]]] = []
    joins = max(1, len(drafts) // FACTS_A_JOIN)
    at = 0
    while at < len(drafts):
        draft = drafts[at]
        after = drafts[at + 1] if at + 1 < len(drafts) else None
        shared = joins > 0 and after is not None and after.subject is draft.subject and rng.random() < JOINED
        predicate = _predicate(rng, draft)
        if not out or (shared and predicate and "," not in predicate):
            subject = _opening(rng, main) if not out else _mention(rng, draft.subject, main, drafts[at - 1])
            also = _predicate(rng, after) if shared and after is not None else ""
            joins -= bool(also)
            out.append(
                (
                    _sentence(f"{subject} {predicate}" + (f" and {also}" if also else "")),
                    (at, at + 1)[: 1 + bool(also)],
                )
            )
            at += 1 + bool(also)
            continue
        out.append((_alone(rng, draft, main, drafts[at - 1]), (at,)))
        at += 1
    return out


def _alone(rng: random.Random, draft: Draft, main: Entity, before: Draft) -> str:
    """A sentence on one fact."""
    form = rng.choice(draft.relation.states)
    subject = draft.subject
    if form.startswith("$S"):
        name = _mention(rng, subject, main, before)
    else:
        name = subject.short if subject is not main or rng.random() < 0.6 else f"the {subject.noun}"
    pronoun = _may_be_pronoun(subject, main, before) and rng.random() < 0.75
    obj, possessive = subject.pronouns[1:] if pronoun else (subject.short, f"{subject.short}'s")
    return statement(draft, form, name, obj, possessive)


def _predicate(rng: random.Random, draft: Draft) -> str:
    """A wording that starts with the subject, without it."""
    forms = [f for f in draft.relation.states if f.startswith("$S ") and "$P" not in f and "$O" not in f]
    return rng.choice(forms).removeprefix("$S ").replace("$V", draft.value)


def _opening(rng: random.Random, main: Entity) -> str:
    """The beginning of a passage, up to the first predicate: it says what the subject is."""
    if main.noun in main.short:
        return main.short if rng.random() < 0.5 else main.called
    relative = "who" if main.family.person else "that"
    return rng.choice(
        [f"{main.short} is {_a(main.noun)} {relative}", main.called, f"{main.short}, {_a(main.noun)},"]
    )


def _mention(rng: random.Random, subject: Entity, main: Entity, before: Draft) -> str:
    """The subject at the beginning of a sentence: its name, a pronoun, or its noun."""
    if subject is not main:
        return subject.name
    if _may_be_pronoun(subject, main, before) and rng.random() < 0.5:
        return subject.pronouns[0]
    return subject.short if rng.random() < 0.6 else f"the {subject.noun}"


def _may_be_pronoun(subject: Entity, main: Entity, before: Draft) -> bool:
    """Whether a pronoun is clear: the sentence before was on the same subject and named no other person."""
    return (
        subject is main
        and before.subject is main
        and not (main.family.person and before.relation.value == "person")
    )


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
