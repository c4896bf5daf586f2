"""LocalBackend: dynamic micro-batches around an engine that runs in one thread.

A batch is closed only when the engine is free: batches grow with the load, and a single window never waits for others.
The engine replicas of a cluster use the same class.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tickertape.engine.scheduling import PatienceQueue, deadline_error, recording_seconds
from tickertape.errors import DecodeError, EngineError, ShuttingDownError, forget_frames
from tickertape.types import SAMPLE_RATE, WINDOW_SECONDS, Decoded, Engine, Options, Retry, Window

BATCH = 8  # windows: beyond that the decoder gains little on two cores (benchmarks/)
Outcome: TypeAlias = "Decoded | DecodeError | Retry"


@dataclass(slots=True)
class _QueuedWindow:
    """A window in the queue, or the retry of one."""

    window: Window | Retry
    options: Options
    seconds: float  # of the window
    long: bool  # a piece of a recording that needs several windows
    queued_at: float
    result: asyncio.Future[Decoded]
    before: Callable[[], Awaitable[object]] | None
    queue_seconds: float = 0.0

    @property
    def alone(self) -> bool:
        """Whether the window needs a batch of its own: a retry would delay other windows."""
        return self.before is not None or isinstance(self.window, Retry)


class LocalBackend:
    """Schedules windows onto one engine: `await backend.decode(window, options)`.

    Windows of urgent requests and short recordings go first, in batches of their own. Cancelled windows and those past
    their deadline never reach the engine. A window that needs another temperature returns to the queue; the rest of its
    batch is answered.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch: int = BATCH,
        watch: Callable[[], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`watch()` surrounds every call of the engine, in the engine's thread."""
        self._decode: Any = getattr(engine, "decode_once", engine.decode)
        self._batch = batch
        self._watch = watch
        self._clock = clock
        self._queue = PatienceQueue[_QueuedWindow]()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._closing = False

    async def decode(
        self, window: Window, options: Options, *, begin: Callable[[], Awaitable[object]] | None = None
    ) -> Decoded:
        """Decode one window. Raises `DecodeError`. Cancelling drops the window if its batch has not started.

        With `begin` the window gets a batch of its own, and `begin()` is awaited just before the engine is called.
        """
        if self._closing:
            raise ShuttingDownError("The engine is shutting down; send the request again.")
        now = self._clock()
        result: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
        seconds, own = recording_seconds(window), window.length / SAMPLE_RATE
        queued = _QueuedWindow(window, options, own, seconds > WINDOW_SECONDS, now, result, begin)
        self._queue.push(queued, seconds, options.priority)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await result

    async def close(self) -> None:
        """Reject new windows, finish those in the queue, end the thread."""
        self._closing = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown(wait=True)

    async def _drain(self) -> None:
        """Run batches until the queue is empty."""
        await asyncio.sleep(0)  # windows that arrive in the same turn of the event loop share the first batch
        while batch := self._take():
            started = self._clock()
            for queued in batch:
                queued.queue_seconds += max(0.0, started - queued.queued_at)
            for queued, outcome in zip(batch, await self._outcomes(batch), strict=True):
                self._finish(queued, outcome)

    def _take(self) -> list[_QueuedWindow]:
        """The next batch without windows that are cancelled or late. A short recording does not wait for long ones."""
        batch: list[_QueuedWindow] = []
        while self._queue and len(batch) < self._batch:
            if batch and (self._queue.first.alone or (self._queue.first.long and not batch[0].long)):
                break
            queued = self._queue.pop()
            if queued.result.done():
                continue
            if error := deadline_error(queued.options, self._clock()):
                queued.result.set_exception(error)
                continue
            batch.append(queued)
            if queued.alone:
                break
        return batch

    async def _outcomes(self, batch: list[_QueuedWindow]) -> list[Outcome]:
        """Call the engine in its thread. An exception becomes the outcome of each window."""
        try:
            if (begin := batch[0].before) is not None:
                await begin()
            windows, options = [queued.window for queued in batch], [queued.options for queued in batch]
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, windows, options)
        except DecodeError as error:
            return [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything, and every caller needs an answer
            forget_frames(error)
            return [EngineError.of(error)] * len(batch)

    def _call(self, windows: list[Window | Retry], options: list[Options]) -> list[Outcome]:
        """Call the engine and check that it answered each window with a value of the right type."""
        try:
            with self._watch():
                outcomes = list(self._decode(windows, options))
        except (SystemExit, KeyboardInterrupt) as error:  # in this thread they would stop the queue, not the process
            raise RuntimeError("the engine tried to end the process") from error
        if len(outcomes) != len(windows):
            raise EngineError(f"The engine returned {len(outcomes)} outcomes for {len(windows)} windows.")
        return [
            outcome
            if isinstance(outcome, Decoded | DecodeError | Retry)
            else EngineError(f"The engine returned a {type(outcome).__name__} for a window.")
            for outcome in outcomes
        ]

    def _finish(self, queued: _QueuedWindow, outcome: Outcome) -> None:
        """Answer the caller, or put a retry back into the queue."""
        if queued.result.done():
            return
        if isinstance(outcome, Retry):
            queued.window, queued.before, queued.queued_at = outcome, None, self._clock()
            self._queue.push(queued, queued.seconds, queued.options.priority)  # behind others that are as short
        elif isinstance(outcome, DecodeError):
            queued.result.set_exception(outcome)
        else:
            queued.result.set_result(replace(outcome, queue_seconds=queued.queue_seconds))
