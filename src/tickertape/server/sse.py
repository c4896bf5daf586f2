"""Server-sent events: one JSON object per event, and comments that keep an idle connection open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from starlette.types import Send

from tickertape.errors import TickertapeError
from tickertape.server import errors
from tickertape.server.tasks import background

T = TypeVar("T")

HEARTBEAT = 10.0  # seconds; a sixth of 60 s, after which nginx and many load balancers close an idle response
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers the stream
]


class Stream:
    """A response of events. It begins with the first event or heartbeat."""

    def __init__(self, send: Send) -> None:
        self.begun = False
        self._send = send

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send one event."""
        text = json.dumps(event, ensure_ascii=False, allow_nan=False)  # JSON escapes line breaks, which end an event
        await self._write(f"data: {text}\n\n")

    async def fail(self, error: TickertapeError) -> None:
        """Send an error in OpenAI's format and end the stream."""
        await self.send({"type": "error", **errors.envelope(error)})
        await self.end()

    async def end(self) -> None:
        """End the stream."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def paced(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items as they come; sends a comment whenever none has come for `HEARTBEAT` seconds."""
        while True:
            async with background(anext(items, None)) as [coming]:
                while not (await asyncio.wait({coming}, timeout=HEARTBEAT))[0]:
                    await self._write(": waiting\n\n")
                item = coming.result()
            if item is None:
                return
            yield item

    async def _begin(self) -> None:
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})

    async def _write(self, text: str) -> None:
        await self._begin()
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})
