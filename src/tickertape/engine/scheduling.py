"""The order in which windows are decoded, in one process and on a cluster.

Short recordings overtake long ones, and interactive requests batch ones. Every window has its patience: the number of
later windows that may overtake it. So a clip of a second does not wait for hours of audio, and no window starves.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

from tickertape.errors import DeadlineExceededError
from tickertape.types import SAMPLE_RATE, Options, Priority, Window

T = TypeVar("T")

SECONDS_PER_OVERTAKING = 5  # of the recording: two minutes of it, about five windows, let 24 windows overtake each
MAX_OVERTAKINGS = 64  # of a window. A long recording has 16 windows in the queue, so it gets at least a fifth.
PRIORITY_OVERTAKINGS = {"interactive": 0, "batch": MAX_OVERTAKINGS + 1}  # in addition


def recording_seconds(window: Window) -> float:
    """Duration of the recording that a window is a piece of."""
    return max(window.length, window.recording) / SAMPLE_RATE


def patience(seconds: float, priority: Priority) -> int:
    """The number of later windows that may overtake a window of a recording of `seconds`."""
    return PRIORITY_OVERTAKINGS[priority] + min(MAX_OVERTAKINGS, int(seconds // SECONDS_PER_OVERTAKING))


def deadline_error(options: Options, now: float) -> DeadlineExceededError | None:
    """The error of a window whose deadline has passed."""
    if options.deadline is None or now < options.deadline:
        return None
    return DeadlineExceededError("The deadline passed before the engine was free.")


class PatienceQueue(Generic[T]):
    """The item with the least patience left leaves first; items without patience leave in order of arrival."""

    def __init__(self) -> None:
        self._patient: list[tuple[int, float, int, T]] = []  # heap: when the patience ends, seconds, arrival, item
        self._impatient: list[tuple[int, T]] = []  # heap: arrival, item
        self._overtakings = 0  # items that left before an earlier one; patience is measured by it
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return len(self._patient) + len(self._impatient)

    @property
    def first(self) -> T:
        """The item that `pop` returns next."""
        return (self._impatient or self._patient)[0][-1]

    def push(self, item: T, seconds: float, priority: Priority) -> None:
        """Add an item of a recording of `seconds`."""
        end = self._overtakings + patience(seconds, priority)
        heapq.heappush(self._patient, (end, seconds, next(self._arrivals), item))
        self._move_impatient()

    def pop(self) -> T:
        """Remove the first item and return it."""
        *_, arrival, item = heapq.heappop(self._impatient) if self._impatient else heapq.heappop(self._patient)
        waiting = itertools.chain((entry[0] for entry in self._impatient), (entry[2] for entry in self._patient))
        if any(earlier < arrival for earlier in waiting):
            self._overtakings += 1
            self._move_impatient()
        return item

    def _move_impatient(self) -> None:
        while self._patient and self._patient[0][0] <= self._overtakings:
            heapq.heappush(self._impatient, heapq.heappop(self._patient)[-2:])
