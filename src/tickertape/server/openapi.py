"""The OpenAPI document and the page at /docs, both made from the forms, responses and errors that the server uses."""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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


def page(document: Mapping[str, Any]) -> str:
    """The document for people, as one page that loads nothing from anywhere."""
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(path, method, operation))
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    introduction = html.escape(document["info"]["description"])
    link = '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
    body = f"<h1>{title}</h1><p>{introduction}</p>{link}{''.join(parts)}<h2>Errors</h2>{_table(*_error_rows())}"
    head = f'<meta charset="utf-8"><title>{title}</title><meta name="viewport" content="width=device-width">{_STYLE}'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


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


def _error_rows() -> tuple[tuple[str, str, str], list[tuple[str, str, str]]]:
    return ("status", "code", "when"), [(str(number), f"`{code}`", text) for number, code, text in situations()]


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


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    """One endpoint of the page."""
    parts = [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}.</p>"]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        rows = [
            (f"<code>{name}</code>", html.escape(_type(schema)), html.escape(schema["description"]))
            for name, schema in media["schema"]["properties"].items()
        ]
        parts.append(_table(("field", "type", "meaning"), rows))
        parts += [
            f"<p>{html.escape(example['summary'])}:</p><pre>{html.escape(_curl(path, example))}</pre>"
            for example in media["examples"].values()
        ]
    for kind, media in operation["responses"]["200"]["content"].items():
        if "example" in media:
            shown = media["example"] if isinstance(media["example"], str) else json.dumps(media["example"])
            parts.append(f"<p>Answer, {kind}:</p><pre>{html.escape(shown)}</pre>")
    return "".join(parts)


def _type(schema: Mapping[str, Any]) -> str:
    single = schema.get("items", schema)
    name = (
        "file"
        if single.get("format") == "binary"
        else " | ".join(single.get("enum", [single.get("const", single["type"])]))
    )
    return f"{name}, repeatable" if schema["type"] == "array" else name


def _curl(path: str, example: Mapping[str, Any]) -> str:
    """The command that sends the example."""
    arguments = [
        f"-F '{name}={'@' if name == 'file' else ''}{single}'"
        for name, value in example["value"].items()
        for single in (value if isinstance(value, list) else [value])
    ]
    return " \\\n  ".join([f"curl http://localhost:8080{path}", *arguments])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already, but for backquotes."""
    cells = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell.replace('`', '')}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{lines}</table>"


_STYLE = """<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid #8884 }
pre { padding: .8rem; background: #8882; overflow-x: auto }
h2 { margin-top: 2.5rem }
</style>"""
