"""Speech is found where it is, and nowhere else."""

from __future__ import annotations

import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sounds import NOISES, silence, voice
from tests.support.strategies import PROBABILITIES
from tickertape.audio import vad
from tickertape.audio.vad import BLOCK, CONTEXT, FRAME, Detection, SpeechDetector
from tickertape.errors import IncompleteCheckpointError
from tickertape.types import SAMPLE_RATE, Samples, Span

SECOND = SAMPLE_RATE
REAL = Path(__file__).parents[3] / "shared" / "audio"  # real recordings, where the workplace has them
ALL = Detection(min_speech_ms=0, doubtful_ms=0)


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    """One for all tests: it keeps nothing between calls."""
    return SpeechDetector()


def probabilities(detector: SpeechDetector, samples: Samples) -> Samples:
    """The probability of speech in each frame."""
    return np.concatenate([np.empty(0, np.float32), *detector.probabilities(samples)])


@pytest.mark.parametrize("level", [1.0, 0.01])
@pytest.mark.parametrize("name", NOISES)
def test_noise_is_not_speech(detector: SpeechDetector, name: str, level: float) -> None:
    """Silence, noise, tones, hum and clicks give no span, loud or quiet."""
    assert [] == list(detector.detect((level * NOISES[name]()).astype(np.float32)))


def test_speech_is_found_where_it_is(detector: SpeechDetector) -> None:
    """A voice between two silences gives one span around it, with padding."""
    found = list(detector.detect(np.concatenate([silence(2), voice(3), silence(2)])))
    assert 1 == len(found)
    assert 1.5 * SECOND <= found[0].start <= 2 * SECOND
    assert 5 * SECOND <= found[0].end <= 5.5 * SECOND


def test_a_voice_in_noise_is_found(detector: SpeechDetector) -> None:
    """White noise 20 dB below does not hide speech."""
    sound = np.concatenate([silence(2), voice(3), silence(2)])
    noise = 0.1 * np.sqrt(np.square(voice(3)).mean()) * np.random.default_rng(0).standard_normal(len(sound))
    (span,) = detector.detect((sound + noise).astype(np.float32))
    assert 1.5 * SECOND <= span.start <= 2.2 * SECOND
    assert 4.8 * SECOND <= span.end <= 5.5 * SECOND


