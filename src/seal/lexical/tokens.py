"""A text as tokens: words, and numbers with sign, unit and order."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache

import regex

from seal.lexical import tables as t
from seal.lexical.numbers import Token, compound, number, plain, read_numeral
from seal.lexical.quantities import join_compounds, with_months, with_units
from seal.lexical.spoken import han_number, join_number_words
from seal.lexical.words import SPACELESS, Language, fold, fold_word

_SCAN = regex.compile(
    rf"""(?V1)
    (?P<number>\d{{1,3}}(?:[ ]\d{{3}})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,']\d+)*|(?<![\w.])\.\d+)
        (?:(?P<ending>(?:st|nd|rd|th|['’]?s|°(?=\s+[A-Z][a-z]))(?!\w))|(?P<glued>[\p{{Latin}}µμ&&[^\d]][\w--_]*))?
    |(?P<power>\^-?\d+)
    |(?P<spaceless>{SPACELESS.pattern[:-1]}\p{{M}}]+)
    |(?P<currency>(?:\b(?:US|A|C|HK|NZ))?\$|[€£¥₩₹₽₺])
    |(?P<word>\#?[\w--[_\d]--{SPACELESS.pattern}](?:[\w--[_]--{SPACELESS.pattern}])*[#+]*(?P<dot>\.)?)
    |(?P<sign>[-+](?=[$€£¥₩₹]?\.?\d))
    |(?P<symbol>-+|/|:(?=[ ]?\d)|°[CF]?\b|[%‰°#&<>≤≥′″])
    """,
    regex.VERBOSE,
)
_HAN_DIGIT = "".join(t.HAN_DIGITS)
_HAN_NUMBER = regex.compile(
    rf"(?<![\d.{_HAN_DIGIT}十百千万萬亿億])(?P<percent>百分之)?(?P<n>[{_HAN_DIGIT}十百千][{_HAN_DIGIT}十百千万萬亿億]*+)"
    rf"(?:(?=[{t.HAN_COUNTERS}])|(?(percent)|(?<!{SPACELESS.pattern}(?P=n))(?!{SPACELESS.pattern})))"
)
_ABBREVIATION = regex.compile(r"\b(\p{L})\.(?=\p{L}\.)")
_ROMAN = regex.compile(r"(?=[IVXL])(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50}
_SYMBOLS = {"%": "percent", "&": "and", "<": "less", ">": "more", "≤": "most", "≥": "least"}


@lru_cache(maxsize=4096)
def tokens(text: str, lang: Language) -> tuple[Token, ...]:
    """The tokens of a short text (kept for the next time), function words included, in order."""
    return read(text, lang)


def read(text: str, lang: Language) -> tuple[Token, ...]:
    """The tokens of `text`, function words included, in order. Linear in its length."""
    found = with_units(join_number_words(list(_scan(_prepared(text, lang), lang)), lang))
    return tuple(_plain_tokens(join_compounds(with_months(found)), lang))


def each(text: str, lang: Language) -> Iterator[Token]:
    """The words and numbers of `text` as they stand, not joined into quantities and compounds."""
    return _plain_tokens(join_number_words(list(_scan(_prepared(text, lang), lang)), lang), lang)


def _prepared(text: str, lang: Language) -> str:
    text = _ABBREVIATION.sub(r"\1", fold(text))  # u.s. is us
    if not text.isascii():
        text = _HAN_NUMBER.sub(_digits, text)
    if not lang.english:
        return regex.sub(r"(?<=\p{L})'(?=\p{L})", " ", text)
    text = regex.sub(r"n't\b", " not", text, flags=regex.IGNORECASE)
    text = regex.sub(r"(?<=\p{L})'s\b|(?<=s)'(?!\w)", "", text, flags=regex.IGNORECASE)
    return regex.sub(r"(?<=\p{L})'(?=\p{L})", "", text)


def _digits(m: regex.Match[str]) -> str:
    return f" {plain(han_number(m['n']))}{'%' if m['percent'] else ''} "


def _scan(text: str, lang: Language) -> Iterator[Token]:
    """Words, numbers and symbols as they stand; a sign belongs to its number."""
    sign, last_end, last = "", -1, ""
    for m in _SCAN.finditer(text):
        kind = m.lastgroup
        if m["number"] is not None:
            yield from _number(m, sign, lang, money=last == "currency")
            sign = ""
        elif m["sign"]:
            free = m.start() != last_end and last != "number"
            sign = m["sign"] if free else ""
            if not free:
                yield Token("-", "symbol", raw="-")
        elif m["currency"]:
            yield Token(m["currency"], "currency", unit=t.UNIT_SYMBOLS.get(m["currency"], "dollar"), raw=m[0])
        elif m["word"] is not None:
            yield _word(m["word"], bool(m["dot"]))
        elif m["spaceless"]:
            yield Token(unicodedata.normalize("NFC", m[0]), raw=m[0])
        else:
            yield Token(m[0], "power" if kind == "power" else "symbol", raw=m[0])
        last_end, last = m.end(), "number" if m["number"] is not None else kind or ""


def _word(raw: str, dotted: bool) -> Token:
    raw = raw.removesuffix(".") if dotted else raw
    name = raw[0].isupper()
    single = len(raw) == 1 and name and not dotted
    code = single or any(c.isdigit() for c in raw)
    return Token(fold_word(raw), "code" if code else "word", name=name, raw=raw)


def _number(m: regex.Match[str], sign: str, lang: Language, money: bool) -> Iterator[Token]:
    """A numeral with what is glued to it: an ordinal's ending, a unit, or letters of a code (3D)."""
    ending, glued = m["ending"] or "", m["glued"] or ""
    if money or glued == "k":
        glued = t.MONEY_SCALES.get(glued.casefold(), glued)
    if glued and not (
        glued in t.UNIT_SYMBOLS or glued.casefold() in t.SCALES or glued.casefold() in ("am", "pm")
    ):
        yield Token(fold_word(m["number"] + glued), "code", raw=m[0])
        return
    values = read_numeral(m["number"], lang.comma)
    if sign == "-":
        values[0] = -values[0]
    if len(values) > 1:
        joiner = "," if "," in m["number"] else "."
        yield compound([number(v) for v in values], joiner)
    elif ending in ("s", "'s", "’s") and values[0] % 10 == 0:
        yield Token(f"{plain(values[0])}s", "decade", value=values[0], raw=m[0])
    elif ending and ending != "s":
        yield Token(f"{plain(values[0])}th", "ordinal", value=values[0], raw=m[0])
    else:
        yield number(values[0])
    if glued:
        yield Token(glued.casefold(), raw=glued)


def _plain_tokens(words: Iterable[Token], lang: Language) -> Iterator[Token]:
    """Abbreviations written out, Roman numerals read, symbols as words or left out."""
    previous: Token | None = None
    for token in words:
        if token.kind in ("symbol", "currency", "power"):
            if token.kind == "power":
                yield Token(token.text, "code", raw=token.raw)
            elif token.kind == "currency" or token.text in ("°", "#"):
                yield Token(token.unit or token.text, raw=token.raw)
            elif token.text in _SYMBOLS:
                yield Token(_SYMBOLS[token.text], raw=token.raw)
        elif token.kind in ("word", "code"):
            after_name = previous is not None and previous.name
            if _ROMAN.fullmatch(token.raw) and (len(token.raw) > 1 or after_name):
                value = _roman(token.raw)
                yield Token(f"{value}r", "roman", value=Decimal(value), raw=token.raw)
            elif token.kind == "code" and len(token.raw) == 1 and (previous is None or token.raw == "I"):
                yield Token(token.text, raw=token.raw)
            elif lang.english and token.text in t.ALIASES:
                yield from (Token(w, name=token.name, raw=w) for w in t.ALIASES[token.text].split())
            else:
                yield token
        else:
            token.name = (
                token.kind == "number" and previous is not None and previous.kind == "word" and previous.name
            )
            yield token
        previous = token


def _roman(text: str) -> int:
    digits = [_ROMAN_DIGITS[c] for c in text]
    return sum(-d if d < following else d for d, following in zip(digits, [*digits[1:], 0], strict=True))
