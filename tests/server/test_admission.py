"""Admission control: the limit on audio in flight, and the drain."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickertape.errors import OverloadedError, ShuttingDownError
from tickertape.server.admission import Admission, RequestTracker


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_room_is_given_while_there_is_some() -> None:
    """What fits enters, what does not is told to come back, and what leaves makes room."""
    admission = Admission(100)
    with admission.reserve(60):
        with admission.reserve(40), pytest.raises(OverloadedError):
            admission.reserve(1)
        assert 60.0 == admission.in_flight
    assert 0.0 == admission.in_flight


def test_a_recording_over_the_capacity_may_come_alone() -> None:
    """Nobody is refused for good: an empty house takes any length; then it is full."""
    admission = Admission(100)
    with admission.reserve() as hold:
        hold.resize(5000)
        with pytest.raises(OverloadedError):
            admission.reserve()
        hold.progress(4950)
        with admission.reserve():
            assert 80.0 == admission.in_flight


def test_the_time_to_retry_follows_the_throughput() -> None:
    """Excess divided by what was done per second lately, within 1 and 60 seconds."""
    clock = Clock()
    admission = Admission(100, clock=clock)
    with admission.reserve(120) as hold:
        clock.now += 10
        hold.progress(20)  # 2 seconds of audio per second
        assert 2.0 == admission.throughput
        with pytest.raises(OverloadedError) as raised:
            admission.reserve(30)
        assert 15.0 == raised.value.retry_after
        with pytest.raises(OverloadedError) as raised:
            admission.reserve(3000)
        assert 60.0 == raised.value.retry_after


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(0, 200)), max_size=20))
def test_the_books_always_balance(requests: list[tuple[float, float, float]]) -> None:
    """Whatever requests ask for, turn out to be and finish, an empty house has nothing in flight."""
    admission = Admission(300)
    holds = []
    for guess, length, done in requests:
        try:
            hold = admission.reserve(guess)
        except OverloadedError:
            continue
        holds.append(hold)
        try:
            hold.resize(length)
            hold.progress(done)
        except OverloadedError:
            pass
        assert admission.in_flight >= 0
    for hold in holds:
        hold.__exit__(None, None, None)
    assert 0 == pytest.approx(admission.in_flight, abs=1e-6)


async def test_a_drain_rejects_new_requests_and_waits_for_active_ones() -> None:
    """During a drain new requests fail; the drain succeeds when the last active request ends."""
    requests = RequestTracker()
    with requests.admit():
        draining = asyncio.ensure_future(requests.drain(60.0))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError), requests.admit():
            pass
        assert not draining.done()
    assert await draining


async def test_work_is_cancelled_at_the_end_of_the_grace_period() -> None:
    """Active requests continue during a drain. At the end of the grace period they are cancelled and fail."""
    requests = RequestTracker()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def handle() -> None:
        with requests.admit():
            await requests.run(work())

    assert 7 == await requests.run(asyncio.sleep(0, 7))
    handling = asyncio.ensure_future(handle())
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(requests.drain(0.05))
    await asyncio.sleep(0.01)
    assert not handling.done()
    with pytest.raises(ShuttingDownError):
        await handling
    assert ended.is_set()
    assert not await draining
