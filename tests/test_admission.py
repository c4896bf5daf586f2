"""Room for audio and uploads, the door, keys and replays, each on its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickertape import keys
from tickertape.admission import Admission, Door, UploadRoom
from tickertape.errors import EngineFailed, OptionError, Overloaded, ShuttingDown
from tickertape.failures import RateLimited, Unauthorized
from tickertape.keys import Key, Keyring, Meter
from tickertape.replays import Answer, Replays


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_room_is_given_while_there_is_some() -> None:
    """What fits enters, what does not is told to come back, and what leaves makes room."""
    admission = Admission(100)
    with admission.enter(60):
        with admission.enter(40), pytest.raises(Overloaded):
            admission.enter(1)
        assert 60.0 == admission.in_flight
    assert 0.0 == admission.in_flight


def test_a_recording_over_the_capacity_may_come_alone() -> None:
    """Nobody is refused for good: an empty house takes any length; then it is full."""
    admission = Admission(100)
    with admission.enter() as hold:
        hold.resize(5000)
        with pytest.raises(Overloaded):
            admission.enter()
        hold.progress(4950)
        with admission.enter():
            assert 80.0 == admission.in_flight


def test_the_time_to_retry_follows_the_throughput() -> None:
    """Excess divided by what was done per second lately, within 1 and 60 seconds."""
    clock = Clock()
    admission = Admission(100, clock=clock)
    with admission.enter(120) as hold:
        clock.now += 10
        hold.progress(20)  # 2 seconds of audio per second
        assert 2.0 == admission.throughput
        with pytest.raises(Overloaded) as raised:
            admission.enter(30)
        assert 15.0 == raised.value.retry_after
        with pytest.raises(Overloaded) as raised:
            admission.enter(3000)
        assert 60.0 == raised.value.retry_after


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(0, 200)), max_size=20))
def test_the_books_always_balance(requests: list[tuple[float, float, float]]) -> None:
    """Whatever requests ask for, turn out to be and finish, an empty house has nothing in flight."""
    admission = Admission(300)
    holds = []
    for guess, length, done in requests:
        try:
            hold = admission.enter(guess)
        except Overloaded:
            continue
        holds.append(hold)
        try:
            hold.resize(length)
            hold.progress(done)
        except Overloaded:
            pass
        assert admission.in_flight >= 0
    for hold in holds:
        hold.__exit__(None, None, None)
    assert 0 == pytest.approx(admission.in_flight, abs=1e-6)


async def test_uploads_are_let_in_in_turn() -> None:
    """Who does not fit waits until somebody leaves; waiting too long is an overload."""
    room = UploadRoom(100, patience=0.05)
    first = await room.reserve(80)
    with pytest.raises(Overloaded):
        await room.reserve(30)
    waiting = asyncio.create_task(room.reserve(1000))
    await asyncio.sleep(0)
    first.release()
    first.release()
    with await waiting:
        assert 100 == room.taken
    assert 0 == room.taken


async def test_the_door_closes_behind_those_inside() -> None:
    """A closed door lets nobody in, and tells when the last has left."""
    door = Door()
    with door.enter():
        door.close()
        with pytest.raises(ShuttingDown), door.enter():
            pass
        assert not await door.emptied(0.01)
    assert await door.emptied(0.01)


async def test_work_inside_ends_with_the_grace() -> None:
    """Work goes on behind a closed door; when the grace is over it is cancelled, has ended, and is told why."""
    door = Door()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    assert 7 == await door.during(asyncio.sleep(0, 7))
    working = asyncio.ensure_future(door.during(work()))
    door.close()
    await asyncio.sleep(0.01)
    assert not working.done()
    door.end()
    with pytest.raises(ShuttingDown):
        await working
    assert ended.is_set()


def test_keys_are_stored_as_hashes(tmp_path: Path) -> None:
    """The file holds no key, is for its owner only, and the key made opens."""
    path = tmp_path / "keys.json"
    secret = keys.add(path, "team")
    assert secret not in path.read_text()
    assert 0o600 == path.stat().st_mode & 0o777
    key = Keyring(path).authenticate([f"Bearer {secret}".encode()])
    assert key is not None
    assert "team" == key.id


def test_an_empty_file_of_keys_lets_nobody_in(tmp_path: Path) -> None:
    """A service with a file is closed, even if the file names nobody; without a file it is open."""
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    with pytest.raises(Unauthorized):
        Keyring(path).authenticate([b"Bearer x"])
    assert Keyring(None).authenticate([]) is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"keys": [{"id": "a"}]}', '{"keys": [{"id": "a", "sha256": "x"}]}', '{"keys": [{"key": "a"}]}'],
)
def test_broken_files_of_keys_stop_the_start(tmp_path: Path, text: str) -> None:
    """A file that cannot be trusted is refused as a whole."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(OptionError):
        Keyring(path)


