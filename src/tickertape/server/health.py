"""Is the service ready? Only the engine knows: a short window goes through every model's backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tickertape.failures import NotReady
from tickertape.pipeline import Model
from tickertape.types import SAMPLE_RATE, Options, Window

FRESH = 5.0  # seconds for which an answer of the engine, to anybody, stands for readiness
_PROBE = Options(timestamps=False, temperatures=(0.0,), max_new_tokens=1)


class Readiness:
    """Asks the engines, together and at most once at a time; traffic that succeeds is as good as asking."""

    def __init__(
        self, models: Mapping[str, Model], *, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._models = models
        self._timeout = timeout
        self._clock = clock
        self._answered: dict[str, float] = {}
        self._asking: asyncio.Task[None] | None = None

    def alive(self, name: str) -> None:
        """A model has just decoded something."""
        self._answered[name] = self._clock()

    async def check(self) -> None:
        """Raises `NotReady` unless every model answers in time."""
        stale = self._clock() - FRESH
        if all(self._answered.get(name, stale) > stale for name in self._models):
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        outcomes = await asyncio.gather(*map(self._probe, self._models.values()), return_exceptions=True)
        failed = [name for name, outcome in zip(self._models, outcomes, strict=True) if outcome is not None]
        if failed:
            raise NotReady(f"{len(failed)} of {len(outcomes)} models do not answer.")

    async def _probe(self, model: Model) -> None:
        silence = Window(np.zeros(SAMPLE_RATE, np.float32))
        options = replace(_PROBE, language=model.languages[0])
        await asyncio.wait_for(model.backend.decode(silence, options), self._timeout)
        self.alive(model.name)
