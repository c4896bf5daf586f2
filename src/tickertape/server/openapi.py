"""What the API says about itself: the OpenAPI document, the page at /docs, the reference in docs/.

All three are made from the tables that the service works by (fields, codes, statuses), so that they cannot drift apart.
"""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tickertape import __version__, errors, failures
from tickertape.errors import TickertapeError
from tickertape.keys import AT_ONCE, PER_MINUTE
from tickertape.orders import CODES, FIELDS, Field, known
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
        "allow_headers": ["authorization", "content-type", "idempotency-key", "x-request-id"],
        "expose_headers": ["x-request-id", "server-timing", "retry-after", *PER_MINUTE, *AT_ONCE],
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
    names = known(task)
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


def reference() -> str:
    """`docs/reference/api.md`, which a test compares with the file."""
    fields = [
        f"| `{name}` | {_kind(field)} | {'yes' if field.translations else ''} | {'yes' if field.extension else ''} "
        f"| {field.help} |"
        for name, field in FIELDS.items()
    ]
    statuses = ["| " + " | ".join(row) + " |" for row in _error_rows()[1]]
    codes = [f"| `{code}` | {meaning} |" for code, meaning in CODES.items()]
    return "\n".join(
        [
            _REFERENCE_HEAD,
            "| field | kind | in translations | extension | meaning |",
            "|---|---|---|---|---|",
            *fields,
            _REFERENCE_ERRORS,
            "| status | code | when |",
            "|---|---|---|",
            *statuses,
            _REFERENCE_CODES,
            "| code | when |",
            "|---|---|",
            *codes,
            "",
        ]
    )


def situations() -> list[tuple[int, str, str]]:
    """Status, code and meaning of every exception that can become an answer, by status."""
    classes = [kind for module in (errors, failures) for kind in vars(module).values() if inspect.isclass(kind)]
    return sorted(
        {
            (
                failures.status_of(kind),
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


def _kind(field: Field) -> str:
    return ", ".join(f"`{choice}`" for choice in field.choices) if field.choices else field.kind


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

_REFERENCE_HEAD = """# The API

<!-- Generated by tickertape.contract.reference(); a test fails when it is out of date. -->

| endpoint | what it does |
|---|---|
| `POST /v1/audio/transcriptions` | the text of a recording |
| `POST /v1/audio/translations` | its text in English |
| `GET /v1/models`, `GET /v1/models/{id}` | what is served; `whisper-1` is another name of the first |
| `GET /healthz` | 200 as long as the process lives |
| `GET /readyz` | 200 if every model has decoded something just now; 503 otherwise, and while the service drains |
| `GET /metrics` | [metrics](metrics.md) |
| `GET /version` | name and version |
| `GET /docs`, `GET /openapi.json` | this page, from the server itself |

The contract is OpenAI's. Point a client at the server by its base URL:

```python
client = openai.OpenAI(base_url="http://localhost:8080/v1", api_key="tt-...")  # any key where the server asks for none
client.audio.transcriptions.create(model="whisper-1", file=open("call.wav", "rb"))
```

Headers. `Authorization: Bearer KEY` where the server has keys (only for `/v1`). `Idempotency-Key`: the same form under
the same key is computed once, at once or within ten minutes; answers kept for that live in memory only (streams are not
kept). `X-Request-Id`: yours is taken if it is 1 to 64 letters, digits, dots, dashes or underscores; every answer has
one. `Server-Timing` says where the time went. Query strings are ignored and never logged. Answers to a key with limits,
429 included, have `x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests` for its minute, and
`x-ratelimit-limit-concurrent-requests` and `-remaining-concurrent-requests` for its requests under way.

Loudness is not normalised, not even with `chunking_strategy=auto`, where OpenAI's does that before it looks for speech:
a recording is heard as loud as it is. What the model sees of a window is cut 80 dB below its loudest spot, whatever
its level.

Streams (`stream=true`) are server-sent events: `transcript.text.delta` for each phrase that is final,
`transcript.text.done` with the whole text and the usage, a comment while there is nothing to say, and
`{"type": "error", "error": {...}}` if it fails after it began.

Answers that are JSON have `warnings`, a list of `{code, message}`, if there was something to say about the recording or
the request: the codes in [audio](audio.md), and `languages_detected` (several `languages[]` were given; the one that is
spoken is detected freely), `prompt_truncated` (the prompt is probably longer than the 223 tokens that count),
`chunking_defaults` (the thresholds of `chunking_strategy` are not ours) and `no_speech` (nobody was heard to speak, so
the text is empty).

## Fields

A field that is not in the table is refused. Those that end in `[]` may be repeated; an empty value is as good as none.
"""
_REFERENCE_ERRORS = """
## Errors

Whatever is wrong, the answer is `{"error": {"message", "type", "param", "code"}}` with the id of the request in the
header `x-request-id`. It never repeats what was sent. 429 and 503 have `Retry-After`. 499 is in the log only.
"""
_REFERENCE_CODES = """
Fields that cannot be honoured are answered with 400, the field in `param`, and one of these codes:
"""
