"""OpenAI's audio API over any models: `create_app(models, settings)` is a FastAPI application.

Who serves it, and where the models run, it does not know. What a request costs is counted before it costs anything;
what takes long runs in threads or in the engine, never in the event loop; what nobody waits for is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from tickertape import __version__, contract, orders
from tickertape.decoders import Decoders
from tickertape.errors import TickertapeError
from tickertape.frame import Emit, Frame, Message, Receive, Send, answer_error, to_stdout
from tickertape.pipeline import Model
from tickertape.settings import Settings
from tickertape.types import Task
from tickertape.visits import QUIET, Service, Visit

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    models: Mapping[str, Model],
    settings: Settings,
    *,
    emit: Emit = to_stdout,
    lifespan: Lifespan | None = None,
    decoders: Decoders | None = None,
) -> FastAPI:
    """The application. The first model is the default, and answers to `whisper-1`.

    `emit` takes log lines. `lifespan` runs around the application's life: whoever made the backends closes them there.
    `decoders` decode the uploads and stay open; without, the application has its own as long as it lives.
    `app.state.service` is the `Service` behind the routes; `await app.state.service.drain()` ends its work in order.
    """
    service = Service(models, settings.resolve(), emit=emit, decoders=decoders)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with lifespan(app) if lifespan else nullcontext():
            yield
        service.close()

    app = FastAPI(
        title="Tickertape",
        version=__version__,
        description=contract.DESCRIPTION,
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    app.state.service = service
    _add_routes(app, service)
    _add_operation(app, service)
    app.mount("/v1", partial(_refuse, app))  # so that a page mounted at "/" later does not answer in our place
    for kind in (TickertapeError, HTTPException):
        app.add_exception_handler(kind, answer_error(emit))
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **contract.cors(settings.cors_origins))
    quiet = settings.log_level in QUIET
    app.add_middleware(Frame, metrics=service.metrics, emit=emit, project=settings.project, quiet=quiet)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


class _Audio(Response):
    """An answer that speaks ASGI itself: it must hear from `receive` that the client has left."""

    def __init__(self, service: Service, request: Request, task: Task) -> None:
        super().__init__()
        self._visit = (service, request, task)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the visit has it
        await Visit(*self._visit, receive, send).answer()


def _add_routes(app: FastAPI, service: Service) -> None:
    """The paths of OpenAI's API."""

    async def transcribe(request: Request) -> Response:
        return _Audio(service, request, "transcribe")

    async def translate(request: Request) -> Response:
        return _Audio(service, request, "translate")

    async def list_models(request: Request) -> Response:
        service.authenticate(request)
        listed = [contract.model_object(name, model.created) for name, model in service.models.items()]
        return JSONResponse({"object": "list", "data": listed})

    async def show_model(request: Request, model: str) -> Response:
        service.authenticate(request)
        found = orders.find_model(model, service.models)
        return JSONResponse(contract.model_object(model, found.created))

    add = app.add_api_route
    add("/v1/audio/transcriptions", transcribe, methods=["POST"], **contract.audio_route("transcribe"))
    add("/v1/audio/translations", translate, methods=["POST"], **contract.audio_route("translate"))
    add("/v1/models", list_models, methods=["GET"], **contract.MODELS)
    add("/v1/models/{model:path}", show_model, methods=["GET"], **contract.MODEL)


def _add_operation(app: FastAPI, service: Service) -> None:
    """The paths for whoever runs the service. They need no key and hold no content."""

    async def alive() -> Response:
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        await service.ready()
        return JSONResponse({"status": "ready", "models": list(service.models)})

    async def metrics() -> Response:
        return Response(_one_of(service) + service.scrape(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def show_version() -> Response:
        return JSONResponse({"name": "tickertape", "version": app.version})

    async def docs() -> Response:
        return Response(contract.page(app.openapi()), media_type="text/html", headers=contract.PAGE_HEADERS)

    app.add_api_route("/healthz", alive, methods=["GET"], **contract.HEALTH)
    app.add_api_route("/readyz", ready, methods=["GET"], **contract.READY)
    app.add_api_route("/metrics", metrics, methods=["GET"], **contract.METRICS)
    app.add_api_route("/version", show_version, methods=["GET"], **contract.VERSION)
    if service.settings.docs:
        app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)


def _one_of(service: Service) -> bytes:
    """A comment on top of the metrics where a scrape does not reach everything."""
    processes = service.settings.api_replicas if service.settings.ray else 1
    return b"# one of %d API processes; each counts its own requests\n" % processes if processes > 1 else b""


async def _refuse(app: FastAPI, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG001 - as ASGI calls it
    """404 for a path under /v1 that is not there, 405 for one that is, under another method."""
    outside = {**scope, "root_path": scope["root_path"].removesuffix("/v1")}
    allowed = {
        method
        for route in app.routes
        if isinstance(route, APIRoute) and route.matches(outside)[0] is Match.PARTIAL
        for method in route.methods or ()
    }
    if allowed:
        raise HTTPException(405, headers={"allow": ", ".join(sorted(allowed))})
    raise HTTPException(404)


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        app.openapi_schema = contract.complete(made)
    return app.openapi_schema
