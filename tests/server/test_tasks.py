"""Tasks of a request, and what stays in memory when they end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asgi import ApiClient
from tests.support.waiting import wait_until_async
from tickertape.errors import EngineError

MAPS = Path("/proc/self/maps")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MAPS.exists(), reason="shared memory is listed in Linux's /proc"),
]


def recordings() -> int:
    """Decoded recordings in the memory of this process."""
    return MAPS.read_text().count("memfd:samples")


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Nothing is freed by the garbage collector, which an idle service does not run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("failure", [EngineError, ValueError])
async def test_a_failed_request_keeps_no_recording(api: ApiClient, failure: type[Exception]) -> None:
    """When an engine fails, the recording is freed with the response, even if the error is kept."""
    before = recordings()
    api.engine.failure = failure("no")
    assert 500 == (await api.ask()).status_code
    await wait_until_async(lambda: before == recordings())


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_cancelled_request_keeps_no_recording(api: ApiClient, times: int) -> None:
    """A framework that cancels a request, even several times, and keeps the error does not keep the recording."""
    before = recordings()
    api.engine.gate = threading.Event()
    request = asyncio.ensure_future(api.ask())
    await asyncio.to_thread(api.engine.started.wait, 60)
    kept: list[BaseException] = []
    for _ in range(times):
        request.cancel()
        await asyncio.sleep(0)
    try:
        await request
    except asyncio.CancelledError as error:
        kept.append(error)
    assert 1 == len(kept)
    api.engine.gate.set()
    await wait_until_async(lambda: before == recordings())
