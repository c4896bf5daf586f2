"""Requests at a fixed rate, whatever becomes of them, from a client that costs little: it shares the cores."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping

import httpx

IDLE = 5.0  # seconds after which a kept connection is not used again; the service keeps them for 10
REQUEST_TIMEOUT = 60.0  # seconds that a request may take
BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, ValueError)


class Flood:
    """`run()` sends `rate` requests a second for so many seconds, each with the same recording.

    `outcomes` holds the seconds and the status of each, or the name of what broke. `polite`: every 503 bore a
    `Retry-After` and the envelope.
    """

    def __init__(self, url: str, *, rate: float, seconds: float, recording: bytes, form: Mapping[str, str]) -> None:
        self.outcomes: list[tuple[float, str]] = []
        self.polite = True
        self._rate, self._seconds = rate, seconds
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
        request = httpx.Request("POST", url, files={"file": ("a", recording)}, data=dict(form))
        body = request.read()
        self._host, self._port = request.url.host, int(request.url.port or 80)
        head = (
            f"POST {request.url.path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: {request.headers['content-type']}\r\n\r\n"
        )
        self._request = head.encode() + body

    @property
    def statuses(self) -> dict[str, int]:
        """How many ended in which way."""
        return dict(Counter(status for _, status in self.outcomes))

    def times(self, status: str) -> list[float]:
        """Seconds of those that ended so, sorted."""
        return sorted(seconds for seconds, found in self.outcomes if found == status)

    def run(self) -> None:
        """Send everything and wait for every answer."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        begun = time.monotonic()
        asking = []
        for number in range(round(self._rate * self._seconds)):
            await asyncio.sleep(max(0.0, begun + number / self._rate - time.monotonic()))
            asking.append(asyncio.create_task(self._one()))
        await asyncio.gather(*asking)
        for _, writer, _ in self._idle:
            writer.close()

    async def _one(self) -> None:
        begun = time.monotonic()
        try:
            status = await asyncio.wait_for(self._ask(), REQUEST_TIMEOUT)
        except BROKEN as error:
            status = type(error).__name__
        self.outcomes.append((time.monotonic() - begun, status))

    async def _ask(self) -> str:
        """One request and its answer, on a connection that is kept."""
        reader, writer = await self._connection()
        try:
            writer.write(self._request)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = lines[0].split(" ")[1]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if "content-length" in headers:
                body = await reader.readexactly(int(headers["content-length"]))
            else:
                body = await _chunked(reader)
        except BaseException:
            writer.close()
            raise
        if status == "503":
            self.polite &= "retry-after" in headers and "error" in json.loads(body)
        if headers.get("connection", "") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer, time.monotonic()))
        return status

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer, since = self._idle.pop()
            if time.monotonic() - since < IDLE and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body
