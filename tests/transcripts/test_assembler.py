"""Decoded windows become one transcript: true times, the right order, no word lost or said twice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import SECOND, Spoken, spoken, transcripts
from tickertape.transcripts.assembler import Assembler, join_text
from tickertape.types import Decoded, Notice, Segment, Task, Transcript, Window, Word


def window(start: float, end: float, *, overlap: float = 0, tail: float = 0, channel: int = 0) -> Window:
    """A silent window; times in seconds."""
    begin, stop = round(start * SECOND), round(end * SECOND)
    return Window(np.zeros(stop - begin, np.float32), begin, channel, round(overlap * SECOND), round(tail * SECOND))


def phrase(text: str, start: float, end: float, *, timed: bool = False) -> Segment:
    """A segment, its words evenly spread if they have times; times in seconds."""
    begin, stop = round(start * SECOND), round(end * SECOND)
    words = text.split()
    times = [begin + (stop - begin) * n // len(words) for n in range(len(words) + 1)]
    timings = tuple(Word(f" {word}", times[n], times[n + 1], 0.9) for n, word in enumerate(words))
    return Segment(begin, stop, f" {text}", tokens=(1, 2), words=timings if timed else ())


def heard(*segments: Segment, language: str = "en") -> Decoded:
    """What the engine made of a window."""
    return Decoded(tuple(replace(segment, language=language) for segment in segments), language)


def run(pairs: list[tuple[Window, Decoded]], duration: int, channels: int = 1) -> tuple[list[Segment], Transcript]:
    """The segments as they streamed out, and the transcript."""
    assembler = Assembler(duration=duration, channels=channels)
    streamed = [segment for pair in pairs for segment in assembler.add(*pair)]
    streamed += assembler.finish()
    return streamed, assembler.transcript()


def transcript(
    pairs: list[tuple[Window, Decoded]], duration: int, task: Task = "transcribe", notices: tuple[Notice, ...] = ()
) -> Transcript:
    """The transcript of windows that have all been decoded."""
    assembler = Assembler(duration=duration, task=task, notices=notices)
    for pair in pairs:
        assembler.add(*pair)
    assembler.finish()
    return assembler.transcript()


def check_order(segments: list[Segment], duration: int) -> None:
    """Times are in order and apart within a channel, and inside the recording."""
    for channel in {segment.channel for segment in segments}:
        own = [segment for segment in segments if segment.channel == channel]
        times = [time for segment in own for time in (segment.start_sample, segment.end_sample)]
        assert sorted(times) == times
        words = [time for segment in own for word in segment.words for time in (word.start_sample, word.end_sample)]
        assert sorted(words) == words
    assert all(0 <= segment.start_sample <= segment.end_sample <= duration for segment in segments)
    for segment in segments:
        assert all(
            segment.start_sample <= word.start_sample <= word.end_sample <= segment.end_sample for word in segment.words
        )


@given(spoken(timed=True))
@pytest.mark.slow
def test_no_word_is_lost_or_doubled_with_word_times(speech: Spoken) -> None:
    """Overlapping windows that heard every whole word give each word once, at its true time."""
    streamed, result = run(list(speech.heard), speech.duration)
    assert speech.text == result.text
    assert speech.words == result.words
    assert tuple(streamed) == result.segments
    check_order(streamed, speech.duration)


@given(st.integers(1, 4).flatmap(lambda vocabulary: spoken(timed=True, vocabulary=vocabulary)))
@pytest.mark.slow
def test_stammering_is_kept_as_it_was(speech: Spoken) -> None:
    """Word times tell equal words apart, so that "no, no, no" stays what it is."""
    _, result = run(list(speech.heard), speech.duration)
    assert speech.words == result.words


@given(spoken(timed=False))
@pytest.mark.slow
def test_no_word_is_lost_or_doubled_without_word_times(speech: Spoken) -> None:
    """The same from the texts alone."""
    streamed, result = run(list(speech.heard), speech.duration)
    assert speech.text == result.text
    check_order(streamed, speech.duration)


@given(spoken(timed=True), st.randoms(use_true_random=False))
@pytest.mark.slow
def test_noisy_word_times_do_not_matter(speech: Spoken, random: object) -> None:
    """Word times that err by up to 0.1 s, differently in each window, neither lose nor double a word."""

    def shaken(word: Word) -> Word:
        shift = random.randint(-800, 800)  # type: ignore[attr-defined]
        return replace(word, start_sample=max(0, word.start_sample + shift), end_sample=max(0, word.end_sample + shift))

    pairs = []
    for place, decoded in speech.heard:
        segments = [
            replace(segment, words=tuple(shaken(word) for word in segment.words)) for segment in decoded.segments
        ]
        pairs.append((place, Decoded(tuple(segments))))
    streamed, result = run(pairs, speech.duration)
    assert speech.text == result.text
    check_order(streamed, speech.duration)


@given(transcripts())
@pytest.mark.slow
def test_what_streams_out_is_what_the_transcript_holds(expected: Transcript) -> None:
    """Segments stream in the order of their start, whatever channel they are on, and are the transcript's own."""
    pairs = [
        (
            Window(
                np.zeros(segment.end_sample - segment.start_sample, np.float32), segment.start_sample, segment.channel
            ),
            Decoded((_from_zero(segment),), segment.language),
        )
        for segment in expected.segments
    ]
    streamed, result = run(pairs, expected.samples, expected.channels)
    assert tuple(streamed) == result.segments
    assert [segment.start_sample for segment in expected.segments] == [segment.start_sample for segment in streamed]
    assert [segment.text for segment in expected.segments] == [segment.text for segment in streamed]
    check_order(streamed, expected.samples)


