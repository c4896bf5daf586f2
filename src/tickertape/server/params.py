"""The parameters of a transcription request: the table of form fields, and their validation.

A form becomes an `Order`, or an `OptionError` with the field in `param` and a `code` from `CODES`. Empty
values count as absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from tickertape.errors import EmptyFileError, ModelNotFoundError, OptionError
from tickertape.pipeline import Model
from tickertape.server.multipart import Form
from tickertape.transcripts.languages import language_code
from tickertape.types import FALLBACK_TEMPERATURES, Notice, Options, Priority, Task

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]

ALIAS = "whisper-1"  # OpenAI's only Whisper: the first model answers to it
PROMPT_LIMIT = 16 * 1024  # bytes
HOTWORDS_LIMIT = 4 * 1024  # bytes
PROMPT_TOKENS = 223  # half of Whisper's text context, less <|startofprev|>: more is cut off at the front
BYTES_PER_TOKEN = 4  # of English text, about
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"  # ASCII; neither nan nor infinity
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form, as documented. `extension`: not OpenAI's. `translations`: also known there."""

    help: str
    kind: str = "string"
    choices: tuple[str, ...] = ()
    translations: bool = True
    extension: bool = False
    example: object = None


_IGNORED = "Accepted but ignored; the server uses its own thresholds and adds a warning."

FIELDS: dict[str, Field] = {
    "file": Field("The recording. The server reads its format from the content and ignores its name.", "file"),
    "model": Field("A name from `GET /v1/models`, or `whisper-1` for the default.", example="whisper-1"),
    "language": Field("ISO 639-1 code or English name of the spoken language. Default: detected.", example="en"),
    "languages[]": Field("One value: like `language`. Several: the language is detected.", translations=False),
    "prompt": Field("Earlier text, or names and spellings to expect. The model reads the last 223 tokens.",
                    example="Call 17."),
    "response_format": Field("Format of the response.", choices=FORMATS, example="verbose_json"),
    "temperature": Field("0 to 1. 0, the default: greedy, with higher temperatures for windows that fail.", "number",
                         example=0),
    "timestamp_granularities[]": Field("Times in `verbose_json`; `segment` is accepted with `json` too.",
                                       choices=("word", "segment"), translations=False),
    "include[]": Field("Log probabilities of the tokens; only with `json`.", choices=("logprobs",), translations=False),
    "stream": Field("Respond with server-sent events; only with `json` or `text`.", "boolean"),
    "chunking_strategy": Field('`auto` or `{"type":"server_vad"}`: windows follow the speech.', translations=False),
    "chunking_strategy[type]": Field("The same object, in the form that OpenAI's client sends.",
                                     choices=("server_vad",), translations=False),
    "chunking_strategy[prefix_padding_ms]": Field(_IGNORED, "integer", translations=False),
    "chunking_strategy[silence_duration_ms]": Field(_IGNORED, "integer", translations=False),
    "chunking_strategy[threshold]": Field(_IGNORED, "number", translations=False),
    "keywords[]": Field("Words to expect; added to `hotwords`.", translations=False),
    "known_speaker_names[]": Field("Not supported.", translations=False),
    "known_speaker_references[]": Field("Not supported.", translations=False),
    "vad": Field("`false`: plain windows of 30 s instead of windows around speech.", "boolean", extension=True),
    "hotwords": Field("Words to expect, given to the model as a prompt.", extension=True),
    "word_timestamps": Field("Word times: `words` in `verbose_json`, tighter cues in `srt` and `vtt`.", "boolean",
                             extension=True),
    "file_url": Field("URL of the recording, in place of `file`: `https://...` or `gs://bucket/object`. The server "
                      "must allow its host or bucket.", extension=True),
    "audio_format": Field("Format of audio without a header: `mulaw;rate=8000;channels=1`.", extension=True),
    "audio_track": Field("Number of the audio track, from 0. Default: the first.", "integer", extension=True),
    "channels": Field("`split`: one speaker per channel.", choices=("mix", "split"), extension=True),
    "beam_size": Field("1 to 10 beams; 1 is greedy.", "integer", extension=True),
    "priority": Field("`batch`: interactive requests go first.", choices=("interactive", "batch"), extension=True),
}  # fmt: skip

CODES: dict[str, str] = {
    "missing_field": "`model`, or both `file` and `file_url`, are absent",
    "conflicting_field": "both `file` and `file_url`, or both `chunking_strategy` and `vad=false`",
    "unknown_field": "the form has no such field",
    "duplicate_field": "a field that may be sent once was sent twice",
    "too_many_fields": "more than 64 parts",
    "field_too_large": "a field exceeds its limit in bytes",
    "not_a_file": "`file` has no file name, so it is text",
    "not_a_field": "another field was sent as a file",
    "invalid_encoding": "a field is not UTF-8",
    "invalid_multipart": "the multipart form is malformed",
    "invalid_language": "neither an ISO 639-1 code nor an English name, or unknown to the model",
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
    "invalid_audio_format": "not a valid format of audio without a header",
    "invalid_audio_track": "not a track number, or no such track",
    "invalid_channels": "neither `mix` nor `split`",
    "invalid_beam_size": "not a whole number from 1 to 10",
    "invalid_priority": "neither `interactive` nor `batch`",
}


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request: which model, how, and the shape of the answer."""

    model: Model
    options: Options
    response_format: ResponseFormat
    segments: bool = True  # in verbose_json
    words: bool = False  # likewise
    stream: bool = False
    vad: bool = True
    channels: Literal["mix", "split"] = "mix"
    track: int | None = None
    audio_format: str | None = None
    url: str | None = None  # where the recording is to be fetched
    notices: tuple[Notice, ...] = ()


def known_fields(task: Task) -> frozenset[str]:
    """The fields of an endpoint's form."""
    return frozenset(name for name, field in FIELDS.items() if field.translations or task == "transcribe")


