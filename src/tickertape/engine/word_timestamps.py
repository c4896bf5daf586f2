"""Word times from the alignment of text tokens with audio positions.

The rules are openai/whisper timing.py's: a word lasts from its first token's position to the next word's, marks belong
to the word they touch, and a word at the edge of a sentence cannot swallow the pause beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from tickertape.types import SAMPLES_PER_TOKEN, Word

OPENING = "\"'“¿([{-"  # marks that belong to the word after them
CLOSING_MARKS = "\"'.。,，!！?？:：”)]}、"  # marks that belong to the word before them
SENTENCE_ENDS = ".。!！?？"
MAX_WORD_MEDIANS = 2  # medians: a longer word at the edge of a sentence holds a pause

TextTokens = tuple[str, tuple[int, ...]]  # a word and its tokens


@dataclass(frozen=True, slots=True)
class Alignment:
    """Pairs of (text token index, encoder position), both rising, and each token's probability."""

    pairs: Sequence[tuple[int, int]]
    probabilities: Sequence[float]


def time_words(words: Sequence[TextTokens], alignment: Alignment, length: int) -> list[tuple[Word, int]]:
    """Time the words of one window of `length` samples; with each, how many tokens it has."""
    starts = _token_starts(alignment, sum(len(tokens) for _, tokens in words), length)
    found: list[tuple[Word, int]] = []
    index = 0
    for text, tokens in words:
        after = index + len(tokens)
        probability = sum(alignment.probabilities[index:after]) / len(tokens)
        found.append((Word(text, starts[index], starts[after], probability), len(tokens)))
        index = after
    return _merged(_shortened(found))


def clip_starts(words: list[Word], start: int) -> list[Word]:
    """A segment's words, of which the first does not begin before the segment does.

    The alignment's path begins where the window does: the first word would hold the silence before it.
    """
    if not words or not words[0].start_sample < start < words[0].end_sample:
        return words
    return [replace(words[0], start_sample=start), *words[1:]]


def _token_starts(alignment: Alignment, count: int, length: int) -> list[int]:
    """Where each token begins, in samples, and where the last one ends."""
    starts = [length] * (count + 1)
    seen = -1
    for token, position in alignment.pairs:
        if token > seen and token <= count:
            for skipped in range(seen + 1, token + 1):
                starts[skipped] = min(position * SAMPLES_PER_TOKEN, length)
            seen = token
    return starts


def _shortened(words: list[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Cut the pause out of words at the edges of sentences."""
    lasting = [word.end_sample - word.start_sample for word, _ in words if word.end_sample > word.start_sample]
    limit = int(MAX_WORD_MEDIANS * median(lasting)) if lasting else 0
    if not limit:
        return words
    cut: list[tuple[Word, int]] = []
    for index, (word, tokens) in enumerate(words):
        begins = index == 0 or words[index - 1][0].text.rstrip()[-1:] in SENTENCE_ENDS
        ends = index == len(words) - 1 or word.text.rstrip()[-1:] in SENTENCE_ENDS
        if word.end_sample - word.start_sample > limit and begins:
            cut.append((replace(word, start_sample=word.end_sample - limit), tokens))
        elif word.end_sample - word.start_sample > limit and ends:
            cut.append((replace(word, end_sample=word.start_sample + limit), tokens))
        else:
            cut.append((word, tokens))
    return cut


def _merged(words: list[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Give marks that stand alone to the word they belong to."""
    merged: list[tuple[Word, int]] = []
    opening: tuple[Word, int] | None = None
    for timed_word in words:
        word, tokens = timed_word if opening is None else _joined(opening, timed_word)
        opening = None
        mark = word.text.strip()
        if mark and word.text.startswith(" ") and all(c in OPENING for c in mark):
            opening = (word, tokens)
        elif mark and merged and all(c in CLOSING_MARKS for c in mark) and not word.text.startswith(" "):
            before, count = merged[-1]
            merged[-1] = (replace(before, text=before.text + word.text), count + tokens)
        else:
            merged.append((word, tokens))
    return merged if opening is None else [*merged, opening]


def _joined(opening: tuple[Word, int], following: tuple[Word, int]) -> tuple[Word, int]:
    """An opening mark in front of its word, which keeps its own times."""
    (mark, first), (word, second) = opening, following
    return replace(word, text=mark.text + word.text.lstrip()), first + second
