"""Uploads: forms are read at a minimum rate, into memory that all uploads share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AbstractContextManager, aclosing

import anyio
from starlette.types import Receive

from tickertape.errors import OverloadedError
from tickertape.server.errors import ClientDisconnectedError, UploadTimeoutError
from tickertape.server.multipart import Form, read_form
from tickertape.server.settings import Settings

# Bytes per second. AMR, the slowest codec of speech in use, has 594, so a client may upload while it records.
# Apache's mod_reqtimeout has the same minimum.
MIN_RATE = 500
BODY_TIMEOUT = 30.0  # seconds for which an upload may stall, or wait for memory: longer than a mobile handover


async def receive_form(
    receive: Receive, boundary: bytes, upload: Upload, *, fields: Collection[str], settings: Settings
) -> Form:
    """Read a form with these fields; reserve memory for what has been received.

    Raises `FileTooLargeError`, `UploadTimeoutError`, `ClientDisconnectedError`, `OverloadedError` or `OptionError`.
    """
    chunks = _reserved_chunks(receive, upload)
    try:
        with anyio.fail_after(settings.request_timeout):
            form = await read_form(chunks, boundary, known=fields, limit=settings.body_limit)
    except TimeoutError as error:
        raise UploadTimeoutError(f"The upload took more than {settings.request_timeout:g} seconds.") from error
    upload.complete()
    return form


async def _reserved_chunks(receive: Receive, upload: Upload) -> AsyncGenerator[bytes, None]:
    async with aclosing(read_chunks(receive, BODY_TIMEOUT)) as chunks:
        async for chunk in chunks:
            await upload.grow(len(chunk))
            yield chunk


async def read_chunks(
    receive: Receive, idle: float, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[bytes, None]:
    """The pieces of a body. Raises `UploadTimeoutError` for a sender below `MIN_RATE`.

    A sender starts with `idle` seconds of credit, and each byte earns 1/MIN_RATE seconds up to that. Only the time
    that the server waits for the client uses the credit up.
    """
    credit, more = idle, True
    while more:
        began = clock()
        try:
            message = await asyncio.wait_for(receive(), credit)
        except asyncio.TimeoutError as error:
            raise _too_slow() from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("The client left during the upload.")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        credit = min(idle, credit - (clock() - began) + len(chunk) / MIN_RATE)
        if more and credit <= 0:
            raise _too_slow()
        if chunk:
            yield chunk


def _too_slow() -> UploadTimeoutError:
    return UploadTimeoutError(f"The upload is too slow; send at least {MIN_RATE} bytes per second.")


class UploadMemory:
    """The memory of all uploads, at most `capacity` bytes. Each upload reserves what has been received of it.

    `largest` bytes are left to the upload that began first among those still being received. It can always complete,
    so uploads that wait for one another make progress.
    """

    def __init__(self, capacity: int, *, largest: int, timeout: float) -> None:
        """`largest` is the maximum size of an upload; `timeout` limits the wait for memory, in seconds."""
        self._capacity = capacity
        self._shared = capacity - min(largest, capacity // 2)
        self._timeout = timeout
        self._taken = 0
        self._receiving: list[Upload] = []  # in the order of arrival
        self._freed = asyncio.Event()

    @property
    def taken(self) -> int:
        """Bytes reserved."""
        return self._taken

    async def _reserve(self, upload: Upload, size: int) -> int:
        """Reserve memory when there is some, and return its size. An upload above the capacity reserves all of it."""
        size = min(size, self._capacity - upload.size)
        if upload not in self._receiving:
            self._receiving.append(upload)
        try:
            with anyio.fail_after(self._timeout):
                while self._taken + size > (self._capacity if self._receiving[0] is upload else self._shared):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            message = "The memory for uploads is full; try again later."
            raise OverloadedError(message, self._timeout) from None
        self._taken += size
        return size

    def _complete(self, upload: Upload) -> None:
        if upload in self._receiving:
            self._receiving.remove(upload)
        self._freed.set()

    def _free(self, size: int) -> None:
        self._taken -= size
        self._freed.set()


class Upload(AbstractContextManager["Upload"]):
    """The memory that one upload has reserved, freed by `release` or at the end of a `with` block."""

    def __init__(self, memory: UploadMemory) -> None:
        self.size = 0  # bytes
        self._memory = memory

    async def grow(self, size: int) -> None:
        """Reserve `size` more bytes. Raises `OverloadedError` if none become free in time."""
        self.size += await self._memory._reserve(self, size)

    def complete(self) -> None:
        """No more bytes will be received."""
        self._memory._complete(self)

    def release(self) -> None:
        """Free the memory; a second call does nothing."""
        self.complete()
        self._memory._free(self.size)
        self.size = 0

    def __exit__(self, *_: object) -> None:
        self.release()
