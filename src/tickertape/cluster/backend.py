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
from typing import Any, TypeVar

from tickertape.engine.scheduling import DueQueue, deadline_error, due_time
from tickertape.errors import DecodeError, EngineError, HarmfulAudioError, OverloadedError
from tickertape.types import Decoded, Options, Window

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_RATIO = 0.1  # retries per decoded window, in the long run
RETRY_BURST = 256.0  # retries at once: the windows that a replica may hold when it dies
MAX_ATTEMPTS = 5  # for a retried window: replicas that may die before they begin it


class PrioritySemaphore:
    """Lets at most `limit` tasks enter; tasks that wait enter by due time."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting = DueQueue[asyncio.Future[None]]()

    @asynccontextmanager
    async def acquire(self, due: float) -> AsyncIterator[None]:
        """Enter for the length of the block."""
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.push(due, turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class RetryBudget:
    """Limits retries to a share of the decoded windows, so that failures cannot multiply the load."""

    def __init__(self, ratio: float = RETRY_RATIO, burst: float = RETRY_BURST) -> None:
        self._ratio = ratio
        self._burst = burst
        self._left = burst

    def deposit(self) -> None:
        """A window was decoded."""
        self._left = min(self._burst, self._left + self._ratio)

    def withdraw(self) -> bool:
        """Whether one more retry is allowed; counts it."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class CallArgument:
    """An argument of a remote call. The replica receives its content, which the caller can release.

    Ray keeps the arguments of a cancelled call until the next garbage collection, and windows are large.
    """

    def __init__(self, content: object) -> None:
        self._content = content

    def release(self) -> None:
        """Drop the content."""
        self._content = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._content is None:
            raise asyncio.CancelledError
        return _identity, (self._content,)


def _identity(content: T) -> T:
    return content


class RayBackend:
    """A `Backend` over the handle of an engine deployment.

    At most `max_in_flight` windows are with Ray at a time, which bounds its object store. The others wait here.
    """

    def __init__(
        self,
        handle: Any,
        *,
        model: str,
        max_in_flight: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._handle = handle
        self._model = model
        self._semaphore = PrioritySemaphore(max_in_flight)
        self._retries = RetryBudget()
        self._clock = clock

    async def decode(self, window: Window, options: Options) -> Decoded:
        """Decode one window on some replica. Raises `DecodeError`; cancelling drops the window there too."""
        async with self._semaphore.acquire(due_time(window, options, self._clock())):
            if error := deadline_error(options, self._clock()):
                raise error
            outcome = await self._decode(window, options)
        if isinstance(outcome, DecodeError):
            raise outcome
        if not isinstance(outcome, Decoded):
            raise EngineError(f"The engine returned {type(outcome).__name__} instead of a decoded window.")
        self._retries.deposit()
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
            if not _replica_died(error):
                return _engine_error(error)
            if not self._retries.withdraw():
                return EngineError("The engine died, and too many have died lately to try again.")
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
                if not _replica_died(error):
                    return _engine_error(error)
            else:
                return None
            if begun:
                return HarmfulAudioError("Two engines died of this recording; it is not tried again.")
        return EngineError("Too many engines died to decode this recording.")


@contextmanager
def _remote(method: Any, window: Window, options: Options) -> Iterator[Any]:
    """Call a replica; yield the response, and cancel it with the task."""
    arguments = (CallArgument(window), CallArgument(options))
    response = method.remote(*arguments)
    try:
        yield response
    except asyncio.CancelledError:
        response.cancel()
        raise
    finally:
        for argument in arguments:
            argument.release()


def _engine_error(error: Exception) -> EngineError:
    return EngineError(f"The engine failed: {type(error).__name__}.")


def _replica_died(error: Exception) -> bool:
    """Whether the replica's process or node is gone, so that the window may be decoded elsewhere."""
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

    return isinstance(error, RayActorError | WorkerCrashedError | OutOfMemoryError | NodeDiedError | ObjectLostError)
