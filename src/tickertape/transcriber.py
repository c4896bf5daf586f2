"""The Python API: a model by name, opened once, asked many times, from ordinary synchronous code.

    with tickertape.load("checkpoint") as transcriber:
        print(transcriber.transcribe("call.wav").text)
        for segment in transcriber.stream("meeting.mp3", language="de"):
            print(segment.text)

It keeps an event loop in a thread of its own, so it works in notebooks and servers that already run one, and any number
of threads may ask at once: their windows share batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tickertape.errors import CheckpointMissing, EngineFailed, OptionError, TickertapeError
from tickertape.languages import language_code
from tickertape.local import BATCH, LocalBackend
from tickertape.pipeline import IN_FLIGHT, Detect, Model, Update
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES, Audio, Backend, Options, Segment, Transcript

if TYPE_CHECKING:
    from tickertape.audio import Source
    from tickertape.checkpoints import Prepared, Progress
    from tickertape.encoder import Precision
    from tickertape.engine import WhisperEngine

ENOUGH = IN_FLIGHT * WINDOW_SAMPLES  # samples under way from which another recording would only fill memory
DEMO = "checkpoint"  # the folder that holds the demo checkpoint


@dataclass(frozen=True, slots=True)
class Begun:
    """A recording has been decoded, and its transcription begins: `length` samples in each of its channels."""

    length: int
    channels: int


News: TypeAlias = "Begun | Update | TickertapeError"


@dataclass(frozen=True, slots=True)
class Reading:
    """How recordings are read: see `audio.decode`, and `Model.transcribe` for `vad`."""

    channels: Literal["mix", "split"] = "mix"
    vad: bool = True
    track: int | None = None
    audio_format: str | None = None
    max_seconds: float | None = None  # None: as long as `audio.Limits` says


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    compute_type: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    batch: int = BATCH,
    base: str | Path | None = None,
    cache: Path | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> Transcriber:
    """Open a model, preparing it first if that was not done before.

    `model` is a checkpoint's folder or hub id (see `checkpoints.prepare`, also for `base`, `cache`, `offline`, `token`
    and `progress`); None takes the demo checkpoint. `device`, `compute_type`, `precision` and `threads` are
    `load_engine`'s; at most `batch` windows are decoded at once. Raises `CheckpointError` and `OptionError`.
    """
    name = model if model is not None else demo_checkpoint()
    with ThreadPoolExecutor(1, thread_name_prefix="load") as aside:
        detector = aside.submit(_load_detector)
        engine, prepared = load_engine(
            name, device=device, compute_type=compute_type, precision=precision, threads=threads, base=base,
            cache=cache, offline=offline, token=token, progress=progress)  # fmt: skip
        backend = LocalBackend(engine, batch=batch)
        known = describe(prepared, engine, backend, detector.result())
    return Transcriber(known, reasons=engine.reasons, prepared=prepared, close=backend.close)


def load_engine(
    model: str | Path,
    *,
    device: str = "auto",
    compute_type: str = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    base: str | Path | None = None,
    cache: Path | None = None,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> tuple[WhisperEngine, Prepared]:
    """Prepare a model and open it in an engine; a replica of a cluster needs no more than this.

    Raises `CheckpointError`, `OptionError` where this machine cannot do what is asked, and `EngineFailed`.
    """
    from tickertape.engine import WhisperEngine

    prepared = prepare_for(device, compute_type, model,
        base=base, cache=cache, offline=offline, token=token, progress=progress)  # fmt: skip
    try:
        engine = WhisperEngine.load(
            prepared, device=device, compute_type=compute_type, precision=precision, threads=threads
        )
    except ValueError as error:  # CTranslate2's word for a number format that the processor lacks
        raise OptionError(
            f"This machine cannot compute in {compute_type}; leave the compute type to auto.",
            "compute_type",
            "invalid_compute_type",
        ) from error
    except RuntimeError as error:
        raise EngineFailed("The model could not be opened; `tickertape info` says what this machine has.") from error
    return engine, prepared


def prepare_for(device: str, compute_type: str, model: str | Path, **how: Any) -> Prepared:
    """Prepare a model for this device: `compute_type` auto stores int8 for a CPU, float16 for CUDA.

    `how` is `checkpoints.prepare`'s. Raises `CheckpointError` and `OptionError`.
    """
    from tickertape.checkpoints import prepare
    from tickertape.engine import choose_device

    where, _ = choose_device(device)
    stored = {"cpu": "int8", "cuda": "float16"}[where] if compute_type == "auto" else compute_type
    return prepare(model, compute_type=stored, **how)


def describe(prepared: Prepared, engine: WhisperEngine, backend: Backend, detect: Detect | None) -> Model:
    """What users of an opened model need to know of it, wherever its engine runs."""
    return Model(
        prepared.name,
        backend,
        detect=detect,
        trimmed=engine.trimmed,
        languages=engine.languages,
        translates=prepared.is_multilingual,
        created=int((prepared.folder / "model.bin").stat().st_mtime),
    )


def demo_checkpoint() -> Path:
    """The demo checkpoint: `checkpoint` in the current folder, or beside the source. Raises `CheckpointMissing`."""
    for folder in (Path(DEMO), Path(__file__).resolve().parents[2] / DEMO):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointMissing(
        "There is no folder named checkpoint here; name a model: a folder, or a hub id such as org/name."
    )


class Transcriber:
    """A model that is ready, in a thread of its own. Close it, or use it in a `with` statement, to free the model."""

    def __init__(
        self,
        model: Model,
        *,
        reasons: tuple[str, ...] = (),
        prepared: Prepared | None = None,
        close: Callable[[], Any] | None = None,
    ) -> None:
        """`model` is anything the pipeline can ask; `close` makes the coroutine that ends its backend."""
        self.model = model
        self.reasons = reasons  # what was chosen for this machine, and why, a line each
        self.prepared = prepared
        self._close = close
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tickertape", daemon=True)
        self._thread.start()

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transcribe(
        self, source: Source, options: Options | None = None, *, reading: Reading | None = None, **wanted: Any
    ) -> Transcript:
        """Transcribe a recording: a path, bytes or a binary file object.

        `wanted` are fields of `Options` (language="de", word_timestamps=True, ...) and of `Reading`
        (channels="split", vad=False, ...), which change the `options` and the `reading` given.
        Raises `AudioError`, `OptionError` and `DecodeError`.
        """
        *_, last = self.updates(source, options, reading=reading, **wanted)
        return _transcript_of(last)

    def stream(
        self, source: Source, options: Options | None = None, *, reading: Reading | None = None, **wanted: Any
    ) -> Iterator[Segment]:
        """Transcribe a recording, segment by segment, each as soon as nothing can change it; see `transcribe`."""
        for update in self.updates(source, options, reading=reading, **wanted):
            yield from update.segments

    def updates(
        self, source: Source, options: Options | None = None, *, reading: Reading | None = None, **wanted: Any
    ) -> Iterator[Update]:
        """Transcribe a recording; tell how far it has come, and at the end the whole transcript."""
        with contextlib.closing(self.many([source], options, reading=reading, **wanted)) as every:
            for _, news in every:
                if isinstance(news, TickertapeError):
                    raise news
                if isinstance(news, Update):
                    yield news

    def many(
        self,
        sources: Iterable[Source],
        options: Options | None = None,
        *,
        reading: Reading | None = None,
        **wanted: Any,
    ) -> Generator[tuple[int, News], None, None]:
        """Transcribe recordings side by side, so that short ones fill batches together.

        Yields news with the number of the recording: `Begun`, then updates, of which the last holds its transcript. An
        error ends its own recording and none of the others.
        """
        options, reading = _read(options or Options(), reading or Reading(), wanted)
        self.model.check(options)
        return self._many(sources, options, reading)

    def close(self) -> None:
        """Finish what is under way and free the model. Closing twice is allowed."""
        if self._loop.is_closed():
            return
        if self._close is not None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _many(
        self, sources: Iterable[Source], options: Options, reading: Reading
    ) -> Generator[tuple[int, News], None, None]:
        """Run everything in the loop's thread and hand the news to this one."""
        if self._loop.is_closed():
            raise RuntimeError("the transcriber is closed")
        news: queue.SimpleQueue[tuple[int, News] | None] = queue.SimpleQueue()
        crowd = _Crowd(self.model, options, reading, lambda number, item: news.put((number, item)))
        running: Future[None] = asyncio.run_coroutine_threadsafe(crowd.run(sources), self._loop)
        running.add_done_callback(lambda _: news.put(None))
        try:
            while (item := news.get()) is not None:
                yield item
            running.result()
        finally:
            running.cancel()


