"""Errors of the server, and the JSON response to any error.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Every error response has this format of OpenAI, 404 and 500 included. It never repeats what the client sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from tickertape.errors import CallerError, DecodeError, OverloadedError, ShuttingDownError, TickertapeError


class UnauthorizedError(CallerError):
    """No API key, more than one, or an unknown one."""

    code = "invalid_api_key"
    status = 401


class NotFoundError(CallerError):
    """Nothing at this path."""

    code = "not_found"
    status = 404


class MethodNotAllowedError(CallerError):
    """The path exists, for another method."""

    code = "method_not_allowed"
    status = 405


class UploadTimeoutError(CallerError):
    """The upload was too slow."""

    code = "body_timeout"
    status = 408


class UnsupportedMediaTypeError(CallerError):
    """The body is not a multipart form."""

    code = "unsupported_media_type"
    status = 415


class UnsupportedEncodingError(CallerError):
    """The body is compressed."""

    code = "unsupported_encoding"
    status = 415


class RateLimitError(CallerError):
    """The key's limit is reached: `RateLimitError(message, retry_after)`, in seconds."""

    code = "rate_limit_exceeded"
    status = 429

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)

    @property
    def retry_after(self) -> float:
        """Seconds."""
        return float(self.args[1])


class ClientDisconnectedError(CallerError):
    """The client closed the connection; only the log shows this error."""

    code = "client_closed_request"
    status = 499


class NotReadyError(DecodeError):
    """A model does not answer in time."""

    code = "not_ready"
    status = 503


SHUTDOWN_RETRY = 2.0  # seconds; by then the load balancer uses another instance
UNREAD_BODY_STATUSES = frozenset({408, 413})  # the rest of the body is not read, so the connection cannot be used again


def kind(code: int) -> str:
    """OpenAI's error `type`."""
    if code == 429:
        return "rate_limit_error"
    return "invalid_request_error" if code < 500 else "server_error"


def envelope(error: TickertapeError) -> dict[str, dict[str, str | None]]:
    """The body of an error response."""
    param = error.param if isinstance(error, CallerError) else None
    return {"error": {"message": error.message, "type": kind(error.status), "param": param, "code": error.code}}


def response(error: TickertapeError, headers: Mapping[str, str] | None = None) -> Response:
    """The error response, with `Retry-After` if a retry can help."""
    number = error.status
    extra = dict(headers or {})
    if isinstance(error, OverloadedError | RateLimitError):
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    elif isinstance(error, ShuttingDownError):
        extra["retry-after"] = str(math.ceil(SHUTDOWN_RETRY))
    if number == 401:
        extra["www-authenticate"] = "Bearer"
    if number in UNREAD_BODY_STATUSES:
        extra["connection"] = "close"
    return Response(json.dumps(envelope(error)), number, extra, "application/json")


def from_framework(error: Exception) -> TickertapeError:
    """Convert an exception of the framework. Its message is dropped, because it may repeat input."""
    code = error.status_code if isinstance(error, HTTPException) else 400
    if code == 404:
        return NotFoundError("There is nothing at this path; see /docs.")
    if code == 405:
        return MethodNotAllowedError("This path does not take that method; see /docs.")
    if code < 500:
        return CallerError("The request is malformed; see /docs.")
    return TickertapeError("The server failed; the log has the details under this request id.")
