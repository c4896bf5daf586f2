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

from tickertape.errors import CallerError, DecodeError, TickertapeError


class UnauthorizedError(CallerError, code="invalid_api_key", status=401):
    """No API key, more than one, or an unknown one."""


class NotFoundError(CallerError, code="not_found", status=404):
    """Nothing at this path."""


class MethodNotAllowedError(CallerError, code="method_not_allowed", status=405):
    """The path exists, for another method."""


class UploadTimeoutError(CallerError, code="body_timeout", status=408):
    """The upload was too slow."""


class UnsupportedMediaTypeError(CallerError, code="unsupported_media_type", status=415):
    """The body is not a multipart form."""


class UnsupportedEncodingError(CallerError, code="unsupported_encoding", status=415):
    """The body is compressed."""


class RateLimitError(CallerError, code="rate_limit_exceeded", status=429):
    """The key's limit is reached: `RateLimitError(message, retry_after)`, in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after


class ClientDisconnectedError(CallerError, code="client_closed_request", status=499):
    """The client closed the connection; only the log shows this error."""


class NotReadyError(DecodeError, code="not_ready", status=503):
    """A model does not answer in time."""


UNREAD_BODY_STATUSES = frozenset({408, 413})  # the rest of the body is not read, so the connection cannot be used again


def envelope(error: TickertapeError) -> dict[str, dict[str, str | None]]:
    """The body of an error response."""
    param = error.param if isinstance(error, CallerError) else None
    kind = "rate_limit_error" if error.status == 429 else "invalid_request_error"
    kind = "server_error" if error.status >= 500 else kind
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


def response(error: TickertapeError, headers: Mapping[str, str] | None = None) -> Response:
    """The error response, with `Retry-After` if a retry can help."""
    extra = dict(headers or {})
    if error.retry_after:
        extra["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        extra["www-authenticate"] = "Bearer"
    if error.status in UNREAD_BODY_STATUSES:
        extra["connection"] = "close"
    return Response(json.dumps(envelope(error)), error.status, extra, "application/json")


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