def test_keys_have_proper_and_single_names(tmp_path: Path) -> None:
    """An id that could forge a log line, or is taken, is refused; so is removing nobody."""
    path = tmp_path / "keys.json"
    keys.add(path, "a")
    for action in (lambda: keys.add(path, "a"), lambda: keys.add(path, "a\nb"), lambda: keys.remove(path, "b")):
        with pytest.raises(OptionError):
            action()
    keys.remove(path, "a")
    assert [] == json.loads(path.read_text())["keys"]


def test_the_allowance_refills_over_the_minute() -> None:
    """Six requests a minute is one every ten seconds once the bucket is empty."""
    clock = Clock()
    meter = Meter(clock)
    key = Key("a", "0" * 64, requests_per_minute=6)
    for _ in range(6):
        meter.take(key)
    with pytest.raises(RateLimited) as raised:
        meter.take(key)
    assert 10.0 == pytest.approx(raised.value.retry_after)
    clock.now += 10
    meter.take(key)
    expected = {"x-ratelimit-limit-requests": "6", "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "60.000s"}  # fmt: skip
    assert expected == meter.headers(key)


def test_a_key_is_told_what_it_has_left() -> None:
    """Each limit has headers of its own, before and after it is reached; who has none is told nothing."""
    meter, key = Meter(Clock()), Key("a", "0" * 64, concurrent_requests=2)
    limit, left = "x-ratelimit-limit-concurrent-requests", "x-ratelimit-remaining-concurrent-requests"
    with meter.running(key):
        assert {limit: "2", left: "1"} == meter.headers(key)
        with meter.running(key), pytest.raises(RateLimited), meter.running(key):
            pass
        assert {limit: "2", left: "1"} == meter.headers(key)
    assert {limit: "2", left: "2"} == meter.headers(key)
    assert {} == meter.headers(None) == meter.headers(Key("b", "0" * 64))


async def test_replays_end_with_the_last_who_waits() -> None:
    """A computation goes on while anybody waits, and is cancelled when nobody does."""
    replays = Replays(60)
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def compute() -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    waiters = [asyncio.create_task(replays.get("k", compute)) for _ in range(2)]
    await begun.wait()
    waiters[0].cancel()
    await asyncio.gather(waiters[0], return_exceptions=True)
    assert not cancelled.is_set()
    waiters[1].cancel()
    await cancelled.wait()
    await asyncio.gather(*waiters, return_exceptions=True)


async def test_replays_forget_errors_and_old_answers() -> None:
    """An error is not kept; an answer is, until its time is up or there are too many bytes."""
    clock = Clock()
    replays = Replays(60, most_bytes=10, clock=clock)
    outcomes: list[Answer | Exception] = []

    async def compute() -> Answer:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    first, second = Answer(b"first", "text/plain"), Answer(b"second", "text/plain")
    outcomes[:] = [EngineFailed("no"), first, second]
    with pytest.raises(EngineFailed):
        await replays.get("k", compute)
    assert [first, first] == [await replays.get("k", compute) for _ in range(2)]
    clock.now += 61
    assert second == await replays.get("k", compute)
    outcomes[:] = [first, second]
    assert first == await replays.get("other", compute)  # 11 bytes now: the older goes
    await replays.get("third", compute)
    assert [] == outcomes
    outcomes[:] = [first]
    assert first == await replays.get("k", compute)
