"""Who gets in: room for uploads, room for audio, and the door that closes when the service drains.

Audio is counted in seconds, because a request may hold a word or two hours. A request enters with a guess, and with its
true length once it is decoded; as its windows come back, it gives room up. What does not fit is told when to return.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import anyio

from tickertape.errors import Overloaded, ShuttingDown
from tickertape.types import WINDOW_SECONDS

T = TypeVar("T")

GUESS = float(WINDOW_SECONDS)  # seconds: the audio of a request that is not decoded yet
FIRST_THROUGHPUT = 10.0  # seconds of audio per second, until it is known
MEMORY = 60.0  # seconds over which throughput is measured
LAST_ANSWERS = 1.0  # seconds in which requests that outlast the grace are told so
LONGEST_WAIT = 60.0  # seconds: nobody is told to come back later than that


class Admission:
    """Room for audio: at most `capacity` seconds in flight, a single larger recording excepted."""

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
        while self._finished and self._finished[0][0] < now - MEMORY:
            self._finished.popleft()
        elapsed = now - max(self._busy_since, now - MEMORY)
        done = sum(seconds for _, seconds in self._finished)
        return done / elapsed if done and elapsed > 0 else FIRST_THROUGHPUT

    def enter(self, seconds: float = GUESS) -> Hold:
        """Take room for so many seconds. Raises `Overloaded` with the time after which there should be room."""
        hold = Hold(self)
        hold.resize(seconds)
        return hold

    def _swap(self, old: float, new: float) -> None:
        """A share of `old` seconds becomes one of `new`; more is granted if it fits, or if nobody else is there."""
        others = max(0.0, self._in_flight - old)
        excess = others + new - self._capacity
        if new > old and others and excess > 0:
            wait = min(max(excess / self.throughput, 1.0), LONGEST_WAIT)
            raise Overloaded("All room for audio is taken; try again later.", wait)
        if not self._in_flight:
            self._busy_since = self._clock()
            self._finished.clear()
        self._in_flight = others + new

    def _finish(self, seconds: float) -> None:
        self._finished.append((self._clock(), seconds))
        self._swap(seconds, 0.0)


class Hold:
    """A request's share of the room; leaving the `with` block gives back what is left of it."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._seconds = 0.0

    def resize(self, seconds: float) -> None:
        """The request turns out to hold so many seconds. Raises `Overloaded`; the share stays as it was then."""
        self._admission._swap(self._seconds, seconds)
        self._seconds = seconds

    def progress(self, seconds: float) -> None:
        """So many seconds of it are transcribed."""
        seconds = min(seconds, self._seconds)
        self._seconds -= seconds
        self._admission._finish(seconds)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resize(0.0)


class UploadRoom:
    """Room for uploads: at most `capacity` bytes in memory at once; who comes later waits unread, in turn."""

    def __init__(self, capacity: int, *, patience: float) -> None:
        self._capacity = capacity
        self._patience = patience
        self._taken = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def taken(self) -> int:
        """Bytes reserved."""
        return self._taken

    async def reserve(self, size: int) -> Reservation:
        """Hold room for `size` bytes. Raises `Overloaded` when none has come free for `patience` seconds."""
        size = min(size, self._capacity)
        try:
            with anyio.fail_after(self._patience):
                async with self._turn:
                    while self._taken + size > self._capacity:
                        self._freed.clear()
                        await self._freed.wait()
                    self._taken += size
        except TimeoutError:
            raise Overloaded("All room for uploads is taken; try again later.", self._patience) from None
        return Reservation(self, size)

    def _free(self, size: int) -> None:
        self._taken -= size
        self._freed.set()


class Reservation:
    """Room for one upload, given back by `release` or at the end of the `with` block."""

    def __init__(self, room: UploadRoom, size: int) -> None:
        self._room = room
        self._size = size

    async def resize(self, size: int) -> None:
        """Give the room back and wait for another size, as `UploadRoom.reserve` does. Raises `Overloaded`."""
        self.release()
        self._size = (await self._room.reserve(size))._size

    def release(self) -> None:
        """Give the room back; a second time does nothing."""
        self._room._free(self._size)
        self._size = 0

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Door:
    """Open until the service drains: then new requests are refused, and those inside finish while the grace lasts."""

    def __init__(self) -> None:
        self._open = True
        self._over = asyncio.Event()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def open(self) -> bool:
        """Whether new requests are let in."""
        return self._open

    @property
    def inside(self) -> int:
        """Requests being answered."""
        return self._inside

    def close(self) -> None:
        """Refuse new requests from now on."""
        self._open = False

    def end(self) -> None:
        """The grace is over: whoever is inside is told so."""
        self.close()
        self._over.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside for the length of the block. Raises `ShuttingDown`."""
        if not self._open:
            raise _leaving()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def during(self, work: Awaitable[T]) -> T:
        """Do the work unless the grace ends first. Raises `ShuttingDown`; the work is cancelled then, and has ended."""
        working = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise _leaving()
        finally:
            working.cancel()
            ending.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)

    async def each(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items as they come. Raises `ShuttingDown` when the grace ends first."""
        while True:
            try:
                item = await self.during(anext(items))
            except StopAsyncIteration:
                return
            yield item

    async def emptied(self, grace: float) -> bool:
        """Wait until nobody is inside, at most `grace` seconds; whether that came to be."""
        try:
            await asyncio.wait_for(self._empty.wait(), grace)
        except asyncio.TimeoutError:
            return False
        return True


def _leaving() -> ShuttingDown:
    return ShuttingDown("The service is shutting down; send the request again.")
