"""Numbers as written and as spoken: money, digits, dates, times, percentages.

Each function draws from a random generator and returns (written, spoken). Several spoken forms share one written form.
Each spoken form has exactly one written form, so that a transcript has one correct answer.
"""

from __future__ import annotations

import random

Pair = tuple[str, str]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ONES = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
""")
TENS = _words("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _words("""
    zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
""")
MONTHS = _words("January February March April May June July August September October November December")
NAMES_OF_LETTERS = _words("""
    ay bee see dee ee eff gee aitch eye jay kay ell em en oh pee cue are ess tee you vee double-you ex why zee
""")
LETTERS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", NAMES_OF_LETTERS, strict=True))


def cardinal(value: int, joiner: bool = False) -> str:
    """A whole number below a billion in words; `joiner` puts the British "and" after the hundreds."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10] + (f"-{ONES[value % 10]}" if value % 10 else "")
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if value >= size:
            head, rest = divmod(value, size)
            words = f"{cardinal(head, joiner)} {name}"
            link = " and " if joiner and rest < 100 else " "
            return words + (link + cardinal(rest, joiner) if rest else "")
    raise AssertionError("unreachable")


def ordinal(value: int) -> str:
    """A day of the month in words."""
    if value <= 20:
        return ORDINALS[value]
    return {20: "twenty", 30: "thirty"}[value // 10 * 10] + f"-{ORDINALS[value % 10]}" if value % 10 else "thirtieth"


def suffixed(value: int) -> str:
    """A day of the month as written with its ending: 1st, 22nd."""
    ending = "th" if 10 <= value % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{ending}"


def digit(value: str, oh: bool) -> str:
    """A digit's name; nought is oh to some people, zero to others."""
    return "oh" if value == "0" and oh else ONES[int(value)]


def spell_digits(rng: random.Random, digits: str, doubles: bool = True) -> str:
    """Digits one by one; runs may become double or triple."""
    oh = rng.random() < 0.4
    merge = doubles and rng.random() < 0.35
    words, at = [], 0
    while at < len(digits):
        run = 1
        while at + run < len(digits) and digits[at + run] == digits[at] and run < 3:
            run += 1
        if merge and run > 1:
            words.append({2: "double", 3: "triple"}[run] + " " + digit(digits[at], oh))
            at += run
        else:
            words.append(digit(digits[at], oh))
            at += 1
    return " ".join(words)


def _pairs(digits: str) -> str | None:
    """Four digits as two numbers, forty-four twenty-one, where that is how people say them."""
    first, second = int(digits[:2]), int(digits[2:])
    if first < 10 or second == 0:
        return None
    tail = f"oh {ONES[second]}" if second < 10 else cardinal(second)
    return f"{cardinal(first)} {tail}"


def _random_digits(rng: random.Random, count: int) -> str:
    """Digits with more repeats than chance gives, because doubles are said differently."""
    digits = [str(rng.randrange(10))]
    while len(digits) < count:
        digits.append(digits[-1] if rng.random() < 0.12 else str(rng.randrange(10)))
    return "".join(digits)


def _grouped(rng: random.Random, digits: str, sizes: tuple[int, ...]) -> str:
    """Digits spelled in groups with a short pause between them, or in one breath."""
    groups, at = [], 0
    for size in sizes:
        groups.append(digits[at : at + size])
        at += size
    pause = rng.choice((", ", ", ", " "))
    return pause.join(spell_digits(rng, group) for group in groups)


def four(rng: random.Random) -> Pair:
    """The last four digits of a card: 4421."""
    digits = _random_digits(rng, 4)
    paired = _pairs(digits) if rng.random() < 0.3 else None
    return digits, paired or spell_digits(rng, digits)


def three(rng: random.Random) -> Pair:
    """A security code: 319."""
    digits = _random_digits(rng, 3)
    return digits, spell_digits(rng, digits)


def code(rng: random.Random) -> Pair:
    """A six-digit one-time code: 482913."""
    digits = _random_digits(rng, 6)
    return digits, _grouped(rng, digits, rng.choice(((6,), (3, 3), (2, 2, 2))))


def account(rng: random.Random) -> Pair:
    """An account number of eight digits: 20485513."""
    digits = _random_digits(rng, 8)
    return digits, _grouped(rng, digits, rng.choice(((8,), (4, 4), (2, 2, 2, 2), (3, 3, 2))))


def routing(rng: random.Random) -> Pair:
    """A routing number of nine digits."""
    digits = _random_digits(rng, 9)
    return digits, _grouped(rng, digits, rng.choice(((9,), (3, 3, 3))))


def sort_code(rng: random.Random) -> Pair:
    """A British sort code: 20-45-17."""
    digits = _random_digits(rng, 6)
    return f"{digits[:2]}-{digits[2:4]}-{digits[4:]}", _grouped(rng, digits, (2, 2, 2))


def card(rng: random.Random) -> Pair:
    """A card number in fours: 4421 0098 7723 1156."""
    digits = _random_digits(rng, 16)
    groups = [digits[at : at + 4] for at in range(0, 16, 4)]
    if rng.random() < 0.15 and all(_pairs(group) for group in groups):
        return " ".join(groups), ", ".join(str(_pairs(group)) for group in groups)
    return " ".join(groups), ", ".join(spell_digits(rng, group) for group in groups)


def phone(rng: random.Random) -> Pair:
    """A telephone number: 555-013-2284."""
    digits = _random_digits(rng, 10)
    return f"{digits[:3]}-{digits[3:6]}-{digits[6:]}", _grouped(rng, digits, (3, 3, 4))


def reference(rng: random.Random) -> Pair:
    """A reference of letters and digits: BK4471."""
    letters = "".join(rng.choices(list(LETTERS), k=2))
    digits = _random_digits(rng, 4)
    return letters + digits, " ".join(LETTERS[letter] for letter in letters) + ", " + spell_digits(rng, digits)


_AMOUNTS = (  # share, from, to, times
    (0.20, 2, 99, 1),
    (0.15, 1, 40, 25),
    (0.15, 1, 99, 100),
    (0.25, 100, 999, 1),
    (0.12, 1_000, 9_999, 1),
    (0.07, 1, 99, 1_000),
    (0.06, 10_000, 999_999, 1),
)


def _magnitude(rng: random.Random) -> int:
    """A realistic amount: small and round ones are frequent."""
    _, low, high, times = rng.choices(_AMOUNTS, weights=[row[0] for row in _AMOUNTS])[0]
    return rng.randint(low, high) * times


def _whole(rng: random.Random, value: int) -> str:
    """A whole amount in words, one of the ways people say it."""
    if value % 100 == 0 and 1_000 < value < 10_000 and value % 1_000 and rng.random() < 0.4:
        return f"{cardinal(value // 100)} hundred"
    if value % 1_000 == 500 and 1_000 < value < 10_000 and rng.random() < 0.3:
        return f"{cardinal(value // 1_000)} and a half thousand"
    words = cardinal(value, joiner=rng.random() < 0.5)
    if 100 <= value < 200 and rng.random() < 0.3:
        return "a" + words.removeprefix("one")
    return words


def money(rng: random.Random) -> Pair:
    """An amount: $250, $1,250.50, £40, $1.2 million, 75 cents."""
    kind = rng.random()
    if kind < 0.04:
        cents = rng.randint(2, 99)
        return f"{cents} cents", f"{cardinal(cents)} cents"
    if kind < 0.08:
        return _millions(rng)
    sign, unit = rng.choice((("$", "dollars"), ("$", "dollars"), ("$", "dollars"), ("£", "pounds"), ("€", "euros")))
    value = _magnitude(rng)
    if kind < 0.3:
        return _with_cents(rng, sign, unit, rng.choice((value % 1_000 + 2, value)))
    return f"{sign}{value:,}", f"{_whole(rng, value)} {unit}"


def _millions(rng: random.Random) -> Pair:
    tenths = rng.randint(10, 99)
    if tenths % 10 == 0:
        return f"${tenths // 10} million", f"{cardinal(tenths // 10)} million dollars"
    spoken = f"{cardinal(tenths // 10)} point {ONES[tenths % 10]} million dollars"
    return f"${tenths / 10:.1f} million", spoken


def _with_cents(rng: random.Random, sign: str, unit: str, value: int) -> Pair:
    cents = rng.choice((rng.randint(1, 99), 50, 99, 25, 75))
    small = {"dollars": "cents", "pounds": "pence", "euros": "cents"}[unit]
    whole = cardinal(value, joiner=rng.random() < 0.3)
    coin = cardinal(cents)
    link = f"{unit} and {coin} {'cent' if cents == 1 and small == 'cents' else small}"
    spoken = f"{whole} {rng.choice((link, link, f'{unit} {coin}')) if cents > 9 else link}"
    return f"{sign}{value:,}.{cents:02d}", spoken


def percent(rng: random.Random) -> Pair:
    """A rate: 4.25%, 5%."""
    whole = rng.randint(1, 24)
    kind = rng.random()
    if kind < 0.3:
        return f"{whole}%", f"{cardinal(whole)} percent"
    if kind < 0.45:
        return f"{whole}.5%", f"{cardinal(whole)} and a half percent"
    if kind < 0.75:
        tenth = rng.randint(1, 9)
        return f"{whole}.{tenth}%", f"{cardinal(whole)} point {ONES[tenth]} percent"
    cents = rng.randint(11, 99)
    tail = cardinal(cents) if cents % 10 and rng.random() < 0.3 else " ".join(ONES[int(d)] for d in f"{cents:02d}")
    return f"{whole}.{cents}%", f"{cardinal(whole)} point {tail} percent"


def price(rng: random.Random) -> Pair:
    """A share's price: $182.40."""
    return _with_cents(rng, "$", "dollars", rng.randint(4, 480))


def shares(rng: random.Random) -> Pair:
    """How many shares: 150."""
    value = rng.choice((rng.randint(10, 99), rng.randint(1, 40) * 25, rng.randint(1, 50) * 100, rng.randint(101, 999)))
    return f"{value:,}", cardinal(value, joiner=rng.random() < 0.4)


def few(rng: random.Random) -> Pair:
    """A small count, written as a word up to nine and in digits from ten."""
    value = rng.randint(2, 30)
    return (ONES[value] if value < 10 else str(value)), cardinal(value)


def term(rng: random.Random) -> Pair:
    """A loan's years: 15."""
    value = rng.choice((10, 12, 15, 20, 25, 30, 35, 40))
    return str(value), cardinal(value)


def day(rng: random.Random) -> Pair:
    """A date in the year: March 3, or the 3rd of March."""
    month, value = rng.choice(MONTHS), rng.randint(1, 31)
    if rng.random() < 0.6:
        return f"{month} {value}", f"{month} {ordinal(value)}"
    return f"the {suffixed(value)} of {month}", f"the {ordinal(value)} of {month}"


def monthday(rng: random.Random) -> Pair:
    """A day of the month: the 15th."""
    value = rng.randint(1, 31)
    return f"the {suffixed(value)}", f"the {ordinal(value)}"


def year(rng: random.Random) -> Pair:
    """A year: 2024, 1987."""
    value = rng.randint(1950, 2035)
    if 2000 <= value < 2010:
        link = " and " if rng.random() < 0.4 else " "
        return str(value), "two thousand" + (link + ONES[value - 2000] if value > 2000 else "")
    head = cardinal(value // 100)
    if value >= 2010 and rng.random() < 0.25:
        return str(value), f"two thousand {cardinal(value - 2000)}"
    return str(value), f"{head} {cardinal(value % 100)}"


def birthday(rng: random.Random) -> Pair:
    """A full date: March 3, 1987."""
    month, value = rng.choice(MONTHS), rng.randint(1, 31)
    written, spoken = year(rng)
    return f"{month} {value}, {written}", f"{month} {ordinal(value)}, {spoken}"


def clock(rng: random.Random) -> Pair:
    """A time: 3:30 PM, 10 AM."""
    hour = rng.randint(1, 12)
    half = rng.choice(("AM", "PM"))
    said = {"AM": "ay em", "PM": "pee em"}[half]
    minute = rng.choice((0, 0, 15, 30, 45, 5, 10, 20, 40, 50))
    if not minute:
        return f"{hour} {half}", f"{cardinal(hour)} {said}"
    tail = f"oh {ONES[minute]}" if minute < 10 else cardinal(minute)
    return f"{hour}:{minute:02d} {half}", f"{cardinal(hour)} {tail} {said}"


def expiry(rng: random.Random) -> Pair:
    """A card's expiry: 04/27."""
    month, value = rng.randint(1, 12), rng.randint(24, 39)
    first = f"{rng.choice(('oh', 'zero'))} {ONES[month]}" if month < 10 else cardinal(month)
    return f"{month:02d}/{value}", f"{first}, {cardinal(value)}"


def postcode(rng: random.Random) -> Pair:
    """A ZIP code of five digits."""
    digits = _random_digits(rng, 5)
    return digits, spell_digits(rng, digits)


def house(rng: random.Random) -> Pair:
    """A house number: 42."""
    value = rng.randint(1, 199)
    if value > 100 and value % 100 > 9 and rng.random() < 0.5:
        return str(value), f"one {cardinal(value % 100)}"
    return str(value), cardinal(value)


def score(rng: random.Random) -> Pair:
    """A credit score: 710, seven hundred ten or seven ten."""
    value = rng.randint(300, 850)
    if value % 100 > 9 and rng.random() < 0.4:
        return str(value), f"{cardinal(value // 100)} {cardinal(value % 100)}"
    return str(value), cardinal(value, joiner=rng.random() < 0.4)


def loose_digits(rng: random.Random) -> Pair:
    """Three to twelve digits only, which no context predicts."""
    digits = _random_digits(rng, rng.randint(3, 12))
    return digits, spell_digits(rng, digits)
