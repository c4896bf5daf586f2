"""Sentences of banking and brokerage speech, each as written and as spoken.

    python -m recipes.demo.sentences --count 20

A sentence is a pattern with its slots filled. One in ten is a string of random words or digits instead, which a decoder
cannot predict from context. Hashes of the words and of the writing decide which sentences are held out.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import figures
from .patterns import AGENT, BANKING, BROKERAGE, IDENTITY, LENDING, LISTS, TALK, WORDS


@dataclass(frozen=True)
class Sentence:
    """One sentence: `written` as a transcript shows it, `spoken` as the synthesiser reads it."""

    written: str
    spoken: str

    @property
    def key(self) -> str:
        """The words spoken, without case and punctuation: two sentences with one key sound the same."""
        return " ".join(re.findall(r"[a-z']+", self.spoken.lower()))


FIGURES = {
    "money": figures.money,
    "four": figures.four,
    "three": figures.three,
    "code": figures.code,
    "account": figures.account,
    "routing": figures.routing,
    "sort_code": figures.sort_code,
    "card": figures.card,
    "phone": figures.phone,
    "reference": figures.reference,
    "percent": figures.percent,
    "price": figures.price,
    "shares": figures.shares,
    "few": figures.few,
    "term": figures.term,
    "day": figures.day,
    "monthday": figures.monthday,
    "year": figures.year,
    "birthday": figures.birthday,
    "clock": figures.clock,
    "expiry": figures.expiry,
    "postcode": figures.postcode,
    "house": figures.house,
    "score": figures.score,
    "loose_digits": figures.loose_digits,
}
# Written one way, spoken letter by letter.
SPOKEN = {
    "ATM": "ay tee em",
    "APR": "ay pee are",
    "IRA": "eye are ay",
    "ZIP": "zip",
    "PIN": "pin",
    "Coca-Cola": "coca cola",
}
GROUPS = (  # patterns and how often a sentence comes from them
    (BANKING, 0.32),
    (LENDING, 0.11),
    (BROKERAGE, 0.12),
    (IDENTITY, 0.09),
    (AGENT, 0.09),
    (TALK, 0.15),
)
DIGITS = (
    "four",
    "three",
    "code",
    "account",
    "routing",
    "sort_code",
    "card",
    "phone",
    "reference",
    "postcode",
    "loose_digits",
)
DIGITS_SHARE = 0.12  # the first trials failed on digits, so patterns with digits are more frequent
RANDOM_WORDS = 0.10
HELD_OUT_BUCKETS = 20  # one sentence in ten is kept from training, one in four hundred is for the held-out sets
PATTERNS = [tuple(text.strip().splitlines()) for text, _ in GROUPS]
PATTERNS += [tuple(line for group in PATTERNS for line in group if any(f"{{{slot}}}" in line for slot in DIGITS))]
WEIGHTS = [*(weight for _, weight in GROUPS), DIGITS_SHARE]
_CHOICE = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


def sentence(rng: random.Random) -> Sentence:
    """A sentence drawn by `rng`."""
    if rng.random() < RANDOM_WORDS:
        return random_words(rng)
    group = rng.choices(PATTERNS, weights=WEIGHTS)[0]
    return fill(rng.choice(group), rng)


def fill(pattern: str, rng: random.Random) -> Sentence:
    """The pattern with its choices taken and its slots filled."""
    chosen = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), pattern)
    chosen = re.sub(r"\s+([.,?])", r"\1", re.sub(r"  +", " ", chosen)).strip()
    written, spoken, at = [], [], 0
    for match in _SLOT.finditer(chosen):
        literal = chosen[at : match.start()]
        value, said = _slot(match[1], rng)
        written += [literal, value]
        spoken += [literal, said]
        at = match.end()
    return _sentence("".join([*written, chosen[at:]]), "".join([*spoken, chosen[at:]]))


def random_words(rng: random.Random) -> Sentence:
    """Words in no order: everyday words, or a pattern's own words shuffled."""
    if rng.random() < 0.7:
        words = rng.choices(WORDS, k=rng.randint(2, 9))
        return _sentence(" ".join(words) + ".", " ".join(words) + ".")
    source = rng.choice(rng.choice(PATTERNS))
    words = [
        word
        for word in re.findall(r"[A-Za-z']+", _SLOT.sub("", _CHOICE.sub("", source)))
        if not word.isupper() or word == "I"
    ]
    words += rng.choices(WORDS, k=2)
    rng.shuffle(words)
    words = [word if word == "I" or word.startswith("I'") else word.lower() for word in words]
    return _sentence(" ".join(words) + ".", " ".join(words) + ".")


def kept_from_training(item: Sentence) -> bool:
    """Whether the sentence is excluded from training: its spoken words or its writing hash into the bucket."""
    return _bucket(item.key) == 0 or _bucket(item.written) == 0


def held_out(item: Sentence) -> bool:
    """Whether the sentence is for the held-out sets. Both its words and its writing fall into the bucket.

    So neither its words nor, said in another way, its writing can come up in training.
    """
    return _bucket(item.key) == 0 and _bucket(item.written) == 0


def training_sentences(rng: random.Random) -> Iterator[Sentence]:
    """Sentences for training, endless."""
    while True:
        item = sentence(rng)
        if not kept_from_training(item):
            yield item


def held_out_sentences(rng: random.Random, minimum_words: int = 3) -> Iterator[Sentence]:
    """Held-out sentences, endless and without repeats; common short ones are left out."""
    seen: set[str] = set()
    while True:
        item = sentence(rng)
        if held_out(item) and item.key not in seen and len(item.key.split()) >= minimum_words:
            seen.add(item.key)
            yield item


def _bucket(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % HELD_OUT_BUCKETS


def _slot(name: str, rng: random.Random) -> figures.Pair:
    if name in ("spelled", "lastspelled"):
        last = rng.choice(LISTS["last"])
        lead = f"{last}, " if name == "lastspelled" else ""
        return lead + "-".join(last.upper()), lead + " ".join(figures.LETTERS[letter] for letter in last.upper())
    if name in FIGURES:
        return FIGURES[name](rng)
    word = rng.choice(LISTS[name])
    return word, word


def _sentence(written: str, spoken: str) -> Sentence:
    for text, said in SPOKEN.items():
        spoken = re.sub(rf"\b{text}\b", said, spoken)
    return Sentence(written[0].upper() + written[1:], spoken)


def main() -> None:
    """Print sentences, written and spoken, or only count the distinct ones."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=20, help="how many sentences to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distinct", action="store_true", help="print only how many of them are distinct")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    drawn = [sentence(rng) for _ in range(args.count)]
    if args.distinct:
        print(f"{len({item.key for item in drawn}):,} distinct of {len(drawn):,}")
        return
    for item in drawn:
        print(f"{'kept back' if kept_from_training(item) else 'training'}\t{item.written}\t{item.spoken}")


if __name__ == "__main__":
    main()
