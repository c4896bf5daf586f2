"""RayBackend over a fake handle: what happens to a window when its replica fails. No Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import numpy as np
import pytest

from tests.support.logs import LOG
from tickertape.cluster.backend import MAX_ATTEMPTS, RETRY_BURST, RETRY_RATIO, PrioritySemaphore, RayBackend
from tickertape.errors import DeadlineExceededError, EngineError, HarmfulAudioError, OverloadedError
from tickertape.types import Decoded, Options, Window

exceptions = pytest.importorskip("ray.exceptions")
serve_exceptions = pytest.importorskip("ray.serve.exceptions")

WINDOW = Window(np.zeros(16000, np.float32))
DECODED = Decoded(())
DIED = exceptions.ActorDiedError()
DEATHS = [
    DIED,
    exceptions.ActorUnavailableError("the connection broke", None),
    exceptions.WorkerCrashedError(),
    exceptions.OutOfMemoryError(""),
    exceptions.NodeDiedError(""),
    exceptions.ObjectLostError("00" * 28, None, ""),
]
FAILED = exceptions.RayTaskError("decode", "trace", ValueError())


class Response:
    """What a handle's call returns: awaited for one outcome, or iterated for several."""

    def __init__(self, outcomes: list[Any]) -> None:
        self.cancelled = False
        self._outcomes = outcomes

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._only().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for outcome in self._outcomes:
            if outcome == "never":
                await asyncio.Event().wait()
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome

    async def _only(self) -> Any:
        (outcome,) = self._outcomes
        if outcome == "never":
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Handle:
    """Answers each call with the next of the given outcomes."""

    def __init__(self, *answers: list[Any]) -> None:
        self.responses = [Response(answer) for answer in answers]
        self.calls = 0
        self.decode = self.decode_alone = self

    def options(self, *, stream: bool) -> Handle:
        return self

    def remote(self, window: Window, options: Options) -> Response:
        self.calls += 1
        return self.responses[self.calls - 1]


def backend(handle: Handle, *, max_in_flight: int = 4, **knobs: Any) -> RayBackend:
    return RayBackend(handle, model="demo", max_in_flight=max_in_flight, **knobs)


async def test_an_outcome_is_returned_or_raised() -> None:
    """A decoded window is returned; an error that the replica returns is raised."""
    assert DECODED == await backend(Handle([DECODED])).decode(WINDOW, Options())
    with pytest.raises(OverloadedError):
        await backend(Handle([OverloadedError("no room")])).decode(WINDOW, Options())


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
async def test_a_window_is_retried_when_its_replica_dies(death: Exception) -> None:
    """If the process, its node, the connection or its answer is lost, the window is decoded again, alone."""
    handle = Handle([death], [None, DECODED])
    assert DECODED == await backend(handle).decode(WINDOW, Options())
    assert (2, 1) == (handle.calls, len(LOG.lines))


async def test_replicas_that_die_before_a_window_begins_are_not_counted_against_it() -> None:
    """A retried window moves on to the next replica until one has begun it."""
    handle = Handle([DIED], [DIED], [DIED], [None, DECODED])
    assert DECODED == await backend(handle).decode(WINDOW, Options())


async def test_a_window_that_kills_two_replicas_is_rejected() -> None:
    """A window whose replica dies while it decodes that window alone is not tried again."""
    handle = Handle([DIED], [None, DIED])
    with pytest.raises(HarmfulAudioError, match="Two engines died"):
        await backend(handle).decode(WINDOW, Options())
    assert 2 == handle.calls


async def test_retries_end() -> None:
    """A window whose replicas all die before they begin it fails after `MAX_ATTEMPTS` retries."""
    handle = Handle(*[[DIED]] * (1 + MAX_ATTEMPTS))
    with pytest.raises(EngineError, match="Too many"):
        await backend(handle).decode(WINDOW, Options())
    assert 1 + MAX_ATTEMPTS == handle.calls


async def test_other_failures_are_not_retried() -> None:
    """An exception in the engine's code would come again; a full queue is reported as overload."""
    handle = Handle([FAILED])
    with pytest.raises(EngineError):
        await backend(handle).decode(WINDOW, Options())
    assert 1 == handle.calls
    full = Handle([serve_exceptions.RayServeException("full")])
    with pytest.raises(OverloadedError):
        await backend(full).decode(WINDOW, Options())


