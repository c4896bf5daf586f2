"""Decoded windows to one transcript: true offsets, order, overlaps merged, texts joined.

    assembler = Assembler(duration=audio.length)
    for window, decoded in ...:                    # by start time; the channels of a split recording interleave
        show(assembler.add(window, decoded))       # segments that will not change any more
    show(assembler.finish())
    transcript = assembler.transcript()

Where two windows overlap, both have heard the same words. The last of the first window and the first of the second
are laid side by side: the longest run of words that both have is where one takes over from the other. Word times, when
there are any, say which words can be the same. Without a common word the middle of the overlap decides, and the
second window takes over where the first one's last kept word (or segment) ends, so that nothing falls in between.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from tickertape.languages import SPACELESS, separator
from tickertape.types import SAMPLE_RATE, Decoded, Notice, Segment, Span, Task, Transcript, Window, Word

SLACK = 2 * SAMPLE_RATE  # segment times err: what ends this close to an overlap may lie in it
SAME = SAMPLE_RATE // 2  # word times err too: up to here two equal words are one
FASTEST = 6  # words a second, and a little more than people say
FASTEST_SPACELESS = 12  # characters a second


class Assembler:
    """Puts decoded windows together as they come, in the order of their start."""

    def __init__(
        self, *, duration: int, channels: int = 1, task: Task = "transcribe", notices: Iterable[Notice] = ()
    ) -> None:
        """`duration` is the recording's, in samples; no time will exceed it."""
        self._duration, self._channels, self._task, self._notices = duration, channels, task, tuple(notices)
        self._held: dict[int, list[Segment]] = {}  # by channel: what the next window may still change
        self._reached = [0] * channels  # by channel: the end of the last settled segment
        self._settled: list[Segment] = []  # waiting only for their turn among the channels
        self._final: list[Segment] = []
        self._spoken: Counter[str] = Counter()  # samples by language

    def add(self, window: Window, decoded: Decoded) -> tuple[Segment, ...]:
        """Take the next window; return the segments that are final now, in order, timed within the recording."""
        segments = _placed(window, decoded, self._duration)
        self._spoken[decoded.language] += sum(segment.end - segment.start for segment in segments)
        if self._task == "translate":
            segments = [replace(segment, language="en") for segment in segments]
        if held := self._held.pop(window.channel, []):
            if window.overlap:
                held, segments = _merged(held, segments, Span(window.start, window.start + window.overlap))
            self._settle(held)
        if window.tail:
            certain = window.end - window.tail - SLACK
            early = list(takewhile(lambda segment: segment.end <= certain, segments))
            self._held[window.channel], segments = segments[len(early) :], early
        self._settle(segments)
        return self._release(window.start)

    def finish(self) -> tuple[Segment, ...]:
        """Return what was held back: no window follows."""
        for channel in sorted(self._held):
            self._settle(self._held[channel])
        self._held.clear()
        return self._release(self._duration)

    def transcript(self) -> Transcript:
        """Everything that was final so far; the whole recording after `finish`."""
        language = self._spoken.most_common(1)[0][0] if self._spoken else "en"
        segments = tuple(self._final)
        return Transcript(
            joined(segments), segments, language, self._duration, self._task, self._notices, self._channels
        )

    def _settle(self, segments: Iterable[Segment]) -> None:
        """Take segments of one channel as they are, each after the one before."""
        for segment in segments:
            settled = _after(segment, self._reached[segment.channel])
            self._reached[segment.channel] = settled.end
            self._settled.append(settled)

    def _release(self, heard: int) -> tuple[Segment, ...]:
        """Make final what no later segment can precede: windows that start before `heard` have all been added."""
        if self._channels > 1:
            bound = min([heard, *(segment.start for held in self._held.values() for segment in held)])
            self._settled.sort(key=lambda segment: (segment.start, segment.channel))
            ready = [segment for segment in self._settled if segment.start <= bound]
        else:
            ready = self._settled
        self._settled = self._settled[len(ready) :]
        self._final += ready
        return tuple(ready)


