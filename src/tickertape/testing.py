"""A fake engine for tests of applications: no checkpoint, no model, the same text for every window.

    from tickertape.testing import FakeEngine, fake_transcriber

    def test_my_application():
        engine = FakeEngine(text="Please block my card.")
        with fake_transcriber(engine) as transcriber:
            assert my_application(transcriber, "call.wav") == "block"
        assert engine.asked[0].language == "en"

`tickertape serve --no-ray --engine tickertape.testing:engine` serves the HTTP API with it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tickertape.engine.batching import LocalBackend
from tickertape.errors import DecodeError
from tickertape.pipeline import Model
from tickertape.transcriber import Transcriber
from tickertape.types import Decoded, ModelInfo, Options, Segment, Window, Word

TEXT = "Good morning, this is a test."
GATE_SECONDS = 300.0  # longest wait for a gate, so that a failing test ends


@dataclass
class FakeEngine:
    """A deterministic engine: `text` for every window, in one segment per phrase, and a record of its calls."""

    text: str | Callable[[Window], str] = TEXT  # a phrase ends with a punctuation mark; "" is silence
    gate: threading.Event | None = None  # each call waits until it is set
    failure: Exception | None = None  # a `DecodeError` is the outcome of each window; others are raised
    asked: list[Options] = field(default_factory=list)  # the options of every window, in order
    batches: list[list[int]] = field(default_factory=list)  # the windows of each call, by `Window.start`
    started: threading.Event = field(default_factory=threading.Event)  # set by the first call

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """Decode each window to the text; see `types.Engine`."""
        self.asked += options
        self.batches.append([window.start for window in windows])
        self.started.set()
        if self.gate is not None:
            self.gate.wait(GATE_SECONDS)
        if isinstance(self.failure, DecodeError):
            return [self.failure] * len(windows)
        if self.failure is not None:
            raise self.failure
        return [self._decoded(window, wanted, len(windows)) for window, wanted in zip(windows, options, strict=True)]

    def _decoded(self, window: Window, options: Options, batch_size: int) -> Decoded:
        text = self.text(window) if callable(self.text) else f" {self.text}"
        phrases = re.findall(r"\s*\S.*?(?:[,.;:?!](?=\s|$)|$)", text)
        ends = [(index + 1) * window.length // len(phrases) for index in range(len(phrases))]
        segments = tuple(map(_segment, phrases, [0, *ends], ends, [options] * len(phrases)))
        language = options.language or "en"
        return Decoded(segments, language, batch_size=batch_size, encode_seconds=0.002, decode_seconds=0.001)


def fake_transcriber(engine: FakeEngine | None = None, *, languages: tuple[str, ...] = ("en", "de")) -> Transcriber:
    """A `Transcriber` around a fake engine, without speech detection. Close it like a real one."""
    backend = LocalBackend(engine or FakeEngine())
    return Transcriber(Model(ModelInfo("fake", languages=languages), backend), close=backend.close)


def engine(source: str, settings: object) -> FakeEngine:  # noqa: ARG001 - as `serve --engine` calls it
    """A fake engine for `tickertape serve --engine tickertape.testing:engine`."""
    return FakeEngine()


def _segment(text: str, start: int, end: int, options: Options) -> Segment:
    texts = re.findall(r"\s*\S+", text)
    step = (end - start) // len(texts)
    words = [Word(word, start + i * step, start + (i + 1) * step, 0.5) for i, word in enumerate(texts)]
    segment = Segment(start, end, text, tuple(range(len(texts))), language=options.language or "en", avg_logprob=-0.25)
    if options.word_timestamps:
        segment = replace(segment, words=tuple(words))
    if options.logprobs:
        logprobs, spelled = (-0.125,) * len(texts), tuple(word.encode() for word in texts)
        segment = replace(segment, token_logprobs=logprobs, token_bytes=spelled)
    return segment
