"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.asgi import ApiClient, api_client
from tests.support.sockets import RunningServer


@pytest.fixture
async def api() -> AsyncIterator[ApiClient]:
    """A client of an application with one model, `demo`, and small limits."""
    made = api_client()
    async with made.client:
        yield made


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """A running server with one model, `demo`."""
    with RunningServer() as made:
        yield made
