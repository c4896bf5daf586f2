"""LocalBackend: who goes first, who never runs, and what a broken engine does to whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickertape.errors import DeadlineExceeded, DecodeError, EngineFailed, ShuttingDown
from tickertape.local import PATIENCE, PATIENCE_PER_SECOND, LocalBackend, due
from tickertape.types import SAMPLE_RATE, Decoded, Options, Segment, Window

URGENT, PATIENT = Options(), Options(priority="batch")


def window(number: int = 0, seconds: float = 1.0) -> Window:
    """A window known by its start."""
    return Window(np.zeros(int(seconds * SAMPLE_RATE), np.float32), start=number)


@dataclass
class FakeEngine:
    """Answers with each window's number; holds its first batch until it is let go."""

    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        self.batches.append([one.start for one in windows])
        self.entered.set()
        assert self.gate.wait(10)
        return [Decoded((Segment(0, 1, str(one.start)),)) for one in windows]


class BrokenEngine(FakeEngine):
    """Raises for the batch that holds window 13, and returns an error for window 7 alone."""

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        outcomes = super().decode(windows, options)
        if 13 in self.batches[-1]:
            raise MemoryError
        return [
            EngineFailed("no") if one.start == 7 else outcome for one, outcome in zip(windows, outcomes, strict=True)
        ]


async def busy(backend: LocalBackend, engine: FakeEngine) -> asyncio.Future[Decoded]:
    """Occupy the engine with a window numbered -1."""
    first = asyncio.ensure_future(backend.decode(window(-1), URGENT))
    await asyncio.to_thread(engine.entered.wait, 10)
    return first


async def queued(backend: LocalBackend, *calls: tuple[Window, Options]) -> list[asyncio.Future[Decoded]]:
    """Put windows into the queue, in order."""
    futures = [asyncio.ensure_future(backend.decode(one, options)) for one, options in calls]
    await asyncio.sleep(0)
    return futures


async def test_batches_grow_while_the_engine_is_busy() -> None:
    """Windows that arrive while the engine works share its next call, up to the batch size."""
    engine = FakeEngine()
    backend = LocalBackend(engine, batch=4)
    first = await busy(backend, engine)
    rest = await queued(backend, *((window(n), URGENT) for n in range(6)))
    engine.gate.set()
    texts = [decoded.text for decoded in await asyncio.gather(first, *rest)]
    assert ["-1", "0", "1", "2", "3", "4", "5"] == texts
    assert [[-1], [0, 1, 2, 3], [4, 5]] == engine.batches
    await backend.close()


async def test_urgent_and_short_windows_go_first() -> None:
    """Interactive windows overtake batch work, and short ones long ones."""
    engine = FakeEngine()
    backend = LocalBackend(engine, batch=1, clock=lambda: 100.0)
    first = await busy(backend, engine)
    calls = [(window(0, 1), PATIENT), (window(1, 30), URGENT), (window(2, 2), URGENT), (window(3, 2), URGENT)]
    rest = await queued(backend, *calls)
    engine.gate.set()
    await asyncio.gather(first, *rest)
    assert [[-1], [2], [3], [1], [0]] == engine.batches
    await backend.close()


async def test_a_call_that_runs_alone_shares_its_batch_with_nobody() -> None:
    """A window with `begin` is its own batch, and `begin` is awaited before the engine hears it."""
    engine = FakeEngine()
    backend = LocalBackend(engine, batch=8, clock=lambda: 100.0)
    first = await busy(backend, engine)
    begun: list[int] = []

    async def begin() -> None:
        begun.append(len(engine.batches))

    before = await queued(backend, (window(0), URGENT))
    alone = asyncio.ensure_future(backend.decode(window(1), URGENT, begin=begin))
    await asyncio.sleep(0)
    after = await queued(backend, (window(2), URGENT))
    engine.gate.set()
    await asyncio.gather(first, *before, alone, *after)
    assert [[-1], [0], [1], [2]] == engine.batches
    assert [2] == begun
    await backend.close()


