"""The order in which windows are decoded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickertape.engine.scheduling import DueQueue, deadline_error, due_time
from tickertape.types import SAMPLE_RATE, Options, Window

SHORT, LONG = (Window(np.zeros(seconds * SAMPLE_RATE, np.float32)) for seconds in (1, 30))
INTERACTIVE, BATCH = Options(), Options(priority="batch")


def test_interactive_and_short_windows_are_due_earlier() -> None:
    """Of windows that arrive together, interactive ones come before batch ones and short ones before long ones."""
    orders = [(SHORT, INTERACTIVE), (LONG, INTERACTIVE), (SHORT, BATCH), (LONG, BATCH)]
    times = [due_time(window, options, 100.0) for window, options in orders]
    assert times == sorted(times)
    assert 4 == len(set(times))


def test_the_advantage_is_bounded() -> None:
    """A long batch window comes before any window that arrives half a minute later, so no window starves."""
    assert due_time(LONG, BATCH, 0.0) < due_time(SHORT, INTERACTIVE, 30.0)


@given(st.lists(st.floats(0, 10), max_size=30))
def test_the_queue_is_ordered_by_due_time(dues: list[float]) -> None:
    """Items leave by due time, and in order of arrival if that is equal."""
    queue = DueQueue[int]()
    for number, due in enumerate(dues):
        queue.push(due, number)
    assert len(dues) == len(queue)
    firsts = []
    while queue:
        firsts.append(queue.first)
        assert firsts[-1] == queue.pop()
    assert firsts == sorted(range(len(dues)), key=lambda number: dues[number])


def test_a_deadline_passes() -> None:
    """From its deadline on, a window has an error; without a deadline it never has."""
    assert deadline_error(Options(deadline=5.0), 4.9) is None
    assert "deadline_exceeded" == getattr(deadline_error(Options(deadline=5.0), 5.0), "code", "")
    assert deadline_error(Options(), 1e9) is None
