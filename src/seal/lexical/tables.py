"""Words and symbols that the grader's rules look up, in folded (lower) case unless said otherwise."""

from __future__ import annotations

import re


def _words(text: str) -> list[str]:
    return text.split()


def _set(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


MONTHS = _words("january february march april may june july august september october november december")

ALIASES = {m[:3]: m for m in MONTHS if m != "may"} | {
    "sept": "september", "usa": "us", "ceo": "chief executive officer", "mr": "", "mrs": "", "dr": "doctor",
    "st": "saint", "vs": "versus", "v": "versus", "bce": "bc", "ce": "ad",
}  # fmt: skip
"""English abbreviations and what they stand for."""

FUNCTION = _set(
    "a an the of in on at to for from by with and or as is are was were be been being it its their his "
    "her they he she that this these those which who whom whose there than then into onto "
    "about approximately around roughly nearly almost circa some any such also both either if when "
    "while during through via per has have had do does did would could should can may might will "
    "over under not no"
)
"""English words that carry no weight."""
FOREIGN_FUNCTION = _set(
    # German, French, Spanish, Italian, Portuguese, Dutch, Swedish, Turkish
    "der die das den dem des ein eine einen einem einer und ist war sind im am zu zum zur von vom mit für "
    "le la les l un une du de d et est était au aux en dans par pour sur "
    "el los las uno una unos unas y es fue era del al con por para "
    "il lo gli i della dello dei degli delle di e è nel nella nello ed "
    "o os as um uma do da dos das no na nos nas em foi são com "
    "het een van op te is was en bij met voor den det en ett och är ve bir"
)
"""The same in languages that write Latin letters and do not speak English here."""

ENGLISH = _set(
    "the of what who which whose whom how when where why does did is are was were and with from name "
    "many much it its this that has have between according"
)
"""Words that show that a question is English, unless foreign function words outnumber them."""
FOREIGN = (
    FOREIGN_FUNCTION
    | _set(
        "wie viel viele wer was wo wann welche welcher welches warum nicht que qué quien quién cuando cuándo "
        "cuántos cuántas donde dónde cuál qui quand où quel quelle combien comment pourquoi chi che cosa "
        "quando quanti quante quale quem qual onde quantos quantas "
        "dove wat wie waar wanneer hoeveel kim nerede kaç"
    )
) - {"is", "was", "on", "i", "as", "a", "do", "no", "die", "dos", "an", "he"}

NEGATIONS = _set("not no never neither nor cannot none nothing nobody without non")
FOREIGN_NEGATIONS = _set(
    "nicht kein keine keinen keiner nie niemals ohne ne pas jamais sans sin nunca ni não nem sem senza "
    "niet geen nooit inte ej aldrig ikke değil yok không chưa tidak bukan nie bez není не нет ни никогда без "
    "δεν όχι μη нема لا ليس ليست لم لن غير לא אין नहीं नही न মা না 아니 아니다 않다"
)
NEGATION_MARKS = (
    "不", "没", "沒", "ではない", "じゃない", "でない", "しない", "ません", "なかった",
    "ไม่", "않", "아니", "아닙", "아닌",
    "못했", "없",
)  # fmt: skip
"""Negations in scripts that write no spaces, or that stand inside a word."""
EITHER = _set(
    "oder ou o of или або lub nebo veya hoặc atau eller tai vagy либо أو או या 또는 혹은 아니면 ή oppure"
)
EITHER_MARKS = ("或", "还是", "還是", "または", "あるいは", "หรือ")
AND = _set("and & und et y e en и і och og ve và dan i a 和 と")
DIRECTED = _set("to than before after into by over of nach als à vers que a до чем")
"""Words whose two sides cannot be exchanged."""
POLARITY = {"yes": True, "true": True, "no": False, "false": False}

EXCLUSIVE = tuple(
    tuple(frozenset(member.split("|")) for member in group.split())
    for group in (
        " ".join(MONTHS),
        "monday tuesday wednesday thursday friday saturday sunday",
        "north|northern east|eastern south|southern west|western northeast northwest southeast southwest",
        "am pm",
        "bc ad",
        "more|over|above|exceeding less|fewer|under|below",
        "most|maximum least|minimum",
        "before|until after|since",
        "left right",
        "first|1th last",
        "early late",
        "increase|increased|increases|rose|grew decrease|decreased|decreases|fell|shrank",
        "male female",
        "positive negative",
        "upper lower",
        "high|higher low|lower",
        "inside|inner outside|outer",
        "black white red green blue yellow brown purple orange",
        "spring summer autumn|fall winter",
    )
)
"""Words of which an answer may not name another than the gold answer does."""

CARDINALS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _words(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
)
FOREIGN_CARDINALS = {
    word: number
    for number, names in enumerate(
        (
            "zwei deux dos due dois duas twee iki два две", "drei trois tres tre três drie üç три",
            "vier quatre cuatro quattro quatro dört четыре", "fünf cinq cinco cinque vijf beş пять",
            "sechs seis sei zes altı шесть", "sieben siete sette sete zeven yedi семь",
            "acht huit ocho otto oito sekiz восемь", "neun neuf nueve nove negen dokuz девять",
            "zehn dix diez dieci dez tien on десять", "elf onze undici on-bir одиннадцать",
            "zwölf douze doce dodici doze twaalf двенадцать",
        ),
        2,
    )
    for word in names.split()
}  # fmt: skip
"""Two to twelve in other languages; their words for one are articles too."""
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "bn": 9} | {
    "millionen": 6, "millones": 6, "millón": 6, "millions": 6, "milioni": 6, "milione": 6, "milhões": 6,
    "milhão": 6, "miljoen": 6, "milyon": 6, "миллион": 6, "миллиона": 6, "миллионов": 6, "млн": 6, "mio": 6,
    "milliarden": 9, "milliarde": 9, "milliards": 9, "milliard": 9, "miliardi": 9, "milyar": 9, "tausend": 3,
    "миллиард": 9, "миллиарда": 9, "миллиардов": 9, "млрд": 9, "mrd": 9, "тысяч": 3, "тысячи": 3, "тысяча": 3,
    "thousands": 3, "billions": 9, "万": 4, "萬": 4, "亿": 8, "億": 8, "만": 4, "억": 8, "兆": 12, "조": 12,
    "mille": 3, "mil": 3, "bin": 3, "lakh": 5, "crore": 7, "लाख": 5, "करोड़": 7,
    "triệu": 6, "nghìn": 3, "tỷ": 9,
}  # fmt: skip
"""Powers of ten; they count only after a number (and hundred, thousand, million after a number word)."""
HAN_DIGITS = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
HAN_SCALES = {"十": 1, "百": 2, "千": 3, "万": 4, "萬": 4, "亿": 8, "億": 8}
HAN_COUNTERS = "个個人名年月日号號次元円回度歳岁歲点點分秒時时小週周倍本枚番位つ世"
"""What follows a Chinese or Japanese numeral that counts."""
MONEY_SCALES = {"k": "thousand", "m": "million", "b": "billion"}
"""Scales glued to an amount of money."""
MINUS = _set("minus negative menos negativ negativo moins meno минус мінус μείον 마이너스 manfi")
FRACTIONS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4} | {
    f"{word}{s}": n for n, word in enumerate(ORDINALS[4:11], 4) for s in ("", "s")
}

