"""The replicas that take requests: in what order a start happens. Handles only pretend; no Ray is started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support import fakes
from tests.support.waiting import wait_until_async
from tickertape.cluster import api
from tickertape.cluster.api import Ingress
from tickertape.pipeline import Model
from tickertape.server.settings import Settings


class Engine:
    """A handle of an engine that says what it knows when its gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0
        self.describe = self

    async def remote(self) -> Model:
        """What it knows."""
        self.asked += 1
        await self.gate.wait()
        return fakes.model()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a start has begun so far; nothing of it is real."""
    found: list[str] = []
    for name in ("configure_logging", "bind_grpc_to_node"):
        monkeypatch.setattr(api, name, lambda: None)
    monkeypatch.setattr(api, "open_detector", lambda _: found.append("detector"))
    monkeypatch.setattr("tickertape.server.page.app.mount", lambda _: found.append("page"))
    return found


async def test_the_page_is_loaded_after_the_engines(begun: list[str]) -> None:
    """The detector is opened while the engines load; Gradio, which takes two seconds, is imported only after them."""
    engine: Any = Engine()
    replica = Ingress({"demo": engine}, Settings().resolve(), page=True)
    starting = asyncio.ensure_future(replica.__serve_build_asgi_app__())
    await wait_until_async(lambda: "detector" in begun or starting.done())
    assert (1, ["detector"]) == (engine.asked, begun)
    engine.gate.set()
    await starting
    assert ["detector", "page"] == begun


async def test_the_api_never_loads_the_page(begun: list[str]) -> None:
    """The API's replicas only point to the page, which is a process of its own."""
    engine: Any = Engine()
    engine.gate.set()
    app = await Ingress({"demo": engine}, Settings().resolve()).__serve_build_asgi_app__()
    assert ["detector"] == begun
    assert "/" in {route.path for route in app.routes}
