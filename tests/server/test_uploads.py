"""Uploads: the minimum rate, and the memory that all uploads share."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.support.asgi import URL
from tests.support.fakes import wav
from tests.support.sockets import RunningServer, code, raw_form, raw_request, read_to_end, status
from tests.support.waiting import TIMEOUT, wait_until_async
from tickertape.errors import OverloadedError
from tickertape.server import uploads
from tickertape.server.errors import UploadTimeoutError
from tickertape.server.settings import Settings
from tickertape.server.uploads import MIN_RATE, Upload, UploadMemory, read_chunks

MEBIBYTE = 2**20


async def received(pieces: list[tuple[float, int]], idle: float = 30.0) -> int:
    """The bytes read of a sender that sends so many bytes after so many seconds, on a clock of its own."""
    now, left = 0.0, list(pieces)

    async def receive() -> dict[str, Any]:
        nonlocal now
        seconds, size = left.pop(0)
        now += seconds
        return {"type": "http.request", "body": bytes(size), "more_body": bool(left)}

    return sum([len(chunk) async for chunk in read_chunks(receive, idle, lambda: now)])


@pytest.mark.parametrize(
    "pieces",
    [
        [(20, 1), (20, 1), (20, 1)],
        [(29, 1)] * 30,
        [(0, 20 * MEBIBYTE), *[(29, 1)] * 30],
        [(1, MIN_RATE - 50)] * 400,
    ],
    ids=["a byte now and then", "a byte every 29 s", "a byte every 29 s after 20 MiB", "a little below the rate"],
)
async def test_senders_below_the_minimum_rate_time_out(pieces: list[tuple[float, int]]) -> None:
    """A sender that is never idle for the whole time limit, but too slow, gets `body_timeout`."""
    with pytest.raises(UploadTimeoutError) as raised:
        await received(pieces)
    assert (408, "body_timeout") == (raised.value.status, raised.value.code)
    assert f"{MIN_RATE} bytes per second" in raised.value.message


@pytest.mark.parametrize(
    "pieces",
    [[(1, MIN_RATE)] * 900, [(29, 29 * MIN_RATE)] * 30, [(29, 1), (29, 29 * MIN_RATE)], [(29.9, 1)]],
    ids=["at the rate", "in bursts", "after a pause", "one byte, late"],
)
async def test_senders_at_the_minimum_rate_are_read(pieces: list[tuple[float, int]]) -> None:
    """A sender at the minimum rate may pause for almost the whole time limit."""
    assert sum(size for _, size in pieces) == await received(pieces)


async def test_slow_clients_leave_the_memory_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clients that declare the largest upload and send one byte hold one byte each: another upload is answered."""
    monkeypatch.setattr(uploads, "BODY_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(Settings, "upload_memory", 2 * MEBIBYTE)
    with RunningServer() as server:
        slow = [await server.connect() for _ in range(4)]
        for _, writer in slow:
            writer.write(raw_request(b"-", length=MEBIBYTE))
        await wait_until_async(lambda: server.reserved == (4, 4, 0.0))
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT / 2) as client:
            files = {"file": ("a.wav", wav(28.0, rate=16000), "audio/wav")}
            answer = await client.post(URL, data={"model": "demo"}, files=files)
        assert 200 == answer.status_code
        await wait_until_async(lambda: server.reserved == (4, 4, 0.0))
        for _, writer in slow:
            writer.transport.abort()
        await wait_until_async(lambda: server.reserved == (0, 0, 0.0))


@pytest.mark.slow
async def test_an_upload_that_is_too_slow_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then, but is never idle for `BODY_TIMEOUT`, gets 408 over HTTP."""
    monkeypatch.setattr(uploads, "BODY_TIMEOUT", 2.0)
    with RunningServer() as server:
        reader, writer = await server.connect()
        writer.write(raw_request(b"", length=30_000))
        answering = asyncio.create_task(read_to_end(reader))
        for byte in raw_form()[:1000]:
            if answering.done():
                break
            with suppress(ConnectionError):
                writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        answer = await answering
        assert (408, "body_timeout") == (status(answer), code(answer))
        writer.close()


async def test_uploads_wait_for_memory() -> None:
    """An upload waits until another one frees its memory; one that waits too long gets `OverloadedError`."""
    memory = UploadMemory(100, largest=50, timeout=0.05)
    first, second = Upload(memory), Upload(memory)
    await first.grow(60)
    with pytest.raises(OverloadedError):
        await second.grow(50)
    waiting = asyncio.create_task(second.grow(50))
    await asyncio.sleep(0)
    first.release()
    first.release()
    await waiting
    assert 50 == memory.taken
    second.release()
    assert 0 == memory.taken


async def test_uploads_that_fill_the_memory_complete_one_after_the_other() -> None:
    """Ten uploads that grow in turns, of which two fit: each completes, because the earliest may use all memory."""
    memory = UploadMemory(100, largest=50, timeout=TIMEOUT)

    async def send() -> None:
        with Upload(memory) as upload:
            for _ in range(5):
                await upload.grow(10)
                await asyncio.sleep(0)
            upload.complete()
            await asyncio.sleep(0)

    await asyncio.gather(*(send() for _ in range(10)))
    assert 0 == memory.taken


async def test_an_upload_above_the_capacity_reserves_all_of_it() -> None:
    """An upload larger than the memory is read when it is alone."""
    memory = UploadMemory(100, largest=500, timeout=0.05)
    with Upload(memory) as upload:
        for _ in range(5):
            await upload.grow(60)
        assert 100 == memory.taken
    assert 0 == memory.taken
