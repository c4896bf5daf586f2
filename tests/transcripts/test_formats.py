"""A transcript as text, JSON, subtitles, a table and stream events."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given

from tests.support.strategies import SECOND, transcripts
from tickertape.transcripts import formats
from tickertape.transcripts.subtitles import MAX_CUE_MS, MAX_LINE_CHARACTERS, Cue, cues, milliseconds
from tickertape.types import Notice, Segment, Transcript, Word

WORDS = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


def spoken(text: str, *, pace: int = 5_333, timed: bool = True, channel: int = 0, start: int = 0) -> Segment:
    """A segment whose words begin `pace` samples apart."""
    pieces = text.split()
    words = tuple(
        Word(f" {piece}", start + n * pace, start + n * pace + 4_000, 0.875) for n, piece in enumerate(pieces)
    )
    end = words[-1].end_sample
    return Segment(start, end, f" {text}", (1, 2), words if timed else (), channel=channel, avg_logprob=-0.25)


def transcript_of(*segments: Segment, channels: int = 1, language: str = "en") -> Transcript:
    """A transcript of these segments."""
    text = " ".join(segment.text.strip() for segment in segments)
    return Transcript(text, segments, language, max(s.end_sample for s in segments) + SECOND, channels=channels)


def squeezed(text: str) -> str:
    """Text without any white space: what may not change when lines are broken."""
    return "".join(text.split())


def clock(text: str) -> int:
    """A subtitle time as milliseconds."""
    hours, minutes, seconds, thousandths = map(int, re.split("[:.,]", text))
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + thousandths


def parse_subtitles(body: str) -> list[tuple[int, int, list[str]]]:
    """The cues of SRT or VTT: start, end, lines."""
    found = []
    for block in body.split("\n\n"):
        lines = [line for line in block.split("\n") if line]
        while lines and "-->" not in lines[0]:
            lines = lines[1:]
        if lines:
            start, end = map(clock, lines[0].split(" --> "))
            found.append((start, end, lines[1:]))
    return found


def test_times_are_rounded_once_half_up() -> None:
    """Every sample gives the nearest millisecond, and the half goes up."""
    assert [math.floor(samples / 16 + 0.5) for samples in range(64)] == [milliseconds(n) for n in range(64)]


@given(transcripts())
@pytest.mark.slow
def test_cues_keep_the_limits(transcript: Transcript) -> None:
    """At most two lines of 42 characters, in order and apart in each channel, within the recording, none empty."""
    found = cues(transcript)
    for cue in found:
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(line == line.strip() and 0 < len(line) <= MAX_LINE_CHARACTERS for line in lines)
        assert 0 <= cue.start < cue.end <= milliseconds(transcript.samples)
    assert sorted(cue.start for cue in found) == [cue.start for cue in found]
    for channel in (0, 1):
        times = [time for cue in found if cue.channel == channel for time in (cue.start, cue.end)]
        assert sorted(times) == times


@given(transcripts(timed=True))
@pytest.mark.slow
def test_cues_last_at_most_seven_seconds(transcript: Transcript) -> None:
    """With word times no cue stays longer, however slow the speaker."""
    assert all(cue.end - cue.start <= MAX_CUE_MS for cue in cues(transcript))


@given(transcripts())
@pytest.mark.slow
def test_cues_hold_every_word_in_order(transcript: Transcript) -> None:
    """Breaking lines changes nothing but the white space."""
    for channel in (0, 1):
        expected = "".join(squeezed(s.text) for s in transcript.segments if s.channel == channel)
        assert expected == "".join(squeezed(cue.text) for cue in cues(transcript) if cue.channel == channel)


@given(transcripts())
@pytest.mark.slow
def test_subtitle_times_survive_the_round_trip(transcript: Transcript) -> None:
    """What a player reads from SRT and VTT are the cues' own milliseconds."""
    label = len("Speaker 1: ") if transcript.channels == 2 else 0
    assert [(c.start, c.end) for c in cues(transcript)] == [c[:2] for c in parse_subtitles(formats.vtt(transcript))]
    expected = [(c.start, c.end) for c in cues(transcript, label_characters=label)]
    assert expected == [c[:2] for c in parse_subtitles(formats.srt(transcript))]


