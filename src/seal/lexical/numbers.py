"""Numbers in a text: how they are written, signed, joined, and what they count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

ROUNDING = Decimal("0.005")
"""A measure may be rounded by up to this share; see `same_number`."""


@dataclass(slots=True)
class Token:
    """One word or number of a text in comparable form."""

    text: str
    """The folded word, the number in plain digits, `11th`, `1970s`, or the parts of a compound: `24-10`."""
    kind: str = "word"
    """word, number, ordinal, day (ordinal beside a month), roman (a numeral like VIII), decade, compound,
    or code (A380, the C of vitamin C)."""
    name: bool = False
    """A word with a capital letter, or a number right after one (Apollo 11)."""
    value: Decimal | None = None
    unit: str = ""
    """Canonical units of a number, joined by "|"; empty where none is given."""
    counts: str = ""
    """The word after a number and its unit, which may be what it counts."""
    parts: tuple[Token, ...] = ()
    joiner: str = ""
    """How a compound's parts are joined: "-" (a range or score), "to", ":", "/", "." or ","."""
    raw: str = ""
    """A word as it was written."""

    @property
    def strict(self) -> bool:
        """Whether it must be said as it is: everything with a digit."""
        return self.kind != "word"


def read_numeral(text: str, comma: bool) -> list[Decimal]:
    """The numbers that digits with separators stand for: one, or several for `1,2,3` and `8.11.2010`.

    1,000 is a thousand and 1.5 one and a half, or the other way round where the language has decimal commas
    (`comma`). Two kinds of separator, repeated ones in groups of three, and 1.000 are read in one way only.
    """
    text = text.replace(" ", "").replace("'", "")
    marks = re.findall(r"[.,]", text)
    groups = re.split(r"[.,]", text)
    if not marks:
        return [Decimal(text)]
    head, *middle, last = groups
    threes = 0 < len(head) <= 3 and head[0] != "0"
    if len(marks) == 1:
        four_digits = marks[0] == "," and not comma and len(last) == 4 and last[0] in "12"
        if four_digits:  # "May 5,1999"
            return [Decimal(head), Decimal(last)]
        thousands = threes and len(last) == 3 and (last == "000" or (marks[0] == ",") != comma)
        return [Decimal(head + last) if thousands else Decimal(f"{head or 0}.{last}")]
    fit = threes and all(len(g) == 3 for g in middle)
    if marks[-1] not in marks[:-1]:
        if fit and len(set(marks[:-1])) == 1:
            return [Decimal("".join(groups[:-1]) + "." + last)]
    elif len(set(marks)) == 1 and threes and len(last) == 3:
        indian = marks[0] == "," and len(head) <= 2 and all(len(g) == 2 for g in middle)
        if fit or indian:
            return [Decimal("".join(groups))]
    return [Decimal(g) for g in groups if g]


def plain(value: Decimal) -> str:
    """`value` in digits without exponent and trailing zeros."""
    if not -40 < value.adjusted() < 400:
        return str(value)
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def same_number(one: Decimal, other: Decimal) -> bool:
    """Equal, or one a measure (a fraction, or from a million on) that the other gives with fewer digits."""
    if one == other:
        return True
    if (one < 0) != (other < 0):
        return False
    measure = min(abs(one), abs(other)) >= 10**6 or one != one.to_integral() or other != other.to_integral()
    if not measure or abs(one - other) > ROUNDING * abs(other):
        return False
    step = Decimal(1).scaleb(max(_exponent(one), _exponent(other)))
    return abs(one - other) <= step / 2


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def number(value: Decimal, unit: str = "") -> Token:
    """A number's token."""
    return Token(plain(value), "number", value=value, unit=unit)


def compound(parts: list[Token], joiner: str) -> Token:
    """Numbers that belong together in this order; one of the units holds for all that have none."""
    unit = next((p.unit for p in reversed(parts) if p.unit), "")
    for part in parts:
        part.unit = part.unit or unit
    value = None
    if joiner == "/" and len(parts) == 2 and parts[0].value is not None and parts[1].value:
        value = parts[0].value / parts[1].value
    text = ("-" if joiner == "to" else joiner).join(p.text for p in parts)
    return Token(text, "compound", value=value, unit=unit, parts=tuple(parts), joiner=joiner)


def same_unit(one: str, other: str) -> bool:
    """Whether two units agree as far as both are known."""
    return not one or not other or bool({*one.split("|")} & {*other.split("|")})
