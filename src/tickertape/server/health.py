"""Readiness: every model must decode a short test window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tickertape.pipeline import Model
from tickertape.server.errors import NotReadyError
from tickertape.types import SAMPLE_RATE, Options, Window

VALID_SECONDS = 5.0  # a decoded window proves readiness for so long
PROBE_TIMEOUT = 10.0  # seconds for a test window behind one full batch; load balancers probe every 5 to 30 s
_PROBE = Options(timestamps=False, temperatures=(0.0,), max_new_tokens=1)


class Readiness:
    """Tests the models, at most once at a time. A successful request counts as a test."""

    def __init__(self, models: Mapping[str, Model], clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock = clock
        self._answered: dict[str, float] = {}
        self._test: asyncio.Task[None] | None = None

    def alive(self, name: str) -> None:
        """Note that a model has just decoded a window."""
        self._answered[name] = self._clock()

    async def check(self) -> None:
        """Test the models. Raises `NotReadyError` unless all of them decode in time."""
        stale = self._clock() - VALID_SECONDS
        if all(self._answered.get(name, stale) > stale for name in self._models):
            return
        if self._test is None or self._test.done():
            self._test = asyncio.ensure_future(self._test_all())
        await asyncio.shield(self._test)

    async def _test_all(self) -> None:
        outcomes = await asyncio.gather(*map(self._probe, self._models.values()), return_exceptions=True)
        failed = [name for name, outcome in zip(self._models, outcomes, strict=True) if outcome is not None]
        if failed:
            raise NotReadyError(f"{len(failed)} of {len(outcomes)} models do not answer.")

    async def _probe(self, model: Model) -> None:
        silence = Window(np.zeros(SAMPLE_RATE, np.float32))
        options = replace(_PROBE, language=model.info.languages[0])
        await asyncio.wait_for(model.backend.decode(silence, options), PROBE_TIMEOUT)
        self.alive(model.info.name)
