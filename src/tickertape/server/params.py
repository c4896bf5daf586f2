"""The form of a transcription request: its fields, which are also its JSON Schema, and their validation.

`parse_form` turns a form into an `Order`. Errors name the field in `param` and have a `code` from `CODES`. Empty
values count as absent.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Json, Strict, ValidationError, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from tickertape.errors import EmptyFileError, ModelNotFoundError, OptionError
from tickertape.pipeline import Model
from tickertape.server.multipart import Form
from tickertape.transcripts.languages import spoken_languages
from tickertape.types import FALLBACK_TEMPERATURES, Notice, Options, Priority, Task

ALIAS = "whisper-1"  # OpenAI's only Whisper: the first model answers to it
PROMPT_LIMIT = 16 * 1024  # bytes
HOTWORDS_LIMIT = 4 * 1024  # bytes
PROMPT_TOKENS = 223  # half of Whisper's text context, less <|startofprev|>: more is cut off at the front
BYTES_PER_TOKEN = 4  # of English text, about

Schema: TypeAlias = dict[str, Any]  # a JSON Schema
ResponseFormat: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]


def _parse_number(value: str) -> float | str:
    """A finite number of ASCII digits, an `int` if it has one to four of them; other text unchanged."""
    if re.fullmatch("[0-9]{1,4}", value):
        return int(value)
    return float(value) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value) else value


def _parse_boolean(value: str) -> bool | str:
    return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)


# Strict: Pydantic itself would take "yes", "+5" and " 5" as well.
Boolean: TypeAlias = Annotated[bool, Strict(), BeforeValidator(_parse_boolean)]
Integer: TypeAlias = Annotated[int, Strict(), BeforeValidator(_parse_number)]
Beams: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=10), BeforeValidator(_parse_number)]
Track: TypeAlias = Annotated[int, Strict(), Field(ge=0, le=255), BeforeValidator(_parse_number)]
Number: TypeAlias = Annotated[float, Strict(), BeforeValidator(_parse_number)]
Temperature: TypeAlias = Annotated[float, Strict(), Field(ge=0, le=1), BeforeValidator(_parse_number)]


class ServerVad(BaseModel):
    """OpenAI's object for `chunking_strategy`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    type: Literal["server_vad"]
    prefix_padding_ms: float = Field(0, ge=0, le=60_000)
    silence_duration_ms: float = Field(0, ge=0, le=60_000)
    threshold: float = Field(0, ge=0, le=1)


class OpenAIForm(BaseModel, use_attribute_docstrings=True):
    """Fields that both of OpenAI's endpoints have."""

    file: Annotated[str, WithJsonSchema({"type": "string", "format": "binary"})] = ""
    """The recording. The server reads its format from the content and ignores its name."""
    model: str
    """A name from `GET /v1/models`, or `whisper-1` for the default."""
    language: str = ""
    """ISO 639 code, BCP 47 tag or English name of the spoken language. Default, and `auto`: detected."""
    prompt: str = ""
    """Earlier text, or names and spellings to expect. The model reads the last 223 tokens."""
    response_format: ResponseFormat = "json"
    """Format of the response."""
    temperature: Temperature = 0
    """0 to 1. 0, the default: greedy, with higher temperatures for windows that fail."""
    stream: Boolean = False
    """Respond with server-sent events; only with `json` or `text`."""


class ExtensionForm(BaseModel, use_attribute_docstrings=True):
    """Fields that are not OpenAI's."""

    vad: Boolean = True
    """`false`: plain windows of 30 s instead of windows around speech."""
    hotwords: str = ""
    """Words to expect, given to the model as a prompt."""
    word_timestamps: Boolean = False
    """Word times: `words` in `verbose_json`, tighter cues in `srt` and `vtt`."""
    file_url: str = ""
    """URL of the recording, in place of `file`: `https://...` or `gs://bucket/object`. The server must allow it."""
    audio_format: str = ""
    """Format of audio without a header: `mulaw;rate=8000;channels=1`."""
    audio_track: Track | SkipJsonSchema[None] = None
    """Number of the audio track, from 0. Default: the first."""
    channels: Literal["mix", "split"] = "mix"
    """`split`: one speaker per channel."""
    multilingual: Boolean = False
    """Keep the language of each window; by default a window that is unsure takes that of the recording."""
    beam_size: Beams | SkipJsonSchema[None] = None
    """1 to 10 beams; 1 is greedy."""
    priority: Priority = "interactive"
    """`batch`: interactive requests go first."""


