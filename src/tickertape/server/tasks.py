"""Run tasks for the length of a block, or until one of them ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def race(work: Awaitable[T], *stops: Awaitable[T]) -> T:
    """The result or error of whichever ends first, `work` in a tie; the others are cancelled and have ended."""
    async with background(work, *stops) as tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        result: T = next(task for task in tasks if task.done()).result()  # a variable for the task would keep its error
        return result


@asynccontextmanager
async def background(*work: Awaitable[Any]) -> AsyncIterator[list[asyncio.Future[Any]]]:
    """Tasks that are cancelled at the end of the block, and have ended then."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(each) for each in work]
    try:
        yield tasks
    finally:
        try:
            await _cancel(tasks)
        finally:
            tasks.clear()  # the frames of an error hold the recording, and Ray holds this frame if the client has left


async def _cancel(tasks: list[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
