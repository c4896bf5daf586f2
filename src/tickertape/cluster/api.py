"""The API replica and the page replica: each builds the application over engines in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import RedirectResponse, Response

from tickertape.cluster.backend import RayBackend
from tickertape.cluster.engine import bind_grpc_to_node, max_ongoing
from tickertape.pipeline import Model
from tickertape.server.deployments import API, PAGE_PREFIX
from tickertape.server.logs import configure_logging
from tickertape.server.models import open_detector
from tickertape.server.settings import Settings

if TYPE_CHECKING:
    from tickertape.server.service import Service


class Ingress:
    """A replica that takes requests; Serve calls `__serve_build_asgi_app__` in it to build the application.

    `engines` are handles by model, or deployment names for the page, which is an application of its own.
    """

    def __init__(self, engines: Mapping[str, Any], settings: Settings, *, page: bool = False) -> None:
        configure_logging()
        bind_grpc_to_node()
        self._engines = engines
        self._settings = settings
        self._page = page
        self._service: Service | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        """The application, once every engine has described its model."""
        from tickertape.server.app import create_app

        detector = asyncio.get_running_loop().run_in_executor(None, open_detector, self._settings)
        handles = {name: _handle_of(engine) for name, engine in self._engines.items()}
        described = await asyncio.gather(*(handle.describe.remote() for handle in handles.values()))
        replicas = self._settings.engine_replicas_max or self._settings.engine_replicas
        max_in_flight = max_ongoing(self._settings) * replicas
        models: dict[str, Model] = {}
        for (name, handle), info in zip(handles.items(), described, strict=True):
            backend = RayBackend(handle, model=name, max_in_flight=max_in_flight)
            models[name] = Model(info, backend, await detector)
        app = create_app(models, self._settings)
        self._service = app.state.service
        if self._page:
            from tickertape.server.page.app import mount

            mount(app)  # imports Gradio, which takes two seconds
        elif self._settings.page:
            app.add_api_route("/", _redirect_to_page, methods=["GET"], include_in_schema=False)
        return app

    async def drain(self, grace: float) -> bool:
        """Reject new requests and wait for accepted ones; whether all finished within `grace` seconds."""
        return self._service is None or await self._service.drain(grace)


def _handle_of(engine: Any) -> Any:
    if not isinstance(engine, str):
        return engine
    from ray import serve

    return serve.get_deployment_handle(engine, app_name=API)


async def _redirect_to_page() -> Response:
    return RedirectResponse(f"{PAGE_PREFIX}/", 307)
