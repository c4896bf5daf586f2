"""LocalBackend: who goes first, who never runs, and what a broken engine does to whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from tickertape.engine.batching import LocalBackend
from tickertape.errors import DeadlineExceededError, DecodeError, EngineError, ShuttingDownError
from tickertape.testing import FakeEngine
from tickertape.types import SAMPLE_RATE, Decoded, Options, Retry, Segment, Window

URGENT, PATIENT = Options(), Options(priority="batch")


def window(number: int = 0, seconds: float = 1.0, recording: float = 0.0) -> Window:
    """A window known by its start."""
    samples = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    return Window(samples, start=number, recording=int(recording * SAMPLE_RATE))


@dataclass
class HeldEngine(FakeEngine):
    """Answers with each window's number; holds its first batch until the gate is set."""

    text: str | Callable[[Window], str] = field(default=lambda window: str(window.start))
    gate: threading.Event = field(default_factory=threading.Event)  # type: ignore[assignment]


class BrokenEngine(HeldEngine):
    """Raises for the batch that holds window 13, and returns an error for window 7 alone."""

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        outcomes = super().decode(windows, options)
        if 13 in self.batches[-1]:
            raise MemoryError
        return [
            EngineError("no") if one.start == 7 else outcome for one, outcome in zip(windows, outcomes, strict=True)
        ]


async def busy(backend: LocalBackend, engine: HeldEngine) -> asyncio.Future[Decoded]:
    """Occupy the engine with a window numbered -1."""
    first = asyncio.ensure_future(backend.decode(window(-1), URGENT))
    await asyncio.to_thread(engine.started.wait, 10)
    return first


async def queued(backend: LocalBackend, *calls: tuple[Window, Options]) -> list[asyncio.Future[Decoded]]:
    """Put windows into the queue, in order."""
    futures = [asyncio.ensure_future(backend.decode(one, options)) for one, options in calls]
    await asyncio.sleep(0)
    return futures


async def test_batches_grow_while_the_engine_is_busy() -> None:
    """Windows that arrive while the engine works share its next call, up to the batch size."""
    engine = HeldEngine()
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
    engine = HeldEngine()
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
    engine = HeldEngine()
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


async def test_a_clip_overtakes_long_recordings_that_wait() -> None:
    """Behind eight recordings of two minutes, a clip of a second is the next batch, alone; then they go on in order."""
    engine = HeldEngine()
    backend = LocalBackend(engine, batch=8)
    first = await busy(backend, engine)
    pieces = [window(10 * upload + piece, 24.0, 120.0) for upload in range(8) for piece in range(5)]
    long = await queued(backend, *((piece, URGENT) for piece in pieces))
    (clip,) = await queued(backend, (window(99), URGENT))
    engine.gate.set()
    await asyncio.gather(first, *long, clip)
    starts = [piece.start for piece in pieces]
    assert [[-1], [99], *(starts[at : at + 8] for at in range(0, 40, 8))] == engine.batches
    await backend.close()


async def test_a_long_recording_is_overtaken_a_bounded_number_of_times() -> None:
    """While clips keep arriving, a window of a long recording is decoded once its patience is used up."""
    engine = HeldEngine()
    backend = LocalBackend(engine, batch=1)
    first = await busy(backend, engine)
    calls = await queued(backend, (window(0, 30.0, 120.0), URGENT), *((window(n), URGENT) for n in range(1, 101)))
    engine.gate.set()
    await asyncio.gather(first, *calls)
    order = [number for batch in engine.batches for number in batch]
    assert [-1, *range(1, 25), 0, *range(25, 101)] == order
    await backend.close()


async def test_cancelled_windows_never_run() -> None:
    """A caller that leaves takes its waiting window along."""
    engine = HeldEngine()
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
    engine = HeldEngine()
    backend = LocalBackend(engine)
    leaving, staying = await queued(backend, (window(1), URGENT), (window(2), URGENT))
    await asyncio.to_thread(engine.started.wait, 10)
    leaving.cancel()
    engine.gate.set()
    assert "2" == (await staying).text
    assert leaving.cancelled()
    await backend.close()


