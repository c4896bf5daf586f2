"""Parse multipart forms strictly and within limits.

Fields of other servers are ignored with a warning. Any other unknown field is rejected, because it may be a typing
error.

The upload stays in memory and is never written to disk. A body that declares more than the limit is rejected unread;
any other is cut off at the limit.
"""

from __future__ import annotations

import io
import re
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers

from tickertape.errors import FileTooLargeError, OptionError
from tickertape.server.errors import UnsupportedEncodingError, UnsupportedMediaTypeError
from tickertape.server.middleware import parse_content_length

FIELD_LIMIT = 64 * 1024  # bytes of one field that is not the file
MAX_PARTS = 64  # OpenAI's form has 13 fields, some of them repeated
HEADER_LIMIT = 8 * 1024  # bytes of one header of a part: a file name of 255 characters, percent-encoded, and some
MAX_HEADERS = 8  # of one part
ALLOWANCE = 2**20  # bytes of a body beyond the file: fields and boundaries ...
ALLOWANCE_SHARE = 16  # ... but no more than a 16th of the limit on the file
# Fields of other servers and gateways. They tune the decoding or the report; none asks for another result.
IGNORED_FIELDS = frozenset({
    "metadata", "n", "safety_identifier", "seed", "store", "stream_options", "top_p", "user",  # OpenAI, elsewhere
    "frequency_penalty", "max_completion_tokens", "min_p", "presence_penalty", "repetition_penalty",  # vLLM
    "stream_continuous_usage_stats", "stream_include_usage", "top_k",
    "batch_size", "best_of", "compression_ratio_threshold", "condition_on_previous_text",  # faster-whisper's servers
    "hallucination_silence_threshold", "length_penalty", "log_prob_threshold", "no_repeat_ngram_size",
    "no_speech_threshold", "patience", "suppress_blank", "suppress_tokens", "vad_filter", "vad_parameters",
    "without_timestamps",
    "entropy_thold", "logprob_thold", "no_speech_thold", "no_timestamps", "temperature_inc",  # whisper.cpp
})  # fmt: skip


@dataclass(slots=True)
class Form:
    """A parsed form: the upload, the values of the other fields in order, and the names of ignored fields."""

    file: io.BytesIO | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)


def body_cap(limit: int) -> int:
    """The largest body that can hold a file of `limit` bytes and its fields."""
    return limit + min(ALLOWANCE, limit // ALLOWANCE_SHARE)


def check_headers(headers: Headers, limit: int) -> bytes:
    """Check the headers of a form and return its boundary.

    Raises `UnsupportedEncodingError`, `UnsupportedMediaTypeError`, `FileTooLargeError` or `OptionError`, before a byte
    of the body is read.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncodingError("Send the form without Content-Encoding.")
    kind, parameters = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise UnsupportedMediaTypeError("Send a form with Content-Type multipart/form-data.")
    if (parse_content_length(headers.get("content-length", "")) or 0) > body_cap(limit):
        raise _too_large(limit)
    boundary = parameters.get(b"boundary", b"")
    if not re.fullmatch(rb"[\x20-\x7e]{1,70}", boundary):
        raise _malformed("The Content-Type has no valid boundary.")
    return boundary


async def read_form(body: AsyncGenerator[bytes, None], boundary: bytes, *, known: Collection[str], limit: int) -> Form:
    """Parse a body in chunks. A `known` field whose name ends in "[]" may be repeated, also without the brackets.

    Raises `FileTooLargeError`, `OptionError`, and whatever `body` raises.
    """
    form = Form()
    collector = _Collector(form, known, limit)
    parser = MultipartParser(
        boundary, collector.callbacks(), max_header_count=MAX_HEADERS, max_header_size=HEADER_LIMIT
    )
    beginning, size = b"--" + boundary, 0
    async with aclosing(body) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            if size > body_cap(limit):
                raise _too_large(limit)
            if beginning:  # reject a preamble, which the parser would skip byte by byte
                if not chunk.startswith(beginning[: len(chunk)]):
                    raise _malformed("The body does not begin with the boundary.")
                beginning = beginning[len(chunk) :]
            try:
                parser.write(chunk)
            except FormParserError as error:
                raise _malformed("The body is not a proper multipart form.") from error
    if not collector.ended:
        raise _malformed("The form ends before its last boundary.")
    return form


class _Collector:
    """Handles the parser's events; raises at the first violation of a rule."""

    def __init__(self, form: Form, known: Collection[str], limit: int) -> None:
        self.ended = False
        self._form = form
        self._known = known
        self._limit = limit
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header = bytearray()
        self._value = bytearray()
        self._name = self._ignored = ""
        self._text = bytearray()
        self._upload: io.BytesIO | None = None

    def callbacks(self) -> Any:
        """The callbacks by the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": lambda: setattr(self, "ended", True),
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise OptionError("The form has too many parts.", None, "too_many_fields")
        self._headers, self._text, self._upload = {}, bytearray(), None

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _begin_data(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        kind, parameters = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in parameters:
            raise _malformed("A part of the form has no name.")
        name = parameters[b"name"].decode("latin-1")
        self._name = f"{name}[]" if f"{name}[]" in self._known else name
        self._ignored = name.partition("[")[0]  # `stream_options[include_usage]` is a part of `stream_options`
        if self._name not in self._known and self._ignored not in IGNORED_FIELDS:
            raise OptionError("The form has an unknown field; see /docs.", None, "unknown_field")
        sent = self._name in self._form.fields or (self._name == "file" and self._form.file is not None)
        if sent and not self._name.endswith("[]"):
            raise OptionError("A field was sent twice.", self._name, "duplicate_field")
        self._begin_file(named=b"filename" in parameters)

    def _begin_file(self, *, named: bool) -> None:
        """A part with a file name is a file. The name is not used otherwise."""
        if self._name == "file":
            if not named:
                raise OptionError("Send `file` as a file, with a file name.", "file", "not_a_file")
            self._upload = self._form.file = io.BytesIO()
        elif named:
            raise OptionError("Only `file` can be a file.", self._name, "not_a_field")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._upload is not None:
            if self._upload.tell() + end - start > self._limit:
                raise _too_large(self._limit)
            self._upload.write(memoryview(data)[start:end])
            return
        if len(self._text) + end - start > FIELD_LIMIT:
            code = "prompt_too_long" if self._name == "prompt" else "field_too_large"
            raise OptionError(f"A field may hold {FIELD_LIMIT:,} bytes at most.", self._name, code)
        self._text += data[start:end]

    def _end(self) -> None:
        if self._upload is not None:
            self._upload.seek(0)
            return
        if self._name not in self._known:
            self._form.ignored.update({self._ignored} if self._text else ())
            return
        try:
            value = self._text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise OptionError("Fields must be UTF-8.", self._name, "invalid_encoding") from error
        self._form.fields.setdefault(self._name, []).append(value)


def _malformed(message: str) -> OptionError:
    return OptionError(message, None, "invalid_multipart")


def _too_large(limit: int) -> FileTooLargeError:
    return FileTooLargeError(f"The upload is larger than the limit of {limit:,} bytes.")