def find_model(name: str, models: Mapping[str, Model]) -> Model:
    """The model of that name; the first under its alias. Raises `ModelNotFoundError`."""
    if name == ALIAS and ALIAS not in models:
        return next(iter(models.values()))
    if name not in models:
        raise ModelNotFoundError("There is no such model here; GET /v1/models lists them.")
    return models[name]


def parse_form(form: Form, task: Task, models: Mapping[str, Model], *, beam_size: int = 1) -> Order:
    """Validate a form. Raises `OptionError`, `ModelNotFoundError` or `EmptyFileError`."""
    values = {name: [value for value in sent if value] for name, sent in form.fields.items()}
    values = {name: sent for name, sent in values.items() if sent}
    if (form.file is None and "file_url" not in values) or "model" not in values:
        missing = "model" if form.file is not None or "file_url" in values else "file"
        raise OptionError(f"The field `{missing}` is missing.", missing, "missing_field")
    model = find_model(values["model"][0], models)
    if form.file is not None and "file_url" in values:
        raise OptionError("Send `file` or `file_url`, not both.", "file_url", "conflicting_field")
    if form.file is not None and not form.file.getbuffer().nbytes:
        raise EmptyFileError("The file is empty.")
    return _FormParser(values, model, task, beam_size).order()


class _FormParser:
    """Validates one form, field by field."""

    def __init__(self, values: dict[str, list[str]], model: Model, task: Task, beam_size: int) -> None:
        self._values = values
        self._model = model
        self._task = task
        self._beam_size = beam_size
        self._notices: list[Notice] = []

    def order(self) -> Order:
        self._reject_unsupported()
        response_format = self._format()
        granularities = self._granularities(response_format)
        word_timestamps = self._boolean("word_timestamps", default=False) or "word" in granularities
        options = Options(
            language=self._language(),
            task=self._task,
            prompt=self._prompt(),
            hotwords=self._hotwords(),
            word_timestamps=word_timestamps,
            logprobs=self._logprobs(response_format),
            beam_size=self._integer("beam_size", 1, 10, self._beam_size),
            temperatures=self._temperatures(),
            priority=cast(Priority, self._choice("priority") or "interactive"),
        )
        self._model.check(options)
        return Order(
            model=self._model,
            options=options,
            response_format=response_format,
            segments=not granularities or "segment" in granularities,
            words=word_timestamps,
            stream=self._stream(response_format),
            vad=self._vad(),
            channels=cast(Literal["mix", "split"], self._choice("channels") or "mix"),
            track=None if "audio_track" not in self._values else self._integer("audio_track", 0, 255, 0),
            audio_format=self._one("audio_format"),
            url=self._one("file_url"),
            notices=tuple(self._notices),
        )

    def _one(self, name: str) -> str | None:
        return self._values[name][0] if name in self._values else None

    def _choice(self, name: str) -> str | None:
        value = self._one(name)
        if value is not None and value not in FIELDS[name].choices:
            raise OptionError(f"`{name}` must be one of {', '.join(FIELDS[name].choices)}.", name, _invalid(name))
        return value

    def _boolean(self, name: str, *, default: bool) -> bool:
        value = self._one(name)
        if value is None:
            return default
        if value.lower() not in {"true", "false", "1", "0"}:
            raise OptionError(f"`{name}` must be true or false.", name, _invalid(name))
        return value.lower() in {"true", "1"}

    def _integer(self, name: str, low: int, high: int, default: int) -> int:
        value = self._one(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,4}", value) or not low <= int(value) <= high:
            raise OptionError(f"`{name}` must be a whole number from {low} to {high}.", name, _invalid(name))
        return int(value)

    def _reject_unsupported(self) -> None:
        for name in ("known_speaker_names[]", "known_speaker_references[]"):
            if name in self._values:
                raise OptionError("Speaker recognition is not supported.", name, "unsupported_field")
        if self._one("response_format") == "diarized_json":
            message = "diarized_json is not supported yet; `channels=split` keeps a speaker per channel."
            raise OptionError(message, "response_format", "unsupported_response_format")

    def _format(self) -> ResponseFormat:
        return cast(ResponseFormat, self._choice("response_format") or "json")

    def _language(self) -> str | None:
        name, given = "language", self._one("language")
        if given is None and len(several := self._values.get("languages[]", [])) == 1:
            name, given = "languages[]", several[0]
        elif given is None and several:
            for language in several:
                _code(language, "languages[]")
            message = "Several languages were given; the language was detected without that restriction."
            self._notices.append(Notice("languages_detected", message))
        return None if given is None else _code(given, name)

    def _prompt(self) -> str | None:
        prompt = self._one("prompt")
        size = len((prompt or "").encode())
        if size > PROMPT_LIMIT:
            raise OptionError(f"The prompt may hold {PROMPT_LIMIT:,} bytes at most.", "prompt", "prompt_too_long")
        if size > PROMPT_TOKENS * BYTES_PER_TOKEN:
            message = f"The model reads the last {PROMPT_TOKENS} tokens of a prompt; this one probably has more."
            self._notices.append(Notice("prompt_truncated", message))
        return prompt

    def _hotwords(self) -> str | None:
        words = ", ".join([*self._values.get("hotwords", []), *self._values.get("keywords[]", [])])
        if len(words.encode()) > HOTWORDS_LIMIT:
            name = "hotwords" if "hotwords" in self._values else "keywords[]"
            raise OptionError(f"Hotwords may hold {HOTWORDS_LIMIT:,} bytes at most.", name, "field_too_large")
        return words or None

    def _temperatures(self) -> tuple[float, ...]:
        value = self._one("temperature")
        if value is None:
            return FALLBACK_TEMPERATURES
        number = _number(value)
        if isinstance(number, str) or not 0 <= number <= 1:
            raise OptionError("`temperature` must be a number from 0 to 1.", "temperature", "invalid_temperature")
        return (number,) if number else FALLBACK_TEMPERATURES

    def _granularities(self, response_format: ResponseFormat) -> list[str]:
        name = "timestamp_granularities[]"
        values = self._values.get(name, [])
        code = "invalid_timestamp_granularities"
        if any(value not in FIELDS[name].choices for value in values):
            raise OptionError("`timestamp_granularities[]` must be word or segment.", name, code)
        if not set(values) <= _TIMES.get(response_format, set()):
            raise OptionError("Timestamp granularities need response_format=verbose_json.", name, code)
        return values

    def _logprobs(self, response_format: ResponseFormat) -> bool:
        values = self._values.get("include[]", [])
        if any(value != "logprobs" for value in values):
            raise OptionError("`include[]` must be logprobs.", "include[]", "invalid_include")
        if values and response_format != "json":
            raise OptionError("Log probabilities need response_format=json.", "include[]", "invalid_include")
        return bool(values)

    def _stream(self, response_format: ResponseFormat) -> bool:
        stream = self._boolean("stream", default=False)
        if stream and response_format not in {"json", "text"}:
            raise OptionError("Streams carry text; use response_format=json or text.", "stream", "invalid_stream")
        return stream

    def _vad(self) -> bool:
        """Whether windows follow the speech."""
        chunking, vad = self._chunking(), self._boolean("vad", default=True)
        if chunking and not vad:
            message = "A `chunking_strategy` makes windows around speech, which `vad=false` forbids; send one of them."
            raise OptionError(message, "vad", "conflicting_field")
        return vad

    def _chunking(self) -> bool:
        """Whether the request has a chunking strategy."""
        strategy = self._strategy()
        if strategy is None or strategy == "auto":
            return strategy is not None
        if not _is_server_vad(strategy):
            message = '`chunking_strategy` must be auto or an object of type "server_vad".'
            raise OptionError(message, "chunking_strategy", "invalid_chunking_strategy")
        if len(strategy) > 1:
            message = "Speech is detected with this server's own thresholds, not those of chunking_strategy."
            self._notices.append(Notice("chunking_defaults", message))
        return True

    def _strategy(self) -> Any:
        """The strategy as sent: a word, an object as JSON, or an object field by field."""
        value = self._one("chunking_strategy")
        pieces = {name: self._one(f"chunking_strategy[{name}]") for name in ("type", *_VAD_LIMITS)}
        if value is None and any(pieces.values()):
            return {name: _number(piece) for name, piece in pieces.items() if piece is not None}
        if value is None or value == "auto":
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value


_TIMES = {"verbose_json": {"word", "segment"}, "json": {"segment"}}  # granularities that OpenAI's server takes


def _code(language: str, name: str) -> str:
    """A language's code; the error names the field it came in."""
    try:
        return language_code(language)
    except OptionError as error:
        raise OptionError(error.message, name, error.code) from error


_VAD_LIMITS = {"prefix_padding_ms": 60_000, "silence_duration_ms": 60_000, "threshold": 1}


def _is_server_vad(strategy: Any) -> bool:
    return (
        isinstance(strategy, dict)
        and strategy.get("type") == "server_vad"
        and all(
            name == "type" or (name in _VAD_LIMITS and type(value) in {int, float} and 0 <= value <= _VAD_LIMITS[name])
            for name, value in strategy.items()
        )
    )


def _number(value: str) -> float | str:
    """A number where there is one; finite, of ASCII digits, as JSON has them."""
    return float(value) if re.fullmatch(_NUMBER, value) else value


def _invalid(name: str) -> str:
    return f"invalid_{name.removesuffix('[]')}"