_PREFIXES = {"k": "kilo", "M": "mega", "G": "giga", "T": "tera", "m": "milli", "µ": "micro", "μ": "micro",
             "n": "nano", "p": "pico", "c": "centi", "d": "deci", "h": "hecto", "": ""}  # fmt: skip
_BASES = {"m": "metre", "g": "gram", "s": "second", "l": "litre", "L": "litre", "W": "watt", "V": "volt",
          "A": "ampere", "J": "joule", "N": "newton", "Pa": "pascal", "Hz": "hertz", "eV": "electronvolt",
          "Wh": "watt-hour", "B": "byte", "bit": "bit", "t": "tonne", "cal": "calorie", "mol": "mole",
          "Ω": "ohm", "bar": "bar", "K": "kelvin"}  # fmt: skip
_OTHERS = """
mile mi miles meile meilen milla millas 英里 マイル 마일
inch inches zoll ″
foot feet ft ′
yard yards yd
nautical-mile nmi
acre acres
hectare hectares ha hektar
pound|sterling pounds pound
pound lb lbs
ounce oz ounces
stone
ton tons
gallon gal gallons
knot knots kn
minute min mins minutes minuten minutos 分钟 分鐘
hour h hr hrs hours stunde stunden heure heures hora horas 小时 小時
second sec secs
day days tag tage tagen jour jours día días
week wk weeks woche wochen semaine semaines semana semanas
month months monat monate mois mes meses
year yr yrs years jahr jahre jahren ans année années año años
decade decades
century centuries
celsius °C ℃ centigrade
fahrenheit °F ℉
celsius|fahrenheit|degree ° degree degrees grad 度
percent % percentage pct prozent procent процент процента процентов 퍼센트
permille ‰
dollar $ US$ USD dollars
dollar-au A$ AUD
dollar-ca C$ CAD
dollar-hk HK$ HKD
euro € EUR euros евро
sterling £ GBP
yen ¥ JPY 円 엔
yuan CNY RMB 元 人民币
korean-won ₩ KRW 원
rupee ₹ INR Rs rupees
rouble ₽ RUB roubles rubles ruble рубль рубля рублей
franc CHF francs
lira ₺ TRY
mile/hour mph
kilometre/hour kph kmh
kilometre кm км 公里 千米 キロメートル 킬로미터 километр километра километров
metre м 米 メートル 미터 метр метра метров
kilogram кг 公斤 千克 キログラム 킬로그램 kilo kilos
gram г 克 グラム 그램
centimetre см 厘米 センチメートル
millimetre мм 毫米
"""
UNIT_SYMBOLS = {p + b: _PREFIXES[p] + name for p in _PREFIXES for b, name in _BASES.items()} | {
    alias: name
    for name, *aliases in map(str.split, _OTHERS.strip().splitlines())
    for alias in (name, *aliases)
}
"""What stands right after a number (or, for a currency, right before), case kept -> canonical units, of which
an ambiguous sign has several ("5 pounds")."""
del UNIT_SYMBOLS["pm"]  # the time of day
UNIT_NAME = re.compile(
    r"(kilo|centi|milli|micro|nano|mega|giga|tera|hecto|deci)?"
    r"(?:(met)(?:er|re|ro|ri)|(gram)(?:m|me|mes|mo|mmo|mmi|o)?|(lit)(?:er|re|ro|ri)|(watt)|(volt)|(joule)|(hertz)"
    r"|(byte)|(bit)|(newton)|(pascal)|(calorie)|(tonne)|(second|sekunde|segundo|seconde))(?:n|s|es)?"
)
"""A metric unit written out, accents removed, in the languages that share its stem."""
CURRENCIES = re.compile(r"(?:US|A|C|HK|NZ)?\$|[€£¥₩₹₽₺]|(?:USD|EUR|GBP|JPY|CNY|INR|CHF)\b")

