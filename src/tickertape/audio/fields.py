"""Fields of binary headers, read within bounds.

A slice past the end of `bytes` is short without an error, and an index past the end raises IndexError. Parsers of
untrusted bytes use these functions instead: a field is complete, or `TruncatedDataError` is raised.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

ReadAt = Callable[[int, int], bytes]  # (offset, count) -> at most count bytes


class DamagedDataError(Exception):
    """A field holds an impossible value. The public functions of the parsers catch this error."""


class TruncatedDataError(DamagedDataError):
    """The data end before or within a field."""


def take(data: bytes, at: int, count: int) -> bytes:
    """Exactly `count` bytes from `at`."""
    if not 0 <= at <= len(data) - count:
        raise TruncatedDataError
    return data[at : at + count]


def number(data: bytes, at: int, count: int) -> int:
    """The unsigned big-endian integer in the `count` bytes from `at`."""
    return int.from_bytes(take(data, at, count), "big")


def unpack(layout: str, data: bytes, at: int = 0) -> tuple[Any, ...]:
    """The values of a `struct` layout at `at`."""
    return struct.unpack(layout, take(data, at, struct.calcsize(layout)))