class TranslationForm(ExtensionForm, OpenAIForm):
    """The form of `/v1/audio/translations`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"anyOf": [{"required": ["file"]}, {"required": ["file_url"]}]},
    )


_IGNORED = "Accepted but ignored; the server uses its own thresholds and adds a warning."


class TranscriptionForm(TranslationForm):
    """The form of `/v1/audio/transcriptions`."""

    languages: list[str] = Field([], alias="languages[]")
    """One value: like `language`. Several: the language is detected among them."""
    timestamp_granularities: list[Literal["word", "segment"]] = Field([], alias="timestamp_granularities[]")
    """Times in `verbose_json`; `segment` is accepted with `json` too."""
    include: list[Literal["logprobs"]] = Field([], alias="include[]")
    """Log probabilities of the tokens; only with `json`."""
    chunking_strategy: Annotated[Literal["auto"] | Json[ServerVad] | None, WithJsonSchema({"type": "string"})] = None
    """`auto` or `{"type":"server_vad"}`: windows follow the speech."""
    # The same object, field by field; `_collect` makes it one JSON text before the validation.
    chunking_type: Literal["server_vad"] | SkipJsonSchema[None] = Field(None, alias="chunking_strategy[type]")
    """The same object, in the form that OpenAI's client sends."""
    chunking_padding: Integer = Field(0, alias="chunking_strategy[prefix_padding_ms]", description=_IGNORED)
    chunking_silence: Integer = Field(0, alias="chunking_strategy[silence_duration_ms]", description=_IGNORED)
    chunking_threshold: Number = Field(0, alias="chunking_strategy[threshold]", description=_IGNORED)
    keywords: list[str] = Field([], alias="keywords[]")
    """Words to expect; added to `hotwords`."""
    known_speaker_names: list[str] = Field([], alias="known_speaker_names[]")
    """Not supported."""
    known_speaker_references: list[str] = Field([], alias="known_speaker_references[]")
    """Not supported."""


