"""OpenAI's audio API: `create_app(models, settings)` makes the FastAPI application, for one process or a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tickertape import __version__
from tickertape.audio.worker_pool import Decoders
from tickertape.errors import TickertapeError
from tickertape.pipeline import Model
from tickertape.server import openapi
from tickertape.server.middleware import RecordMiddleware, answer_error, not_found
from tickertape.server.openapi import METRICS, Alive, ModelList, ModelObject, Ready, Version, route
from tickertape.server.params import find_model
from tickertape.server.service import ERRORS_ONLY, Service
from tickertape.server.settings import Settings
from tickertape.server.transcription import TranscriptionResponse

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    models: Mapping[str, Model],
    settings: Settings,
    *,
    lifespan: Lifespan | None = None,
    decoders: Decoders | None = None,
) -> FastAPI:
    """The application. The first model is the default; `whisper-1` is its alias.

    `lifespan` wraps the application's life, so its caller can close the backends there. `decoders` stay open; by
    default the application has its own and closes them. `app.state.service` is the `Service` behind the routes.
    """
    service = Service(models, settings.resolve(), decoders=decoders)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with lifespan(app) if lifespan else nullcontext():
                yield
        finally:
            service.close()

    app = FastAPI(
        title="Tickertape",
        version=__version__,
        description=openapi.DESCRIPTION,
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
    )
    app.state.service = service
    _add_routes(app, service)
    _add_operation(app, service)
    app.mount("/v1", partial(_reject, app))  # so that a page mounted at "/" does not answer these paths
    for kind in (TickertapeError, HTTPException):
        app.add_exception_handler(kind, answer_error)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **openapi.cors(settings.cors_origins))
    quiet = settings.log_level in ERRORS_ONLY
    app.add_middleware(RecordMiddleware, metrics=service.metrics, project=settings.project, quiet=quiet)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    """The paths of OpenAI's API."""

    async def transcribe(request: Request) -> Response:
        return TranscriptionResponse(service, request, "transcribe")

    async def translate(request: Request) -> Response:
        return TranscriptionResponse(service, request, "translate")

    async def list_models(request: Request) -> Response:
        service.authenticate(request)
        models = [ModelObject(id=name, created=model.info.created) for name, model in service.models.items()]
        return _json(ModelList(data=models))

    async def show_model(request: Request, model: str) -> Response:
        service.authenticate(request)
        return _json(ModelObject(id=model, created=find_model(model, service.models).info.created))

    add = app.add_api_route
    add("/v1/audio/transcriptions", transcribe, methods=["POST"], **openapi.audio_route("transcribe"))
    add("/v1/audio/translations", translate, methods=["POST"], **openapi.audio_route("translate"))
    models = ModelList(data=[ModelObject(id="demo", created=0)])
    add("/v1/models", list_models, methods=["GET"], **route("List the models", "models", models, 401, 500))
    shown = route("Describe a model", "models", models.data[0], 401, 404, 500)
    add("/v1/models/{model:path}", show_model, methods=["GET"], **shown)


def _add_operation(app: FastAPI, service: Service) -> None:
    """The paths for operators. They need no key and contain no text."""

    async def alive() -> Response:
        return _json(Alive())

    async def ready() -> Response:
        await service.ready()
        return _json(Ready(models=list(service.models)))

    async def metrics() -> Response:
        return Response(
            _replica_comment(service) + await service.scrape(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def show_version() -> Response:
        return _json(Version())

    async def docs() -> Response:
        return Response(openapi.page(app.openapi()), media_type="text/html", headers=openapi.PAGE_HEADERS)

    add = app.add_api_route
    add("/healthz", alive, methods=["GET"], **route("The process is alive", "operation", Alive()))
    loaded = Ready(models=["demo"])
    add("/readyz", ready, methods=["GET"], **route("Every model answers", "operation", loaded, 500, 503))
    add("/metrics", metrics, methods=["GET"], **route("Metrics for Prometheus", "operation", METRICS))
    add("/version", show_version, methods=["GET"], **route("Name and version", "operation", Version()))
    if service.settings.docs:
        app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)


def _json(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")


def _replica_comment(service: Service) -> bytes:
    """A comment above the metrics if there are several API processes, because a scrape reaches one of them."""
    processes = service.settings.api_replicas if service.settings.ray else 1
    return b"# one of %d API processes; each counts its own requests\n" % processes if processes > 1 else b""


async def _reject(app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - as ASGI calls it
    """Reject an unknown path under /v1, or a known one with another method."""
    raise not_found(app.routes, {**scope, "root_path": scope["root_path"].removesuffix("/v1")})


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        app.openapi_schema = openapi.complete(made)
    return app.openapi_schema