async def test_deadlines_are_kept_at_the_last_moment() -> None:
    """A window whose deadline passes while it waits fails and never runs; one in time does."""
    now = [100.0]
    engine = HeldEngine()
    backend = LocalBackend(engine, clock=lambda: now[0])
    first = await busy(backend, engine)
    late, early = await queued(backend, (window(1), Options(deadline=105.0)), (window(2), Options(deadline=120.0)))
    now[0] = 110.0
    engine.gate.set()
    await first
    with pytest.raises(DeadlineExceededError):
        await late
    assert 10.0 == (await early).queue_seconds
    assert [[-1], [2]] == engine.batches
    await backend.close()


async def test_a_crash_reaches_exactly_its_batch() -> None:
    """The engine's exception becomes `EngineError` for its batch, keeping its cause; the next batch runs."""
    engine = BrokenEngine()
    backend = LocalBackend(engine, batch=2, clock=lambda: 100.0)
    first = await busy(backend, engine)
    rest = await queued(backend, *((window(n), URGENT) for n in (12, 13, 14, 15)))
    engine.gate.set()
    await first
    outcomes = await asyncio.gather(*rest, return_exceptions=True)
    assert [EngineError, EngineError, Decoded, Decoded] == [type(outcome) for outcome in outcomes]
    assert isinstance(outcomes[0], EngineError)
    assert isinstance(outcomes[0].__cause__, MemoryError)
    await backend.close()


async def test_an_outcome_that_is_an_error_reaches_its_window_alone() -> None:
    """An error in the engine's list is raised for that window only."""
    engine = BrokenEngine()
    engine.gate.set()
    backend = LocalBackend(engine)
    seven, eight = await queued(backend, (window(7), URGENT), (window(8), URGENT))
    with pytest.raises(EngineError):
        await seven
    assert "8" == (await eight).text
    await backend.close()


class WrongEngine(HeldEngine):
    """Returns what `answers` says for a batch with window 13."""

    def __init__(self, answers: object) -> None:
        super().__init__()
        self.gate.set()
        self.answers = answers

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        outcomes = super().decode(windows, options)
        if 13 not in self.batches[-1]:
            return outcomes
        if isinstance(self.answers, type):
            raise self.answers
        return self.answers  # type: ignore[return-value]


@pytest.mark.parametrize(
    "answers", [[], [Decoded(())], [Decoded(())] * 3, None, 7, {"a": 1, "b": 2}, [None, "text"], SystemExit]
)
async def test_an_engine_that_breaks_its_contract_fails_its_batch_alone(answers: object) -> None:
    """Too few or too many outcomes, other types or an exit of the engine: `EngineError`; the next batch runs."""
    backend = LocalBackend(WrongEngine(answers), batch=2, clock=lambda: 100.0)
    windows = await queued(backend, *((window(n), URGENT) for n in (12, 13, 14, 15)))
    outcomes = await asyncio.wait_for(asyncio.gather(*windows, return_exceptions=True), 10)
    assert [EngineError, EngineError, Decoded, Decoded] == [type(outcome) for outcome in outcomes]
    await backend.close()


async def test_an_outcome_of_another_type_fails_its_window_alone() -> None:
    """The other windows of the batch are answered."""
    backend = LocalBackend(WrongEngine([Decoded((Segment(0, 1, "12"),)), "13"]), batch=2)
    fine, wrong = await queued(backend, (window(12), URGENT), (window(13), URGENT))
    assert "12" == (await fine).text
    with pytest.raises(EngineError, match="a str"):
        await wrong
    await backend.close()


