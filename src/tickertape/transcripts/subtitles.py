"""Segments to subtitle cues of at most two short lines, broken where a reader would pause.

Each segment is divided by itself, at the lowest total cost. Each cue has a cost; breaks inside a clause or behind a
function word such as "the", empty space, and silences inside a cue add to it. With word times a cue lasts at most 7 s;
otherwise times inside a segment are estimated from the length of the text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from tickertape.transcripts.languages import SPACELESS
from tickertape.types import Segment, Transcript

MAX_LINE_CHARACTERS = 42  # a common limit of broadcasters and streaming services
MAX_CUE_MS = 7_000
MIN_CUE_MS = 700  # unless the next cue starts earlier; less is too short to read
LONG_SILENCE_MS = 1_000  # between two words; a cue should end there

SENTENCE_ENDS = frozenset(".?!…。？！")
CLAUSE_ENDS = frozenset(",;:–—、，；：")
CLOSING_PUNCTUATION = frozenset("\"'”’»)]}」』）】、。，．！？：；…")
# Function words, which belong to the next word, in the most requested languages.
# fmt: off
FUNCTION_WORDS = frozenset((
    "a", "an", "the", "of", "to", "in", "on", "at", "by", "for", "with", "and", "or", "but", "my", "your", "his", "her",
    "its", "our", "their", "is", "are",
    "der", "die", "das", "den", "dem", "ein", "eine", "einen", "einem", "einer", "und", "oder", "zu", "im", "am",
    "le", "la", "les", "un", "une", "du", "de", "et", "ou", "el", "los", "las", "una", "y", "il", "lo", "gli",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle shown from `start` to `end`, in milliseconds: one line, or two with a line break."""

    start: int
    end: int
    text: str
    channel: int = 0


@dataclass(frozen=True, slots=True)
class _Atom:
    """A text that no line break may divide; `spaced` if a space stands before it. Times in milliseconds."""

    text: str
    start: int
    end: int
    spaced: bool


def milliseconds(samples: int) -> int:
    """Samples to milliseconds, rounded half up; a millisecond has 16 samples."""
    return (samples + 8) // 16


def cues(transcript: Transcript, *, label_characters: int = 0) -> list[Cue]:
    """The cues of a transcript by start time. Cues of one channel do not overlap, and no cue is empty.

    `label_characters` are reserved in each first line, for the name of a speaker for example.
    """
    duration = milliseconds(transcript.samples)
    result: list[Cue] = []
    for channel in sorted({segment.channel for segment in transcript.segments}):
        segments = [segment for segment in transcript.segments if segment.channel == channel]
        own = [cue for segment in segments for cue in _divide(segment, label_characters)]
        result += _without_overlaps(own, duration)
    return sorted(result, key=lambda cue: (cue.start, cue.channel))


def _divide(segment: Segment, label_characters: int) -> Iterator[Cue]:
    """The cues of one segment."""
    first_width = MAX_LINE_CHARACTERS - label_characters
    atoms = _atoms(segment, first_width)
    layout = _Layout(atoms, first_width, timed=bool(segment.words))
    for first, last in layout.cheapest_division():
        start, end = atoms[first].start, max(atoms[last - 1].end, atoms[first].start)
        if segment.words:
            end = min(end, start + MAX_CUE_MS)
        yield Cue(start, end, layout.lines(first, last), segment.channel)