class _Crowd:
    """Recordings on their way through one model: a few long ones, or many short ones."""

    def __init__(self, model: Model, options: Options, reading: Reading, report: Callable[[int, News], None]) -> None:
        self._model, self._options, self._reading, self._report = model, options, reading, report
        self._left: dict[int, int] = {}  # by recording: samples that are still to be transcribed
        self._changed = asyncio.Event()

    async def run(self, sources: Iterable[Source]) -> None:
        """Begin one recording after another while little is under way; return when all are done."""
        tasks: list[asyncio.Task[None]] = []
        try:
            for number, source in enumerate(sources):
                while len(self._left) >= IN_FLIGHT or sum(self._left.values()) >= ENOUGH:
                    self._changed.clear()
                    await self._changed.wait()
                audio = await self._audio(number, source)
                if audio is not None:
                    self._left[number] = audio.samples.size
                    tasks.append(asyncio.create_task(self._follow(number, audio)))
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _audio(self, number: int, source: Source) -> Audio | None:
        """Decode one recording; None if it cannot be used, which has then been reported."""
        try:
            return await asyncio.to_thread(_decode, source, self._reading)
        except Exception as error:  # noqa: BLE001 - one bad recording must not stop the others
            self._report(number, _as_ours(error))
            return None

    async def _follow(self, number: int, audio: Audio) -> None:
        """Transcribe one recording and report how it goes."""
        self._report(number, Begun(audio.length, len(audio.samples)))
        try:
            async for update in self._model.transcribe(audio, self._options, vad=self._reading.vad):
                self._left[number] = update.total - update.done
                self._changed.set()
                self._report(number, update)
        except Exception as error:  # noqa: BLE001 - one bad recording must not stop the others
            self._report(number, _as_ours(error))
        finally:
            self._left.pop(number, None)
            self._changed.set()