def _from_zero(segment: Segment) -> Segment:
    """The segment as the engine gives it: timed within its window."""
    words = tuple(
        replace(
            word,
            start_sample=word.start_sample - segment.start_sample,
            end_sample=word.end_sample - segment.start_sample,
        )
        for word in segment.words
    )
    return replace(segment, start_sample=0, end_sample=segment.end_sample - segment.start_sample, words=words)


@pytest.mark.parametrize("timed", [True, False])
def test_a_word_cut_in_two_is_taken_whole(timed: bool) -> None:
    """Half a word at the end of a window, or at the beginning of the next, gives way to the whole one."""
    pairs = [
        (window(0, 30, tail=2), heard(phrase("we will not be und", 27, 29.9, timed=timed))),
        (window(28, 58, overlap=2), heard(phrase("ill not be undersold", 0, 2.5, timed=timed))),
    ]
    assert "we will not be undersold" == transcript(pairs, 58 * SECOND).text


def test_repeated_words_are_kept() -> None:
    """Words that were said twice stay twice."""
    pairs = [
        (window(0, 30, tail=2), heard(phrase("no no no", 27, 30))),
        (window(28, 58, overlap=2), heard(phrase("no no yes", 0, 3))),
    ]
    assert "no no no yes" == transcript(pairs, 58 * SECOND).text


@pytest.mark.parametrize("timed", [True, False])
def test_windows_that_heard_different_words_keep_one_version(timed: bool) -> None:
    """Without a common word the middle of the overlap decides, and what lies outside it stays."""
    pairs = [
        (window(0, 30, tail=2), heard(phrase("before", 0, 27, timed=timed), phrase("cat", 28.1, 28.6, timed=timed))),
        (window(28, 58, overlap=2), heard(phrase("hat", 0.1, 0.6, timed=timed), phrase("after", 2, 9, timed=timed))),
    ]
    assert "before cat after" == transcript(pairs, 58 * SECOND).text


@pytest.mark.parametrize("silent", [0, 1])
def test_a_window_that_heard_nothing_takes_nothing_away(silent: int) -> None:
    """If only one window heard the overlap, its words stand."""
    decoded = [heard(phrase("one two", 27, 30)), heard(phrase("one two", 0, 2))]
    decoded[silent] = heard()
    pairs = list(zip([window(0, 30, tail=2), window(28, 58, overlap=2)], decoded, strict=True))
    assert "one two" == transcript(pairs, 58 * SECOND).text


def test_merged_segments_lose_their_tokens() -> None:
    """Tokens that no longer say what the text says are dropped; untouched segments keep theirs."""
    pairs = [
        (window(0, 30, tail=2), heard(phrase("one two", 0, 20), phrase("three four five", 27, 30))),
        (window(28, 58, overlap=2), heard(phrase("four five six", 0, 2))),
    ]
    assert [(1, 2), (1, 2), ()] == [segment.tokens for segment in transcript(pairs, 58 * SECOND).segments]


def test_text_waits_only_where_windows_overlap() -> None:
    """A window without a shared tail is final at once; with one, only what lies near the tail waits."""
    assembler = Assembler(duration=90 * SECOND)
    assert 2 == len(assembler.add(window(0, 30), heard(phrase("one", 0, 10), phrase("two", 28, 30))))
    first = assembler.add(window(30, 60, tail=1), heard(phrase("three", 0, 10), phrase("four", 28, 30)))
    assert [" three"] == [segment.text for segment in first]
    assert [" four"] == [segment.text for segment in assembler.finish()]


