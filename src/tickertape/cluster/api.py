"""The API replica and the page replica: the application, built in the replica, over engines that run elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tickertape.lines import speak_json
from tickertape.pipeline import Model
from tickertape.remote import RayBackend
from tickertape.replicas import stay_home
from tickertape.roster import open_detector
from tickertape.settings import Settings

if TYPE_CHECKING:
    from tickertape.visits import Service

API, PAGE = "tickertape", "page"  # names of the applications
PAGE_PREFIX = "/page"


class Ingress:
    """One process that takes requests. `__serve_build_asgi_app__` is Serve's hook for applications made in the replica.

    `engines` are handles by model, or for the page, which is an application of its own, names of their deployments.
    With `page`, it is the page's: the same application with the page mounted.
    """

    def __init__(self, engines: Mapping[str, Any], settings: Settings, places: int, *, page: bool = False) -> None:
        speak_json()
        stay_home()
        self._engines = engines
        self._settings = settings
        self._places = places
        self._page = page
        self._service: Service | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        """The application, as soon as every engine has said what it knows."""
        from tickertape.api import create_app

        detector = asyncio.get_running_loop().run_in_executor(None, open_detector, self._settings)
        handles = {name: _connected(engine) for name, engine in self._engines.items()}
        known = await asyncio.gather(*(handle.describe.remote() for handle in handles.values()))
        models: dict[str, Model] = {}
        for (name, handle), model in zip(handles.items(), known, strict=True):
            backend = RayBackend(handle, model=name, places=self._places)
            models[name] = replace(model, backend=backend, detect=await detector)
        app = create_app(models, self._settings)
        self._service = app.state.service
        if self._page:
            add_page(app)
        elif self._settings.page:
            _point_to_page(app)
        return app

    async def drain(self, grace: float) -> bool:
        """Refuse new requests and wait for those inside; whether all finished within `grace` seconds."""
        return self._service is None or await self._service.drain(grace)


def _connected(engine: Any) -> Any:
    """A handle, which it may be already."""
    if not isinstance(engine, str):
        return engine
    from ray import serve

    return serve.get_deployment_handle(engine, app_name=API)


def add_page(app: Any) -> None:
    """Mount the page on an application of `create_app`, if its settings want one."""
    if app.state.service.settings.page:
        from tickertape import ui

        ui.mount(app)


def _point_to_page(app: Any) -> None:
    """Send browsers from `/` to the page's own application."""
    from starlette.responses import RedirectResponse, Response

    async def to_page() -> Response:
        return RedirectResponse(f"{PAGE_PREFIX}/", 307)

    app.add_api_route("/", to_page, methods=["GET"], include_in_schema=False)