def _load_detector() -> Detect:
    """Open the speech detector while the model loads, and do what else would make the first window wait."""
    import numpy as np

    import tickertape.audio  # noqa: F401 - imported ahead of its first use
    from tickertape.features import log_mel
    from tickertape.vad import SpeechDetector

    detector = SpeechDetector()
    log_mel(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, n_mels=80)  # imports the Fourier transform
    return detector.stream


def _decode(source: Source, reading: Reading) -> Audio:
    from tickertape.audio import Limits, decode

    limits = Limits() if reading.max_seconds is None else Limits(max_seconds=reading.max_seconds)
    return decode(
        source,
        channels=reading.channels,
        limits=limits,
        track=reading.track,
        audio_format=reading.audio_format,
    )


def _read(options: Options, reading: Reading, wanted: dict[str, Any]) -> tuple[Options, Reading]:
    """Sort keywords into options and reading. Raises `OptionError` for those that are neither."""
    for_options = {field.name for field in fields(Options)}
    for_reading = {field.name for field in fields(Reading)}
    unknown = sorted(wanted.keys() - for_options - for_reading)
    if unknown:
        raise OptionError(f"There is no option named {unknown[0]}.", unknown[0], "unknown_option")
    if wanted.get("language") is not None:
        wanted = {**wanted, "language": language_code(wanted["language"])}
    changed = replace(options, **{name: value for name, value in wanted.items() if name in for_options})
    return changed, replace(reading, **{name: value for name, value in wanted.items() if name in for_reading})


def _as_ours(error: Exception) -> TickertapeError:
    """An error raised on purpose as it is; any other as the engine's, with its cause."""
    if isinstance(error, TickertapeError):
        return error
    failed = EngineFailed(f"Transcription failed: {type(error).__name__}.")
    failed.__cause__ = error
    return failed


def _transcript_of(last: Update) -> Transcript:
    if last.transcript is None:
        raise EngineFailed("Transcription ended early.")
    return last.transcript
