"""The Python API: a model that is loaded once and transcribes recordings from synchronous code.

    with tickertape.load("openai/whisper-base") as transcriber:
        print(transcriber.transcribe("call.wav").text)
        for segment in transcriber.stream("meeting.mp3", language="de"):
            print(f"{segment.start:.2f} s: {segment.text}")

The model runs in a thread with an event loop of its own, so this works in notebooks and servers that already run one.
Several threads may use one transcriber; their windows share batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from tickertape.checkpoints.source import ignore
from tickertape.engine.batching import BATCH, LocalBackend
from tickertape.engine.loading import LoadOptions, default_model, load_engine
from tickertape.errors import EngineError, OptionError, TickertapeError
from tickertape.pipeline import IN_FLIGHT, Model, Update
from tickertape.transcripts.languages import spoken_languages
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES, Audio, Options, Priority, Reading, Segment, Task, Transcript

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tickertape.audio.reader import AudioSource
    from tickertape.audio.vad import SpeechDetector
    from tickertape.checkpoints.cache import Progress

MAX_PENDING_SAMPLES = IN_FLIGHT * WINDOW_SAMPLES  # no recording is decoded while more than this is pending


class Keywords(TypedDict, total=False):
    """The fields of `Options` and `Reading` as keyword arguments."""

    language: str | None
    languages: tuple[str, ...]
    multilingual: bool
    task: Task
    prompt: str | None
    hotwords: str | None
    timestamps: bool
    word_timestamps: bool
    logprobs: bool
    beam_size: int
    temperatures: tuple[float, ...]
    max_new_tokens: int | None
    compression_ratio_threshold: float | None
    logprob_threshold: float | None
    no_speech_threshold: float | None
    priority: Priority
    deadline: float | None
    channels: Literal["mix", "split"]
    vad: bool
    track: int | None
    audio_format: str | None
    max_seconds: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """A recording is decoded: `length` samples in each of `channels`. Its transcription starts."""

    length: int
    channels: int


Close: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
Event: TypeAlias = "Started | Update | TickertapeError"
Events: TypeAlias = "Generator[tuple[int, Event], None, None]"  # with the index of their recording


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    compute_type: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch: int = BATCH,
    base: str | Path | None = None,
    cache: Path | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> Transcriber:
    """Load a model for transcription. The first load of a checkpoint converts it and caches the result.

    Args:
        model: folder of a Hugging Face, CTranslate2 or LoRA checkpoint, or a hub id (org/name@revision). None: the
            folder `checkpoint` if it exists, else OpenAI's whisper-base, which is fetched at its first use.
        device: "cpu", "cuda", or "auto": CUDA if a device is present.
        compute_type: number format of the decoder: "int8", "int8_float32", "int8_float16", "int16", "float16",
            "float32", or "auto": int8 on a CPU, float16 on CUDA.
        precision: number format of the encoder on a CPU: "f32", "bf16", or "auto": bf16 if the CPU computes in it.
        threads: CPU threads. None: every core that this process may use.
        batch: windows of 30 s that the engine decodes at once, at most.
        base: base model of a LoRA adapter, a folder or hub id. None: the one that the adapter names.
        cache: folder of converted checkpoints. None: the user's cache folder.
        offline: use only checkpoints on this machine; never connect to the hub.
        token: access token of the hub, for private and gated models.
        progress: called with the fraction done (0.0 to 1.0) and the name of the current step; a download starts at 0
            again.

    Raises:
        CheckpointError: the checkpoint cannot be used; `CacheError`: the cache folder cannot be written.
        OptionError: this machine lacks the device or cannot compute in that format.
        EngineError: the engine failed to load the model.

    """
    options = LoadOptions(device, compute_type, precision, threads, base, cache, offline, token)
    with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
        detector = pool.submit(_load_detector)
        if model is None:
            _, model = default_model(options, progress=progress or ignore)
        engine = load_engine(model, options, progress=progress)
        backend = LocalBackend(engine, batch=batch)
        loaded = Model(engine.info, backend, detector.result().detect)
    return Transcriber(loaded, reasons=engine.reasons, close=backend.close)


class Transcriber(contextlib.AbstractContextManager["Transcriber"]):
    """A loaded model in a thread of its own. Use it in a `with` statement, or call `close()`, to free the model.

    Recordings are given as a path, as bytes or as a binary file object.
    """

    def __init__(self, model: Model, *, reasons: tuple[str, ...] = (), close: Close | None = None) -> None:
        """Start the thread. `close` is awaited by `close()`: it ends the model's backend."""
        self.model = model
        self.reasons = reasons  # device, threads and number formats, each with why it was chosen
        self._close = close
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tickertape", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def transcribe(
        self,
        source: AudioSource,
        options: Options | None = None,
        reading: Reading | None = None,
        **keywords: Unpack[Keywords],
    ) -> Transcript:
        """Transcribe a recording.

        `options` say how windows are decoded and `reading` how the recording is read. Keywords are fields of either:
        `transcribe("call.wav", language="de", word_timestamps=True, channels="split")`. Languages are ISO 639
        codes, BCP 47 tags or English names. Raises `AudioError`, `OptionError` and `DecodeError`.
        """
        *_, last = self.updates(source, options, reading, **keywords)
        assert last.transcript is not None  # noqa: S101 - the last update has it
        return last.transcript

    def stream(
        self,
        source: AudioSource,
        options: Options | None = None,
        reading: Reading | None = None,
        **keywords: Unpack[Keywords],
    ) -> Iterator[Segment]:
        """Transcribe a recording and yield each segment as soon as it is final; arguments as for `transcribe`."""
        for update in self.updates(source, options, reading, **keywords):
            yield from update.segments

    def updates(
        self,
        source: AudioSource,
        options: Options | None = None,
        reading: Reading | None = None,
        **keywords: Unpack[Keywords],
    ) -> Iterator[Update]:
        """Transcribe a recording and yield segments with progress; the last update holds the transcript.

        Arguments as for `transcribe`.
        """
        options, reading = _merge(options or Options(), reading or Reading(), dict(keywords))
        with contextlib.closing(self.transcribe_many([source], options, reading)) as events:
            for _, event in events:
                if isinstance(event, TickertapeError):
                    raise event
                if isinstance(event, Update):
                    yield event

    def transcribe_many(
        self, sources: Iterable[AudioSource], options: Options | None = None, reading: Reading | None = None
    ) -> Events:
        """Transcribe recordings side by side, so that short ones share batches.

        Yields events with the index of their recording: `Started`, then updates, of which the last holds the
        transcript. An error is an event too: it ends its own recording only. Raises `OptionError` at once.
        """
        options, reading = options or Options(), reading or Reading()
        language, languages = spoken_languages(options.languages if options.language is None else [options.language])
        options = replace(options, language=language, languages=languages)
        self.model.check(options)
        return self._events(sources, options, reading)

    def close(self) -> None:
        """Finish what was started and free the model. A second call does nothing."""
        if self._loop.is_closed():
            return
        if self._close is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _events(self, sources: Iterable[AudioSource], options: Options, reading: Reading) -> Events:
        """Run the transcriptions in the loop's thread and pass their events to this one."""
        if self._loop.is_closed():
            raise RuntimeError("the transcriber is closed")
        events: queue.SimpleQueue[tuple[int, Event] | None] = queue.SimpleQueue()
        transcribing = _transcribe_all(self.model, sources, options, reading, events.put)
        running = asyncio.run_coroutine_threadsafe(transcribing, self._loop)
        running.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                yield event
            running.result()
        finally:
            running.cancel()