def test_channels_interleave_by_time() -> None:
    """Two sides of a call come out in the order in which they were said."""
    pairs = [
        (window(0, 20), heard(phrase("hello", 0, 1), phrase("good thanks", 9, 10))),
        (window(2, 12, channel=1), heard(phrase("how are you", 1, 3))),
    ]
    streamed, result = run(pairs, 20 * SECOND, channels=2)
    assert [(" hello", 0), (" how are you", 1), (" good thanks", 0)] == [(s.text, s.channel) for s in streamed]
    assert "hello how are you good thanks" == result.text
    assert 2 == result.channels


def test_times_are_true_sample_offsets() -> None:
    """A window's place is where its samples are, not a multiple of thirty seconds."""
    place = Window(np.zeros(5 * SECOND, np.float32), 123_457)
    (segment,) = transcript([(place, heard(phrase("here", 1, 2)))], 40 * SECOND).segments
    assert (123_457 + SECOND, 123_457 + 2 * SECOND) == (segment.start_sample, segment.end_sample)


def test_no_time_exceeds_the_recording() -> None:
    """Segments and words that the model ends too late end with the recording."""
    late = phrase("too late", -1, 40, timed=True)
    result = transcript([(window(0, 5), heard(late))], 5 * SECOND)
    check_order(list(result.segments), 5 * SECOND)
    assert (0, 5 * SECOND) == (result.segments[0].start_sample, result.segments[0].end_sample)


def test_segments_behind_the_sound_are_dropped() -> None:
    """Text that the model times behind the end of its window, or at a single moment, was not said."""
    segments = (phrase("Thank you.", 0, 2), phrase("Right.", 1, 1), phrase("Bye.", 3, 3.5), phrase("Bye.", 4, 5))
    result = transcript([(window(5, 8), heard(*segments))], 8 * SECOND)
    assert [("Thank you.", 5.0, 7.0)] == [(each.text.strip(), each.start, each.end) for each in result.segments]


def test_empty_segments_are_dropped() -> None:
    """A segment of spaces is no segment."""
    assert () == transcript([(window(0, 5), heard(Segment(0, SECOND, "  ")))], 5 * SECOND).segments


@pytest.mark.parametrize(
    ("language", "texts", "expected"),
    [("de", (" Guten", " Tag"), "Guten Tag"), ("ja", ("こんにちは。", " お元気"), "こんにちは。お元気")],
)
def test_texts_join_as_the_language_is_written(language: str, texts: tuple[str, str], expected: str) -> None:
    """Segments join with a space, except in languages written without."""
    assert expected == join_text([Segment(0, 1, text, language=language) for text in texts])


def test_chinese_overlaps_merge_by_character() -> None:
    """In a language without spaces, characters are what two windows have in common."""
    pairs = [
        (window(0, 30, tail=2), heard(Segment(0, 30 * SECOND, "我们选择登上月球"), language="zh")),
        (window(28, 58, overlap=2), heard(Segment(0, 9 * SECOND, "上月球并做"), language="zh")),
    ]
    assert "我们选择登上月球并做" == transcript(pairs, 58 * SECOND).text


def test_the_language_is_that_of_most_speech() -> None:
    """A greeting in another language does not name the recording's."""
    pairs = [
        (window(0, 3), heard(phrase("guten Tag", 0, 1), language="de")),
        (window(5, 30), heard(phrase("good morning everybody", 0, 9))),
    ]
    assert "en" == transcript(pairs, 30 * SECOND).language


def test_a_translation_is_english() -> None:
    """Its segments are in English and join with spaces; the language spoken is still told."""
    decoded = heard(phrase("good", 0, 1), phrase("morning", 1, 2), language="ja")
    result = transcript([(window(0, 3), decoded)], 3 * SECOND, task="translate")
    assert ("good morning", "ja") == (result.text, result.language)
    assert {"en"} == {segment.language for segment in result.segments}


def test_silence_is_an_empty_transcript() -> None:
    """No window, no text; duration and notices are still told."""
    notice = Notice("audio_truncated", "the file ends early")
    result = transcript([], 7, notices=(notice,))
    assert Transcript("", (), "en", 7, notices=(notice,)) == result


def test_every_pair_of_neighbours_is_apart() -> None:
    """Segments that the model let overlap follow one another."""
    pairs = [(window(0, 9), heard(phrase("one", 0, 5), phrase("two", 4, 6), phrase("three", 3, 3.5)))]
    found = transcript(pairs, 9 * SECOND).segments
    assert all(left.end_sample <= right.start_sample for left, right in itertools.pairwise(found))
