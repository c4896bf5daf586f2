"""Small real things that stand in for large ones: an engine that answers at once, recordings of a few kilobytes."""

from __future__ import annotations

import io
import math
import struct
import threading
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field

from tickertape.errors import DecodeError
from tickertape.local import LocalBackend
from tickertape.pipeline import Model
from tickertape.types import SAMPLE_RATE, Decoded, Options, Segment, Window, Word

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
        """The sentence, in one segment that spans the window, with all that was asked for."""
        self.begun.set()
        self.asked += options
        if self.gate is not None:
            self.gate.wait(30)
        if isinstance(self.failure, DecodeError):
            return [self.failure] * len(windows)
        if self.failure is not None:
            raise self.failure
        return [heard(window, wish, len(windows)) for window, wish in zip(windows, options, strict=True)]


def heard(window: Window, options: Options, batch_size: int = 1) -> Decoded:
    """What the fake engine makes of a window."""
    language = options.language or "en"
    texts = tuple(f" {word}" for word in WORDS)
    segment = Segment(
        start=0,
        end=window.length,
        text="".join(texts),
        tokens=tuple(range(len(texts))),
        words=_words(texts, window.length) if options.word_timestamps else (),
        language=language,
        avg_logprob=-0.25,
        token_logprobs=tuple(-0.125 for _ in texts) if options.logprobs else (),
        token_bytes=tuple(text.encode() for text in texts) if options.logprobs else (),
    )
    return Decoded((segment,), language, batch_size=batch_size, encode_seconds=0.002, decode_seconds=0.001)


def _words(texts: Sequence[str], length: int) -> tuple[Word, ...]:
    step = length // len(texts)
    return tuple(Word(text, i * step, (i + 1) * step, 0.5) for i, text in enumerate(texts))


def model(name: str = "demo", engine: FakeEngine | None = None, **known: object) -> Model:
    """A model around the fake engine, behind the real scheduler."""
    facts: dict[str, object] = {"languages": ("en", "de", "fr"), "created": 1_700_000_000, **known}
    return Model(name, LocalBackend(engine or FakeEngine()), **facts)  # type: ignore[arg-type]


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
