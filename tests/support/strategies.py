"""Every Hypothesis strategy of the tests. Where it can, a strategy builds the answer first and the input from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tickertape.types import Decoded, Notice, Samples, Segment, Span, Transcript, Window, Word

SECOND = 16_000
LIMIT = 4 * SECOND  # a small window, so that examples stay small

# Letters of several scripts, marks that combine, and the characters that subtitle formats must escape or keep.
LETTERS = "abcxyzÄßñéžđ0189%&<>'-./\\\"カ語ไก่у"
SPACELESS_LETTERS = "我们选择在カ語ไทย。，A1"
TEXTS = st.text(LETTERS, min_size=1, max_size=14)
LONG_TEXTS = st.text(LETTERS, min_size=43, max_size=100)

PROBABILITIES = st.lists(st.sampled_from([0.0, 0.34, 0.36, 0.5, 0.6, 1.0]), max_size=120)  # around the thresholds


@st.composite
def span_lists(draw: st.DrawFn, longest: int = 3 * LIMIT) -> list[Span]:
    """Spans in order and apart, or touching."""
    at, spans = 0, []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 6 * SECOND), st.integers(1, longest)), max_size=6)):
        spans.append(Span(at + gap, at + gap + length))
        at += gap + length
    return spans


@st.composite
def recordings(draw: st.DrawFn) -> tuple[Samples, list[Span]]:
    """Noise with the spans of its speech; pauses of 0.2 s are cut into it here and there."""
    spans = draw(span_lists())
    length = (spans[-1].end if spans else 0) + draw(st.integers(0, SECOND))
    samples = np.random.default_rng(draw(st.integers(0, 9))).uniform(-0.5, 0.5, length).astype(np.float32)
    for at in draw(st.lists(st.integers(0, max(length - 1, 0)), max_size=8)):
        samples[at : at + SECOND // 5] *= 1e-3
    return samples, spans


@dataclass(frozen=True)
class Spoken:
    """What was said, and what perfect ears made of each window: the words that lie wholly in it."""

    words: tuple[Word, ...]
    heard: tuple[tuple[Window, Decoded], ...]
    duration: int

    @property
    def text(self) -> str:
        """All of it, in order."""
        return " ".join(word.text.strip() for word in self.words)


@st.composite
def spoken(draw: st.DrawFn, *, timed: bool, vocabulary: int = 60) -> Spoken:
    """Words one after the other, heard through windows of 4 s that share 1 s, with word times or without.

    No word comes again before `vocabulary` others have.
    """
    lengths = draw(st.lists(st.tuples(st.integers(0, 3_000), st.integers(1_500, 5_000)), min_size=1, max_size=60))
    at, words = 0, []
    for number, (pause, length) in enumerate(lengths):
        words.append(Word(f" word{number % vocabulary}", at + pause, at + pause + length, 0.5))
        at += pause + length
    starts = range(0, max(at - SECOND, 1), LIMIT - SECOND)
    heard = []
    for start in starts:
        end = min(start + LIMIT, at)
        window = Window(
            np.zeros(end - start, np.float32),
            start,
            overlap=SECOND if start else 0,
            tail=SECOND if end < at else 0,
        )
        here = [word for word in words if word.start_sample >= start and word.end_sample <= end]
        heard.append((window, Decoded(tuple(_segments(here, start, timed=timed, size=draw(st.integers(1, 8)))))))
    return Spoken(tuple(words), tuple(heard), at)


def _segments(words: list[Word], offset: int, *, timed: bool, size: int) -> list[Segment]:
    """The words in segments of `size`, relative to `offset`."""
    segments = []
    for first in range(0, len(words), size):
        group = [
            Word(word.text, word.start_sample - offset, word.end_sample - offset, word.probability)
            for word in words[first : first + size]
        ]
        text = "".join(word.text for word in group)
        segments.append(Segment(group[0].start_sample, group[-1].end_sample, text, words=tuple(group) if timed else ()))
    return segments


@st.composite
def segments(draw: st.DrawFn, start: int, *, timed: bool, channel: int = 0) -> Segment:
    """A segment from `start` on, its words a random time apart, some of them very long, slow or without a space."""
    language = draw(st.sampled_from(["en", "de", "zh"]))
    texts = st.text(SPACELESS_LETTERS, min_size=1, max_size=3) if language == "zh" else TEXTS | LONG_TEXTS
    words, at = [], start
    for text in draw(st.lists(texts, min_size=1, max_size=30)):
        begin = at + draw(st.integers(0, 2 * SECOND))
        at = begin + draw(st.integers(0, 9 * SECOND))
        space = " " if language != "zh" and draw(st.integers(0, 9)) else ""
        words.append(Word(space + text, begin, at, draw(st.floats(0, 1))))
    return Segment(
        start,
        max(at, start + 1),
        "".join(word.text for word in words),
        tokens=tuple(draw(st.lists(st.integers(0, 51_865), max_size=3))),
        words=tuple(words) if timed else (),
        language=language,
        channel=channel,
        avg_logprob=draw(st.floats()),
        compression_ratio=draw(st.floats()),
    )


@st.composite
def transcripts(draw: st.DrawFn, *, timed: bool | None = None) -> Transcript:
    """Transcripts of one or two channels, in order, as `assemble` makes them."""
    channels = draw(st.integers(1, 2))
    timed = draw(st.booleans()) if timed is None else timed
    ends, made = [0] * channels, []
    for _ in range(draw(st.integers(0, 5))):
        channel = draw(st.integers(0, channels - 1))
        segment = draw(segments(ends[channel] + draw(st.integers(0, SECOND)), timed=timed, channel=channel))
        ends[channel] = segment.end_sample
        made.append(segment)
    made.sort(key=lambda segment: (segment.start_sample, segment.channel))
    notices = draw(st.sampled_from([(), (Notice("audio_truncated", "the file ends early"),)]))
    duration = max(ends) + draw(st.integers(1_600, SECOND))
    text = " ".join(segment.text.strip() for segment in made)
    return Transcript(text, tuple(made), "en", duration, notices=notices, channels=channels)