@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 60), st.floats(0.1, 30), st.sampled_from(["interactive", "batch"])), max_size=40
    )
)
def test_nothing_starves(arrivals: list[tuple[float, float, str]]) -> None:
    """Whoever arrives later than a window's arrival plus the greatest patience never goes before it."""
    longest = max(PATIENCE.values()) + 30 * PATIENCE_PER_SECOND
    calls = [(at, due(window(0, s), Options(priority=p), at)) for at, s, p in arrivals]  # type: ignore[arg-type]
    for at, ends in calls:
        assert at <= ends <= at + longest
        assert all(other > ends for late, other in calls if late > at + longest)


async def test_cancelled_windows_never_run() -> None:
    """A caller that leaves takes its waiting window along."""
    engine = FakeEngine()
    backend = LocalBackend(engine, batch=1)
    first = await busy(backend, engine)
    gone, kept = await queued(backend, (window(1), URGENT), (window(2), URGENT))
    gone.cancel()
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, kept)
    assert [[-1], [2]] == engine.batches
    await backend.close()


async def test_a_caller_that_leaves_a_running_window_harms_nobody() -> None:
    """Cancelling a window that has begun leaves its neighbours' results whole."""
    engine = FakeEngine()
    backend = LocalBackend(engine)
    leaving, staying = await queued(backend, (window(1), URGENT), (window(2), URGENT))
    await asyncio.to_thread(engine.entered.wait, 10)
    leaving.cancel()
    engine.gate.set()
    assert "2" == (await staying).text
    assert leaving.cancelled()
    await backend.close()


async def test_deadlines_are_kept_at_the_last_moment() -> None:
    """A window whose deadline passes while it waits fails and never runs; one in time does."""
    now = [100.0]
    engine = FakeEngine()
    backend = LocalBackend(engine, clock=lambda: now[0])
    first = await busy(backend, engine)
    late, early = await queued(backend, (window(1), Options(deadline=105.0)), (window(2), Options(deadline=120.0)))
    now[0] = 110.0
    engine.gate.set()
    await first
    with pytest.raises(DeadlineExceeded):
        await late
    assert 10.0 == (await early).queue_seconds
    assert [[-1], [2]] == engine.batches
    await backend.close()


async def test_a_crash_reaches_exactly_its_batch() -> None:
    """The engine's exception becomes `EngineFailed` for its batch, keeping its cause; the next batch runs."""
    engine = BrokenEngine()
    backend = LocalBackend(engine, batch=2, clock=lambda: 100.0)
    first = await busy(backend, engine)
    rest = await queued(backend, *((window(n), URGENT) for n in (12, 13, 14, 15)))
    engine.gate.set()
    await first
    outcomes = await asyncio.gather(*rest, return_exceptions=True)
    assert [EngineFailed, EngineFailed, Decoded, Decoded] == [type(outcome) for outcome in outcomes]
    assert isinstance(outcomes[0], EngineFailed)
    assert isinstance(outcomes[0].__cause__, MemoryError)
    await backend.close()


async def test_an_outcome_that_is_an_error_reaches_its_window_alone() -> None:
    """An error in the engine's list is raised for that window only."""
    engine = BrokenEngine()
    engine.gate.set()
    backend = LocalBackend(engine)
    seven, eight = await queued(backend, (window(7), URGENT), (window(8), URGENT))
    with pytest.raises(EngineFailed):
        await seven
    assert "8" == (await eight).text
    await backend.close()


async def test_closing_finishes_what_was_accepted() -> None:
    """close() refuses new windows and waits for those in the queue."""
    engine = FakeEngine()
    backend = LocalBackend(engine, batch=1)
    first = await busy(backend, engine)
    second = (await queued(backend, (window(1), URGENT)))[0]
    closing = asyncio.ensure_future(backend.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await backend.decode(window(2), URGENT)
    engine.gate.set()
    await closing
    assert ["-1", "1"] == [(await first).text, (await second).text]


async def test_closing_an_idle_backend_is_quick() -> None:
    """close() of a backend that never ran returns."""
    await LocalBackend(FakeEngine()).close()
