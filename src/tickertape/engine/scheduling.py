"""The order in which windows are decoded, in one process and on a cluster: the earliest due time first."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

from tickertape.errors import DeadlineExceededError
from tickertape.types import SAMPLE_RATE, Options, Window

T = TypeVar("T")

DELAY_PER_AUDIO_SECOND = 0.05  # seconds: shorter windows may overtake a 30 s window for 1.5 s
PRIORITY_DELAY = {"interactive": 0.0, "batch": 20.0}  # seconds for which more urgent windows may overtake


def due_time(window: Window, options: Options, arrival: float) -> float:
    """The time by which windows are ordered: arrival plus a bounded delay, so that no window starves."""
    return arrival + PRIORITY_DELAY[options.priority] + DELAY_PER_AUDIO_SECOND * window.length / SAMPLE_RATE


def deadline_error(options: Options, now: float) -> DeadlineExceededError | None:
    """The error of a window whose deadline has passed."""
    if options.deadline is None or now < options.deadline:
        return None
    return DeadlineExceededError("The deadline passed before the engine was free.")


class DueQueue(Generic[T]):
    """A queue ordered by due time; items with the same due time leave in order of arrival."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> T:
        """The item that `pop` returns next."""
        return self._entries[0][2]

    def push(self, due: float, item: T) -> None:
        """Add an item."""
        heapq.heappush(self._entries, (due, next(self._numbers), item))

    def pop(self) -> T:
        """Remove the item with the earliest due time and return it."""
        return heapq.heappop(self._entries)[2]
