"""Decoded windows to one transcript: times in the recording, in order, overlaps merged, texts joined.

    assembler = Assembler(duration=audio.length)
    for window, decoded in ...:                    # by start time; the channels of a split recording interleave
        show(assembler.add(window, decoded))       # segments that will not change any more
    show(assembler.finish())
    transcript = assembler.transcript()

Two overlapping windows contain the same words. The assembler aligns the last words of the first window with the first
words of the second, and changes windows at the longest run of common words. With word times, only words at about the
same time can match. Without a common word, it changes at the middle of the overlap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TypeAlias, TypeVar

from tickertape.transcripts.languages import SPACELESS, separator
from tickertape.types import SAMPLE_RATE, Decoded, Notice, Segment, Span, Task, Transcript, Window, Word

SEGMENT_TIME_ERROR = 2 * SAMPLE_RATE  # samples; a segment that ends this close to an overlap may lie in it
WORD_TIME_ERROR = SAMPLE_RATE // 2  # samples; equal words at most this far apart are the same word
MAX_WORDS_PER_SECOND = 6  # slightly more than people say
MAX_CHARACTERS_PER_SECOND = 12  # in languages written without spaces

SegmentOrWord = TypeVar("SegmentOrWord", Segment, Word)
_Cut: TypeAlias = "tuple[int, int]"  # how many units to keep of the first window, and to skip of the second


class Assembler:
    """Assembles decoded windows, which are added in the order of their start."""

    def __init__(
        self, *, duration: int, channels: int = 1, task: Task = "transcribe", notices: Iterable[Notice] = ()
    ) -> None:
        """`duration` is the recording's, in samples; no time will exceed it."""
        self._duration, self._channels, self._task, self._notices = duration, channels, task, tuple(notices)
        self._pending: dict[int, list[Segment]] = {}  # by channel: segments that the next window may change
        self._ends = [0] * channels  # by channel: the end of the last settled segment
        self._settled: list[Segment] = []  # complete, but an earlier segment of another channel may follow
        self._final: list[Segment] = []
        self._samples: Counter[str] = Counter()  # by language

    def add(self, window: Window, decoded: Decoded) -> tuple[Segment, ...]:
        """Add the next window. Returns the segments that are now final, in order, timed within the recording."""
        segments = _place(window, decoded, self._duration)
        for segment in segments:
            self._samples[segment.language] += segment.end_sample - segment.start_sample
        self._samples.setdefault(decoded.language, 0)
        if self._task == "translate":
            segments = [replace(segment, language="en") for segment in segments]
        if pending := self._pending.pop(window.channel, []):
            if window.overlap:
                pending, segments = _merge(pending, segments, Span(window.start, window.start + window.overlap))
            self._settle(pending)
        if window.tail:
            certain = window.end - window.tail - SEGMENT_TIME_ERROR
            early = list(takewhile(lambda segment: segment.end_sample <= certain, segments))
            self._pending[window.channel], segments = segments[len(early) :], early
        self._settle(segments)
        return self._release(window.start)

    def finish(self) -> tuple[Segment, ...]:
        """Return the remaining segments; no window follows."""
        for pending in self._pending.values():
            self._settle(pending)
        self._pending.clear()
        return self._release(self._duration)

    def transcript(self) -> Transcript:
        """The segments that are final so far; after `finish`, the whole recording."""
        language = self._samples.most_common(1)[0][0] if self._samples else "en"
        text, segments = join_text(self._final), tuple(self._final)
        return Transcript(text, segments, language, self._duration, self._task, self._notices, self._channels)

    def _settle(self, segments: Iterable[Segment]) -> None:
        """Place segments of one channel after each other."""
        for segment in segments:
            settled = _after(segment, self._ends[segment.channel])
            self._ends[segment.channel] = settled.end_sample
            self._settled.append(settled)

    def _release(self, added_until: int) -> tuple[Segment, ...]:
        """Make segments final that no later one can precede. All windows starting before `added_until` were added."""
        ready = self._settled
        if self._channels > 1:
            starts = [segment.start_sample for pending in self._pending.values() for segment in pending]
            bound = min([added_until, *starts])
            self._settled.sort(key=lambda segment: (segment.start_sample, segment.channel))
            ready = [segment for segment in self._settled if segment.start_sample <= bound]
        self._settled = self._settled[len(ready) :]
        self._final += ready
        return tuple(ready)