@pytest.mark.parametrize("outcome", [None, "text", [DECODED], (DECODED, None)], ids=str)
async def test_a_replica_that_returns_another_type_is_an_engine_error(outcome: object) -> None:
    """A caller gets `EngineError` at once for anything but a decoded window."""
    with pytest.raises(EngineError):
        await backend(Handle([outcome])).decode(WINDOW, Options())


@pytest.mark.parametrize("outcomes", [[], [None], [None, "text"], ["text"]], ids=str)
async def test_a_retry_without_a_decoded_window_is_an_engine_error(outcomes: list[object]) -> None:
    """A retry that ends without an outcome, or with another type, is the engine's fault, not the recording's."""
    with pytest.raises(EngineError):
        await backend(Handle([DIED], outcomes)).decode(WINDOW, Options())


@pytest.mark.parametrize(
    "answers",
    [[[None]], [[FAILED]], [[OverloadedError("full")]], [[DIED], [None, DIED]], [[DIED], []], [[DIED], [FAILED]],
     [["never"]], [[DIED], ["never"]], [[DIED], [None, "never"]]],
    ids=str,
)  # fmt: skip
async def test_every_failure_releases_its_place(answers: list[list[Any]]) -> None:
    """Whether a window fails, is rejected or is cancelled, the next one enters."""
    handle = Handle(*answers, *[[DECODED]] * 3)
    single = backend(handle, max_in_flight=1)
    failing = asyncio.ensure_future(single.decode(WINDOW, Options()))
    waiting = asyncio.ensure_future(single.decode(WINDOW, Options()))
    leaving = asyncio.ensure_future(single.decode(WINDOW, Options()))
    for _ in range(20):
        await asyncio.sleep(0)
    failing.cancel()
    leaving.cancel()
    assert DECODED == await asyncio.wait_for(waiting, 10)
    await asyncio.gather(failing, leaving, return_exceptions=True)
    assert DECODED == await asyncio.wait_for(single.decode(WINDOW, Options()), 10)


async def test_an_expired_window_is_not_sent() -> None:
    """After its deadline a window does not reach a replica."""
    handle = Handle()
    with pytest.raises(DeadlineExceededError):
        await backend(handle, clock=lambda: 100.0).decode(WINDOW, Options(deadline=99.0))
    assert 0 == handle.calls


@pytest.mark.parametrize("answers", [[["never"]], [[DIED], ["never"]]], ids=["first", "retry"])
async def test_cancelling_cancels_the_replicas_call(answers: list[list[Any]]) -> None:
    """Cancelling `decode` cancels its call at the replica, the retry's call included."""
    handle = Handle(*answers)
    decoding = asyncio.ensure_future(backend(handle).decode(WINDOW, Options()))
    for _ in range(20):
        await asyncio.sleep(0)
    decoding.cancel()
    await asyncio.gather(decoding, return_exceptions=True)
    assert len(answers) == handle.calls
    assert handle.responses[-1].cancelled


async def test_retries_are_limited_to_a_share_of_the_decoded_windows() -> None:
    """After a burst of retries a lost window fails, until enough others have been decoded."""
    burst, refill = int(RETRY_BURST), round(1 / RETRY_RATIO) + 1  # one more for rounding
    lost, decoded = [[DIED], [FAILED]], [DECODED]
    single = backend(Handle(*lost * burst, [DIED], *[decoded] * refill, *lost, [DIED]))
    for _ in range(burst):
        with pytest.raises(EngineError, match="failed"):
            await single.decode(WINDOW, Options())
    with pytest.raises(EngineError, match="too many have died"):
        await single.decode(WINDOW, Options())
    for _ in range(refill):
        await single.decode(WINDOW, Options())
    with pytest.raises(EngineError, match="failed"):
        await single.decode(WINDOW, Options())
    with pytest.raises(EngineError, match="too many have died"):
        await single.decode(WINDOW, Options())


async def test_short_recordings_enter_first() -> None:
    """Tasks that wait enter by the length of their recording; one that is cancelled meanwhile takes no place."""
    semaphore, order = PrioritySemaphore(1), list[float]()

    async def work(seconds: float) -> None:
        async with semaphore.acquire(seconds, "interactive"):
            order.append(seconds)
            await asyncio.sleep(0)

    waiting = [asyncio.ensure_future(work(seconds)) for seconds in (900.0, 300.0, 200.0, 100.0)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [900.0, 100.0, 300.0] == order
