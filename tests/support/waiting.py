"""Bounded waits: every loop of a test that polls for something has a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

TIMEOUT = 100.0  # seconds, for a busy machine; below the limit of a test, so that the message says what was missing
INTERVAL = 0.01  # seconds between two looks

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = TIMEOUT) -> T:
    """Poll until the condition is true; its value. Fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _fail_after(deadline, condition, timeout)
        time.sleep(INTERVAL)
    return value


async def wait_until_async(condition: Callable[[], T | Awaitable[T]], timeout: float = TIMEOUT) -> T:
    """The same without blocking the event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        value = await value if inspect.isawaitable(value) else value
        if value:
            return value
        _fail_after(deadline, condition, timeout)
        await asyncio.sleep(INTERVAL)


def _fail_after(deadline: float, condition: Callable[[], object], timeout: float) -> None:
    if time.monotonic() > deadline:
        line = condition.__code__.co_firstlineno if inspect.isfunction(condition) else 0
        raise AssertionError(f"after {timeout} s the condition is still false: {condition.__qualname__}, line {line}")
