"""What a world can be about: families of subjects, their relations in every wording, pools of values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from seal.data.invented.tables import table

FAMILIES = (
    "settlement", "person", "creature", "machine", "plant", "law", "festival", "guild", "ship", "book",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Relation:
    """One attribute of a family and its wordings.

    In statements `$S` is the subject, `$O` the subject as an object, `$P` its possessive and `$V` the value;
    in questions `$N` is the subject.
    """

    key: str
    value: str
    """Type of the value: a pool, a style of names, `year` or `count`."""
    cue: str
    """Pattern of words by which a sentence on this relation is known."""
    states: tuple[str, ...]
    asks: tuple[str, ...]
    """Wordings of reward questions."""
    tests: tuple[str, ...]
    """Wordings of test questions, in other words."""


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of subject: villages, laws, ships."""

    key: str
    nouns: tuple[str, ...]
    name: str
    """Style of its names."""
    short: str
    """How it is mentioned, with `{name}` and `{noun}`."""
    called: str
    """How it is introduced."""
    person: bool
    relations: tuple[Relation, ...]


@cache
def family(key: str) -> Family:
    """The family called `key` (one of `FAMILIES`)."""
    data = table(f"families/{key}.yaml")
    relations = tuple(
        Relation(name, r["value"], r["cue"], tuple(r["states"]), tuple(r["asks"]), tuple(r["tests"]))
        for name, r in data["relations"].items()
    )
    person = bool(data.get("person", False))
    return Family(key, tuple(data["nouns"]), data["name"], data["short"], data["called"], person, relations)


@cache
def pools() -> dict[str, tuple[str, ...]]:
    """The everyday words of each type."""
    return {kind: tuple(words) for kind, words in table("pools.yaml").items()}