CODES: dict[str, str] = {
    "missing_field": "`model`, or both `file` and `file_url`, are absent",
    "conflicting_field": "both `file` and `file_url`, or both `chunking_strategy` and `vad=false`",
    "unknown_field": "neither a field of the form nor one of the ignored fields",
    "duplicate_field": "a field that may be sent once was sent twice",
    "too_many_fields": "more than 64 parts",
    "field_too_large": "a field exceeds its limit in bytes",
    "not_a_file": "`file` has no file name, so it is text",
    "not_a_field": "another field was sent as a file",
    "invalid_encoding": "a field is not UTF-8",
    "invalid_multipart": "the multipart form is malformed",
    "invalid_language": "neither a code nor an English name of one of Whisper's languages, or unknown to the model",
    "invalid_task": "the model cannot translate",
    "invalid_temperature": "not a number from 0 to 1",
    "invalid_response_format": "not one of the formats",
    "unsupported_response_format": "`diarized_json`, which is not supported",
    "invalid_timestamp_granularities": "not `word` or `segment`, or not with `verbose_json` (`segment`: or `json`)",
    "invalid_include": "not `logprobs`, or not with `json`",
    "invalid_stream": "not a boolean, or the format cannot be streamed",
    "invalid_chunking_strategy": "neither `auto` nor a valid `server_vad` object",
    "unsupported_field": "the field is not supported, or `file_url` is used and the server allows no host",
    "invalid_file_url": "neither `https://HOST/...` nor `gs://BUCKET/OBJECT`, or not properly escaped",
    "file_url_not_allowed": "the host or bucket is not on the server's list, or has no public address",
    "file_url_failed": "the recording could not be fetched: refused, redirected, unreachable, or too slow",
    "prompt_too_long": "the prompt exceeds 16 KiB",
    "invalid_vad": "not a boolean",
    "invalid_word_timestamps": "not a boolean",
    "invalid_multilingual": "not a boolean",
    "invalid_audio_format": "not a valid format of audio without a header",
    "invalid_audio_track": "not a track number, or no such track",
    "invalid_channels": "neither `mix` nor `split`",
    "invalid_beam_size": "not a whole number from 1 to 10",
    "invalid_priority": "neither `interactive` nor `batch`",
}


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request: the model, the options of its windows, and the form."""

    model: Model
    options: Options
    form: TranscriptionForm
    notices: tuple[Notice, ...] = ()


@functools.cache
def form_schema(task: Task) -> Schema:
    """The form of an endpoint, as JSON Schema."""
    schema = (TranscriptionForm if task == "transcribe" else TranslationForm).model_json_schema()
    for name, field in schema["properties"].items():
        field.pop("title")
        field.pop("default", None)
        if name in ExtensionForm.model_fields:
            field["description"] += " Extension."
    return {name: value for name, value in schema.items() if name not in {"title", "description"}}


def find_model(name: str, models: Mapping[str, Model]) -> Model:
    """The model of that name; the first under its alias. Raises `ModelNotFoundError`."""
    if name == ALIAS and ALIAS not in models:
        return next(iter(models.values()))
    if name not in models:
        raise ModelNotFoundError("There is no such model here; GET /v1/models lists them.")
    return models[name]


def parse_form(form: Form, task: Task, models: Mapping[str, Model], *, beam_size: int = 1) -> Order:
    """Validate a form. Raises `OptionError`, `ModelNotFoundError` or `EmptyFileError`."""
    values = _collect(form)
    if (form.file is None and "file_url" not in values) or "model" not in values:
        missing = "model" if form.file is not None or "file_url" in values else "file"
        raise OptionError(f"The field `{missing}` is missing.", missing, "missing_field")
    model = find_model(values["model"], models)
    if form.file is not None and "file_url" in values:
        raise OptionError("Send `file` or `file_url`, not both.", "file_url", "conflicting_field")
    if form.file is not None and not form.file.getbuffer().nbytes:
        raise EmptyFileError("The file is empty.")
    _reject_unsupported(values)
    try:
        valid = TranscriptionForm.model_validate(values)
    except ValidationError as error:
        raise _option_error(str(error.errors(include_input=False)[0]["loc"][0])) from None
    _check_combinations(valid)
    language, languages = _languages(valid)
    options = Options(
        language=language,
        languages=languages,
        multilingual=valid.multilingual,
        task=task,
        prompt=_limited(valid.prompt, PROMPT_LIMIT, "prompt", "prompt_too_long"),
        hotwords=_hotwords(valid),
        word_timestamps=valid.word_timestamps or "word" in valid.timestamp_granularities,
        logprobs=bool(valid.include),
        beam_size=valid.beam_size or beam_size,
        temperatures=(valid.temperature,) if valid.temperature else FALLBACK_TEMPERATURES,
        priority=valid.priority,
    )
    model.check(options)
    return Order(model, options, valid, tuple(_notices(valid, form.ignored)))


def _collect(form: Form) -> dict[str, Any]:
    """The form's values: a list where the name ends in "[]", and `chunking_strategy` in one piece."""
    sent = {name: [value for value in values if value] for name, values in form.fields.items()}
    values: dict[str, Any] = {
        name: values if name.endswith("[]") else values[0] for name, values in sent.items() if values
    }
    pieces = {
        name: _parse_number(values.pop(f"chunking_strategy[{name}]"))
        for name in ServerVad.model_fields
        if f"chunking_strategy[{name}]" in values
    }
    return ({"chunking_strategy": json.dumps(pieces)} if pieces else {}) | values


