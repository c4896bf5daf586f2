"""RayBackend: windows to the engine replicas of a Ray Serve deployment, wherever they run.

A replica may die: of a fault, of a hung call, of a hostile window. Windows that were on it are decoded once more, each
alone, so that one that kills its engine is found out and takes no other with it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from tickertape.errors import DeadlineExceeded, DecodeError, EngineFailed, HarmfulAudio, Overloaded
from tickertape.frame import Emit, event_line, to_stdout
from tickertape.local import due
from tickertape.types import Decoded, Options, Window

T = TypeVar("T")

SHARE = 0.1  # of all windows may be decoded a second time, in the long run
RESERVE = 256.0  # windows that may be decoded again at once: what a replica that dies had accepted
TRIES = 5  # replicas that a suspect may lose before it has begun, through no fault of its own


class Turns:
    """Lets `places` windows in at a time, those first that are due first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def take(self, when: float) -> AsyncIterator[None]:
        """Hold a place for the length of the block."""
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (when, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give()
                raise
        try:
            yield
        finally:
            self._give()

    def _give(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Budget:
    """How much may be done twice: a reserve that every window fills by a tenth, so that faults cannot multiply load."""

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def earn(self) -> None:
        """A window was decoded."""
        self._left = min(self._reserve, self._left + self._share)

    def spend(self) -> bool:
        """Whether one more may be decoded again."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Parcel:
    """Something on its way to a replica, where it arrives unpacked; empty when the block around it ends.

    Ray's books keep the arguments of a call that was cancelled until the garbage collector comes by. They keep this.
    """

    def __init__(self, content: object) -> None:
        self._content: object = content

    def __enter__(self) -> Parcel:
        return self

    def __exit__(self, *_: object) -> None:
        self._content = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._content is None:
            raise asyncio.CancelledError
        return _unpacked, (self._content,)


def _unpacked(content: T) -> T:
    return content


class RayBackend:
    """A `Backend` over the handle of an engine deployment.

    `places` windows are with Ray at a time, which bounds its object store; the others wait here, by due time.
    """

    def __init__(
        self,
        handle: Any,
        *,
        model: str,
        places: int,
        emit: Emit = to_stdout,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._handle = handle
        self._model = model
        self._turns = Turns(places)
        self._budget = Budget()
        self._emit = emit
        self._clock = clock

    async def decode(self, window: Window, options: Options) -> Decoded:
        """Decode one window on some replica. Raises `DecodeError`; cancelling drops the window there too."""
        now = self._clock()
        async with self._turns.take(due(window, options, now)):
            if options.deadline is not None and self._clock() >= options.deadline:
                raise DeadlineExceeded("The deadline passed before an engine was free.")
            outcome = await self._attempt(window, options)
        if isinstance(outcome, DecodeError):
            raise outcome
        self._budget.earn()
        return outcome

    async def _attempt(self, window: Window, options: Options) -> Decoded | DecodeError:
        """The outcome, on a second replica if the first one dies."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            return await self._ask(window, options)
        except RayServeException:
            return Overloaded("No engine takes work at the moment; try again later.")
        except RayError as error:
            if not _died(error):
                return EngineFailed(f"The engine failed: {type(error).__name__}.")
            if not self._budget.spend():
                return EngineFailed("The engine died, and too many did lately to try again.")
        self._emit(event_line("WARNING", "an engine died; its window is decoded again, alone", model=self._model))
        return await self._ask_alone(window, options)

    async def _ask(self, window: Window, options: Options) -> Decoded | DecodeError:
        with Parcel(window) as sound, Parcel(options) as wish:
            response = self._handle.decode.remote(sound, wish)
            try:
                return await response  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                response.cancel()
                raise

    async def _ask_alone(self, window: Window, options: Options) -> Decoded | DecodeError:
        """Ask for a window that may have killed its engine; it gets the blame only for an engine that it had alone."""
        from ray.exceptions import RayError

        for _ in range(TRIES):
            begun = False
            try:
                async with aclosing(self._stream(window, options)) as news:
                    async for outcome in news:
                        if outcome is not None:
                            return outcome
                        begun = True
            except RayError as error:
                if not _died(error):
                    return EngineFailed(f"The engine failed: {type(error).__name__}.")
            if begun:
                return HarmfulAudio("Two engines died of this recording; it is not tried again.")
        return EngineFailed("Too many engines died to decode this recording.")

    async def _stream(self, window: Window, options: Options) -> AsyncGenerator[Decoded | DecodeError | None, None]:
        with Parcel(window) as sound, Parcel(options) as wish:
            response = self._handle.options(stream=True).decode_alone.remote(sound, wish)
            try:
                async for outcome in response:
                    yield outcome
            except asyncio.CancelledError:
                response.cancel()
                raise


def _died(error: Exception) -> bool:
    """Whether the replica's process or node is gone, perhaps with its answer: the window may be decoded elsewhere."""
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

    return isinstance(error, RayActorError | WorkerCrashedError | OutOfMemoryError | NodeDiedError | ObjectLostError)
