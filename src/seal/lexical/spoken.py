"""Numbers in words, and digits with a scale: `two hundred and five`, `3.5 million`, `two thirds`."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from seal.lexical import tables as t
from seal.lexical.numbers import Token, compound, number, plain
from seal.lexical.words import Language


class _NumberWords:
    """A number that is being read word by word: `two hundred and forty-five thousand`."""

    def __init__(self) -> None:
        self.total = self.group = Decimal(0)
        self.open = self.spoken = False

    def start(self, value: Decimal, spoken: bool) -> None:
        self.total, self.group, self.open, self.spoken = Decimal(0), value, True, spoken

    def takes(self, value: int) -> bool:
        """Whether the word for `value` goes on with this number; if so, it is added."""
        if not (self.open and self.spoken and value):
            return False
        if (value < 10 and self.group % 100 >= 20 and self.group % 10 == 0) or (
            value < 100 and self.group % 100 == 0 and self.group + self.total > 0
        ):
            self.group += value
        elif value >= 20 and 11 <= self.group <= 20:  # nineteen eighty-four
            self.group = self.group * 100 + value
        else:
            return False
        return True

    def spans(self, word: str) -> bool:
        """Whether `word` may stand inside: two hundred *and* five, twenty-one."""
        return self.open and self.spoken and (word == "-" or (word == "and" and self.group % 100 == 0))

    def scale(self, power: int) -> None:
        if power == 2 or not self.spoken:
            self.group = self.group.scaleb(power)
        else:
            self.total, self.group = self.total + self.group.scaleb(power), Decimal(0)

    @property
    def value(self) -> Decimal:
        """The number so far; a sum only where it is one, so that 170 billion keeps its three digits."""
        return self.total + self.group if self.total and self.group else self.total or self.group

    def close(self) -> Iterator[Token]:
        if self.open:
            yield number(self.value)
        self.open = False


_CARDINAL = {w: i for i, w in enumerate(t.CARDINALS)} | {w: 10 * i for i, w in enumerate(t.TENS, 2)}
_ORDINAL = {w: i for i, w in enumerate(t.ORDINALS)} | {
    w[:-1] + "ieth": 10 * i for i, w in enumerate(t.TENS, 2)
}


def join_number_words(words: list[Token], lang: Language) -> Iterator[Token]:
    """Number words, digits and scales that belong together as one number; fractions and ordinals in words."""
    cardinals = _CARDINAL if lang.english else t.FOREIGN_CARDINALS
    reading = _NumberWords()
    for i, token in enumerate(words):
        word = token.text
        following = words[i + 1].text if i + 1 < len(words) else ""
        if token.kind == "number" and token.value is not None:
            yield from reading.close()
            reading.start(token.value, spoken=False)
        elif token.kind not in ("word", "symbol"):
            yield from reading.close()
            yield token
        elif word in cardinals:
            if not reading.takes(cardinals[word]):
                yield from reading.close()
                reading.start(Decimal(cardinals[word]), spoken=True)
        elif reading.open and word in t.SCALES and reading.value.adjusted() < 15:
            reading.scale(t.SCALES[word])
        elif lang.english and word == "dozen":
            reading.start(12 * (reading.value if reading.open else Decimal(1)), spoken=True)
        elif lang.english and word in t.FRACTIONS and reading.open and _is_share(reading, word):
            yield compound([number(reading.group), number(Decimal(t.FRACTIONS[word]))], "/")
            reading.open = False
        elif lang.english and word in _ORDINAL:
            joined = reading.takes(_ORDINAL[word])
            value = reading.value if joined else Decimal(_ORDINAL[word])
            if joined:
                reading.open = False
            yield from reading.close()
            yield Token(f"{plain(value)}th", "ordinal", value=value, raw=token.raw)
        elif (
            lang.english
            and word in ("a", "an")
            and (following in t.SCALES or following in ("half", "quarter"))
        ):
            yield from reading.close()
            reading.start(Decimal(1), spoken=True)
        elif lang.english and word == "half" and not reading.open:
            yield compound([number(Decimal(1)), number(Decimal(2))], "/")
        elif reading.spans(word) and (following in cardinals or following in _ORDINAL):
            continue
        else:
            yield from reading.close()
            yield token
    yield from reading.close()


def han_number(text: str) -> Decimal:
    """三百二十 (Chinese numerals with scales, or digit by digit: 一九一一) as a number."""
    if not any(c in t.HAN_SCALES for c in text):
        return Decimal("".join(str(t.HAN_DIGITS[c]) for c in text))
    total = section = digit = Decimal(0)
    for c in text:
        if c in t.HAN_DIGITS:
            digit = Decimal(t.HAN_DIGITS[c])
        elif t.HAN_SCALES[c] < 4:
            section, digit = section + (digit or 1) * Decimal(10) ** t.HAN_SCALES[c], Decimal(0)
        else:
            total, section, digit = (
                total + (section + digit or 1) * Decimal(10) ** t.HAN_SCALES[c],
                Decimal(0),
                Decimal(0),
            )
    return total + section + digit


def _is_share(reading: _NumberWords, word: str) -> bool:
    """One third, two thirds; but not twenty third."""
    return (
        reading.spoken
        and reading.total == 0
        and reading.group < 20
        and (reading.group == 1) != word.endswith("s")
    )
