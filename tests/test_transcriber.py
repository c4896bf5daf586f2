"""The Python API, around a fake engine and around a real one."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tickertape
from tests.support import fakes
from tests.support.audio_factory import pcm16, speech, wav
from tests.support.checkpoint_factory import make_checkpoint
from tickertape import transcriber as api
from tickertape.engine.batching import LocalBackend
from tickertape.errors import (
    EmptyFileError,
    EngineError,
    InvalidAudioError,
    OptionError,
    TickertapeError,
)
from tickertape.pipeline import Model, Update
from tickertape.transcriber import Started, Transcriber
from tickertape.types import SAMPLE_RATE, Decoded, DecodeError, ModelInfo, Options, Samples, Span, Window

SECOND = fakes.wav(1.0)


@pytest.fixture
def engine() -> fakes.FakeEngine:
    return fakes.FakeEngine()


@pytest.fixture
def transcriber(engine: fakes.FakeEngine) -> Iterator[Transcriber]:
    model = fakes.model(engine=engine)
    with Transcriber(model, close=model.backend.close) as open_one:  # type: ignore[attr-defined]
        yield open_one


@dataclass
class StepEngine(fakes.FakeEngine):
    """A fake engine that needs a permit for every window, and counts them."""

    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    heard: int = 0

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        for _ in windows:
            assert self.permits.acquire(timeout=30)
        self.heard += len(windows)
        return super().decode(windows, options)


class CountingBackend(LocalBackend):
    """Counts what it was asked."""

    asked = 0

    async def decode(self, *window: Any, **wishes: Any) -> Decoded:
        self.asked += 1
        return await super().decode(*window, **wishes)


def two_spans(samples: Samples) -> list[Span]:
    """Speech in the first and in the last 20 s: two windows apart."""
    return [Span(0, 20 * SAMPLE_RATE), Span(len(samples) - 20 * SAMPLE_RATE, len(samples))]


def stepping(engine: StepEngine) -> Transcriber:
    backend = LocalBackend(engine, batch=1)
    return Transcriber(Model(ModelInfo("demo", languages=("en", "de")), backend, two_spans), close=backend.close)


def test_a_path_bytes_and_an_open_file_are_recordings(transcriber: Transcriber, tmp_path: Path) -> None:
    """What the recording comes in makes no difference."""
    path = tmp_path / "call.wav"
    path.write_bytes(SECOND)
    for source in (path, str(path), SECOND, io.BytesIO(SECOND)):
        assert transcriber.transcribe(source).text == fakes.TEXT


def test_keywords_are_options(transcriber: Transcriber, engine: fakes.FakeEngine) -> None:
    """Keywords reach the engine; a language may be given by its English name."""
    transcript = transcriber.transcribe(SECOND, language="German", word_timestamps=True, beam_size=3)
    assert (transcript.language, len(transcript.words)) == ("de", len(fakes.WORDS))
    assert engine.asked == [Options(language="de", word_timestamps=True, beam_size=3)]


def test_channels_can_be_split(transcriber: Transcriber) -> None:
    """Each channel is heard on its own where that is asked for."""
    stereo = fakes.wav(1.0, channels=2)
    assert transcriber.transcribe(stereo, vad=False).channels == 1
    transcript = transcriber.transcribe(stereo, vad=False, channels="split")
    assert transcript.channels == 2
    assert {segment.channel for segment in transcript.segments} == {0, 1}


def test_languages_have_many_names(transcriber: Transcriber, engine: fakes.FakeEngine) -> None:
    """Codes of ISO 639, tags and names are understood, and `auto` detects the language."""
    transcriber.transcribe(SECOND, language="auto")
    transcriber.transcribe(SECOND, language="de-CH")
    transcriber.transcribe(SECOND, languages=("deu", "eng"))
    assert engine.asked == [Options(), Options(language="de"), Options(languages=("de", "en"))]


def test_wrong_keywords_are_refused_at_once(transcriber: Transcriber) -> None:
    """Unknown options and languages the model does not know are errors before any work."""
    for language in ("klingon", "ja"):
        with pytest.raises(OptionError):
            transcriber.transcribe_many([SECOND], Options(language=language))
    with pytest.raises(OptionError, match="no option named langage"):
        transcriber.transcribe(SECOND, langage="de")  # type: ignore[call-arg]


def test_errors_are_raised(transcriber: Transcriber, engine: fakes.FakeEngine) -> None:
    """What is wrong with a recording or the engine is raised, and the next recording works."""
    with pytest.raises(EmptyFileError):
        transcriber.transcribe(b"")
    with pytest.raises(InvalidAudioError):
        transcriber.transcribe("no such file.wav")
    engine.failure = ValueError("broken")
    with pytest.raises(EngineError):
        transcriber.transcribe(SECOND)
    engine.failure = None
    assert transcriber.transcribe(SECOND).text == fakes.TEXT


def test_segments_come_while_later_windows_are_decoded() -> None:
    """The first segment is there when the engine has heard only the first window."""
    engine = StepEngine()
    with stepping(engine) as transcriber:
        stream = transcriber.stream(fakes.wav(60.0), language="en")
        engine.permits.release()
        first = next(stream)
        assert (first.start_sample, engine.heard) == (0, 1)
        engine.permits.release()
        assert list(stream)[-1].start_sample >= 40 * SAMPLE_RATE


def test_leaving_a_stream_drops_the_rest() -> None:
    """Windows that have not begun are not decoded for a listener who left."""
    engine = StepEngine()
    with stepping(engine) as transcriber:
        stream = transcriber.updates(fakes.wav(60.0))  # the language is to be found: windows go one by one
        engine.permits.release()
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        engine.permits.release(2)
        transcriber.transcribe(fakes.wav(1.0), vad=False)
    assert engine.heard <= 3


async def test_it_works_where_a_loop_runs(transcriber: Transcriber) -> None:
    """Notebooks run an event loop already; the synchronous API works in there."""
    assert asyncio.get_running_loop().is_running()
    assert transcriber.transcribe(SECOND).text == fakes.TEXT


def test_many_recordings_end_on_their_own(transcriber: Transcriber) -> None:
    """One bad recording among many stops no other."""
    last: dict[int, object] = dict(transcriber.transcribe_many([SECOND, b"rubbish", SECOND]))
    assert [isinstance(last[number], TickertapeError) for number in range(3)] == [False, True, False]
    assert [last[number].transcript.text for number in (0, 2)] == [fakes.TEXT] * 2  # type: ignore[attr-defined]


def test_short_recordings_share_batches() -> None:
    """While the engine is busy with one recording, the windows of others gather for one batch."""
    engine = fakes.FakeEngine(gate=threading.Event())
    backend = CountingBackend(engine)
    with Transcriber(Model(ModelInfo("demo"), backend), close=backend.close) as transcriber:
        news = transcriber.transcribe_many([SECOND] * 4)
        assert [type(next(news)[1]) for _ in range(4)] == [Started] * 4
        patience = time.monotonic() + 30
        while backend.asked < 4 and time.monotonic() < patience:
            time.sleep(0.01)
        assert engine.gate is not None
        engine.gate.set()
        updates = [(number, item) for number, item in news if isinstance(item, Update)]
    assert sorted(number for number, item in updates if item.transcript) == [0, 1, 2, 3]
    sizes = [item.decoded.batch_size for _, item in updates if item.decoded]
    assert sum(Fraction(1, size) for size in sizes) <= 2, "those who came before the gate, and all the others at once"


def test_long_recordings_wait_for_each_other(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    """No recording is decoded while enough audio is under way: memory does not grow with their number."""
    monkeypatch.setattr(api, "MAX_PENDING_SAMPLES", 1)
    order = [(number, type(news)) for number, news in transcriber.transcribe_many([SECOND] * 3)]
    begun = [place for place, (_, kind) in enumerate(order) if kind is Started]
    assert [order[place] for place in begun] == [(0, Started), (1, Started), (2, Started)]
    assert all(order[place - 1] == (number - 1, Update) for number, place in enumerate(begun) if number)


def test_threads_may_ask_at_once(transcriber: Transcriber) -> None:
    """Several threads share one transcriber."""
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(transcriber.transcribe(SECOND).text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == [fakes.TEXT] * 4


def test_closing_twice_is_allowed(engine: fakes.FakeEngine) -> None:
    """A closed transcriber refuses work and closes again without complaint."""
    transcriber = Transcriber(fakes.model(engine=engine))
    transcriber.close()
    transcriber.close()
    with pytest.raises(RuntimeError):
        transcriber.transcribe(SECOND)


@pytest.mark.slow
def test_a_checkpoint_is_opened_and_used(tmp_path: Path) -> None:
    """`tickertape.load(folder).transcribe(file)` gives text from the model's own engine, with true times."""
    folder = make_checkpoint(tmp_path / "tuned", "custom")
    recording = tmp_path / "call.wav"
    recording.write_bytes(wav(pcm16(speech(3.0))))
    with tickertape.load(folder, cache=tmp_path / "cache", threads=1) as transcriber:
        wanted = {"temperatures": (0.0,), "max_new_tokens": 64, "no_speech_threshold": None, "language": "en"}
        wanted["timestamps"] = False  # random weights time their text behind the sound
        transcript = transcriber.transcribe(recording, vad=False, **wanted)
        again = [segment.text for segment in transcriber.stream(recording, vad=False, **wanted)]
        model, reasons = transcriber.model, transcriber.reasons
    assert (transcript.samples, transcript.duration) == (3 * SAMPLE_RATE, 3.0)
    assert all(0.0 <= segment.start <= segment.end <= 3.0 for segment in transcript.segments)
    assert [segment.text for segment in transcript.segments] == again
    assert transcript.text
    assert (model.info.name, model.info.translates, "de" in model.info.languages) == ("tuned", True, True)
    assert model.detect is not None
    assert list(model.detect(np.zeros(SAMPLE_RATE, np.float32))) == []
    assert any(reason.startswith("threads: 1 (") for reason in reasons)


def test_what_the_machine_lacks_is_refused(tmp_path: Path) -> None:
    """An unknown device or number format is the caller's mistake."""
    folder = make_checkpoint(tmp_path / "tuned", "custom")
    for wrong in ({"device": "tpu"}, {"compute_type": "int3"}):
        with pytest.raises(OptionError):
            tickertape.load(folder, cache=tmp_path / "cache", **wrong)
