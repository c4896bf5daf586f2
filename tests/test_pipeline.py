"""The pipeline: order, streaming, cancellation, progress, language and channels, over a tiny backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tickertape import pipeline
from tickertape.errors import EngineError, OptionError
from tickertape.pipeline import Model, Update, plan
from tickertape.types import (
    SAMPLE_RATE,
    Audio,
    Decoded,
    Detect,
    ModelInfo,
    Notice,
    Options,
    Samples,
    Segment,
    Span,
    Window,
    Word,
)

ENGLISH = Options(language="en")


def audio(seconds: float, channels: int = 1) -> Audio:
    return Audio(np.zeros((channels, int(seconds * SAMPLE_RATE)), np.float32), (Notice("odd", "it was odd"),))


def every_ten_seconds(samples: Samples) -> list[Span]:
    """Speech in the first 9 s of every 10."""
    step = 10 * SAMPLE_RATE
    return [Span(at, min(at + step - SAMPLE_RATE, len(samples))) for at in range(0, len(samples), step)]


def no_speech(samples: Samples) -> list[Span]:
    return []


@dataclass
class FakeBackend:
    """Writes each window's start in seconds. Those in `held` wait until they are let go."""

    held: dict[int, asyncio.Event] = field(default_factory=dict)
    heard: list[tuple[int, Options]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    detected: Sequence[tuple[str, float]] = (("de", 0.9),)
    logprobs: dict[str, float] = field(default_factory=dict)  # of texts by language
    facts: dict[str, Any] = field(default_factory=dict)  # of `Decoded`
    broken: int | None = None
    began: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def reached(self, count: int) -> None:
        """Wait until so many windows have come."""
        for _ in range(count):
            await self.began.acquire()

    async def decode(self, window: Window, options: Options) -> Decoded:
        second = window.start // SAMPLE_RATE
        language, probability = self.detected[min(len(self.heard), len(self.detected) - 1)]
        self.heard.append((second, options))
        self.began.release()
        try:
            if second in self.held:
                await self.held[second].wait()
        except asyncio.CancelledError:
            self.cancelled.append(second)
            raise
        if second == self.broken:
            raise EngineError("broken")
        language = options.language or language
        text, logprob = f" at{second}", self.logprobs.get(language, 0.0)
        segment = Segment(0, window.length, text, language=language, channel=window.channel, avg_logprob=logprob)
        return Decoded((segment,), language, probability, **self.facts)


def model(backend: FakeBackend, detect: Detect = every_ten_seconds) -> Model:
    return Model(ModelInfo("demo", trimmed=True), backend, detect)


async def collect(
    audio: Audio, backend: FakeBackend, options: Options = ENGLISH, detect: Detect = every_ten_seconds
) -> list[Update]:
    return [update async for update in model(backend, detect).transcribe(audio, options)]


async def test_segments_come_in_order_whatever_finishes_first() -> None:
    """A window that takes longest still comes first, and the transcript holds every one."""
    backend = FakeBackend(held={0: asyncio.Event()})
    task = asyncio.ensure_future(collect(audio(100), backend))
    await backend.reached(4)
    backend.held[0].set()
    updates = await task
    starts = [segment.start_sample for update in updates for segment in update.segments]
    assert sorted(starts) == starts
    transcript = updates[-1].transcript
    assert transcript is not None
    assert [second for second, _ in sorted(backend.heard)] == [
        s.start_sample // SAMPLE_RATE for s in transcript.segments
    ]
    assert (Notice("odd", "it was odd"),) == transcript.notices


async def test_text_streams_before_the_end() -> None:
    """The first segments arrive while the last window is still being decoded."""
    windows = list(plan(audio(120), every_ten_seconds, trimmed=True))
    last = windows[-1].start // SAMPLE_RATE
    backend = FakeBackend(held={last: asyncio.Event()})
    stream = model(backend).transcribe(audio(120), ENGLISH)
    updates = [await anext(stream) for _ in windows[:-1]]
    assert any(update.segments for update in updates)
    assert not backend.held[last].is_set()
    backend.held[last].set()
    assert (await anext(stream)).transcript is None
    assert (await anext(stream)).transcript is not None


async def test_at_most_so_many_windows_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than `IN_FLIGHT` windows are given to the backend at once."""
    seconds = [window.start // SAMPLE_RATE for window in plan(audio(300), every_ten_seconds, trimmed=True)]
    backend = FakeBackend(held={second: asyncio.Event() for second in seconds})
    monkeypatch.setattr(pipeline, "IN_FLIGHT", 3)
    task = asyncio.ensure_future(collect(audio(300), backend))
    await backend.reached(3)
    for _ in range(50):  # in which a fourth could come
        await asyncio.sleep(0.002)
    assert 3 == len(backend.heard)
    for event in backend.held.values():
        event.set()
    await task
    assert len(seconds) == len(backend.heard)


async def test_closing_the_stream_cancels_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that leaves cancels its windows under way; none is begun after."""
    seconds = [window.start // SAMPLE_RATE for window in plan(audio(200), every_ten_seconds, trimmed=True)]
    backend = FakeBackend(held={second: asyncio.Event() for second in seconds[1:]})
    monkeypatch.setattr(pipeline, "IN_FLIGHT", 4)
    stream = model(backend).transcribe(audio(200), ENGLISH)
    await anext(stream)
    task = asyncio.ensure_future(anext(stream))
    await backend.reached(4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stream.aclose()  # type: ignore[attr-defined]
    begun = [second for second, _ in backend.heard]
    assert sorted(begun[1:]) == sorted(backend.cancelled)


async def test_a_broken_window_ends_the_stream() -> None:
    """An error of the backend is raised to the caller, and the other windows are cancelled."""
    seconds = [window.start // SAMPLE_RATE for window in plan(audio(120), every_ten_seconds, trimmed=True)]
    backend = FakeBackend(broken=seconds[0], held={second: asyncio.Event() for second in seconds[1:]})
    with pytest.raises(EngineError):
        await collect(audio(120), backend)
    assert sorted(backend.cancelled) == sorted(second for second, _ in backend.heard if second != seconds[0])


@pytest.mark.parametrize("channels", [1, 2])
async def test_progress_only_rises(channels: int) -> None:
    """Progress never falls, never passes the total, and ends there."""
    updates = await collect(audio(95, channels), FakeBackend())
    done = [update.done for update in updates]
    assert sorted(done) == done
    assert done[-1] == updates[-1].total == 95 * SAMPLE_RATE * channels
    assert all(update.total == updates[-1].total for update in updates)


def languages(updates: list[Update]) -> list[str]:
    """The languages of the segments."""
    assert updates[-1].transcript is not None
    return [segment.language for segment in updates[-1].transcript.segments]


async def test_each_window_tells_its_language() -> None:
    """A window whose language is sure keeps it; the recording's is the one spoken longest."""
    backend = FakeBackend(detected=[("es", 0.9), ("en", 0.9)])
    updates = await collect(audio(100), backend, Options())
    assert ["es", *["en"] * (len(backend.heard) - 1)] == languages(updates)
    assert updates[-1].transcript is not None
    assert "en" == updates[-1].transcript.language


@pytest.mark.parametrize(("multilingual", "expected"), [(False, "de"), (True, "cy")])
async def test_an_unsure_window_takes_the_language_of_the_recording(multilingual: bool, expected: str) -> None:
    """A window that is unsure is decoded again in its channel's language, unless each is to keep its own."""
    backend = FakeBackend(detected=[("de", 0.9), ("cy", 0.2)])
    updates = await collect(audio(40), backend, Options(multilingual=multilingual))
    assert ["de", expected] == languages(updates)
    assert [None, None, *["de"] * (not multilingual)] == [options.language for _, options in backend.heard]


async def test_a_short_window_takes_the_language_of_the_recording() -> None:
    """Less than 3 s of speech are not enough for another language."""
    speech = [Span(0, 20 * SAMPLE_RATE), Span(58 * SAMPLE_RATE, 60 * SAMPLE_RATE)]
    backend = FakeBackend(detected=[("de", 0.9), ("cy", 0.9)])
    assert ["de", "de"] == languages(await collect(audio(60), backend, Options(), detect=lambda _: speech))


async def test_the_more_probable_text_is_kept() -> None:
    """Decoded in the channel's language and in its own, a window keeps the text that the model trusts more."""
    backend = FakeBackend(detected=[("de", 0.9), ("cy", 0.2)], logprobs={"de": -1.5})
    assert ["de", "cy"] == languages(await collect(audio(40), backend, Options()))


async def test_channels_have_languages_of_their_own() -> None:
    """An unsure window takes the language of its own channel."""
    backend = FakeBackend(detected=[("en", 0.9), ("it", 0.9), ("cy", 0.2)])
    updates = await collect(audio(40, 2), backend, Options())
    assert updates[-1].transcript is not None
    found = {(segment.channel, segment.language) for segment in updates[-1].transcript.segments}
    assert {(0, "en"), (1, "it")} == found


async def test_a_given_language_is_never_detected() -> None:
    """A language that the caller names is the one every window gets."""
    backend = FakeBackend()
    await collect(audio(100), backend)
    assert {"en"} == {options.language for _, options in backend.heard}


async def test_channels_are_heard_apart() -> None:
    """Each channel has windows of its own, interleaved by time, and segments say whose they are."""
    updates = await collect(audio(60, 2), FakeBackend())
    transcript = updates[-1].transcript
    assert transcript is not None
    assert 2 == transcript.channels
    assert {0, 1} == {segment.channel for segment in transcript.segments}
    starts = [segment.start_sample for segment in transcript.segments]
    assert sorted(starts) == starts


@dataclass
class ForgetfulBackend:
    """Writes ten seconds of each window, and stops."""

    pair: bool = True  # says that more follows
    heard: list[tuple[int, int, str | None]] = field(default_factory=list)

    async def decode(self, window: Window, options: Options) -> Decoded:
        self.heard.append((window.start // SAMPLE_RATE, window.length // SAMPLE_RATE, options.language))
        end = min(10 * SAMPLE_RATE, window.length)
        word = Word("word", end - SAMPLE_RATE, end, 1.0)
        segment = Segment(0, end, f" at{window.start // SAMPLE_RATE}", words=(word,), channel=window.channel)
        more = end if self.pair and end < window.length else None
        return Decoded((segment,), "de", unfinished_from=more, decode_seconds=1.0)


@pytest.mark.parametrize("pair", [True, False])
async def test_speech_behind_the_text_of_a_window_is_decoded(pair: bool) -> None:
    """A window is decoded again from where its text ends, in its language, until no speech is left of it."""
    backend = ForgetfulBackend(pair)

    def speech(samples: Samples) -> list[Span]:
        return [Span(0, len(samples))] if len(samples) > 6 * SAMPLE_RATE else []  # the last 5 s are silence

    updates = [each async for each in Model(ModelInfo("demo"), backend, speech).transcribe(audio(25), Options())]
    assert [(0, 25, None), (10, 15, "de")] == backend.heard
    transcript = updates[-1].transcript
    assert transcript is not None
    assert "at0 at10" == transcript.text
    assert [(0.0, 10.0), (10.0, 20.0)] == [(segment.start, segment.end) for segment in transcript.segments]
    assert [10.0, 20.0] == [word.end for word in transcript.words]
    assert 2.0 == sum(update.decoded.decode_seconds for update in updates if update.decoded)


async def test_what_the_next_window_holds_too_is_left_to_it() -> None:
    """Behind the text of a window there is only its overlap with the next one: it is decoded once."""
    backend = ForgetfulBackend()
    windows = list(plan(audio(50), None))
    assert [0, 28] == [window.start // SAMPLE_RATE for window in windows]
    async for _ in Model(ModelInfo("demo"), backend).transcribe(audio(50), ENGLISH):
        pass
    assert [(0, 30), (10, 20), (20, 10), (28, 22), (38, 12), (48, 2)] == sorted(heard[:2] for heard in backend.heard)


async def test_silence_gives_an_empty_transcript() -> None:
    """Where no speech is found no window is decoded; the transcript is empty and says why."""
    backend = FakeBackend()
    updates = await collect(audio(60), backend, Options(), detect=no_speech)
    assert [] == backend.heard
    assert 1 == len(updates)
    assert updates[0].transcript is not None
    assert ("", "no_speech") == (updates[0].transcript.text, updates[0].transcript.notices[-1].code)


@pytest.mark.parametrize(
    ("options", "expected"),
    [(Options(language="ru"), "ru"), (Options(languages=("uk", "ru")), "uk"), (Options(), "de")],
)
async def test_silence_has_a_language_that_was_asked_for(options: Options, expected: str) -> None:
    """The language of an empty transcript is the one asked for, else the first that is possible."""
    silent = Model(ModelInfo("demo", languages=("de", "ru", "uk")), FakeBackend(), no_speech)
    (update,) = [update async for update in silent.transcribe(audio(60), options)]
    assert update.transcript is not None
    assert expected == update.transcript.language


@pytest.mark.parametrize(
    ("no_speech_prob", "logprob", "attempts", "expected"),
    [(0.1, -0.6, 1, "at0"), (0.5, -0.6, 1, ""), (0.1, -0.9, 1, ""), (0.1, -0.6, 2, "")],
)
async def test_what_the_detector_misses_counts_if_the_model_is_sure(
    no_speech_prob: float, logprob: float, attempts: int, expected: str
) -> None:
    """A short recording without detected speech is decoded whole; its text needs no retry and little doubt."""
    backend = FakeBackend(logprobs={"en": logprob}, facts={"no_speech_prob": no_speech_prob, "attempts": attempts})
    heard = replace(audio(20), samples=np.full((1, 20 * SAMPLE_RATE), 0.01, np.float32))
    updates = await collect(heard, backend, detect=no_speech)
    assert [0] == [second for second, _ in backend.heard]
    assert updates[-1].transcript is not None
    assert expected == updates[-1].transcript.text


@pytest.mark.parametrize(("seconds", "expected"), [(3, (0.0, 3.0)), (4, (2.0, 4.0))])
def test_a_very_short_recording_with_speech_is_one_window(seconds: int, expected: tuple[float, float]) -> None:
    """In a command of up to 3 s the detector may miss soft words: any speech makes all of it a window."""
    (window,) = plan(audio(seconds), lambda samples: [Span(2 * SAMPLE_RATE, len(samples))])
    assert expected == (window.start / SAMPLE_RATE, window.end / SAMPLE_RATE)
    assert not window.doubtful


async def test_a_silent_recording_is_not_decoded() -> None:
    """Where there is next to no sound there is no speech that the detector could have missed."""
    backend = FakeBackend()
    await collect(audio(20), backend, detect=no_speech)
    assert [] == backend.heard


async def test_without_detection_windows_are_plain() -> None:
    """Without a detector every sample is heard, in windows of 30 s that overlap."""
    windows = list(plan(audio(70), None))
    assert 0 == windows[0].start
    assert 70 * SAMPLE_RATE == windows[-1].end
    assert all(after.start <= before.end for before, after in pairwise(windows))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options(language="xx"), "invalid_language"),
        (Options(languages=("en", "xx")), "invalid_language"),
        (Options(task="translate"), "invalid_task"),
        (Options(temperatures=()), "invalid_temperature"),
        (Options(beam_size=0), "invalid_beam_size"),
        (Options(beam_size=11), "invalid_beam_size"),
    ],
)
def test_a_model_refuses_what_it_cannot_honour(options: Options, code: str) -> None:
    """Languages and tasks that the checkpoint lacks, and wrong options, raise `OptionError` before anything runs."""
    with pytest.raises(OptionError) as caught:
        Model(ModelInfo("demo", translates=False), FakeBackend()).check(options)
    assert code == caught.value.code
