"""A recording becomes a stream of segments, over any backend.

    async for update in model.transcribe(audio, options):
        show(update.segments)
    transcript = update.transcript

Windows are decoded many at a time and come back in order. Closing the iterator cancels the windows under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from tickertape.audio import chunking
from tickertape.errors import OptionError
from tickertape.transcripts.assembler import Assembler
from tickertape.types import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Audio,
    Backend,
    Decoded,
    Detect,
    ModelInfo,
    Notice,
    Options,
    Samples,
    Segment,
    Transcript,
    Window,
    Word,
)

IN_FLIGHT = 16  # windows of one recording: two batches, so that the engine is never idle
LANGUAGE_THRESHOLD = 0.5  # least probability at which a window's language may differ from its channel's
MIN_LANGUAGE_SPEECH = 3 * SAMPLE_RATE  # samples; nor may that of a shorter window
MAX_BEAMS = 10
# Samples of speech behind a window's text that are decoded again; the detector's padding is a part of them.
MIN_SPEECH_UNFINISHED = SAMPLE_RATE // 2  # where the model itself began another segment
MIN_SPEECH = 3 * SAMPLE_RATE // 2  # elsewhere: timestamps may be a second early

# Samples of a channel up to which any speech makes all of it a window: soft first words escape the detector. At 3 s no
# set of real speech got worse; at 5 s music behind a word became words.
WHOLE = 3 * SAMPLE_RATE

# A short channel without detected speech is decoded all the same: whispers and falsetto escape the detector. Its text
# counts if the model is sure of it. On 360 s of music and beeps whisper-base was never that sure.
MIN_PEAK = 0.001  # full scale is 1; softer channels are silent
MAX_NO_SPEECH = 0.4
MIN_LOGPROB = -0.8

Decode = Callable[[Window, Options], Awaitable[Decoded]]
SegmentOrWord = TypeVar("SegmentOrWord", Segment, Word)
NO_SPEECH = Notice("no_speech", "No speech was detected in the recording.")


@dataclass(frozen=True, slots=True)
class Update:
    """Progress of a transcription, with the segments that are now final.

    `done` and `total` count samples of all channels. The last update carries the `transcript`.
    """

    segments: tuple[Segment, ...]
    done: int
    total: int
    decoded: Decoded | None = None
    transcript: Transcript | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that transcribes: its facts, the backend that decodes windows, and the speech detector."""

    info: ModelInfo
    backend: Backend
    detect: Detect | None = None  # None: no detector is loaded

    def check(self, options: Options) -> None:
        """Raise `OptionError` if the checkpoint cannot honour the options."""
        if not {*filter(None, [options.language]), *options.languages} <= set(self.info.languages):
            known = ", ".join(self.info.languages[:8]) + (", ..." if len(self.info.languages) > 8 else "")
            raise OptionError(f"The model does not support this language; use {known}.", "language", "invalid_language")
        if options.task == "translate" and not self.info.translates:
            raise OptionError("An English-only model cannot translate.", "task", "invalid_task")
        if not options.temperatures:
            raise OptionError("At least one temperature is needed.", "temperature", "invalid_temperature")
        if not 1 <= options.beam_size <= MAX_BEAMS:
            raise OptionError(f"beam_size must be from 1 to {MAX_BEAMS}.", "beam_size", "invalid_beam_size")

    async def transcribe(self, audio: Audio, options: Options, *, vad: bool = True) -> AsyncGenerator[Update, None]:
        """Transcribe a recording; see the module's example. `vad=False` takes plain 30 s windows with overlap.

        Raises `OptionError`, and `DecodeError` if a window cannot be decoded.
        """
        self.check(options)
        channels = audio.samples.shape[0]
        assembler = Assembler(duration=audio.length, channels=channels, task=options.task, notices=audio.notices)
        total = audio.length * channels
        ends = [0] * channels  # in each channel everything before the end of its last window is done
        heard = [Counter[str]() for _ in range(channels)]  # samples of text by language
        windows = plan(audio, self.detect if vad else None, trimmed=self.info.trimmed)
        async with contextlib.aclosing(_decode_in_order(windows, self._decode, options)) as results:
            async for window, first in results:
                decoded = await self._in_likely_language(window, first, options, heard[window.channel])
                ends[window.channel] = window.end
                yield Update(assembler.add(window, decoded), sum(ends), total, decoded)
        rest = assembler.finish()
        transcript = assembler.transcript()
        if not transcript.segments:
            language = options.language or (options.languages or self.info.languages)[0]
            transcript = replace(transcript, language=language, notices=(*transcript.notices, NO_SPEECH))
        yield Update(rest, total, total, transcript=transcript)

    async def _in_likely_language(
        self, window: Window, decoded: Decoded, options: Options, heard: Counter[str]
    ) -> Decoded:
        """Decode a window again in the language `heard` most in its channel, if it is unsure of another one.

        Of the two texts the more probable is kept.
        """
        likely = max(heard, key=heard.__getitem__, default=decoded.language)
        sure = decoded.language_probability >= LANGUAGE_THRESHOLD and window.length >= MIN_LANGUAGE_SPEECH
        if decoded.segments and likely != decoded.language and not (sure or options.language or options.multilingual):
            again = await self._decode(window, replace(options, language=likely))
            decoded = max(again, decoded, key=_mean_logprob)
        heard[decoded.language] += sum(segment.end_sample - segment.start_sample for segment in decoded.segments)
        return decoded

    async def _decode(self, window: Window, options: Options) -> Decoded:
        """Decode a window and, as long as it holds speech behind its text, the rest of it."""
        whole = decoded = await self.backend.decode(window, options)
        if window.doubtful and not _is_certain(decoded):
            return replace(decoded, segments=())
        start = 0
        while options.timestamps and (at := await asyncio.to_thread(self._unread, window, start, decoded)) is not None:
            start = at
            rest = Window(window.samples[start:], window.start + start, window.channel, recording=window.recording)
            language = options.language if options.multilingual else decoded.language
            decoded = await self.backend.decode(rest, replace(options, language=language))
            whole = _joined(whole, decoded, start)
        return whole

    def _unread(self, window: Window, start: int, decoded: Decoded) -> int | None:
        """Where in the window the text that was `decoded` from `start` on ends, if there is speech behind it."""
        end, least = decoded.unfinished_from, MIN_SPEECH_UNFINISHED
        if end is None and decoded.segments:
            end, least = decoded.segments[-1].end_sample, MIN_SPEECH
        if not end or start + end + least > window.length - window.tail:
            return None
        rest = window.samples[start + end :]
        speech = sum(span.length for span in self.detect(rest)) if self.detect else len(rest)
        return start + end if speech >= least else None