async def test_a_failing_begin_fails_its_window_alone() -> None:
    """An exception of `begin` reaches its caller as `EngineError`, and the queue goes on."""

    async def begin() -> None:
        raise OSError

    engine = HeldEngine()
    engine.gate.set()
    backend = LocalBackend(engine)
    with pytest.raises(EngineError):
        await asyncio.wait_for(backend.decode(window(1), URGENT, begin=begin), 10)
    assert "2" == (await backend.decode(window(2), URGENT)).text
    await backend.close()


@dataclass
class FallbackEngine(HeldEngine):
    """Needs `passes` for a window, of one second each, and waits for `retry` before each retry."""

    passes: dict[int, int] = field(default_factory=dict)
    retry: threading.Event = field(default_factory=threading.Event)
    now: float = 100.0

    def decode_once(
        self, windows: Sequence[Window | Retry], options: Sequence[Options]
    ) -> list[Decoded | DecodeError | Retry]:
        jobs = [each.state if isinstance(each, Retry) else (each, 1) for each in windows]
        if any(isinstance(each, Retry) for each in windows):
            assert self.retry.wait(10)
        outcomes = self.decode([one for one, _ in jobs], options)  # type: ignore[misc]
        self.now += 1.0
        return [
            outcome if count >= self.passes.get(one.start, 1) else Retry((one, count + 1))
            for (one, count), outcome in zip(jobs, outcomes, strict=True)  # type: ignore[misc]
        ]


async def test_a_window_that_falls_back_does_not_hold_its_batch() -> None:
    """The others are answered after the first pass; a retry is a batch of its own, behind windows that wait."""
    engine = FallbackEngine(passes={1: 3, 5: 2})
    backend = LocalBackend(engine, batch=3, clock=lambda: engine.now)
    first = await busy(backend, engine)
    hard, *easy = await queued(backend, *((window(n), URGENT) for n in (1, 2, 3)))
    late, last = await queued(backend, *((window(n), URGENT) for n in (4, 5)))
    engine.gate.set()
    answered = await asyncio.wait_for(asyncio.gather(first, *easy, late), 10)
    assert ["-1", "2", "3", "4"] == [decoded.text for decoded in answered]
    assert [hard.done(), last.done()] == [False, False]
    engine.retry.set()
    assert ["1", "5"] == [decoded.text for decoded in await asyncio.gather(hard, last)]
    assert [[-1], [1, 2, 3], [4, 5], [1], [5], [1]] == engine.batches
    assert 3.0 == (await hard).queue_seconds, "while [-1], [4, 5] and [5] were decoded"
    await backend.close()


async def test_a_retry_is_dropped_when_its_caller_leaves() -> None:
    """A cancelled window gets no second pass, nor does one whose deadline has passed."""
    engine = FallbackEngine(passes={1: 2, 2: 2})
    backend = LocalBackend(engine, batch=3, clock=lambda: engine.now)
    first = await busy(backend, engine)
    gone, late = await queued(backend, (window(1), URGENT), (window(2), Options(deadline=101.5)))
    gone.add_done_callback(lambda _: engine.retry.set())
    first.add_done_callback(lambda _: gone.cancel())
    engine.gate.set()
    with pytest.raises(DeadlineExceededError):
        await late
    assert [[-1], [1, 2]] == engine.batches[:2]
    assert 2 == len(engine.batches)
    await backend.close()


async def test_closing_finishes_what_was_accepted() -> None:
    """close() refuses new windows and waits for those in the queue."""
    engine = HeldEngine()
    backend = LocalBackend(engine, batch=1)
    first = await busy(backend, engine)
    second = (await queued(backend, (window(1), URGENT)))[0]
    closing = asyncio.ensure_future(backend.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDownError):
        await backend.decode(window(2), URGENT)
    engine.gate.set()
    await closing
    assert ["-1", "1"] == [(await first).text, (await second).text]


async def test_closing_an_idle_backend_is_quick() -> None:
    """close() of a backend that never ran returns."""
    await LocalBackend(HeldEngine()).close()
