"""Segments to subtitle cues: two short lines at most, broken where a reader would pause.

Each segment is divided on its own, by the cheapest way to set its words: every cue costs something, and so does
ending one inside a clause, behind a little word such as "the", or keeping one up through a silence. With word times a
cue lasts at most 7 s; without, times inside a segment are estimated by the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tickertape.languages import SPACELESS
from tickertape.types import Segment, Transcript

WIDTH = 42  # characters a line: what broadcasters and streaming services set
LONGEST = 7_000  # milliseconds
SHORTEST = 700  # milliseconds, where the next cue leaves room: less cannot be read
SILENCE = 1_000  # milliseconds between two words, over which no cue should stay

SENTENCE = frozenset(".?!…。？！")
CLAUSE = frozenset(",;:–—、，；：")
CLOSING = frozenset("\"'”’»)]}」』）】、。，．！？：；…")
# Words that belong to the next one, in the languages most often asked for.
# fmt: off
LITTLE = frozenset((
    "a", "an", "the", "of", "to", "in", "on", "at", "by", "for", "with", "and", "or", "but", "my", "your", "his", "her",
    "its", "our", "their", "is", "are",
    "der", "die", "das", "den", "dem", "ein", "eine", "einen", "einem", "einer", "und", "oder", "zu", "im", "am",
    "le", "la", "les", "un", "une", "du", "de", "et", "ou", "el", "los", "las", "una", "y", "il", "lo", "gli",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen from `start` to `end`, in milliseconds: one line, or two with a line break."""

    start: int
    end: int
    text: str
    channel: int = 0


@dataclass(frozen=True, slots=True)
class _Atom:
    """What no line break may divide; `spaced` if a space stands before it. Times in milliseconds."""

    text: str
    start: int
    end: int
    spaced: bool


def milliseconds(samples: int) -> int:
    """Samples to milliseconds, rounded half up: a millisecond has 16 samples."""
    return (samples + 8) // 16


def cues(transcript: Transcript, *, label: int = 0) -> list[Cue]:
    """The cues of a transcript by start time; those of one channel do not overlap, and none is empty.

    `label` is how many characters of each first line are spoken for, by the name of a speaker for example.
    """
    duration = milliseconds(transcript.duration)
    result: list[Cue] = []
    for channel in sorted({segment.channel for segment in transcript.segments}):
        own = [cue for segment in transcript.segments if segment.channel == channel for cue in _divided(segment, label)]
        result += _apart(own, duration)
    return sorted(result, key=lambda cue: (cue.start, cue.channel))


def _divided(segment: Segment, label: int) -> Iterator[Cue]:
    """The cues of one segment."""
    atoms = _atoms(segment, WIDTH - label)
    setting = _Setting(atoms, label, timed=bool(segment.words))
    for first, last in setting.groups():
        start, end = atoms[first].start, max(atoms[last - 1].end, atoms[first].start)
        if segment.words:
            end = min(end, start + LONGEST)
        yield Cue(start, end, setting.lines(first, last), segment.channel)