@pytest.mark.parametrize("length", [0, 1, 63, 64, 511, 512, 513, 1_600])
def test_any_length_will_do(detector: SpeechDetector, length: int) -> None:
    """Recordings shorter than a frame have a probability for each frame begun, and no span."""
    samples = np.zeros(length, np.float32)
    assert -(-length // FRAME) == len(probabilities(detector, samples))
    assert [] == list(detector.detect(samples))


def test_blocks_leave_no_trace(detector: SpeechDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working a block at a time changes nothing: context and state are carried over."""
    samples = voice(3)
    whole = probabilities(detector, samples)
    monkeypatch.setattr(vad, "BLOCK", 10)
    np.testing.assert_allclose(probabilities(detector, samples), whole, atol=1e-5)


def test_spans_come_before_the_end(detector: SpeechDetector) -> None:
    """In a long recording the first span is there while most of it has not been looked at."""
    samples = np.concatenate([silence(1), voice(3), silence(1), voice(3), silence(2 * BLOCK * FRAME / SECOND)])
    stream = detector.detect(samples)
    first = next(stream)
    assert [first, *stream] == list(detector.detect(samples))


def test_many_threads_share_a_detector() -> None:
    """Calls at the same time give what each would give alone."""
    detector = SpeechDetector(streams=2)
    sounds = [np.concatenate([silence(n / 4), voice(2 + n / 4)]) for n in range(6)]
    expected = [probabilities(detector, sound) for sound in sounds]
    with ThreadPoolExecutor(6) as pool:
        for alone, together in zip(expected, pool.map(partial(probabilities, detector), sounds), strict=True):
            np.testing.assert_array_equal(alone, together)


def test_other_threads_run_meanwhile(detector: SpeechDetector) -> None:
    """The interpreter lock is free while the model runs: another thread gets on."""
    steps, done = 0, threading.Event()

    def count() -> None:
        nonlocal steps
        while not done.wait(0.001):
            steps += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)  # nobody is made to hand over the lock: it must be given
    counter = threading.Thread(target=count)
    try:
        counter.start()
        probabilities(detector, silence(600))
    finally:
        done.set()
        counter.join()
        sys.setswitchinterval(interval)
    assert steps > 0


@given(PROBABILITIES, st.integers(0, 600), st.integers(0, 600), st.integers(0, 600))
def test_spans_are_in_order_and_apart(values: list[float], speech: int, pause: int, pad: int) -> None:
    """Whatever the dials: spans follow one another inside the recording and hold every loud frame unless too short."""
    dials = Detection(min_speech_ms=speech, doubtful_ms=0, min_silence_ms=pause, speech_pad_ms=pad)
    length = len(values) * FRAME
    bare = list(vad._spans(iter([np.array(values, np.float32)]), length, dials))
    found = list(vad._padded(iter(bare), length, dials))
    times = [time for span in found for time in (span.start, span.end)]
    assert sorted(times) == times
    assert all(0 <= time <= length for time in times)
    assert len(bare) == len(found)
    assert all(wide.start <= span.start < span.end <= wide.end for span, wide in zip(bare, found, strict=True))
    if not speech:
        loud = {n for n, value in enumerate(values) if value >= dials.threshold}
        assert all(any(span.start <= n * FRAME < span.end for span in bare) for n in loud)


@pytest.mark.parametrize(("peak", "expected"), [(0.69, []), (0.71, [Span(2 * FRAME, 8 * FRAME)])])
def test_short_hesitant_spans_are_doubted(peak: float, expected: list[Span]) -> None:
    """A fifth of a second counts only if the model was sure at least once."""
    values = np.array([0, 0, 0.5, peak, 0.5, 0.5, 0.5, 0.5, *[0.0] * 20], np.float32)
    assert expected == list(vad._spans(iter([values]), len(values) * FRAME, Detection()))


def test_the_model_can_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without faster-whisper the error says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(IncompleteCheckpointError, match="install faster-whisper"):
        SpeechDetector()


def reference_sounds() -> list[object]:
    """The synthetic voice, and real recordings where there are any."""
    names = ["jfk.flac", "multilingual.mp3", "stereo_two_speakers.wav"]
    return [
        "voice",
        *(
            pytest.param(name, marks=pytest.mark.skipif(not (REAL / name).is_file(), reason="no shared recordings"))
            for name in names
        ),
    ]


@pytest.mark.parametrize("name", reference_sounds())
def test_results_are_faster_whispers(detector: SpeechDetector, name: str) -> None:
    """The same probabilities within 1e-5, and the same spans for the same dials."""
    reference = pytest.importorskip("faster_whisper", reason="needs faster-whisper")
    from faster_whisper.vad import VadOptions, get_speech_timestamps, get_vad_model

    if name == "voice":
        samples = np.concatenate([silence(2), voice(3), silence(1), voice(2), silence(0.7)])
    else:
        samples = reference.decode_audio(str(REAL / name))
    # The original forgets the last frame's tail when the padding is shorter than the context.
    samples = samples[: len(samples) // FRAME * FRAME + FRAME - CONTEXT]
    padded = np.pad(samples, (0, -len(samples) % FRAME))
    np.testing.assert_allclose(probabilities(detector, samples), get_vad_model()(padded).ravel(), atol=1e-5)
    for dials in (ALL, Detection(0.3, 0.1, 0, 0, 0, 2_000, 400), Detection(min_silence_ms=160, doubtful_ms=0)):
        expected = get_speech_timestamps(
            samples,
            VadOptions(
                threshold=dials.threshold,
                neg_threshold=dials.neg_threshold,
                min_speech_duration_ms=dials.min_speech_ms,
                min_silence_duration_ms=dials.min_silence_ms,
                speech_pad_ms=dials.speech_pad_ms,
            ),
        )
        assert [(span["start"], span["end"]) for span in expected] == [
            (span.start, span.end) for span in detector.detect(samples, dials)
        ]
