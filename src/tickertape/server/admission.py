"""Admission control: a limit on the audio in flight, and the rejection of requests while the service drains.

Audio is counted in seconds, because a request may have a second or two hours. A request reserves an estimate once its
upload is complete, and its true length once it is decoded. The reservation shrinks as its windows are transcribed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn, TypeVar

from tickertape.errors import OverloadedError, ShuttingDownError
from tickertape.server.tasks import race
from tickertape.types import WINDOW_SECONDS

T = TypeVar("T")

ESTIMATE = float(WINDOW_SECONDS)  # seconds reserved for a request before its audio is decoded
INITIAL_THROUGHPUT = 10.0  # seconds of audio per second, until it is measured
THROUGHPUT_WINDOW = 60.0  # seconds over which throughput is measured
LAST_RESPONSES = 1.0  # seconds for the error responses to requests that outlast the grace period
MAX_RETRY_AFTER = 60.0  # seconds


class Admission:
    """Limits the audio in flight to `capacity` seconds. A longer recording is admitted if it is alone."""

    def __init__(self, capacity: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._in_flight = 0.0
        self._finished: deque[tuple[float, float]] = deque()  # (when, seconds of audio)
        self._busy_since = 0.0

    @property
    def in_flight(self) -> float:
        """Seconds of audio accepted and not yet transcribed."""
        return self._in_flight

    @property
    def throughput(self) -> float:
        """Seconds of audio per second, over the last minute or since there has been work."""
        now = self._clock()
        while self._finished and self._finished[0][0] < now - THROUGHPUT_WINDOW:
            self._finished.popleft()
        elapsed = now - max(self._busy_since, now - THROUGHPUT_WINDOW)
        done = sum(seconds for _, seconds in self._finished)
        return done / elapsed if done and elapsed > 0 else INITIAL_THROUGHPUT

    def check(self) -> None:
        """Raise `OverloadedError` if another request would be rejected. Uploads reserve no audio."""
        self._check(0.0, ESTIMATE)

    def reserve(self, seconds: float = ESTIMATE) -> AudioReservation:
        """Reserve audio for a request. Raises `OverloadedError` with the time after which to retry."""
        reservation = AudioReservation(self)
        reservation.resize(seconds)
        return reservation

    def _resize(self, old: float, new: float) -> None:
        others = self._check(old, new)
        if not self._in_flight:
            self._busy_since = self._clock()
            self._finished.clear()
        self._in_flight = others + new

    def _check(self, old: float, new: float) -> float:
        """The seconds of all other requests. Raises `OverloadedError` if the change does not fit beside them."""
        others = max(0.0, self._in_flight - old)
        excess = others + new - self._capacity
        if new > old and others and excess > 0:
            wait = min(max(excess / self.throughput, 1.0), MAX_RETRY_AFTER)
            raise OverloadedError("The limit of audio in flight is reached; try again later.", wait)
        return others

    def _finish(self, seconds: float) -> None:
        self._finished.append((self._clock(), seconds))
        self._resize(seconds, 0.0)


class AudioReservation(AbstractContextManager["AudioReservation"]):
    """The audio that one request has reserved; the end of the `with` block frees what is left of it."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._seconds = 0.0

    def resize(self, seconds: float) -> None:
        """Reserve the true length. Raises `OverloadedError` and keeps the old reservation if it does not fit."""
        self._admission._resize(self._seconds, seconds)
        self._seconds = seconds

    def progress(self, seconds: float) -> None:
        """Free the audio that is transcribed."""
        seconds = min(seconds, self._seconds)
        self._seconds -= seconds
        self._admission._finish(seconds)

    def __exit__(self, *_: object) -> None:
        self.resize(0.0)


class RequestTracker:
    """Counts the active requests. During a drain it rejects new ones; those that outlast the grace period fail."""

    def __init__(self) -> None:
        self.draining = False
        self.active = 0
        self._expired = asyncio.Event()  # the grace period is over
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Track a request for the length of the block. Raises `ShuttingDownError` during a drain."""
        if self.draining:
            raise _shutting_down()
        self.active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()

    async def drain(self, grace: float) -> bool:
        """Reject new requests and wait for active ones. Returns whether all of them finished within `grace` seconds.

        The others fail with `ShuttingDownError` and have `LAST_RESPONSES` seconds for their responses.
        """
        self.draining = True
        if await self._until_idle(grace):
            return True
        self._expired.set()
        await self._until_idle(LAST_RESPONSES)
        return False

    async def _until_idle(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def run(self, work: Awaitable[T]) -> T:
        """Do the work. Cancels it and raises `ShuttingDownError` when the grace period ends."""
        return await race(work, self._fail_when_expired())

    async def _fail_when_expired(self) -> NoReturn:
        await self._expired.wait()
        raise _shutting_down()

    async def iterate(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items as they come. Raises `ShuttingDownError` when the grace period ends."""
        while True:
            try:
                item = await self.run(anext(items))
            except StopAsyncIteration:
                return
            yield item


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("The service is shutting down; send the request again.")
