"""Word error rates of whisper-base on real speech, and what a real recording must not lose or gain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import pytest

from tests.support.real_speech import CASES, SHARED, Clip, clips, needs_speech, normalised, word_error_rate
from tickertape.audio.decode import decode
from tickertape.audio.vad import SpeechDetector
from tickertape.pipeline import Update
from tickertape.transcriber import Started, Transcriber
from tickertape.types import SAMPLE_RATE, Options, Reading, Span, Transcript

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), needs_speech]

# Every how many clips of a set, and the percent of their words that may be wrong: as measured, and one point more,
# because machines whose encoder computes in float32 differ in single words.
SETS = {
    "longform_en": (1, 6.5),
    "longform_other": (2, 35.6),
    "english_misc": (1, 7.9),
    "two_channel": (1, 13.8),
    "vctk_en_gb": (1, 2.9),
    "librispeech": (1, 1.8),
    "multilingual": (1, 19.9),
    "german_kerstin": (2, 22.3),
    "dutch_nathalie": (2, 26.4),
    "asterisk_en": (4, 3.6),
    "an4": (4, 18.2),
}


def transcripts(model: Transcriber, heard: Sequence[Clip], options: Options) -> list[Transcript]:
    """The transcript of each clip, in one language if they have one, side by side."""
    reading = Reading(audio_format=heard[0].audio_format)
    found: dict[int, Transcript] = {}
    for number, event in model.transcribe_many([clip.path for clip in heard], options, reading):
        assert isinstance(event, Started | Update)
        if isinstance(event, Update) and event.transcript:
            found[number] = event.transcript
    return [found[number] for number in range(len(heard))]


@pytest.mark.parametrize("name", SETS)
def test_word_error_rates_stay(base: Transcriber, name: str) -> None:
    """No change makes a set of real speech worse."""
    every, most = SETS[name]
    heard, texts = sorted(clips(name, every), key=lambda clip: clip.language), list[str]()
    for language, group in groupby(heard, key=lambda clip: clip.language):
        texts += [each.text for each in transcripts(base, list(group), Options(language=language))]
    assert word_error_rate(heard, texts) <= most


@pytest.mark.parametrize("language", [None, "en"])
def test_no_words_are_invented(base: Transcriber, language: str | None) -> None:
    """Music, beeps and animals have at most two words in all."""
    formats = groupby(clips("nonspeech"), key=lambda clip: clip.audio_format)
    found = [each for _, group in formats for each in transcripts(base, list(group), Options(language=language))]
    assert sum(len(transcript.text.split()) for transcript in found) <= 2


@pytest.mark.parametrize("vad", [True, False])
def test_speech_is_covered_by_text(base: Transcriber, vad: bool) -> None:
    """Behind the last timestamp of a window no speech is left out: there is no second of speech without text."""
    (clip,) = clips("longform_en")
    segments = base.transcribe(clip.path, language="en", vad=vad).segments
    pauses = [Span(before.end_sample, after.start_sample) for before, after in pairwise(segments)]
    spans = list(SpeechDetector().detect(decode(clip.path).samples[0]))
    assert max(shared(pause, span) for pause in pauses for span in spans) < SAMPLE_RATE
    assert spans[-1].end - segments[-1].end_sample < SAMPLE_RATE


def shared(one: Span, other: Span) -> int:
    """Samples that both hold."""
    return max(0, min(one.end, other.end) - max(one.start, other.start))


@pytest.mark.parametrize("vad", [True, False])
def test_what_follows_a_pause_is_heard(base: Transcriber, vad: bool) -> None:
    """Speech, 8 s of silence and the same speech in one window: both are in the text."""
    text = normalised(base.transcribe(CASES / "mid8.flac", language="en", vad=vad).text, "en")
    assert 2 == text.count("ask not what your country can do for you")


def test_languages_follow_each_other(base: Transcriber) -> None:
    """A few seconds of Spanish do not turn the English after them into Spanish."""
    segments = base.transcribe(CASES / "es_then_en.flac").segments
    languages = [segment.language for segment in segments]
    assert ["es", "en"] == list(dict.fromkeys(languages))
    assert "grabación" in "".join(segment.text for segment in segments if segment.language == "es")
    assert all(segment.temperature < 1 for segment in segments)


def test_channels_have_their_own_languages(base: Transcriber) -> None:
    """An interpreter's recording: English on the left, Italian on the right."""
    segments = base.transcribe(CASES / "interp.flac", channels="split").segments
    assert {(0, "en"), (1, "it")} == {(segment.channel, segment.language) for segment in segments}


def test_a_recording_in_two_languages(base: Transcriber) -> None:
    """English, then German: each in its language, the sentence at the change whole."""
    transcript = base.transcribe(SHARED / "audio" / "multilingual.mp3", multilingual=True)
    assert ["en", "de"] == list(dict.fromkeys(segment.language for segment in transcript.segments))
    assert "substantial portions of the software" in normalised(transcript.text, "en")


def test_soft_first_words_are_heard(base: Transcriber) -> None:
    """Words that the detector misses in a recording of 2 s are in its text."""
    text = base.transcribe(CASES / "asknot.wav", language="en", temperatures=(0.0,)).text
    assert "not" in normalised(text, "en").split()  # the first is "ask" or, to the model, "as"


def test_late_sound_keeps_its_time(base: Transcriber) -> None:
    """Subtitles of a film whose sound starts after 5 s, or pauses for 12 s, fit it."""
    (first, *_) = base.transcribe(CASES / "delay5.mp4", language="en").segments
    assert 4.9 <= first.start <= 5.6
    segments = base.transcribe(CASES / "gap12.webm", language="en").segments
    assert any(22.5 <= segment.start <= 24.5 for segment in segments)
    assert not any(segment.start < 15 and segment.end > 20 for segment in segments)