ENDINGS = tuple(
    frozenset(family.split(" "))
    for family in (
        " s es 's ed d ing er ers",
        "e es ed ing er ers ion ions or ors",
        " ion ions ed ing s ive",
        " ation ations ed ing s",
        "e es ed ing ation ations",
        "y ies ied ying ication ications",
        " ment ments s ed ing",
        " ly",
        "le ly",
        " al ally ic ical ically s y",
        " ness",
        " ary s",
        "c city cs",
        "e es ed ing ence ences ent",
        " s ed ing ance ances",
    )
)
"""Families of English endings: a stem of four letters with two of one family is one word."""
NAME_ENDINGS = tuple(
    frozenset(family.split(" "))
    for family in (
        " s es 's",
        " n ns",
        " an ans ian ians",
        "y an ans ",
        "o an ans ",
        " ism ist ists s",
        "a an ans",
        " ity s",
        "e ian ians",
    )
)
"""The same for names: of a people, a belief."""

AFTER_VOWEL = _set("는 가 를 와 로 라고 여서 였다 예요")
AFTER_CONSONANT = _set("은 이 을 과 으로 이라고 이어서 이었다 이에요 이다")
AFTER_ANY = _set(
    "의 에 에서 도 만 까지 부터 입니다 에게 께서 한테 보다 처럼 이며 이고 에는 에서는 에도 인 이라는 라는 다",
    "였습니다 이었습니다",
)
"""Korean particles and forms of "to be" that follow a noun without a space."""
STARTS = _set("ال وال بال كال فال لل و ب ل ف", "ה ו ב ל מ ש כ בה וה שה מה לה")
"""Arabic and Hebrew articles, prepositions and "and" that precede a word without a space."""
TO = _set("to through thru until till bis à tot до 到 至 から ～ ~")
BETWEEN = _set("between zwischen entre tra fra tussen между")
