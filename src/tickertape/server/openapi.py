"""The OpenAPI document and the page at /docs, both made from the forms, responses and errors that the server uses."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import resources
from typing import Any, Literal

from jinja2 import Environment
from pydantic import BaseModel

from tickertape import __version__, errors
from tickertape.errors import TickertapeError
from tickertape.server import errors as http_errors
from tickertape.server.auth import CONCURRENT, PER_MINUTE
from tickertape.server.params import Schema, form_schema
from tickertape.types import Task

DESCRIPTION = (
    "Speech to text with OpenAI's HTTP contract: point any OpenAI client at this server. "
    "Fields marked as extensions are this server's own."
)
PAGE_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class ErrorBody(BaseModel):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str


class Error(BaseModel):
    """The body of every error response."""

    error: ErrorBody


class ModelObject(BaseModel):
    """OpenAI's description of a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tickertape"


class ModelList(BaseModel):
    """The models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Every model answers."""

    status: Literal["ready"] = "ready"
    models: list[str]


class Version(BaseModel):
    """The server's name and version."""

    name: Literal["tickertape"] = "tickertape"
    version: str = __version__


def route(summary: str, tag: str, answer: BaseModel | Schema, *statuses: int, **operation: Any) -> Schema:
    """Arguments of a route. `answer`: an example, or a response as OpenAPI describes it; `statuses`: of its errors."""
    codes: dict[int, list[str]] = {}
    for status, code, _ in situations():
        codes.setdefault(status, []).append(f"`{code}`")
    refusals = {status: {"model": Error, "description": ", ".join(codes.get(status, []))} for status in statuses}
    if isinstance(answer, BaseModel):
        example = {"application/json": {"example": answer.model_dump()}}
        answer = {"model": type(answer), "content": example, "description": (answer.__doc__ or "").rstrip(".")}
    security: Schema = {} if tag == "operation" else {"security": [{"key": []}, {}]}
    return {
        "summary": summary,
        "tags": [tag],
        "response_model": None,
        "responses": {200: answer, **refusals},
        "openapi_extra": security | operation,
    }


def audio_route(task: Task) -> Schema:
    """Arguments of the route of an endpoint that takes a recording."""
    summary = "Transcribe a recording" if task == "transcribe" else "Translate a recording into English"
    form = {"multipart/form-data": {"schema": form_schema(task), "examples": _EXAMPLES}}
    statuses = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
    body = {"requestBody": {"required": True, "content": form}}
    return route(summary, "audio", _TEXT, *statuses, operationId=task, **body)


def complete(document: Schema) -> Schema:
    """The framework's OpenAPI document, without the 422 that this service never gives, and with what it lacks."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def cors(origins: Sequence[str]) -> Schema:
    """Arguments of the CORS middleware."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["authorization", "content-type", "x-request-id"],
        "expose_headers": ["x-request-id", "server-timing", "retry-after", *PER_MINUTE, *CONCURRENT],
    }


def page(document: Schema) -> str:
    """The document for people, as one page that loads nothing from anywhere."""
    template = resources.files("tickertape.server").joinpath("docs.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True)
    return environment.from_string(template).render(document, situations=situations())


def situations() -> list[tuple[int, str, str]]:
    """Status, code and meaning of every exception that can become an answer, by status."""
    classes = [kind for module in (errors, http_errors) for kind in vars(module).values() if inspect.isclass(kind)]
    return sorted(
        {
            (
                kind.status,
                kind.code,
                _GENERAL.get(kind, (kind.__doc__ or "").partition(":")[0].rstrip(".")),
            )
            for kind in classes
            if issubclass(kind, TickertapeError)
            and not issubclass(kind, errors.CheckpointError | errors.OptionError)
            and kind not in {errors.AudioError, errors.DecodeError}  # raised only as one of their kinds
        }
    )


_GENERAL: dict[type[TickertapeError], str] = {
    errors.CallerError: "The request is malformed in another way",
    errors.TickertapeError: "The server failed; its log has the details under the request's id",
}


METRICS: Schema = {
    "description": "Prometheus' text format",
    "content": {"text/plain": {"schema": {"type": "string"}, "example": "tickertape_ready 1.0\n"}},
}
_EXAMPLES: Schema = {
    "text": {"summary": "Plain text", "value": {"file": "audio.wav", "model": "whisper-1", "response_format": "text"}},
    "words": {
        "summary": "Segments and words with their times",
        "value": {
            "file": "audio.wav",
            "model": "whisper-1",
            "language": "en",
            "response_format": "verbose_json",
            "timestamp_granularities[]": ["word", "segment"],
        },
    },
}
_TEXT: Schema = {
    "description": "The text, in the shape that `response_format` names; events with `stream`.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["text", "usage"], "properties": {"text": {"type": "string"}}},
            "example": {"text": "Good morning.", "usage": {"type": "duration", "seconds": 4}},
        },
        "text/plain": {"schema": {"type": "string"}, "example": "Good morning.\n"},
        "text/event-stream": {
            "schema": {"description": "Server-sent events; the data of each is a JSON object with a `type`."},
            "example": 'data: {"type": "transcript.text.delta", "delta": "Good morning."}\n\n',
        },
    },
}
