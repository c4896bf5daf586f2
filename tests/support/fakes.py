"""Small real things that stand in for large ones: an engine that answers at once, recordings of a few kilobytes."""

from __future__ import annotations

import io
import math
import struct
import threading
import wave
from functools import cache
from types import TracebackType
from typing import Any

import uvicorn

from tests.support.waiting import wait_until
from tickertape.audio.worker_pool import Decoders
from tickertape.engine.batching import LocalBackend
from tickertape.pipeline import Model
from tickertape.server.http_protocol import HTTPProtocol
from tickertape.testing import TEXT, FakeEngine
from tickertape.types import SAMPLE_RATE, Detect, ModelInfo

WORDS = tuple(TEXT.split())


def model(
    name: str = "demo", engine: FakeEngine | None = None, *, detect: Detect | None = None, **known: object
) -> Model:
    """A model around the fake engine, behind the real scheduler."""
    facts: dict[str, object] = {"languages": ("en", "de", "fr"), "created": 1_700_000_000, **known}
    return Model(ModelInfo(name, **facts), LocalBackend(engine or FakeEngine()), detect)  # type: ignore[arg-type]


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

    def __init__(self, app: Any, *, keep_alive: int = 10) -> None:
        config = uvicorn.Config(
            app,
            http=HTTPProtocol,
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
        wait_until(lambda: self.server.started or not self._thread.is_alive())
        assert self.server.started
        return f"http://127.0.0.1:{self.port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = True
        self._thread.join(300)
