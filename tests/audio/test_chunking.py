"""Speech becomes windows of at most 30 s, nothing is lost, and cuts fall where it is quiet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import LIMIT, recordings, span_lists
from tickertape.audio import chunking
from tickertape.types import SAMPLE_RATE, Samples, Span, Window

SECOND = SAMPLE_RATE


def noise(seconds: float) -> Samples:
    """Loud from end to end."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * SECOND)).astype(np.float32)


def extents(found: list[Window]) -> list[tuple[int, int]]:
    """Start and end of each window."""
    return [(window.start, window.end) for window in found]


def check_overlaps(found: list[Window]) -> None:
    """Each window tells the truth about what it shares with its neighbours."""
    shared = [max(0, left.end - right.start) for left, right in itertools.pairwise(found)]
    assert [0, *shared] == [window.overlap for window in found] or not found
    assert [*shared, 0] == [window.tail for window in found] or not found


@given(recordings(), st.booleans())
@pytest.mark.slow
def test_every_sample_of_speech_is_in_a_window(recording: tuple[Samples, list[Span]], trimmed: bool) -> None:
    """Windows cover every span, in order, within the limit, and twice only where they say so."""
    samples, spans = recording
    found = list(chunking.cut(samples, spans, trimmed=trimmed, limit=LIMIT, channel=1))
    times_heard = np.zeros(len(samples), int)
    for window in found:
        times_heard[window.start + window.overlap : window.end] += 1
    assert all((times_heard[span.start : span.end] == 1).all() for span in spans)
    assert max([window.length for window in found], default=0) <= LIMIT
    assert {window.channel for window in found} <= {1}
    check_overlaps(found)


@given(recordings(), st.booleans())
@pytest.mark.slow
def test_windows_are_views(recording: tuple[Samples, list[Span]], plain: bool) -> None:
    """A window holds the recording's own samples, not a copy of them."""
    samples, spans = recording
    found = chunking.plain(samples, limit=LIMIT, overlap=SECOND) if plain else chunking.cut(samples, spans, limit=LIMIT)
    for window in found:
        assert np.shares_memory(window.samples, samples)
        assert np.array_equal(samples[window.start : window.end], window.samples)


@given(span_lists(longest=LIMIT))
def test_long_pauses_are_in_no_window(spans: list[Span]) -> None:
    """A pause over the limit separates windows, and a window begins and ends with speech."""
    samples = np.zeros(spans[-1].end if spans else 0, np.float32)
    found = list(chunking.cut(samples, spans, trimmed=True, limit=LIMIT))
    assert {window.start for window in found} <= {span.start for span in spans}
    assert {window.end for window in found} <= {span.end for span in spans}
    for left, right in itertools.pairwise(spans):
        if right.start - left.end > chunking.MAX_PAUSE_TRIMMED:
            assert not any(window.start < right.start and window.end > left.end for window in found)


def test_neighbours_share_a_window() -> None:
    """Spans and the short pauses between them are heard together up to 30 s, for the sake of the context."""
    spans = [Span(0, 10 * SECOND), Span(12 * SECOND, 20 * SECOND), Span(21 * SECOND, 31 * SECOND)]
    found = list(chunking.cut(noise(31), spans))
    assert [(0, 20 * SECOND), (21 * SECOND, 31 * SECOND)] == extents(found)


def test_trimmed_windows_hold_less_silence() -> None:
    """A model that pays by the second gets no pauses that it could do without."""
    spans = [Span(0, 10 * SECOND), Span(12 * SECOND, 20 * SECOND)]
    assert [(0, 20 * SECOND)] == extents(list(chunking.cut(noise(20), spans)))
    assert [(0, 10 * SECOND), (12 * SECOND, 20 * SECOND)] == extents(list(chunking.cut(noise(20), spans, trimmed=True)))


@pytest.mark.parametrize("pause", [21.0, 24.3, 28.9])
def test_long_speech_is_cut_in_its_pause(pause: float) -> None:
    """Speech of over 30 s is cut inside the short pause it has, with nothing shared."""
    samples = noise(40)
    begin = round(pause * SECOND)
    samples[begin : begin + SECOND // 4] *= 0.01
    first, second = chunking.cut(samples, [Span(0, 40 * SECOND)])
    assert begin < first.end < begin + SECOND // 4
    assert first.end == second.start
    assert (0, 0) == (first.tail, second.overlap)


def test_the_quietest_of_two_pauses_is_taken() -> None:
    """Where there are two, the cut is in the deeper one."""
    samples = noise(40)
    samples[22 * SECOND : 22 * SECOND + 4000] *= 0.01
    samples[26 * SECOND : 26 * SECOND + 4000] *= 0.05
    first, _ = chunking.cut(samples, [Span(0, 40 * SECOND)])
    assert 22 * SECOND < first.end < 22 * SECOND + 4000


def test_speech_without_a_pause_is_shared() -> None:
    """Where even the quietest place is loud, both windows hold a second around it."""
    first, second = chunking.cut(noise(40), [Span(0, 40 * SECOND)])
    assert chunking.OVERLAP == first.tail == second.overlap == first.end - second.start
    assert 20 * SECOND < first.end <= 30 * SECOND


def test_no_last_window_is_a_fragment() -> None:
    """Speech of slightly over 30 s does not end in a window of half a word."""
    *_, last = chunking.cut(noise(30.1), [Span(0, round(30.1 * SECOND))])
    assert last.length >= chunking.REST


def test_speech_after_a_cut_joins_the_rest() -> None:
    """What is left of a long span shares its window with the spans that follow."""
    spans = [Span(0, 40 * SECOND), Span(41 * SECOND, 45 * SECOND)]
    assert 2 == len(list(chunking.cut(noise(45), spans)))


def test_no_speech_gives_no_window() -> None:
    """Without spans there is nothing to decode."""
    assert [] == list(chunking.cut(noise(40), []))


def test_windows_come_while_spans_do() -> None:
    """The first window is there before the last span is known, so that decoding starts early."""

    def endless() -> object:
        yield Span(0, SECOND)
        yield Span(10 * SECOND, 11 * SECOND)
        pytest.fail("asked for more than it needs")

    assert Span(0, SECOND).length == next(chunking.cut(noise(12), endless())).length  # type: ignore[arg-type]


@given(st.integers(0, 3 * LIMIT))
def test_plain_windows_hold_everything(length: int) -> None:
    """Without speech detection the windows hold the whole recording, each sharing some of it with the one before."""
    found = list(chunking.plain(np.zeros(length, np.float32), limit=LIMIT, overlap=SECOND))
    assert length == sum(window.length - window.overlap for window in found)
    assert length == (found[-1].end if found else 0)
    assert all(LIMIT == window.length for window in found[:-1])
    assert all(window.length > window.overlap for window in found)
    check_overlaps(found)


def test_plain_windows_are_thirty_seconds_long() -> None:
    """They share two seconds, so that a word at a border is whole in one of them."""
    assert [(0, 30 * SECOND), (28 * SECOND, 50 * SECOND)] == extents(list(chunking.plain(noise(50))))
