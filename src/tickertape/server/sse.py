"""Server-sent events: one JSON object each, a comment now and then so that proxies keep the connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from tickertape import failures
from tickertape.errors import TickertapeError
from tickertape.frame import Send

T = TypeVar("T")

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the text back
]


class Stream:
    """An answer in events. Its head goes out with the first of them, or with the first heartbeat."""

    def __init__(self, send: Send, *, heartbeat: float) -> None:
        self.begun = False
        self._send = send
        self._heartbeat = heartbeat

    async def send(self, event: Mapping[str, Any]) -> None:
        """One event."""
        text = json.dumps(event, ensure_ascii=False, allow_nan=False)  # JSON escapes line breaks, which end an event
        await self._write(f"data: {text}\n\n")

    async def fail(self, error: TickertapeError) -> None:
        """An error in OpenAI's shape, and the end."""
        await self.send({"type": "error", **failures.envelope(error)})
        await self.end()

    async def end(self) -> None:
        """No more events."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def paced(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items as they come, with a comment sent whenever nothing has come for a heartbeat."""
        while True:
            coming = asyncio.ensure_future(anext(items))
            try:
                while not (await asyncio.wait({coming}, timeout=self._heartbeat))[0]:
                    await self._write(": waiting\n\n")
                item = coming.result()
            except StopAsyncIteration:
                return
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            yield item

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})

    async def _write(self, text: str) -> None:
        await self._begin()
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})
