"""The outermost middleware: every request gets an id, one log line, its metrics, and a JSON error if anything fails."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tickertape.errors import TickertapeError, forget_frames
from tickertape.server import errors
from tickertape.server.logs import log_exception
from tickertape.server.metrics import Metrics, Record, log_request, server_timing, trace_id

logger = logging.getLogger(__name__)

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # request ids accepted from clients
POLLED = frozenset({"/healthz", "/readyz", "/metrics"})  # polled every few seconds, so only failures are logged
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


def record_of(request: Request) -> Record:
    """The record of a request."""
    record = request.state.record
    assert isinstance(record, Record)  # noqa: S101 - the middleware wraps every request
    return record


class RecordMiddleware:
    """Records each request; the outermost middleware."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, project: str = "", quiet: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._project = project
        self._quiet = quiet  # log only what failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and record the request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # unsupported; the handshake gets a 403
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, started = _begin(scope), False

        async def counted_receive() -> Message:
            message = await receive()
            record.request_bytes += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(message, record, api="route" in scope)
            record.response_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except Exception as error:  # noqa: BLE001 - the last line of defence: the client gets an envelope, the log a trace
            known = known_error(error, record)
            if not started:
                await errors.response(known)(scope, counted_receive, counted_send)
        except BaseException as error:
            forget_frames(error)
            raise
        finally:
            self._end(scope, record)

    def _end(self, scope: Scope, record: Record) -> None:
        endpoint = str(getattr(scope.get("route"), "path_format", ""))
        record.endpoint, record.total = endpoint, record.elapsed
        if record.status == 0:  # cancelled before the response began
            record.fail(errors.ClientDisconnectedError())
        if not endpoint and record.status < 400:
            return  # a file of the page
        self._metrics.observe(record)
        if record.status >= 400 or not (self._quiet or endpoint in POLLED):
            log_request(record, project=self._project)


def known_error(error: Exception, record: Record) -> TickertapeError:
    """The error to send; the record has its status and code, and the log the place of an unexpected one."""
    known = error
    if not isinstance(known, TickertapeError):
        log_exception(logger, error, request_id=record.request_id)
        known = TickertapeError(f"The server failed; its log has the details under {record.request_id}.")
    forget_frames(error)
    record.fail(known)
    return known


def _add_headers(start: Message, record: Record, *, api: bool) -> None:
    record.status = record.status or start["status"]
    record.total = record.elapsed
    headers = MutableHeaders(raw=start.setdefault("headers", []))
    headers.update({"x-request-id": record.request_id, "server-timing": server_timing(record)})
    headers.setdefault("x-content-type-options", "nosniff")
    if api:  # files of the page may be cached
        headers.setdefault("cache-control", "no-store")
    headers.update(record.headers)


def request_id(headers: Headers) -> str:
    """The client's id if it is valid, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _ACCEPTED_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _begin(scope: Scope) -> Record:
    headers = Headers(raw=scope["headers"])
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    trace = trace_id(headers.get("x-cloud-trace-context", ""), headers.get("traceparent", ""))
    record = Record(request_id(headers), method=method, trace=trace)
    scope.setdefault("state", {})["record"] = record
    return record


def not_found(routes: Iterable[BaseRoute], scope: Scope) -> HTTPException:
    """404, or 405 with the allowed methods if one of the routes has this path."""
    methods = sorted(
        method
        for route in routes
        if isinstance(route, Route) and route.matches(scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    )
    return HTTPException(405, headers={"allow": ", ".join(methods)}) if methods else HTTPException(404)


def parse_content_length(value: str | bytes) -> int | None:
    """The number in a `Content-Length` header; None where the header is absent or malformed.

    `int` raises for more than 4,300 digits. Leading zeros are valid, and 18 digits exceed every limit.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not re.fullmatch(r"[0-9]+", text, re.ASCII):
        return None
    return int(text.lstrip("0")[:18] or "0")


async def answer_error(request: Request, error: Exception) -> Response:
    """An exception handler: responds with the JSON error and notes it in the record."""
    known = error if isinstance(error, TickertapeError) else errors.from_framework(error)
    record = record_of(request)
    record.fail(known)
    if known.status == 500 and known.__cause__ is not None:
        log_exception(logger, known.__cause__, request_id=record.request_id)
    forget_frames(error)
    allowed = getattr(error, "headers", None) or {}
    return errors.response(known, {name: value for name, value in allowed.items() if name.lower() == "allow"})