def join_text(segments: Iterable[Segment]) -> str:
    """The text of segments, joined by spaces, or directly between languages written without spaces."""
    text, language = "", ""
    for segment in segments:
        text += (separator(language, segment.language) if text else "") + segment.text.strip()
        language = segment.language
    return text


def _place(window: Window, decoded: Decoded, duration: int) -> list[Segment]:
    """The window's segments with text, their times moved into the recording and limited to window and recording.

    As in openai/whisper transcribe.py, a segment without length is dropped. So is one that starts behind the sound.
    """
    latest = min(window.end, duration)

    def place(timed: SegmentOrWord) -> SegmentOrWord:
        start, end = (min(window.start + max(at, 0), latest) for at in (timed.start_sample, timed.end_sample))
        return replace(timed, start_sample=start, end_sample=end)

    spoken = [
        replace(segment, channel=window.channel, words=tuple(map(place, segment.words)))
        for segment in decoded.segments
        if segment.text.strip()
    ]
    return [segment for segment in map(place, spoken) if segment.start_sample < segment.end_sample]


def _after(segment: Segment, end: int) -> Segment:
    """The segment after `end`, its words in order without overlaps, its times around all of its words."""
    words: list[Word] = []
    start = max(segment.start_sample, end)
    for word in segment.words:
        begin = max(word.start_sample, end)
        end = max(word.end_sample, begin)
        words.append(replace(word, start_sample=begin, end_sample=end))
    if words:
        start = min(start, words[0].start_sample)
    return replace(segment, start_sample=start, end_sample=max(segment.end_sample, start, end), words=tuple(words))


@dataclass(frozen=True, slots=True)
class _Unit:
    """A word, or a character of a language written without spaces. Times are estimated without word times."""

    text: str
    start_sample: int
    end_sample: int
    segment: int  # index
    word: Word | None = None

    @property
    def key(self) -> str:
        """Letters and digits, case-folded: equal for equal units."""
        return "".join(character for character in self.text.casefold() if character.isalnum())

    @property
    def middle(self) -> int:
        return (self.start_sample + self.end_sample) // 2


def _merge(first: list[Segment], second: list[Segment], overlap: Span) -> tuple[list[Segment], list[Segment]]:
    """The segments to keep of two windows that share the samples of `overlap`."""
    if not first or not second:
        return first, second
    timed = all(segment.words for segment in (*first, *second))
    left, right = _units(first, timed=timed), _units(second, timed=timed)
    ours: Sequence[_Unit | Segment] = left if timed else [first[unit.segment] for unit in left]
    theirs: Sequence[_Unit | Segment] = right if timed else [second[unit.segment] for unit in right]
    kept, skipped = (
        (_cut_at_time(left, right, overlap) if timed else None)
        or _cut_at_text(left, right, overlap, spaceless=first[-1].language in SPACELESS)
        or _cut_in_the_middle(ours, theirs, overlap)
    )
    return _rebuild(first, left, left[:kept]), _rebuild(second, right, right[skipped:])