def _is_certain(decoded: Decoded) -> bool:
    """Whether the model hears speech and is sure of the text at once."""
    sure = _mean_logprob(decoded) > MIN_LOGPROB
    return sure and decoded.no_speech_prob < MAX_NO_SPEECH and decoded.attempts == 1


def _mean_logprob(decoded: Decoded) -> float:
    """The mean log probability of a window's tokens; that of a window without text is the lowest."""
    return min((segment.avg_logprob for segment in decoded.segments), default=-math.inf)


def _joined(whole: Decoded, rest: Decoded, start: int) -> Decoded:
    """One result for a window that was decoded in pieces; `start` is where the last one begins, in samples."""

    def shifted(timed: SegmentOrWord) -> SegmentOrWord:
        return replace(timed, start_sample=timed.start_sample + start, end_sample=timed.end_sample + start)

    segments = [replace(shifted(each), words=tuple(map(shifted, each.words))) for each in rest.segments]
    return replace(
        whole,
        segments=(*whole.segments, *segments),
        attempts=whole.attempts + rest.attempts - 1,
        queue_seconds=whole.queue_seconds + rest.queue_seconds,
        encode_seconds=whole.encode_seconds + rest.encode_seconds,
        decode_seconds=whole.decode_seconds + rest.decode_seconds,
    )


def plan(audio: Audio, detect: Detect | None, *, trimmed: bool = False) -> Iterator[Window]:
    """The windows of a recording by start time, channels interleaved; each is computed on demand.

    `trimmed`: the checkpoint was trained on short windows, so pauses need not be filled.
    """
    channels = [
        _speech(samples, detect, channel, trimmed=trimmed) if detect else chunking.plain(samples, channel=channel)
        for channel, samples in enumerate(audio.samples)
    ]
    return heapq.merge(*channels, key=lambda window: (window.start, window.channel))


def _speech(samples: Samples, detect: Detect, channel: int, *, trimmed: bool) -> Iterator[Window]:
    """The windows of a channel that hold speech; the whole of a very short one, or of one where none is detected."""
    windows = chunking.cut(samples, detect(samples), channel=channel, trimmed=trimmed)
    first = next(windows, None)
    if first is not None and len(samples) > WHOLE:
        yield first
        yield from windows
    elif first is not None or (len(samples) <= WINDOW_SAMPLES and np.abs(samples).max(initial=0.0) > MIN_PEAK):
        yield Window(samples, channel=channel, recording=len(samples), doubtful=first is None)


async def _decode_in_order(
    windows: Iterator[Window], decode: Decode, options: Options
) -> AsyncGenerator[tuple[Window, Decoded], None]:
    """Results in the order of the windows, at most `IN_FLIGHT` of them under way."""
    running: deque[tuple[Window, asyncio.Future[Decoded]]] = deque()
    try:
        while True:
            while len(running) < IN_FLIGHT and not (running and running[0][1].done()):
                if (window := await _next(windows)) is None:
                    break
                running.append((window, asyncio.ensure_future(decode(window, options))))
            if not running:
                return
            decoded = await running[0][1]
            yield running.popleft()[0], decoded
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


async def _next(windows: Iterator[Window]) -> Window | None:
    """Compute the next window off the event loop, because speech detection takes long."""
    return await asyncio.to_thread(next, windows, None)
