"""Texts as comparable words: Unicode folding, what language a question is in, when two words are the same.

Marks and letters are kept as they are written: NFC, then NFKC, so full-width forms and ligatures are folded,
and Hangul, kana, Indic and Thai marks stay. What may differ is listed at `same_word`.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import regex

from seal.lexical import tables as t

_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー々〆ヶ"
SPACELESS = regex.compile(rf"[{_SPACELESS}]")
_WORD = regex.compile(r"(?V1)[\p{L}\p{M}]+")
_SCRIPTS = ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew")
_SCRIPT = {name: regex.compile(rf"\p{{{name}}}") for name in _SCRIPTS}
_SIGNS = str.maketrans(
    dict.fromkeys("‐‑‒–—―−﹣－", "-") | dict.fromkeys("’‘ʼ`´＇", "'") | dict.fromkeys("⁄∕", "/")
    | {c: f"^{unicodedata.digit(c)}" for c in "⁰¹²³⁴⁵⁶⁷⁸⁹"} | {"⁻": "^-", "٫": ".", "٬": ","}
    | {c: f" {unicodedata.normalize('NFKC', c).replace('⁄', '/')}" for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}
    | dict.fromkeys("™®©", " ") | {"º": "°"}
)  # fmt: skip
_POWER_RUN = regex.compile(r"(?<=\^-?\d)\^(?=\d)")
_FOREIGN_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")


@dataclass(frozen=True, slots=True)
class Language:
    """What the rules need to know of the language that a question is asked in."""

    english: bool
    """English words may be inflected, abbreviated and spelled without accents."""
    comma: bool
    """1.000,5 is a thousand and a half."""
    portuguese: bool = False
    """"no" is an article and no negation."""


ENGLISH = Language(english=True, comma=False)


@lru_cache(maxsize=4096)
def language(text: str) -> Language:
    """The language of `text`, as far as function words and scripts show it; unknown is neither of both."""
    words = [w.casefold() for w in _WORD.findall(unicodedata.normalize("NFC", text))]
    letters = [c for w in words for c in w]
    if not letters:
        return Language(english=False, comma=False)
    latin = sum(1 for c in letters if _SCRIPT["Latin"].match(c))
    if 2 * latin < len(letters):
        others = sum(1 for c in letters if _SCRIPT["Cyrillic"].match(c) or _SCRIPT["Greek"].match(c))
        return Language(english=False, comma=2 * others > len(letters))
    english, foreign = sum(w in t.ENGLISH for w in words), sum(w in t.FOREIGN for w in words)
    accents = any(not c.isascii() for c in letters)
    return Language(
        english=english > foreign,
        comma=english <= foreign and (foreign > 0 or accents),
        portuguese=english <= foreign and bool({"qual", "quem", "foi", "onde", "são", "é", "não"} & {*words}),
    )


def fold(text: str) -> str:
    """`text` in one spelling of every character; case is kept (mW is not MW)."""
    text = unicodedata.normalize("NFC", text).translate(_SIGNS)
    text = _POWER_RUN.sub("", regex.sub(r"\p{Cf}+", "", text))
    text = unicodedata.normalize("NFKC", text)
    return _FOREIGN_DIGIT.sub(lambda m: str(unicodedata.decimal(m[0])), text)


@lru_cache(maxsize=65_536)
def fold_word(word: str) -> str:
    """A word without case; the dotted capital İ is i, and ё, which Russian mostly leaves undotted, е."""
    word = unicodedata.normalize("NFC", word.casefold().replace("i\u0307", "i"))
    return word.replace("ё", "е").replace("ـ", "")


@lru_cache(maxsize=65_536)
def bare(word: str) -> str:
    """`word` without marks that may be left out: Latin and Greek accents, Arabic and Hebrew vowels."""
    if word.isascii() or not any(
        pattern.match(word) for name, pattern in _SCRIPT.items() if name != "Cyrillic"
    ):
        return word
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def inflected(one: str, other: str, names: int) -> bool:
    """Whether two English words share a stem and differ in a regular ending.

    `names` of them are names: with 1 the ending may also be that of a people or a belief, with 2 only that,
    and with 3 (both are, and a person is asked for) there is none.
    """
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    if not (one.isalpha() and other.isalpha() and one.isascii() and other.isascii()):
        return False
    if min(len(one), len(other)) < 4 and names < 3:
        return one.removesuffix("s") == other.removesuffix("s")
    families = (t.ENDINGS, (*t.ENDINGS, *t.NAME_ENDINGS), t.NAME_ENDINGS, ())[names]
    for stem in range(shared, max(4, shared - 4) - 1, -1):
        ends = {one[stem:], other[stem:]}
        if any(ends <= family for family in families):
            return True
    return False


def _attached(one: str, other: str) -> bool:
    """Whether the longer word is the shorter with a Korean particle, or an Arabic or Hebrew prefix."""
    short, long = sorted((one, other), key=len)
    if long.startswith(short) and "가" <= short[-1] <= "힣":
        ends = t.AFTER_CONSONANT if (ord(short[-1]) - 0xAC00) % 28 else t.AFTER_VOWEL
        end = long[len(short) :]
        return (len(short) > 1 or len(end) > 1) and end in ends | t.AFTER_ANY
    if long.endswith(short) and len(short) > 3:
        return long[: -len(short)] in t.STARTS
    return False


def same_word(one: str, other: str, lang: Language = ENGLISH, names: int = 1) -> bool:
    """Whether two folded words are equal, up to

    - marks that one of them lacks altogether: accents of Greek, of Latin letters in English (from three
      letters on), vowel signs of Arabic and Hebrew; two words with different marks differ;
    - English inflection in English, but hardly between names (`names`: how many of them are);
    - particles and prefixes that Korean, Arabic and Hebrew write in one word with it.
    """
    if one == other:
        return True
    if one.isascii() and other.isascii():
        return lang.english and inflected(one, other, names)
    plain = bare(one)
    if plain == bare(other) and plain in (one, other):
        return not _SCRIPT["Latin"].match(plain) or (lang.english and len(plain) > 2)
    if lang.english and plain.isascii() and bare(other).isascii():
        return False
    return _attached(one, other)
