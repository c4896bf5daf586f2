"""A real browser, the real page, and an engine that knows the example clips by their length."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.support.chromium import EXAMPLES, Page, driver
from tests.support.fakes import Serving
from tests.support.waiting import TIMEOUT
from tickertape.audio.decode import decode
from tickertape.engine.batching import LocalBackend
from tickertape.errors import DecodeError
from tickertape.pipeline import Model
from tickertape.server.app import create_app
from tickertape.server.page import app
from tickertape.server.settings import Settings
from tickertape.types import Decoded, ModelInfo, Options, Segment, Window, Word

__all__ = ["driver"]  # the fixture, for the tests beside this file


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/browser --screenshots docs/images` renews the pictures of the documentation."""
    parser.addoption("--screenshots", default=None, help="folder to write the pictures of the page to")


@dataclass
class ScriptedEngine:
    """An engine that says what is said in the clip whose length is nearest, and nothing where there is silence.

    It remembers what it was asked and how loud each window was. `gate` holds back every batch whose first window begins
    at `held_from` or later, in samples.
    """

    lines: list[tuple[int, str]]  # length in samples, text
    asked: list[Options] = field(default_factory=list)
    loudness: list[float] = field(default_factory=list)
    gate: threading.Event | None = None
    held_from: int = 0

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """One segment a window, its words spread evenly."""
        self.asked += options
        gate = self.gate
        if gate is not None and windows[0].start >= self.held_from:
            gate.wait(TIMEOUT)
        return [self._say(window, wish) for window, wish in zip(windows, options, strict=True)]

    def _say(self, window: Window, wish: Options) -> Decoded:
        self.loudness.append(float(np.sqrt(np.mean(window.samples**2))))
        if not self.loudness[-1]:
            return Decoded((), wish.language or "en", no_speech_prob=1.0)
        text = min(self.lines, key=lambda line: abs(line[0] - window.length))[1]
        parts = text.split()
        step = window.length // len(parts)
        words = tuple(Word(f" {part}", n * step, (n + 1) * step, 0.9) for n, part in enumerate(parts))
        segment = Segment(0, window.length, f" {text}", words=words if wish.word_timestamps else ())
        return Decoded((segment,), wish.language or "en")


@pytest.fixture(scope="session")
def scripted() -> ScriptedEngine:
    """The engine behind the page."""
    clips = [json.loads(line) for line in (EXAMPLES / "manifest.jsonl").read_text().splitlines()]
    return ScriptedEngine([(decode(EXAMPLES / clip["audio"]).length, clip["text"]) for clip in clips])


@pytest.fixture(scope="session")
def server(scripted: ScriptedEngine) -> Iterator[str]:
    """The address of the page."""
    models = {
        "banking": Model(ModelInfo("banking", languages=("en", "de", "fr", "es")), LocalBackend(scripted)),
        "calls-en": Model(ModelInfo("calls-en", translates=False), LocalBackend(scripted)),
    }
    settings = Settings(body_limit=25 * 2**20, max_audio_seconds=600)

    async def build() -> Any:
        return app.mount(create_app(models, settings))

    with Serving(asyncio.run(build())) as url:
        yield url


@contextmanager
def blocked_from(scripted: ScriptedEngine, start: int = 0) -> Iterator[None]:
    """Within the block, the engine waits before whatever begins at `start` or later."""
    scripted.gate, scripted.held_from = threading.Event(), start
    try:
        yield
    finally:
        scripted.gate.set()
        scripted.gate = None


@pytest.fixture
def page(driver: Any, server: str) -> Iterator[Page]:
    """The page, freshly visited, on a desk's screen in light colours. It must not have asked anybody else."""
    visited = Page(driver, server)
    visited.resize(1280, 960)
    visited.open()
    yield visited
    elsewhere = [
        url for url in visited.requests() if not url.startswith((f"{server}/", "data:", f"blob:{server}/", "about:"))
    ]
    assert elsewhere == []
