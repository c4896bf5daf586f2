"""The order in which windows are decoded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickertape.engine.scheduling import PatienceQueue, deadline_error, patience, recording_seconds
from tickertape.types import SAMPLE_RATE, Options, Priority, Window

Kind = tuple[float, Priority]  # seconds of the recording, and the request's priority
kinds = st.tuples(st.sampled_from([1.0, 20.0, 30.0, 120.0, 7200.0]), st.sampled_from(["interactive", "batch"]))


def drain(queue: PatienceQueue[int]) -> list[int]:
    """Everything that is left, in the order in which it leaves."""
    left = []
    while queue:
        left.append(queue.first)
        assert left[-1] == queue.pop()
    return left


def test_a_window_is_as_patient_as_its_recording_is_long() -> None:
    """Patience follows the whole recording of a window, and batch requests have more of it than any other."""
    piece = Window(np.zeros(SAMPLE_RATE, np.float32), recording=120 * SAMPLE_RATE)
    assert (120.0, 1.0) == (recording_seconds(piece), recording_seconds(Window(piece.samples)))
    orders: list[Kind] = [(1, "interactive"), (120, "interactive"), (7200, "interactive"), (10, "batch")]
    found = [patience(*kind) for kind in orders]
    assert found == sorted(set(found))
    assert 0 == found[0]


def test_short_recordings_overtake_long_ones_and_interactive_ones_batch_ones() -> None:
    """Of windows that wait, those of the shortest recording leave first; equals leave in order of arrival."""
    queue = PatienceQueue[int]()
    arrivals: list[Kind] = [
        (7200, "batch"), (7200, "interactive"), (120, "interactive"), (120, "interactive"), (3600, "interactive"),
        (1, "batch"), (10, "interactive"), (1, "interactive"), (10, "interactive"),
    ]  # fmt: skip
    for number, kind in enumerate(arrivals):
        queue.push(number, *kind)
    assert [7, 6, 8, 2, 3, 4, 1, 5, 0] == drain(queue)


def test_a_flood_of_short_recordings_does_not_starve_a_long_one() -> None:
    """While short recordings keep arriving, a long one that waits is overtaken as often as it is patient."""
    queue = PatienceQueue[int]()
    queue.push(-1, 120, "interactive")
    order = []
    for number in range(100):
        queue.push(2 * number, 1, "interactive")
        queue.push(2 * number + 1, 1, "interactive")
        order.append(queue.pop())
    assert order.index(-1) == patience(120, "interactive")


@given(st.lists(st.one_of(kinds, st.none()), max_size=200))
def test_no_window_is_overtaken_more_often_than_it_is_patient(events: list[Kind | None]) -> None:
    """Whatever arrives (a kind) and leaves (None) in whatever order, patience bounds the overtakings of each item."""
    queue, arrived, left = PatienceQueue[int](), list[Kind](), list[int]()
    for kind in events:
        if kind is not None:
            queue.push(len(arrived), *kind)
            arrived.append(kind)
        elif queue:
            left.append(queue.pop())
    left += drain(queue)
    assert sorted(left) == list(range(len(arrived)))
    for place, number in enumerate(left):
        assert sum(other > number for other in left[:place]) <= patience(*arrived[number])


def test_a_deadline_passes() -> None:
    """From its deadline on, a window has an error; without a deadline it never has."""
    assert deadline_error(Options(deadline=5.0), 4.9) is None
    assert "deadline_exceeded" == getattr(deadline_error(Options(deadline=5.0), 5.0), "code", "")
    assert deadline_error(Options(), 1e9) is None
