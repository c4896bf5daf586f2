"""What an exception becomes over HTTP: one table of statuses, one envelope.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

The envelope is OpenAI's, for whatever goes wrong, 404 and 500 included. It never repeats what the client sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from tickertape.errors import (
    AudioTooLong,
    CallerError,
    DeadlineExceeded,
    DecodeError,
    FileTooLarge,
    HarmfulAudio,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
    TickertapeError,
)


class Unauthorized(CallerError):
    """No API key, more than one, or an unknown one."""

    code = "invalid_api_key"


class NoSuchPath(CallerError):
    """Nothing at this path."""

    code = "not_found"


class MethodNotAllowed(CallerError):
    """The path exists, for another method."""

    code = "method_not_allowed"


class SlowBody(CallerError):
    """The upload stood still for too long."""

    code = "body_timeout"


class UnsupportedMedia(CallerError):
    """The body is not a multipart form."""

    code = "unsupported_media_type"


class UnsupportedEncoding(CallerError):
    """The body is compressed."""

    code = "unsupported_encoding"


class RateLimited(CallerError):
    """The key's limit is reached: `RateLimited(message, retry_after)`, in seconds."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)

    @property
    def retry_after(self) -> float:
        """Seconds."""
        return float(self.args[1])


class ClientGone(CallerError):
    """The client closed the connection; nobody reads the answer, but the log does."""

    code = "client_closed_request"


class NotReady(DecodeError):
    """A model does not answer, or not in time."""

    code = "not_ready"


STATUSES: dict[type[TickertapeError], int] = {  # the nearest ancestor counts
    CallerError: 400,
    HarmfulAudio: 400,
    Unauthorized: 401,
    ModelNotFound: 404,
    NoSuchPath: 404,
    MethodNotAllowed: 405,
    SlowBody: 408,
    FileTooLarge: 413,
    AudioTooLong: 413,
    UnsupportedMedia: 415,
    UnsupportedEncoding: 415,
    RateLimited: 429,
    ClientGone: 499,
    TickertapeError: 500,
    DecodeError: 500,
    Overloaded: 503,
    ShuttingDown: 503,
    NotReady: 503,
    DeadlineExceeded: 504,
}
SHUTDOWN_RETRY = 2.0  # seconds: the load balancer has found another instance by then
CLOSING = frozenset({408, 413})  # the rest of the body is not read, so the connection cannot be used again


def status(error: TickertapeError) -> int:
    """The HTTP status of an exception: that of its nearest ancestor in the table."""
    return status_of(type(error))


def status_of(situation: type[TickertapeError]) -> int:
    """The same for the class."""
    return next(STATUSES[ancestor] for ancestor in situation.__mro__ if ancestor in STATUSES)


def kind(code: int) -> str:
    """OpenAI's `type`, which its clients show but do not act on."""
    if code == 429:
        return "rate_limit_error"
    return "invalid_request_error" if code < 500 else "server_error"


def envelope(error: TickertapeError) -> dict[str, dict[str, str | None]]:
    """The body of an answer that failed."""
    param = error.param if isinstance(error, CallerError) else None
    return {"error": {"message": error.message, "type": kind(status(error)), "param": param, "code": error.code}}


def response(error: TickertapeError, headers: Mapping[str, str] | None = None) -> Response:
    """The whole answer, with `Retry-After` where waiting helps."""
    number = status(error)
    extra = dict(headers or {})
    if isinstance(error, Overloaded | RateLimited):
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    elif isinstance(error, ShuttingDown):
        extra["retry-after"] = str(math.ceil(SHUTDOWN_RETRY))
    if number == 401:
        extra["www-authenticate"] = "Bearer"
    if number in CLOSING:
        extra["connection"] = "close"
    return Response(json.dumps(envelope(error)), number, extra, "application/json")


def from_framework(error: Exception) -> TickertapeError:
    """The framework's own refusals in our terms; its wording may echo input, so it is dropped."""
    code = error.status_code if isinstance(error, HTTPException) else 400
    if code == 404:
        return NoSuchPath("There is nothing at this path; see /docs.")
    if code == 405:
        return MethodNotAllowed("This path does not take that method; see /docs.")
    if code < 500:
        return CallerError("The request is malformed; see /docs.")
    return TickertapeError("The server failed; the log has the details under this request id.")
