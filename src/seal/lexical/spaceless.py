"""Words in scripts that write no spaces: whether a gold word stands in a run of characters."""

from __future__ import annotations

import unicodedata

import regex

from seal.lexical.words import SPACELESS

_HAN = regex.compile(r"\p{Han}")
_KATAKANA = regex.compile(r"[\p{Katakana}ー]")
_FUNCTION = frozenset(
    "是在于於的为為叫了和与與或到从從由被即也就都并並有称稱名位及以之其她他它们們我你您这這那年月日向对對至把让讓给給将將会會出生"
)
"""Chinese characters that stand between words."""
_ENDINGS = frozenset("市省县縣県州国國区區府都道人年月日号號個个元円次")
"""What may follow a name and leave it the same."""
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}ー]")
_BEFORE = ("คือ", "เป็น", "ที่", "ใน", "ของ", "และ", "กับ", "ชื่อ", "ຄື", "ແມ່ນ", "គឺ", "ជា", "နှင့်")
_AFTER = ("ครับ", "ค่ะ", "คะ", "และ", "ใน", "ที่", "เป็น", "คือ", "ของ", "ได้", "និង", "នៅ", "သည်")
_DENYING = frozenset("不没沒非未无無")


def is_spaceless(word: str) -> bool:
    """Whether `word` is in a script without spaces."""
    return bool(SPACELESS.match(word))


def holds(text: str, word: str, given: str) -> bool:
    """Whether `word` stands in `text` as a word, as far as that can be told without a dictionary.

    Its marks are its own (a Thai vowel sign after it makes another word), nothing that negates it stands
    before it, and a katakana word is a whole katakana run. Next to a Chinese word of up to three characters
    may stand the run's end, another script, a character between words, or one of the question's (`given`).
    """
    start = text.find(word)
    while start >= 0:
        before, after = text[start - 1 : start], text[start + len(word) : start + len(word) + 1]
        if _free(word, before, after, given) and (len(word) >= 4 or _bounded(text, word, start)):
            return True
        start = text.find(word, start + 1)
    return False


def _bounded(text: str, word: str, start: int) -> bool:
    """Whether a short word of Thai and the like stands alone in a run, or beside words that tie sentences."""
    if _HAN.match(word[0]) or _KANA.match(word[0]):
        return True
    before, after = text[max(0, start - 8) : start], text[start + len(word) : start + len(word) + 8]
    return (not before or before.endswith(("\n", *_BEFORE))) and (
        not after or after.startswith(("\n", *_AFTER))
    )


def _free(word: str, before: str, after: str, given: str) -> bool:
    if before in _DENYING or unicodedata.category(after or " ").startswith("M"):
        return False
    if (_KATAKANA.match(word[0]) and _KATAKANA.match(before or " ")) or (
        _KATAKANA.match(word[-1]) and _KATAKANA.match(after or " ")
    ):
        return False
    if len(word) >= 4:
        return True
    if not _HAN.match(word[0]) and not _HAN.match(word[-1]):
        return True
    left = not _HAN.match(before or " ") or before in _FUNCTION or before in given
    right = not _HAN.match(after or " ") or after in _FUNCTION or after in given
    return left and (right or (len(word) > 1 and after in _ENDINGS))
