"""RayBackend over a handle that only pretends: what becomes of a window when its engine dies. No Ray is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import numpy as np
import pytest

from tickertape.errors import DeadlineExceeded, EngineFailed, HarmfulAudio, Overloaded
from tickertape.remote import Budget, RayBackend, Turns
from tickertape.types import Decoded, Options, Window

exceptions = pytest.importorskip("ray.exceptions")
serve_exceptions = pytest.importorskip("ray.serve.exceptions")

WINDOW = Window(np.zeros(16000, np.float32))
HEARD = Decoded(())
DEATHS = [
    exceptions.ActorDiedError(),
    exceptions.ActorUnavailableError("the connection broke", None),
    exceptions.WorkerCrashedError(),
    exceptions.OutOfMemoryError(""),
    exceptions.NodeDiedError(""),
    exceptions.ObjectLostError("00" * 28, None, ""),
]


class Response:
    """What a handle gives back at once: to be awaited, or gone through piece by piece."""

    def __init__(self, pieces: list[Any]) -> None:
        self.cancelled = False
        self._pieces = pieces

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._last().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def _last(self) -> Any:
        (piece,) = self._pieces
        if piece == "never":
            await asyncio.Event().wait()
        if isinstance(piece, Exception):
            raise piece
        return piece


class Handle:
    """Answers the calls of a test in order."""

    def __init__(self, *answers: list[Any]) -> None:
        self.responses = [Response(answer) for answer in answers]
        self.asked = 0
        self.decode = self.decode_alone = self

    def options(self, *, stream: bool) -> Handle:
        return self

    def remote(self, window: Window, options: Options) -> Response:
        self.asked += 1
        return self.responses[self.asked - 1]


def backend(handle: Handle, lines: list[str] | None = None, **knobs: Any) -> RayBackend:
    emit = (lines if lines is not None else []).append
    return RayBackend(handle, model="demo", places=4, emit=emit, **knobs)


async def test_an_outcome_comes_through() -> None:
    """What the engine decoded is returned, and what it says went wrong is raised."""
    assert HEARD == await backend(Handle([HEARD])).decode(WINDOW, Options())
    with pytest.raises(Overloaded):
        await backend(Handle([Overloaded("no room")])).decode(WINDOW, Options())


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
async def test_a_window_outlives_its_engine(death: Exception) -> None:
    """Whether the process, its node, the connection or its answer is gone: the window is decoded again, alone."""
    lines: list[str] = []
    handle = Handle([death], [None, HEARD])
    assert HEARD == await backend(handle, lines).decode(WINDOW, Options())
    assert (2, 1) == (handle.asked, len(lines))


async def test_engines_that_die_before_a_window_begins_are_no_fault_of_it() -> None:
    """A suspect goes on to the next engine until it had one to itself."""
    died = exceptions.ActorDiedError()
    handle = Handle([died], [died], [died], [None, HEARD])
    assert HEARD == await backend(handle).decode(WINDOW, Options())


async def test_a_window_that_kills_twice_is_not_tried_again() -> None:
    """An engine that it had to itself and that died of it ends the matter."""
    died = exceptions.ActorDiedError()
    handle = Handle([died], [None, died])
    with pytest.raises(HarmfulAudio, match="Two engines died"):
        await backend(handle).decode(WINDOW, Options())
    assert 2 == handle.asked


async def test_other_failures_are_not_repeated() -> None:
    """An exception in the engine's code would come again; a full queue is told as such."""
    failed = exceptions.RayTaskError("decode", "trace", ValueError())
    handle = Handle([failed])
    with pytest.raises(EngineFailed):
        await backend(handle).decode(WINDOW, Options())
    assert 1 == handle.asked
    full = Handle([serve_exceptions.RayServeException("full")])
    with pytest.raises(Overloaded):
        await backend(full).decode(WINDOW, Options())


async def test_nothing_is_asked_after_the_deadline() -> None:
    """A window whose time is up stays here."""
    handle = Handle()
    with pytest.raises(DeadlineExceeded):
        await backend(handle, clock=lambda: 100.0).decode(WINDOW, Options(deadline=99.0))
    assert 0 == handle.asked


async def test_what_nobody_waits_for_is_cancelled_there() -> None:
    """Cancelling the call cancels it at the engine."""
    handle = Handle(["never"])
    asking = asyncio.ensure_future(backend(handle).decode(WINDOW, Options()))
    while not handle.asked:  # noqa: ASYNC110 - it takes a turn or two of the loop
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert handle.responses[0].cancelled


def test_the_budget_is_a_reserve_that_work_refills() -> None:
    """A tenth of a window for each that was decoded, never more than the reserve."""
    budget = Budget(share=0.5, reserve=2.0)
    assert [True, True, False] == [budget.spend() for _ in range(3)]
    for _ in range(3):
        budget.earn()
    assert [True, False] == [budget.spend() for _ in range(2)]


async def test_places_go_to_whom_is_due_first() -> None:
    """Those who wait enter by due time, and one who stops waiting takes no place with it."""
    turns, order = Turns(1), list[float]()

    async def work(when: float) -> None:
        async with turns.take(when):
            order.append(when)
            await asyncio.sleep(0)

    waiting = [asyncio.ensure_future(work(when)) for when in (9.0, 3.0, 2.0, 1.0)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [9.0, 1.0, 3.0] == order
