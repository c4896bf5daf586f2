"""Word times from the alignment of text tokens with audio positions.

The rules are openai/whisper timing.py's: a word lasts from its first token's position to the next word's. A punctuation
mark belongs to the word beside it. A word at the start or end of a sentence does not include the pause there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from tickertape.types import SAMPLES_PER_TOKEN, Word

OPENING = "\"'“¿([{-"  # belong to the word after them
CLOSING_MARKS = "\"'.。,，!！?？:：”)]}、"  # belong to the word before them
SENTENCE_ENDS = ".。!！?？"
MAX_WORD_MEDIANS = 2  # median durations: a longer word at the start or end of a sentence includes a pause

TextTokens = tuple[str, tuple[int, ...]]  # a word and its tokens


def time_words(
    words: Sequence[TextTokens], alignment: Sequence[tuple[int, int]], probabilities: Sequence[float], length: int
) -> list[tuple[Word, int]]:
    """Time the words of one window of `length` samples. Returns each word with its number of tokens.

    `alignment` has pairs of (text token index, encoder position), both rising; `probabilities` are the tokens'.
    """
    starts = _token_starts(alignment, sum(len(tokens) for _, tokens in words), length)
    found: list[tuple[Word, int]] = []
    index = 0
    for text, tokens in words:
        after = index + len(tokens)
        probability = sum(probabilities[index:after]) / len(tokens)
        found.append((Word(text, starts[index], starts[after], probability), len(tokens)))
        index = after
    return _merged(_shortened(found))


def clip_starts(words: list[Word], start: int) -> list[Word]:
    """Start the first word no earlier than its segment: the alignment starts at the window's start, in silence."""
    if not words or not words[0].start_sample < start < words[0].end_sample:
        return words
    return [replace(words[0], start_sample=start), *words[1:]]


def _token_starts(alignment: Sequence[tuple[int, int]], count: int, length: int) -> list[int]:
    """The start of each token in samples, then the end of the last one."""
    starts = [length] * (count + 1)
    seen = -1
    for token, position in alignment:
        if token > seen and token <= count:
            for skipped in range(seen + 1, token + 1):
                starts[skipped] = min(position * SAMPLES_PER_TOKEN, length)
            seen = token
    return starts


def _shortened(words: list[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Cut the pause out of words at the start or end of a sentence."""
    lasting = [word.end_sample - word.start_sample for word, _ in words if word.end_sample > word.start_sample]
    limit = int(MAX_WORD_MEDIANS * median(lasting)) if lasting else 0
    cut: list[tuple[Word, int]] = []
    for index, (word, tokens) in enumerate(words):
        begins = index == 0 or words[index - 1][0].text.rstrip()[-1:] in SENTENCE_ENDS
        ends = index == len(words) - 1 or word.text.rstrip()[-1:] in SENTENCE_ENDS
        too_long = word.end_sample - word.start_sample > limit
        if too_long and begins:
            word = replace(word, start_sample=word.end_sample - limit)  # noqa: PLW2901
        elif too_long and ends:
            word = replace(word, end_sample=word.start_sample + limit)  # noqa: PLW2901
        cut.append((word, tokens))
    return cut


def _merged(words: list[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Join marks that stand alone with their word, which keeps its times."""
    merged: list[tuple[Word, int]] = []
    opened = False  # the last of `merged` is an opening mark
    for word, tokens in words:
        text, count = word.text, tokens
        if opened:
            mark, marks = merged.pop()
            text, count = mark.text + text.lstrip(), marks + tokens
        bare, spaced = text.strip(), text.startswith(" ")
        opened = spaced and bool(bare) and all(c in OPENING for c in bare)
        if merged and bare and not spaced and all(c in CLOSING_MARKS for c in bare):
            before, earlier = merged[-1]
            merged[-1] = (replace(before, text=before.text + text), earlier + count)
        else:
            merged.append((replace(word, text=text), count))
    return merged