def _atoms(segment: Segment, width: int) -> list[_Atom]:
    """The segment's words, or characters in languages written without spaces, none longer than `width`."""
    spaceless = segment.language in SPACELESS
    units = [(word.text, word.start_sample, word.end_sample) for word in segment.words]
    atoms: list[_Atom] = []
    for text, start, end in units or [(segment.text, segment.start_sample, segment.end_sample)]:
        bare = text.strip()
        for match in re.finditer(r"\S" if spaceless else r"\S+", bare):
            spaced = bare[match.start() - 1].isspace() if match.start() else text[0].isspace()
            times = [start + (end - start) * at // len(bare) for at in match.span()]
            atom = _Atom(match.group(), milliseconds(times[0]), milliseconds(times[1]), spaced)
            if atoms and not spaced and _is_inseparable(atoms[-1].text, atom.text, spaceless=spaceless):
                atoms[-1] = replace(atoms[-1], text=atoms[-1].text + atom.text, end=atom.end)
            else:
                atoms.append(atom)
    return [piece for atom in atoms for piece in _split_long(atom, width)]


def _is_inseparable(left: str, right: str, *, spaceless: bool) -> bool:
    """Whether no line break may separate two texts without a space between."""
    if not spaceless or right in CLOSING_PUNCTUATION or unicodedata.category(right).startswith("M"):
        return True
    return left[-1].isascii() and right.isascii() and left[-1].isalnum() and right.isalnum()


def _split_long(atom: _Atom, width: int) -> Iterator[_Atom]:
    """An atom in pieces of at most `width` characters."""
    length = len(atom.text)
    for at in range(0, length, width):
        start, end = (atom.start + (atom.end - atom.start) * n // length for n in (at, min(at + width, length)))
        yield _Atom(atom.text[at : at + width], start, end, atom.spaced and at == 0)


class _Layout:
    """Divides the atoms of one segment into cues and lines."""

    def __init__(self, atoms: Sequence[_Atom], first_width: int, *, timed: bool) -> None:
        self._atoms, self._first_width, self._timed = atoms, first_width, timed
        texts = [" " * atom.spaced + atom.text for atom in atoms]
        self._text = "".join(texts)
        self._end = list(accumulate(map(len, texts)))  # of each atom in the text
        self._begin = [end - len(atom.text) for end, atom in zip(self._end, atoms, strict=True)]
        silences = (after.start - before.end >= LONG_SILENCE_MS for before, after in pairwise(atoms))
        self._silences = [0, *accumulate(silences, initial=0)]  # the number of long silences before each atom

    def cheapest_division(self) -> list[tuple[int, int]]:
        """The cues of the cheapest division, as (first, after last) atom."""
        best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]  # cost and cues of the atoms before each
        for last in range(1, len(self._atoms) + 1):
            cost, first = min((best[first][0] + self._cost(first, last), -first) for first in self._firsts(last))
            best.append((cost, [*best[-first][1], (-first, last)]))
        return best[-1][1]

    def lines(self, first: int, last: int) -> str:
        """The text of a cue, on two lines of similar length if one is too short."""
        if self._length(first, last) <= self._first_width:
            return self._slice(first, last)

        def cost(at: int) -> float:
            above, below = self._length(first, at), self._length(at, last)
            fits = above <= self._first_width and below <= MAX_LINE_CHARACTERS
            return abs(above - below) / MAX_LINE_CHARACTERS + self._break_cost(at) if fits else math.inf

        at = min(range(first + 1, last), key=cost)
        return f"{self._slice(first, at)}\n{self._slice(at, last)}"

    def _firsts(self, last: int) -> Iterator[int]:
        """The possible first atoms of a cue that ends before `last` and fits on two lines."""
        yield last - 1
        for first in range(last - 2, -1, -1):
            long = self._timed and self._atoms[last - 1].end - self._atoms[first].start > MAX_CUE_MS
            filled = bisect_right(self._end, self._begin[first] + self._first_width)  # the atom after a full first line
            if long or (filled < last and self._length(filled, last) > MAX_LINE_CHARACTERS):
                return
            yield first

    def _cost(self, first: int, last: int) -> float:
        """The cost of a cue: a constant, its end, its empty space, and the silences inside it."""
        empty = 1 - self._length(first, last) / (2 * MAX_LINE_CHARACTERS)
        end = self._break_cost(last) if last < len(self._atoms) else 0.0
        return 1 + end + empty * empty / 2 + 2 * (self._silences[last] - self._silences[first + 1])

    def _break_cost(self, at: int) -> float:
        """The cost of a break before the atom `at`."""
        if self._silences[at + 1] > self._silences[at]:
            return 0.0
        text = self._atoms[at - 1].text
        mark = text.rstrip("\"'”’»)]}」』）】")[-1:]
        if mark in SENTENCE_ENDS:
            return 0.0
        if mark in CLAUSE_ENDS:
            return 0.3
        return 1.2 if text.casefold() in FUNCTION_WORDS else 0.8

    def _length(self, first: int, last: int) -> int:
        return self._end[last - 1] - self._begin[first]

    def _slice(self, first: int, last: int) -> str:
        return self._text[self._begin[first] : self._end[last - 1]]


def _without_overlaps(own: list[Cue], duration: int) -> list[Cue]:
    """Cues of one channel in order, within the duration, each at least 1 ms long, and 0.7 s if the next leaves room."""
    reached = 0
    for i, cue in enumerate(own):
        start = max(cue.start, reached)
        reached = max(cue.end, start + 1)
        own[i] = replace(cue, start=start, end=reached)
    limit = duration
    for i, cue in reversed(list(enumerate(own))):
        end = min(cue.end, limit)
        start = max(min(cue.start, end - 1), 0)
        own[i] = replace(cue, start=start, end=max(end, min(start + MIN_CUE_MS, limit)))
        limit = start
    return own