@given(transcripts())
@pytest.mark.slow
def test_table_times_survive_the_round_trip(transcript: Transcript) -> None:
    """TSV holds a row for each segment, its times rounded once."""
    header, *rows = [line.split("\t") for line in formats.tsv(transcript).splitlines()]
    assert ["start", "end", "text", *["channel"][: transcript.channels - 1]] == header
    assert [(milliseconds(s.start_sample), milliseconds(s.end_sample)) for s in transcript.segments] == [
        (int(row[0]), int(row[1])) for row in rows
    ]


@given(transcripts())
@pytest.mark.slow
def test_json_is_valid_and_finite(transcript: Transcript) -> None:
    """Whatever the model's numbers are, the JSON has no NaN and no infinity, and no time after the end."""

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    for name in ("json", "verbose_json"):
        body = json.loads(formats.RENDERERS[name](transcript), parse_constant=refuse)
        assert transcript.text == body["text"]
        for timed in (*body.get("segments", ()), *body.get("words", ())):
            assert 0 <= timed["start"] <= timed["end"] <= body["duration"]


@pytest.mark.parametrize(("name", "write"), formats.RENDERERS.items())
def test_silence_has_a_body_in_every_format(name: str, write: Callable[[Transcript], str]) -> None:
    """A recording without speech is an answer too."""
    body = write(Transcript("", (), "en", SECOND))
    expected = {"text": "\n", "srt": "", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n"}
    assert expected.get(name, body) == body


def test_verbose_json_has_openais_fields() -> None:
    """Exactly these names, in seconds; probability is ours."""
    transcript = replace(transcript_of(spoken("Hello there.")), samples=135_504)
    assert {
        "task": "transcribe",
        "language": "english",
        "duration": 8.469,
        "text": "Hello there.",
        "segments": [
            {
                "id": 0,
                "seek": 0,
                "start": 0.0,
                "end": 0.583,
                "text": " Hello there.",
                "tokens": [1, 2],
                "temperature": 0.0,
                "avg_logprob": -0.25,
                "compression_ratio": 1.0,
                "no_speech_prob": 0.0,
            }
        ],
        "words": [
            {"word": "Hello", "start": 0.0, "end": 0.25, "probability": 0.875},
            {"word": "there.", "start": 0.333, "end": 0.583, "probability": 0.875},
        ],
        "usage": {"type": "duration", "seconds": 9},
    } == formats.verbose_object(transcript)


def test_verbose_json_leaves_out_what_was_not_asked_for() -> None:
    """Segments and words are optional, and there are no words without word times."""
    transcript = transcript_of(spoken("Hello there."))
    assert "segments" not in formats.verbose_object(transcript, segments=False)
    assert "words" not in formats.verbose_object(transcript, words=False)
    assert "words" not in formats.verbose_object(transcript_of(spoken("Hello there.", timed=False)))


def test_only_split_recordings_have_channels() -> None:
    """Segments and words say who spoke, where that is known."""
    plain, split = transcript_of(spoken("Hello.")), transcript_of(spoken("Hello.", channel=1), channels=2)
    assert {"channel", "language"}.isdisjoint(formats.verbose_object(plain)["segments"][0])
    assert 1 == formats.verbose_object(split)["segments"][0]["channel"]
    assert 1 == formats.verbose_object(split)["words"][0]["channel"]


def test_segments_tell_their_language_where_several_are_spoken() -> None:
    """In a recording of several languages each segment names its own."""
    mixed = transcript_of(spoken("Hello."), replace(spoken("Hola.", start=SECOND), language="es"))
    assert ["en", "es"] == [segment["language"] for segment in formats.verbose_object(mixed)["segments"]]


def test_warnings_are_told() -> None:
    """What was odd about the recording stands in both JSON bodies, and nothing stands there if nothing was."""
    damaged = replace(transcript_of(spoken("Hello.")), notices=(Notice("corrupt_frames", "2 frames were damaged"),))
    expected = [{"code": "corrupt_frames", "message": "2 frames were damaged"}]
    assert expected == formats.json_object(damaged)["warnings"] == formats.verbose_object(damaged)["warnings"]
    assert {"text": "Hello.", "usage": {"type": "duration", "seconds": 2}} == formats.json_object(
        transcript_of(spoken("Hello."))
    )


def test_a_translation_says_english() -> None:
    """OpenAI names the language of the text."""
    transcript = replace(transcript_of(spoken("Hello."), language="ja"), task="translate")
    assert ("translate", "english") == tuple(formats.verbose_object(transcript)[key] for key in ("task", "language"))


def test_srt_looks_like_srt() -> None:
    """Numbered cues, commas, lines broken at the clauses."""
    assert (
        "1\n00:00:00,000 --> 00:00:04,583\nAnd so my fellow Americans,\nask not what your country can do for you,\n\n"
        "2\n00:00:04,666 --> 00:00:07,250\nask what you can do for your country.\n"
    ) == formats.srt(transcript_of(spoken(WORDS)))


def test_vtt_keeps_the_first_start_and_escapes() -> None:
    """The first cue begins when its first word does; markup in the text is text."""
    late = transcript_of(spoken("Tom & Jerry <i> --> end", start=8_000, timed=False))
    assert ("WEBVTT\n\n00:00:00.500 --> 00:00:02.417\nTom &amp; Jerry &lt;i&gt; --&gt; end\n") == formats.vtt(late)


def test_speakers_are_named_in_split_recordings() -> None:
    """As a voice in VTT, as a prefix in SRT within the line's limit, as a line for each turn in text."""
    call = transcript_of(
        spoken("Good morning."),
        spoken("How are you?", start=SECOND),
        spoken(WORDS, channel=1, start=40_000),
        channels=2,
    )
    assert "\n<v Speaker 2>And so my" in formats.vtt(call)
    srt = formats.srt(call)
    assert "\nSpeaker 1: Good morning.\n" in srt
    assert all(len(line) <= MAX_LINE_CHARACTERS for _, _, lines in parse_subtitles(srt) for line in lines)
    assert f"Speaker 1: Good morning. How are you?\nSpeaker 2: {WORDS}\n" == formats.text(call)


def test_text_is_the_text() -> None:
    """One line, whatever white space the model wrote."""
    assert "one two\n" == formats.text(transcript_of(Segment(0, 1, " one\n two")))


def test_lines_are_balanced_and_articles_stay_with_their_noun() -> None:
    """Two lines are about as long as each other, and none ends in "the"."""
    (cue,) = cues(transcript_of(spoken("They were looking for the lost keys all day long.", pace=2_000)))
    assert "They were looking for the lost\nkeys all day long." == cue.text


def test_a_silence_ends_a_cue() -> None:
    """A cue does not stay up while nobody speaks."""
    first, second = spoken("one two three"), spoken("four five six", start=4 * SECOND)
    both = replace(first, end_sample=second.end_sample, text=first.text + second.text, words=first.words + second.words)
    assert ["one two three", "four five six"] == [cue.text for cue in cues(transcript_of(both))]


def test_a_short_word_can_be_read() -> None:
    """A cue of a few milliseconds stays for 0.7 s, if the next one leaves room."""
    found = cues(transcript_of(Segment(0, 160, " Yes."), Segment(3 * SECOND, 3 * SECOND, " No.")))
    assert [Cue(0, 700, "Yes."), Cue(3_000, 3_700, "No.")] == found


def test_a_word_longer_than_a_line_is_divided() -> None:
    """Nothing runs off the screen."""
    (cue,) = cues(transcript_of(Segment(0, SECOND, " " + "x" * 60)))
    assert "x" * 42 + "\n" + "x" * 18 == cue.text


def test_chinese_breaks_between_characters_but_not_before_a_comma() -> None:
    """Languages without spaces break anywhere, except before closing punctuation and inside numbers."""
    text = (
        "我们选择在这个十年里登上月球并做其他的事情不是因为它们容易而是因为它们困难因为这个目标将有，助于组织2026衡量"
    )
    segment = Segment(0, 9 * SECOND, text, language="zh")
    (cue,) = cues(transcript_of(segment, language="zh"))
    first, second = cue.text.split("\n")
    assert text == first + second
    assert second[0] not in "，026"


def test_deltas_add_up_to_the_text() -> None:
    """What a client has put together from the stream is what `done` says."""
    segments = (spoken("One two."), spoken("Three.", start=SECOND), Segment(SECOND, 3 * SECOND, " 四", language="zh"))
    previous = (None, *segments)
    deltas = [formats.delta_event(segment, before) for segment, before in zip(segments, previous, strict=False)]
    done = formats.done_event(transcript_of(*segments))
    assert done["text"] == "".join(delta["delta"] for delta in deltas) == "One two. Three. 四"
    assert {"transcript.text.delta"} == {delta["type"] for delta in deltas}
    assert ("transcript.text.done", {"type": "duration", "seconds": 4}) == (done["type"], done["usage"])