def _units(segments: list[Segment], *, timed: bool) -> list[_Unit]:
    units: list[_Unit] = []
    for index, segment in enumerate(segments):
        if timed:
            units += [_Unit(word.text, word.start_sample, word.end_sample, index, word) for word in segment.words]
            continue
        start, samples = segment.start_sample, segment.end_sample - segment.start_sample
        texts = re.findall(r"\s*\S" if segment.language in SPACELESS else r"\s*\S+", segment.text)
        length, at = max(sum(map(len, texts)), 1), 0
        for text in texts:
            end = at + len(text)
            units.append(_Unit(text, start + samples * at // length, start + samples * end // length, index))
            at = end
    return units


def _cut_at_time(left: list[_Unit], right: list[_Unit], overlap: Span) -> _Cut | None:
    """Cut at a word that both windows contain at about the same time."""
    a = [i for i, unit in enumerate(left) if unit.end_sample > overlap.start - WORD_TIME_ERROR]
    b = [j for j, unit in enumerate(right) if unit.start_sample < overlap.end + WORD_TIME_ERROR]
    runs = _common_runs(left, right, a, b, max_distance=WORD_TIME_ERROR)
    if not runs:
        return None

    def closeness(run: tuple[int, int, int]) -> int:
        i, j, length = run
        return sum(WORD_TIME_ERROR - abs(left[i + n].middle - right[j + n].middle) for n in range(length))

    i, j, length = max(runs, key=closeness)  # in "no no no", times decide which words are the same
    middle = (overlap.start + overlap.end) // 2
    n = min(range(length), key=lambda n: abs(left[i + n].middle - middle))
    return i + n + 1, j + n + 1


def _cut_at_text(left: list[_Unit], right: list[_Unit], overlap: Span, *, spaceless: bool) -> _Cut | None:
    """Cut behind a common run at the border, where a few wrong words may stand between run and border."""
    per_second = MAX_CHARACTERS_PER_SECOND if spaceless else MAX_WORDS_PER_SECOND
    most = 4 + overlap.length * per_second // SAMPLE_RATE
    a, b = range(max(0, len(left) - most), len(left)), range(min(most, len(right)))
    runs = [
        (length, i + length, j + length)
        for i, j, length in _common_runs(left, right, a, b)
        if length >= (2 if spaceless else 1) and len(left) - i - length <= length and j <= length
    ]
    return max(runs, key=lambda run: (run[0], run[1] - run[2]))[1:] if runs else None


def _common_runs(
    left: list[_Unit], right: list[_Unit], a: Sequence[int], b: Sequence[int], max_distance: int | None = None
) -> list[tuple[int, int, int]]:
    """The maximal runs of equal units: (first left, first right, length). `max_distance` in samples limits matches."""
    lengths: dict[tuple[int, int], int] = {}
    for i in a:
        for j in b:
            same = left[i].key and left[i].key == right[j].key
            if same and (max_distance is None or abs(left[i].middle - right[j].middle) <= max_distance):
                lengths[i, j] = lengths.get((i - 1, j - 1), 0) + 1
    return [(i - n + 1, j - n + 1, n) for (i, j), n in lengths.items() if (i + 1, j + 1) not in lengths]


def _cut_in_the_middle(left: Sequence[_Unit | Segment], right: Sequence[_Unit | Segment], overlap: Span) -> _Cut:
    """Keep units before the middle of the overlap on the left, and units after the last kept one on the right.

    Without word times, each unit has its segment's times, so that segments are kept or dropped as a whole.
    """
    if not any(timed.start_sample < overlap.end for timed in right):
        return len(left), 0  # the second window has no text in the overlap
    middle = (overlap.start + overlap.end) // 2
    kept = sum((timed.start_sample + timed.end_sample) // 2 < middle for timed in left)
    end = max([overlap.start, *(timed.end_sample for timed in left[:kept])])
    return kept, sum((timed.start_sample + timed.end_sample) // 2 < end for timed in right)


def _rebuild(segments: list[Segment], units: list[_Unit], kept: list[_Unit]) -> list[Segment]:
    """The segments with only the kept units. A shortened segment loses its tokens, which no longer match its text."""
    rebuilt = []
    for index, segment in enumerate(segments):
        before = [unit for unit in units if unit.segment == index]
        after = [unit for unit in kept if unit.segment == index]
        if len(after) == len(before):
            rebuilt.append(segment)
        elif after:
            start = segment.start_sample if after[0] is before[0] else after[0].start_sample
            end = min(segment.end_sample, after[-1].end_sample) if start == segment.start_sample else segment.end_sample
            text = "".join(unit.text for unit in after)
            words = tuple(unit.word for unit in after if unit.word is not None)
            cleared = replace(segment, tokens=(), token_logprobs=(), token_bytes=())
            rebuilt.append(replace(cleared, text=text, words=words, start_sample=start, end_sample=end))
    return rebuilt