def _reject_unsupported(values: Mapping[str, Any]) -> None:
    for name in ("known_speaker_names[]", "known_speaker_references[]"):
        if name in values:
            raise OptionError("Speaker recognition is not supported.", name, "unsupported_field")
    if values.get("response_format") == "diarized_json":
        message = "diarized_json is not supported yet; `channels=split` keeps a speaker per channel."
        raise OptionError(message, "response_format", "unsupported_response_format")


def _option_error(name: str) -> OptionError:
    """The error for an invalid value of a field, with the rule from the field's schema."""
    field = form_schema("transcribe")["properties"][name]
    field = field.get("items", field)
    allowed = field.get("enum", [field.get("const")])
    rules = {
        "boolean": "true or false",
        "integer": f"a whole number from {field.get('minimum')} to {field.get('maximum')}",
        "number": f"a number from {field.get('minimum')} to {field.get('maximum')}",
        "string": f"one of {', '.join(map(str, allowed))}",
    }
    rule = 'auto or an object of type "server_vad"' if name == "chunking_strategy" else rules[field["type"]]
    return OptionError(f"`{name}` must be {rule}.", name, f"invalid_{name.removesuffix('[]')}")


def _check_combinations(form: TranscriptionForm) -> None:
    """Reject values that exclude each other. Raises `OptionError`."""
    times = {"verbose_json": {"word", "segment"}, "json": {"segment"}}  # what OpenAI's server takes
    if not set(form.timestamp_granularities) <= times.get(form.response_format, set()):
        name = "timestamp_granularities[]"
        message = "Timestamp granularities need response_format=verbose_json."
        raise OptionError(message, name, "invalid_timestamp_granularities")
    if form.include and form.response_format != "json":
        raise OptionError("Log probabilities need response_format=json.", "include[]", "invalid_include")
    if form.stream and form.response_format not in {"json", "text"}:
        raise OptionError("Streams carry text; use response_format=json or text.", "stream", "invalid_stream")
    if form.chunking_strategy is not None and not form.vad:
        message = "A `chunking_strategy` makes windows around speech, which `vad=false` forbids; send one of them."
        raise OptionError(message, "vad", "conflicting_field")


def _languages(form: TranscriptionForm) -> tuple[str | None, tuple[str, ...]]:
    """The language, or those among which it is detected."""
    name, given = ("language", [form.language]) if form.language else ("languages[]", form.languages)
    try:
        return spoken_languages(given)
    except OptionError as error:
        raise OptionError(error.message, name, error.code) from error


def _hotwords(form: TranscriptionForm) -> str | None:
    name = "hotwords" if form.hotwords else "keywords[]"
    words = ", ".join([*filter(None, [form.hotwords]), *form.keywords])
    return _limited(words, HOTWORDS_LIMIT, name, "field_too_large")


def _limited(text: str, limit: int, name: str, code: str) -> str | None:
    """The text, `None` if it is empty. Raises `OptionError` if it has more bytes than the limit."""
    if len(text.encode()) > limit:
        raise OptionError(f"`{name}` may hold {limit:,} bytes at most.", name, code)
    return text or None


def _notices(form: TranscriptionForm, ignored: Collection[str]) -> list[Notice]:
    """Warnings about values that the server does not use as sent."""
    notices = []
    if ignored:
        message = f"This server ignores {', '.join(f'`{name}`' for name in sorted(ignored))}."
        notices.append(Notice("fields_ignored", message))
    if len(form.prompt.encode()) > PROMPT_TOKENS * BYTES_PER_TOKEN:
        message = f"The model reads the last {PROMPT_TOKENS} tokens of a prompt; this one probably has more."
        notices.append(Notice("prompt_truncated", message))
    if isinstance(form.chunking_strategy, ServerVad) and len(form.chunking_strategy.model_fields_set) > 1:
        message = "Speech is detected with this server's own thresholds, not those of chunking_strategy."
        notices.append(Notice("chunking_defaults", message))
    return notices
