"""RayBackend: sends windows to the engine replicas of a Ray Serve deployment.

A replica may die of a bug, of a hung call or of a harmful window. Each of its windows is then decoded once more, in a
batch of its own, so that a harmful window is identified and affects no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tickertape.engine.scheduling import PatienceQueue, deadline_error, recording_seconds
from tickertape.errors import DecodeError, EngineError, HarmfulAudioError, OverloadedError
from tickertape.types import Decoded, Options, Priority, Window

logger = logging.getLogger(__name__)

RETRY_RATIO = 0.1  # retries per decoded window in the long run, so that failures cannot multiply the load
RETRY_BURST = 256.0  # retries at once: the windows that a replica may hold when it dies
MAX_ATTEMPTS = 5  # for a retried window: replicas that may die before they begin it


class PrioritySemaphore:
    """Lets at most `limit` tasks enter; tasks that wait enter in the order of a `PatienceQueue`."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting = PatienceQueue[asyncio.Future[None]]()

    @asynccontextmanager
    async def acquire(self, seconds: float, priority: Priority) -> AsyncIterator[None]:
        """Enter for the length of the block."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.push(turn, seconds, priority)
        self._admit()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():  # cancelled: it never entered
                self._free += 1
                self._admit()

    def _admit(self) -> None:
        while self._free and self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                self._free -= 1


class CallArgument:
    """An argument of a remote call. The replica receives its content, which the caller can replace by None.

    Ray keeps the arguments of a cancelled call until the next garbage collection, and windows are large.
    """

    def __init__(self, content: object) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        if self.content is None:
            raise asyncio.CancelledError
        return _identity, (self.content,)


def _identity(content: Any) -> Any:
    return content


class RayBackend:
    """A `Backend` over the handle of an engine deployment.

    At most `max_in_flight` windows are with Ray at a time, which bounds its object store. The others wait here.
    """

    def __init__(self, handle: Any, *, model: str, max_in_flight: int, clock: Callable[[], float] = time.time) -> None:
        self._handle = handle
        self._model = model
        self._semaphore = PrioritySemaphore(max_in_flight)
        self._retries_left = RETRY_BURST
        self._clock = clock

    async def decode(self, window: Window, options: Options) -> Decoded:
        """Decode one window on some replica. Raises `DecodeError`; cancelling drops the window there too."""
        async with self._semaphore.acquire(recording_seconds(window), options.priority):
            if error := deadline_error(options, self._clock()):
                raise error
            outcome = await self._decode(window, options)
        if isinstance(outcome, DecodeError):
            raise outcome
        if not isinstance(outcome, Decoded):
            raise EngineError(f"The engine returned {type(outcome).__name__} instead of a decoded window.")
        self._retries_left = min(RETRY_BURST, self._retries_left + RETRY_RATIO)
        return outcome

    async def _decode(self, window: Window, options: Options) -> object:
        """What a replica returned for the window; retried if the first replica dies."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            with _remote(self._handle.decode, window, options) as response:
                return await response
        except RayServeException:
            return OverloadedError("No engine accepts work at the moment; try again later.")
        except RayError as error:
            if failure := _failure(error):
                return failure
        if self._retries_left < 1:
            return EngineError("The engine died, and too many have died lately to try again.")
        self._retries_left -= 1
        logger.warning("an engine died; its window is decoded again, alone", extra={"fields": {"model": self._model}})
        return await self._retry(window, options)

    async def _retry(self, window: Window, options: Options) -> object:
        """Decode a window in a batch of its own. It counts as harmful if its replica dies after it has begun."""
        from ray.exceptions import RayError

        method = self._handle.options(stream=True).decode_alone
        for _ in range(MAX_ATTEMPTS):
            begun = False
            try:
                with _remote(method, window, options) as response:
                    async for outcome in response:
                        if outcome is not None:
                            return outcome
                        begun = True
            except RayError as error:
                if failure := _failure(error):
                    return failure
            else:
                return None
            if begun:
                return HarmfulAudioError("Two engines died of this recording; it is not tried again.")
        return EngineError("Too many engines died to decode this recording.")


@contextmanager
def _remote(method: Any, window: Window, options: Options) -> Iterator[Any]:
    """Call a replica; yield the response, and cancel it with the task."""
    argument = CallArgument(window)
    response = method.remote(argument, options)
    try:
        yield response
    except asyncio.CancelledError:
        response.cancel()
        raise
    finally:
        argument.content = None


def _failure(error: Exception) -> EngineError | None:
    """The error of a failed call; None if the process or node is gone, so that another replica may try."""
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

    if isinstance(error, RayActorError | WorkerCrashedError | OutOfMemoryError | NodeDiedError | ObjectLostError):
        return None
    return EngineError(f"The engine failed: {type(error).__name__}.")