async def _transcribe_all(
    model: Model,
    sources: Iterable[AudioSource],
    options: Options,
    reading: Reading,
    report: Callable[[tuple[int, Event]], None],
) -> None:
    """Transcribe recordings side by side: a few long ones, or many short ones."""
    pending: dict[int, int] = {}  # samples still to be transcribed, by recording
    changed = asyncio.Event()

    async def transcribe(number: int, audio: Audio) -> None:
        try:
            async for update in model.transcribe(audio, options, vad=reading.vad):
                pending[number] = update.total - update.done
                changed.set()
                report((number, update))
        except Exception as error:  # noqa: BLE001 - one bad recording must not stop the others
            report((number, _as_own_error(error)))
        finally:
            del pending[number]
            changed.set()

    tasks: list[asyncio.Task[None]] = []
    try:
        for number, source in enumerate(sources):
            while len(pending) >= IN_FLIGHT or sum(pending.values()) >= MAX_PENDING_SAMPLES:
                changed.clear()
                await changed.wait()
            try:
                audio = await asyncio.to_thread(_decode, source, reading)
            except Exception as error:  # noqa: BLE001 - as above
                report((number, _as_own_error(error)))
                continue
            pending[number] = audio.samples.size
            report((number, Started(audio.length, len(audio.samples))))
            tasks.append(asyncio.create_task(transcribe(number, audio)))
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _load_detector() -> SpeechDetector:
    """Load the speech detector while the model loads, and import what the first window needs."""
    import numpy as np

    import tickertape.audio.decode  # noqa: F401 - imported ahead of its first use
    from tickertape.audio.vad import SpeechDetector
    from tickertape.engine.mel import log_mel

    detector = SpeechDetector()
    log_mel(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, n_mels=80)  # imports the Fourier transform
    return detector


def _decode(source: AudioSource, reading: Reading) -> Audio:
    from tickertape.audio.decode import decode
    from tickertape.audio.limits import Limits

    limits = Limits() if reading.max_seconds is None else Limits(max_seconds=reading.max_seconds)
    return decode(
        source, channels=reading.channels, limits=limits, track=reading.track, audio_format=reading.audio_format
    )


def _merge(options: Options, reading: Reading, keywords: dict[str, Any]) -> tuple[Options, Reading]:
    """Replace the fields that the keywords name. Raises `OptionError` for a name that is no field."""
    of_reading = {field.name: keywords.pop(field.name) for field in fields(Reading) if field.name in keywords}
    for name in keywords:
        if name not in Keywords.__annotations__:
            raise OptionError(f"There is no option named {name}.", name, "unknown_option")
    return replace(options, **keywords), replace(reading, **of_reading)


def _as_own_error(error: Exception) -> TickertapeError:
    """The error itself if it is Tickertape's, else an `EngineError` caused by it."""
    return error if isinstance(error, TickertapeError) else EngineError.of(error, "Transcription failed")