def joined(segments: Sequence[Segment]) -> str:
    """The text of segments in order: with a space between, except in languages written without."""
    text, language = "", ""
    for segment in segments:
        text += (separator(language, segment.language) if text else "") + segment.text.strip()
        language = segment.language
    return text


def _placed(window: Window, decoded: Decoded, duration: int) -> list[Segment]:
    """The window's segments in samples of the recording, inside the window and the recording; empty ones dropped."""
    end = min(window.end, duration)

    def place(time: int) -> int:
        return min(max(window.start + time, window.start), end)

    return [
        replace(
            segment,
            start=place(segment.start),
            end=place(segment.end),
            words=tuple(replace(word, start=place(word.start), end=place(word.end)) for word in segment.words),
            channel=window.channel,
            language=decoded.language,
        )
        for segment in decoded.segments
        if segment.text.strip()
    ]


def _after(segment: Segment, reached: int) -> Segment:
    """The segment from `reached` on: its words in order and apart, itself around all of them."""
    words: list[Word] = []
    at = reached
    for word in segment.words:
        start = max(word.start, at)
        at = max(word.end, start)
        words.append(replace(word, start=start, end=at))
    start = max(segment.start, reached)
    if words:
        start = min(start, words[0].start)
    return replace(segment, start=start, end=max(segment.end, start, at), words=tuple(words))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A word of a segment, or a character where words are not told apart; times are estimated without word times."""

    text: str
    start: int
    end: int
    owner: int  # index of the segment
    word: Word | None = None

    @property
    def key(self) -> str:
        """What makes two pieces the same: letters and digits, in any case."""
        return "".join(character for character in self.text.casefold() if character.isalnum())

    @property
    def middle(self) -> int:
        return (self.start + self.end) // 2


def _merged(first: list[Segment], second: list[Segment], overlap: Span) -> tuple[list[Segment], list[Segment]]:
    """What to keep of the segments before and after the start of a window, whose first samples both have heard."""
    if not first or not second:
        return first, second
    timed = all(segment.words for segment in (*first, *second))
    left, right = _pieces(first, timed=timed), _pieces(second, timed=timed)
    spaceless = first[-1].language in SPACELESS
    meeting = (
        (_meeting_by_time(left, right, overlap) if timed else None)
        or _meeting_by_text(left, right, overlap, spaceless)
        or _meeting_in_the_middle(left, right, overlap, whole=None if timed else (first, second))
    )
    kept, begun = meeting
    return _rebuilt(first, left, left[:kept]), _rebuilt(second, right, right[begun:])


def _pieces(segments: list[Segment], *, timed: bool) -> list[_Piece]:
    """Every word of the segments, or every character of those without spaces, with its time."""
    pieces: list[_Piece] = []
    for owner, segment in enumerate(segments):
        if timed:
            pieces += [_Piece(word.text, word.start, word.end, owner, word) for word in segment.words]
            continue
        texts = re.findall(r"\s*\S" if segment.language in SPACELESS else r"\s*\S+", segment.text)
        length, at = max(sum(map(len, texts)), 1), 0
        for text in texts:
            start = segment.start + (segment.end - segment.start) * at // length
            end = segment.start + (segment.end - segment.start) * (at + len(text)) // length
            pieces.append(_Piece(text, start, end, owner))
            at += len(text)
    return pieces


def _meeting_by_time(left: list[_Piece], right: list[_Piece], overlap: Span) -> tuple[int, int] | None:
    """How many pieces to keep on the left and to skip on the right: at a word that both heard at about that time."""
    a = [i for i, piece in enumerate(left) if piece.end > overlap.start - SAME]
    b = [j for j, piece in enumerate(right) if piece.start < overlap.end + SAME]
    runs = _runs(left, right, a, b, near=SAME)
    if not runs:
        return None

    def nearness(run: tuple[int, int, int]) -> int:
        i, j, length = run
        return sum(SAME - abs(left[i + n].middle - right[j + n].middle) for n in range(length))

    i, j, length = max(runs, key=nearness)  # of "no no no", which is which
    middle = (overlap.start + overlap.end) // 2
    i, j = min(((i + n, j + n) for n in range(length)), key=lambda pair: abs(left[pair[0]].middle - middle))
    return i + 1, j + 1


def _meeting_by_text(left: list[_Piece], right: list[_Piece], overlap: Span, spaceless: bool) -> tuple[int, int] | None:
    """The same without times: only a run at the very border counts, give or take words that the border cut in two."""
    most = 4 + overlap.length * (FASTEST_SPACELESS if spaceless else FASTEST) // SAMPLE_RATE
    a, b = range(max(0, len(left) - most), len(left)), range(min(most, len(right)))
    least = 2 if spaceless else 1
    runs = [
        (length, i + length, j + length)
        for i, j, length in _runs(left, right, a, b)
        if length >= least and len(left) - i - length <= length and j <= length
    ]
    if not runs:
        return None
    _, kept, begun = max(runs, key=lambda run: (run[0], run[1] - run[2]))
    return kept, begun


def _runs(
    left: list[_Piece], right: list[_Piece], a: Sequence[int], b: Sequence[int], near: int | None = None
) -> list[tuple[int, int, int]]:
    """Every longest run of equal pieces as (first left, first right, length); `near` bounds their distance in time."""
    lengths: dict[tuple[int, int], int] = {}
    for i in a:
        for j in b:
            same = left[i].key and left[i].key == right[j].key
            if same and (near is None or abs(left[i].middle - right[j].middle) <= near):
                lengths[i, j] = lengths.get((i - 1, j - 1), 0) + 1
    return [(i - n + 1, j - n + 1, n) for (i, j), n in lengths.items() if (i + 1, j + 1) not in lengths]


def _meeting_in_the_middle(
    left: list[_Piece], right: list[_Piece], overlap: Span, whole: tuple[list[Segment], list[Segment]] | None
) -> tuple[int, int]:
    """Without a common word: left what lies before the middle, right what lies after the last thing kept.

    `whole` gives the segments, when they must be kept or dropped as they are, for want of word times.
    """
    ours: Sequence[_Piece | Segment] = left if whole is None else [whole[0][piece.owner] for piece in left]
    theirs: Sequence[_Piece | Segment] = right if whole is None else [whole[1][piece.owner] for piece in right]
    if not any(unit.start < overlap.end for unit in theirs):
        return len(left), 0  # the right heard nothing there
    middle = (overlap.start + overlap.end) // 2
    kept = sum((unit.start + unit.end) // 2 < middle for unit in ours)
    reached = max([overlap.start, *(unit.end for unit in ours[:kept])])
    return kept, sum((unit.start + unit.end) // 2 < reached for unit in theirs)


def _rebuilt(segments: list[Segment], pieces: list[_Piece], kept: list[_Piece]) -> list[Segment]:
    """The segments with only the kept pieces. One that lost some loses its tokens, which no longer say the same."""
    rebuilt = []
    for owner, segment in enumerate(segments):
        mine = [piece for piece in kept if piece.owner == owner]
        if len(mine) == sum(piece.owner == owner for piece in pieces):
            rebuilt.append(segment)
        elif mine:
            text = "".join(piece.text for piece in mine)
            words = tuple(piece.word for piece in mine if piece.word is not None)
            start = segment.start if mine[0] is next(p for p in pieces if p.owner == owner) else mine[0].start
            end = min(segment.end, mine[-1].end) if start == segment.start else segment.end
            cleared = replace(segment, tokens=(), token_logprobs=(), token_bytes=())
            rebuilt.append(replace(cleared, text=text, words=words, start=start, end=end))
    return rebuilt