def _atoms(segment: Segment, width: int) -> list[_Atom]:
    """The words of a segment, none longer than `width`; characters, in languages written without spaces."""
    spaceless = segment.language in SPACELESS
    units = [(word.text, word.start, word.end) for word in segment.words]
    atoms: list[_Atom] = []
    for text, start, end in units or [(segment.text, segment.start, segment.end)]:
        bare = text.strip()
        for match in re.finditer(r"\S" if spaceless else r"\S+", bare):
            spaced = bare[match.start() - 1].isspace() if match.start() else text[0].isspace()
            times = [start + (end - start) * at // len(bare) for at in match.span()]
            atom = _Atom(match.group(), milliseconds(times[0]), milliseconds(times[1]), spaced)
            if atoms and not spaced and _glued(atoms[-1].text, atom.text, spaceless=spaceless):
                atoms[-1] = replace(atoms[-1], text=atoms[-1].text + atom.text, end=atom.end)
            else:
                atoms.append(atom)
    return [piece for atom in atoms for piece in _chopped(atom, width)]


def _glued(left: str, right: str, *, spaceless: bool) -> bool:
    """Whether two texts without a space between must stay on one line."""
    if not spaceless or right in CLOSING or unicodedata.category(right).startswith("M"):
        return True
    return left[-1].isascii() and right.isascii() and left[-1].isalnum() and right.isalnum()


def _chopped(atom: _Atom, width: int) -> Iterator[_Atom]:
    """An atom that is too long for a line, in pieces that are not."""
    length = len(atom.text)
    for at in range(0, length, width):
        start, end = (atom.start + (atom.end - atom.start) * n // length for n in (at, min(at + width, length)))
        yield _Atom(atom.text[at : at + width], start, end, atom.spaced and at == 0)


class _Setting:
    """How the atoms of one segment can be set in lines and cues."""

    def __init__(self, atoms: Sequence[_Atom], label: int, *, timed: bool) -> None:
        self._atoms, self._first, self._timed = atoms, WIDTH - label, timed
        self._begin: list[int] = []  # where each atom begins and ends in the running text
        self._end: list[int] = []
        self._silences = [0]  # how many long silences lie before each atom
        for i, atom in enumerate(atoms):
            self._begin.append((self._end[-1] if self._end else 0) + atom.spaced)
            self._end.append(self._begin[-1] + len(atom.text))
            self._silences.append(self._silences[-1] + (i > 0 and atom.start - atoms[i - 1].end >= SILENCE))

    def groups(self) -> list[tuple[int, int]]:
        """The cheapest division into cues, as (first, after last) atom."""
        best, begun = [0.0], [0]
        for last in range(1, len(self._atoms) + 1):
            cost, first = min((best[first] + self._cost(first, last), -first) for first in self._firsts(last))
            best.append(cost)
            begun.append(-first)
        groups: list[tuple[int, int]] = []
        last = len(self._atoms)
        while last > 0:
            groups.append((begun[last], last))
            last = begun[last]
        return groups[::-1]

    def lines(self, first: int, last: int) -> str:
        """The text of a cue, on two lines if it must be, as even and as sensibly broken as they can be."""
        if self._length(first, last) <= self._first:
            return self._text(first, last)
        breaks = [
            at
            for at in range(first + 1, last)
            if self._length(first, at) <= self._first and self._length(at, last) <= WIDTH
        ]
        at = min(breaks, key=lambda at: abs(self._length(first, at) - self._length(at, last)) / WIDTH + self._break(at))
        return f"{self._text(first, at)}\n{self._text(at, last)}"

    def _firsts(self, last: int) -> Iterator[int]:
        """The atoms with which a cue that ends before `last` may begin."""
        yield last - 1
        for first in range(last - 2, -1, -1):
            long = self._timed and self._atoms[last - 1].end - self._atoms[first].start > LONGEST
            if long or not self._fits(first, last):
                return
            yield first

    def _fits(self, first: int, last: int) -> bool:
        """Whether these atoms can be set on one line or two."""
        filled = bisect_right(self._end, self._begin[first] + self._first)  # the first atom beyond a full line
        return filled >= last or self._length(filled, last) <= WIDTH

    def _cost(self, first: int, last: int) -> float:
        """What a cue costs: itself, its end, empty space, and silences that it stays up through."""
        empty = 1 - self._length(first, last) / (2 * WIDTH)
        end = self._break(last) if last < len(self._atoms) else 0.0
        return 1 + end + empty * empty / 2 + 2 * (self._silences[last] - self._silences[first + 1])

    def _break(self, at: int) -> float:
        """What it costs to break before the atom `at`."""
        if self._silences[at + 1] > self._silences[at]:
            return 0.0
        text = self._atoms[at - 1].text
        mark = text.rstrip("\"'”’»)]}」』）】")[-1:]
        if mark in SENTENCE:
            return 0.0
        if mark in CLAUSE:
            return 0.3
        return 1.2 if text.casefold() in LITTLE else 0.8

    def _length(self, first: int, last: int) -> int:
        return self._end[last - 1] - self._begin[first]

    def _text(self, first: int, last: int) -> str:
        atoms = self._atoms[first:last]
        return atoms[0].text + "".join(" " * atom.spaced + atom.text for atom in atoms[1:])


def _apart(own: list[Cue], duration: int) -> list[Cue]:
    """The cues of one channel in order and apart, each at least 1 ms long and if possible 0.7 s, none after the end."""
    reached = 0
    for i, cue in enumerate(own):
        start = max(cue.start, reached)
        reached = max(cue.end, start + 1)
        own[i] = replace(cue, start=start, end=reached)
    limit = duration
    for i in range(len(own) - 1, -1, -1):
        end = min(own[i].end, limit)
        limit = max(min(own[i].start, end - 1), 0)
        own[i] = replace(own[i], start=limit, end=end)
    following = [cue.start for cue in own[1:]] + [duration]
    return [
        replace(cue, end=max(cue.end, min(cue.start + SHORTEST, after)))
        for cue, after in zip(own, following, strict=True)
    ]
