"""The OpenAPI document and the page at /docs, both made from the tables of fields and errors that the server uses."""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tickertape import __version__, errors
from tickertape.errors import TickertapeError
from tickertape.server import errors as server_errors
from tickertape.server.auth import CONCURRENT, PER_MINUTE
from tickertape.server.params import FIELDS, Field, known_fields
from tickertape.types import Task

Json = dict[str, Any]

DESCRIPTION = (
    "Speech to text with OpenAI's HTTP contract: point any OpenAI client at this server. "
    "Fields marked as extensions are this server's own."
)
PAGE_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
WAV = "audio.wav"


def cors(origins: Sequence[str]) -> Json:
    """Arguments of the CORS middleware."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["authorization", "content-type", "x-request-id"],
        "expose_headers": ["x-request-id", "server-timing", "retry-after", *PER_MINUTE, *CONCURRENT],
    }


def model_object(name: str, created: int) -> Json:
    """OpenAI's description of a model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "tickertape"}


def audio_route(task: Task) -> Json:
    """Arguments of the route of an endpoint that takes a recording."""
    verb = "Transcribe a recording" if task == "transcribe" else "Translate a recording into English"
    form = {"multipart/form-data": {"schema": form_schema(task), "examples": _EXAMPLES}}
    return {
        "summary": verb,
        "operation_id": task,
        "tags": ["audio"],
        "responses": {200: _AUDIO_ANSWER, **_refusals(400, 401, 404, 408, 413, 415, 429, 500, 503, 504)},
        "openapi_extra": {"requestBody": {"required": True, "content": form}, "security": [{"key": []}, {}]},
    }


def form_schema(task: Task) -> Json:
    """The form of an endpoint, as JSON Schema."""
    names = known_fields(task)
    properties = {name: _field_schema(name, field) for name, field in FIELDS.items() if name in names}
    return {
        "type": "object",
        "required": ["model"],
        "anyOf": [{"required": ["file"]}, {"required": ["file_url"]}],
        "properties": properties,
        "additionalProperties": False,
    }


def complete(document: Json) -> Json:
    """The framework's OpenAPI document, without the 422 that this service never gives, and with what it lacks."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    components = document.setdefault("components", {})
    components["schemas"] = {"Error": _ERROR, "Model": _MODEL}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


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
    classes = [kind for module in (errors, server_errors) for kind in vars(module).values() if inspect.isclass(kind)]
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


def _field_schema(name: str, field: Field) -> Json:
    single: Json = {"type": field.kind}
    if field.kind == "file":
        single = {"type": "string", "format": "binary"}
    if field.choices:
        single["enum"] = list(field.choices)
    if name in _BOUNDS:
        single |= _BOUNDS[name]
    whole = {"type": "array", "items": single} if name.endswith("[]") else single
    note = " Extension." if field.extension else ""
    return (
        whole | {"description": field.help + note} | ({"example": field.example} if field.example is not None else {})
    )


_BOUNDS: dict[str, Json] = {
    "temperature": {"minimum": 0, "maximum": 1},
    "beam_size": {"minimum": 1, "maximum": 10},
    "audio_track": {"minimum": 0, "maximum": 255},
}


def _schema(name: str) -> Json:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _refusals(*statuses: int) -> dict[int | str, Json]:
    meanings: dict[int, list[str]] = {}
    for status, code, _ in situations():
        meanings.setdefault(status, []).append(code)
    return {
        status: {
            "description": ", ".join(f"`{code}`" for code in meanings.get(status, [])),
            "content": {"application/json": _schema("Error")},
        }
        for status in statuses
    }


def _plain(kind: str, description: str, example: object) -> Json:
    """A 200 that is documented by an example."""
    shape = {"type": "string"} if isinstance(example, str) else {"type": "object"}
    return {"description": description, "content": {kind: {"schema": shape, "example": example}}}


_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_MODEL: Json = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_USAGE = {"type": "duration", "seconds": 4}
_EXAMPLES: Json = {
    "text": {"summary": "Plain text", "value": {"file": WAV, "model": "whisper-1", "response_format": "text"}},
    "words": {
        "summary": "Segments and words with their times",
        "value": {
            "file": WAV,
            "model": "whisper-1",
            "language": "en",
            "response_format": "verbose_json",
            "timestamp_granularities[]": ["word", "segment"],
        },
    },
}
_AUDIO_ANSWER: Json = {
    "description": "The text, in the shape that `response_format` names; events with `stream`.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["text", "usage"], "properties": {"text": {"type": "string"}}},
            "example": {"text": "Good morning.", "usage": _USAGE},
        },
        "text/plain": {"schema": {"type": "string"}, "example": "Good morning.\n"},
        "text/event-stream": {
            "schema": {"description": "Server-sent events; the data of each is a JSON object with a `type`."},
            "example": 'data: {"type": "transcript.text.delta", "delta": "Good morning."}\n\n',
        },
    },
}
_LIST: Json = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    },
}
_LISTED = {"description": "The models", "content": {"application/json": {"schema": _LIST}}}
_SHOWN = {"description": "The model", "content": {"application/json": _schema("Model")}}

MODELS: Json = {
    "summary": "List the models",
    "tags": ["models"],
    "responses": {200: _LISTED, **_refusals(401, 500)},
    "openapi_extra": {"security": [{"key": []}, {}]},
}
MODEL: Json = {
    "summary": "Describe a model",
    "tags": ["models"],
    "responses": {200: _SHOWN, **_refusals(401, 404, 500)},
    "openapi_extra": {"security": [{"key": []}, {}]},
}
HEALTH: Json = {
    "summary": "The process is alive",
    "tags": ["operation"],
    "responses": {200: _plain("application/json", "Alive", {"status": "ok"})},
}
READY: Json = {
    "summary": "Every model answers",
    "tags": ["operation"],
    "responses": {
        200: _plain("application/json", "Ready", {"status": "ready", "models": ["demo"]}),
        **_refusals(500, 503),
    },
}
METRICS: Json = {
    "summary": "Metrics for Prometheus",
    "tags": ["operation"],
    "responses": {200: _plain("text/plain", "Prometheus' text format", "tickertape_ready 1.0\n")},
}
VERSION: Json = {
    "summary": "Name and version",
    "tags": ["operation"],
    "responses": {200: _plain("application/json", "This program", {"name": "tickertape", "version": __version__})},
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
    name = "file" if single.get("format") == "binary" else " | ".join(single.get("enum", [single["type"]]))
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
