"""Answers kept for a while, so that a request sent twice under one Idempotency-Key is computed once.

They live in memory only, for as long and as many as the limits say, and only where a client asked for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

MOST_BYTES = 16 * 2**20  # of all kept answers together


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished body and its media type."""

    body: bytes
    media_type: str


@dataclass(slots=True)
class _Entry:
    task: asyncio.Future[Answer]
    waiting: int = 0
    expires: float = float("inf")
    size: int = 0


class Replays:
    """`await replays.get(key, compute)`: computes once, to all who ask meanwhile and for `seconds` after."""

    def __init__(
        self, seconds: float, *, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._most = most_bytes
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer under `key`. An error reaches everybody who waits, and is forgotten.

        The computation ends when the last who waits for it leaves.
        """
        self._forget()
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(asyncio.ensure_future(compute()))
        entry.waiting += 1
        try:
            answer = await asyncio.shield(entry.task)
        except BaseException:
            if entry.task.done() and self._entries.get(key) is entry:
                del self._entries[key]
            raise
        finally:
            entry.waiting -= 1
            if not entry.waiting and not entry.task.done():
                self._entries.pop(key, None)
                entry.task.cancel()
        entry.expires = min(entry.expires, self._clock() + self._seconds)
        entry.size = len(answer.body)
        return answer

    def _forget(self) -> None:
        """Drop what is too old, and the oldest where there is too much."""
        now = self._clock()
        for key in [key for key, entry in self._entries.items() if entry.expires <= now]:
            del self._entries[key]
        total = sum(entry.size for entry in self._entries.values())
        for key in [key for key, entry in self._entries.items() if entry.size]:
            if total <= self._most:
                break
            total -= self._entries.pop(key).size
