"""LocalBackend: micro-batches around an engine in one thread.

The queue closes a batch only when the engine is free, so that batches grow with the load and an idle engine waits for
nobody. The engine replica of a cluster uses the very same class.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tickertape.errors import DeadlineExceeded, DecodeError, EngineFailed, ShuttingDown
from tickertape.types import SAMPLE_RATE, Decoded, Engine, Options, Window

BATCH = 8  # windows: beyond that the decoder gains little on two cores (benchmarks/)
PATIENCE_PER_SECOND = 0.05  # a 30 s window lets shorter work overtake it for 1.5 s
PATIENCE = {"interactive": 0.0, "batch": 20.0}  # seconds by which urgent work may overtake


def due(window: Window, options: Options, arrival: float) -> float:
    """When a window that arrived then is due: arrival plus patience, so that waiting always ends."""
    return arrival + PATIENCE[options.priority] + PATIENCE_PER_SECOND * window.length / SAMPLE_RATE


@dataclass(order=True, slots=True)
class _Job:
    """A window that waits. Ordered by `due`."""

    due: float
    number: int
    window: Window = field(compare=False)
    options: Options = field(compare=False)
    arrival: float = field(compare=False)
    outcome: asyncio.Future[Decoded] = field(compare=False)
    begin: Callable[[], Awaitable[object]] | None = field(compare=False)


class LocalBackend:
    """Schedules windows onto one engine: `await backend.decode(window, options)`.

    Urgent and short windows go first, but only by seconds, so nothing starves. A window whose caller left, or whose
    deadline has passed, never runs.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch: int = BATCH,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._clock = clock
        self._queue: list[_Job] = []
        self._numbers = itertools.count()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._closing = False

    async def decode(
        self, window: Window, options: Options, *, begin: Callable[[], Awaitable[object]] | None = None
    ) -> Decoded:
        """Decode one window. Raises `DecodeError`; cancelling drops the window if it has not begun.

        A window with `begin` shares its batch with no other; `begin()` is awaited just before the engine is called.
        """
        if self._closing:
            raise ShuttingDown("The engine is shutting down; send the request again.")
        now = self._clock()
        outcome: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
        job = _Job(due(window, options, now), next(self._numbers), window, options, now, outcome, begin)
        heapq.heappush(self._queue, job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await outcome

    async def close(self) -> None:
        """Refuse new windows, finish those that were accepted, release the thread."""
        self._closing = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown(wait=True)

    async def _drain(self) -> None:
        """Run batches until the queue is empty."""
        await asyncio.sleep(0)  # callers that arrive in the same turn share the first batch
        while batch := self._take():
            if batch[0].begin is not None:
                await batch[0].begin()
            started = self._clock()
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, batch)
            for job, outcome in zip(batch, outcomes, strict=True):
                _settle(job, outcome, started)

    def _take(self) -> list[_Job]:
        """The next batch: first due first, those nobody waits for left out."""
        batch: list[_Job] = []
        while self._queue and len(batch) < self._batch:
            job = heapq.heappop(self._queue)
            if job.outcome.done():
                continue
            if job.options.deadline is not None and self._clock() >= job.options.deadline:
                job.outcome.set_exception(DeadlineExceeded("The deadline passed before the engine was free."))
                continue
            if job.begin is not None and batch:
                heapq.heappush(self._queue, job)
                break
            batch.append(job)
            if job.begin is not None:
                break
        return batch

    def _run(self, batch: list[_Job]) -> list[Decoded | DecodeError]:
        """One call of the engine, in its thread; a crash becomes each window's outcome."""
        try:
            return self._engine.decode([job.window for job in batch], [job.options for job in batch])
        except DecodeError as error:
            return [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises must reach the callers, not the loop
            failed = EngineFailed(f"The engine failed: {type(error).__name__}.")
            failed.__cause__ = error
            return [failed] * len(batch)


def _settle(job: _Job, outcome: Decoded | DecodeError, started: float) -> None:
    if job.outcome.done():
        return
    if isinstance(outcome, DecodeError):
        job.outcome.set_exception(outcome)
    else:
        job.outcome.set_result(replace(outcome, queue_seconds=max(0.0, started - job.arrival)))
