"""What belongs to a number: its unit or currency, and the numbers it is written together with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from seal.lexical import tables as t
from seal.lexical.numbers import Token, compound, number
from seal.lexical.words import bare


def _unit(words: list[Token], i: int, depth: int = 0) -> tuple[str, int]:
    """The unit that begins at `words[i]` and how many tokens it takes; ("", 0) where none does."""
    if depth > 2 or i >= len(words) or words[i].kind not in ("word", "code", "symbol", "currency"):
        return "", 0
    token, used = words[i], 1
    if token.text in ("square", "sq", "cubic"):
        unit, more = _unit(words, i + 1, depth + 1)
        return (f"{unit}^{3 if token.text == 'cubic' else 2}", 1 + more) if unit else ("", 0)
    if token.text in ("us", "american") and i + 1 < len(words) and words[i + 1].text.startswith("dollar"):
        return "dollar", 2
    following = words[i + 1].text if i + 1 < len(words) else ""
    if (token.text == "per" and following == "cent") or (
        token.text in ("por", "pour") and following in ("ciento", "cent")
    ):
        return "percent", 2
    unit = _one_unit(token)
    if not unit:
        return "", 0
    if "degree" in unit and following in ("celsius", "c", "fahrenheit", "f", "centigrade"):
        unit, used = ("celsius" if following[0] == "c" else "fahrenheit"), 2
    if i + used < len(words) and words[i + used].kind == "power":
        unit, used = unit + words[i + used].text, used + 1
    if i + used + 1 < len(words) and words[i + used].text in ("per", "/"):
        below, more = _unit(words, i + used + 1, depth + 1)
        if below:
            return f"{unit}/{below}", used + 1 + more
    return unit, used


def _one_unit(token: Token) -> str:
    if token.kind == "currency":
        return token.unit
    for spelled in (token.raw, token.text) if len(token.text) > 1 else (token.raw,):
        if spelled in t.UNIT_SYMBOLS:
            return t.UNIT_SYMBOLS[spelled]
        if spelled[-1:] in ("2", "3") and spelled[:-1] in t.UNIT_SYMBOLS:
            return f"{t.UNIT_SYMBOLS[spelled[:-1]]}^{spelled[-1]}"
    if m := t.UNIT_NAME.fullmatch(bare(token.text)):
        stem = next(g for g in m.groups()[1:] if g)
        return (m[1] or "") + _STEMS.get(stem, stem)
    return ""


_STEMS = {"met": "metre", "lit": "litre"} | dict.fromkeys(("sekunde", "segundo", "seconde"), "second")


def with_units(found: Iterable[Token]) -> list[Token]:
    """Numbers take the currency before them and the unit after them."""
    words, out, i = list(found), list[Token](), 0
    while i < len(words):
        token = words[i]
        i += 1
        if token.kind in ("number", "compound", "decade"):
            if out and out[-1].kind == "currency":
                token.unit = out.pop().unit
            if out and out[-1].text in t.MINUS and token.kind == "number" and token.value is not None:
                out.pop()
                token = number(-token.value, token.unit)
            unit, used = _unit(words, i)
            if i + 1 < len(words) and words[i].text == "-":  # a 5-km walk
                hyphened, more = _unit(words, i + 1)
                unit, used = (
                    (hyphened, 1 + more) if hyphened and words[i + 1].kind == "word" else (unit, used)
                )
            if used and token.kind != "decade":
                token.unit = token.unit or unit
                i += used
            if i < len(words) and words[i].kind == "word":
                token.counts = words[i].text
        out.append(token)
    return out


def with_months(words: list[Token]) -> list[Token]:
    """5th May, May 5th, the 5th of May: beside a month an ordinal is a day."""
    texts = [t.ALIASES.get(w.text, w.text) for w in words]
    for i, token in enumerate(words):
        near = (texts[i - 1] if i else "", *texts[i + 1 : i + 3])
        if near[1:2] == ("of",):
            near = (near[0], *near[2:])
        beside = any(w in t.MONTHS for w in near[:2])
        if token.kind == "ordinal" and token.value is not None and beside:
            token.kind = "day"
    return words


def join_compounds(words: list[Token]) -> Iterator[Token]:
    """Numbers with a dash, colon, slash or "to" between them as one compound, dates as day, month, year."""
    i = 0
    while i < len(words):
        if words[i].kind not in ("number", "compound"):
            yield words[i]
            i += 1
            continue
        if (mixed := _mixed(words[i : i + 4])) is not None:
            yield mixed
            i += 4
            continue
        parts, joiner = [words[i]], ""
        between = i > 0 and words[i - 1].text in t.BETWEEN
        while i + 2 < len(words) and words[i + 2].kind == "number" and words[i].kind == "number":
            link = words[i + 1]
            how = _joiner(link, between)
            if not how or (joiner and how != joiner):
                break
            parts.append(words[i + 2])
            joiner, i = how, i + 2
        i += 1
        yield from _compound(parts, joiner) if joiner else _dotted_date(parts[0])


def _joiner(link: Token, between: bool) -> str:
    """How a token joins the numbers on its two sides; empty where it does not."""
    if link.kind == "symbol":
        return link.text if link.text in ("-", ":", "/") else ""
    return "to" if link.text in t.TO or (between and link.text in t.AND) else ""


def _mixed(words: list[Token]) -> Token | None:
    """2 1/2 as two and a half."""
    if [w.kind for w in words] != ["number", "number", "symbol", "number"] or words[2].text != "/":
        return None
    whole, above, below = words[0].value, words[1].value, words[3].value
    if whole is None or above is None or below is None or not 0 < above < below or words[0].unit:
        return None
    return number(whole + (above / below).copy_sign(whole), words[3].unit)


def _compound(parts: list[Token], joiner: str) -> Iterator[Token]:
    values = [int(p.value) if p.value is not None and p.value == p.value.to_integral() else -1 for p in parts]
    if len(parts) == 3 and joiner in "-/" and (date := _date(values)):
        yield from date
        return
    if len(parts) == 2 and joiner == ":" and values[1] == 0 and 0 <= values[0] <= 24:
        yield parts[0]  # ten o'clock
        return
    if (
        len(parts) == 2
        and joiner in ("-", "/")
        and 1000 <= values[0] < 2100
        and values[0] % 100 < values[1] < 100
    ):
        parts[1] = number(Decimal(values[0] // 100 * 100 + values[1]))  # 1914-18
    yield compound(parts, joiner)


def _dotted_date(token: Token) -> Iterator[Token]:
    if token.kind == "compound" and token.joiner == "." and len(token.parts) == 3:
        date = _date([int(p.value or 0) for p in token.parts], dotted=True)
        if date:
            yield from date
            return
    yield token


def _date(values: list[int], dotted: bool = False) -> list[Token]:
    """Day, month, year of 2010-11-08, 8.11.2010, 25/12/2010 (either order); empty where it is not clear."""
    if 1000 <= values[0] < 2200:
        year, month, day = values
    else:
        day, month, year = values
        if not dotted and 1 <= day <= 12 and 1 <= month <= 12 and day != month:
            return []
        if month > 12:
            day, month = month, day
    if not (1 <= day <= 31 and 1 <= month <= 12 and 1000 <= year < 2200):
        return []
    return [number(Decimal(day)), Token(t.MONTHS[month - 1], name=True), number(Decimal(year))]
