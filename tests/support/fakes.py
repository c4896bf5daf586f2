"""Small real things that stand in for large ones: an engine that answers at once, recordings of a few kilobytes."""

from __future__ import annotations

import io
import math
import struct
import threading
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from tickertape.decoders import Decoders
from tickertape.errors import DecodeError
from tickertape.local import LocalBackend
from tickertape.pipeline import Model
from tickertape.types import SAMPLE_RATE, Decoded, Options, Segment, Window, Word
from tickertape.wire import Wire

WORDS = ("Good", "morning,", "this", "is", "a", "test.")
TEXT = "Good morning, this is a test."


@dataclass
class FakeEngine:
    """Hears the same sentence in every window, and remembers what it was asked.

    `gate` holds it back: the engine waits for it before every batch. `failure` is its answer where it is set.
    """

    gate: threading.Event | None = None
    failure: DecodeError | Exception | None = None
    asked: list[Options] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """The sentence, in two segments that fill the window, with all that was asked for."""
        self.begun.set()
        self.asked += options
        if self.gate is not None:
            self.gate.wait(300)
        if isinstance(self.failure, DecodeError):
            return [self.failure] * len(windows)
        if self.failure is not None:
            raise self.failure
        return [heard(window, wish, len(windows)) for window, wish in zip(windows, options, strict=True)]


def heard(window: Window, options: Options, batch_size: int = 1) -> Decoded:
    """What the fake engine makes of a window."""
    middle = window.length // 2
    halves = (_segment(WORDS[:2], 0, middle, options), _segment(WORDS[2:], middle, window.length, options))
    language = options.language or "en"
    return Decoded(halves, language, batch_size=batch_size, encode_seconds=0.002, decode_seconds=0.001)


def _segment(words: Sequence[str], start: int, end: int, options: Options) -> Segment:
    texts = tuple(f" {word}" for word in words)
    return Segment(
        start=start,
        end=end,
        text="".join(texts),
        tokens=tuple(range(len(texts))),
        words=_words(texts, start, end) if options.word_timestamps else (),
        language=options.language or "en",
        avg_logprob=-0.25,
        token_logprobs=tuple(-0.125 for _ in texts) if options.logprobs else (),
        token_bytes=tuple(text.encode() for text in texts) if options.logprobs else (),
    )


def _words(texts: Sequence[str], start: int, end: int) -> tuple[Word, ...]:
    step = (end - start) // len(texts)
    return tuple(Word(text, start + i * step, start + (i + 1) * step, 0.5) for i, text in enumerate(texts))


def model(name: str = "demo", engine: FakeEngine | None = None, **known: object) -> Model:
    """A model around the fake engine, behind the real scheduler."""
    facts: dict[str, object] = {"languages": ("en", "de", "fr"), "created": 1_700_000_000, **known}
    return Model(name, LocalBackend(engine or FakeEngine()), **facts)  # type: ignore[arg-type]


@cache
def decoders() -> Decoders:
    """Decoders for applications that come and go with each test, so that their processes need not; they end with us."""
    return Decoders(2, timeout=300.0)


def wav(seconds: float = 1.0, *, rate: int = SAMPLE_RATE, channels: int = 1, pitch: float = 440.0) -> bytes:
    """A tone as a WAV file of 16 bits."""
    count = round(seconds * rate)
    tone = [round(8000 * math.sin(2 * math.pi * pitch * n / rate)) for n in range(min(count, rate))]
    second = struct.pack(f"<{len(tone) * channels}h", *(sample for sample in tone for _ in range(channels)))
    data = (second * (count // max(len(tone), 1) + 1))[: count * channels * 2]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(data)
    return file.getvalue()


class Serving:
    """An application under a real uvicorn on a free port of the loopback, in a thread: `with Serving(app) as url`."""

    def __init__(self, app: FastAPI, *, keep_alive: int = 10) -> None:
        config = uvicorn.Config(
            app,
            http=Wire,
            host="127.0.0.1",
            port=0,
            log_level="error",
            access_log=False,
            timeout_keep_alive=keep_alive,
            lifespan="on",
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server.servers[0].sockets[0].getsockname()[1])

    def __enter__(self) -> str:
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = True
        self._thread.join(300)
