"""The frame around every request: an id, a record, and an answer in our own shape whatever happens inside.

It wraps the whole application, so that a mistake in the framework or in ourselves still ends as one JSON envelope, one
log line and one observation.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from tickertape import failures, telemetry
from tickertape.errors import TickertapeError
from tickertape.telemetry import Metrics, Timings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Emit = Callable[[str], None]

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # a caller's own request id, if nothing can hide in it
POLLED = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds: logged when they fail
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class Record:
    """What is known of a request so far; handlers add to it."""

    def __init__(self, timings: Timings) -> None:
        self.timings = timings
        self.headers: dict[str, str] = {}  # to go out with the answer
        self._started = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self._started

    def note(self, **facts: Any) -> None:
        """Add fields of `Timings`."""
        self.timings = replace(self.timings, **facts)


def record_of(request: Request) -> Record:
    """The record that the frame has laid beside the request."""
    record = request.state.record
    assert isinstance(record, Record)  # noqa: S101 - the frame wraps every request
    return record


def to_stdout(line: str) -> None:
    """One line on standard output, at once: that is where container platforms read logs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Frame:
    """The outermost middleware."""

    def __init__(self, app: App, *, metrics: Metrics, emit: Emit, project: str = "", quiet: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._emit = emit
        self._project = project
        self._quiet = quiet  # log only what failed

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Run the application within the frame."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it; the handshake gets a 403
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _begin(scope)
        watched = _Watched(scope, receive, send, record)
        try:
            await self._app(scope, watched.receive, watched.send)
        except Exception as error:  # noqa: BLE001 - the last line of defence: the client gets an envelope, the log a trace
            await self._rescue(error, record, watched, scope)
        finally:
            self._end(scope, record)

    async def _rescue(
        self, error: Exception, record: Record, watched: _Watched, scope: MutableMapping[str, Any]
    ) -> None:
        if isinstance(error, TickertapeError):
            known = error
        else:
            known = TickertapeError("The server failed; the log has the details under this request id.")
            self._emit(trace_line(error, record.timings.request_id))
        record.note(status=failures.status(known), code=known.code)
        if not watched.started:
            await failures.response(known)(scope, watched.receive, watched.send)

    def _end(self, scope: MutableMapping[str, Any], record: Record) -> None:
        endpoint = str(getattr(scope.get("route"), "path_format", ""))
        record.note(endpoint=endpoint, total=record.elapsed)
        if record.timings.status == 0:  # cancelled from outside before an answer began
            record.note(status=499, code=failures.ClientGone.code)
        if not endpoint and record.timings.status < 400:
            return  # the page and what belongs to it
        self._metrics.observe(record.timings)
        if record.timings.status >= 400 or not (self._quiet or endpoint in POLLED):
            self._emit(telemetry.log_line(record.timings, project=self._project))


class _Watched:
    """The two ends of the connection, with counters, and the headers that every answer bears."""

    def __init__(self, scope: Message, receive: Receive, send: Send, record: Record) -> None:
        self.started = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._record = record

    async def receive(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        if size:
            self._record.note(request_bytes=self._record.timings.request_bytes + size)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._start(message)
        size = len(message.get("body", b""))
        if size:
            self._record.note(response_bytes=self._record.timings.response_bytes + size)
        await self._send(message)

    def _start(self, message: Message) -> None:
        record = self._record
        if not record.timings.status:
            record.note(status=message["status"])
        record.note(total=record.elapsed)
        headers = MutableHeaders(raw=message.setdefault("headers", []))
        headers["x-request-id"] = record.timings.request_id
        headers["server-timing"] = telemetry.server_timing(record.timings)
        headers.setdefault("x-content-type-options", "nosniff")
        if "route" in self._scope:  # one of ours; the page's files may be cached
            headers.setdefault("cache-control", "no-store")
        for name, value in record.headers.items():
            headers[name] = value


def request_id(headers: Headers) -> str:
    """The caller's own id where it is a proper one, else one of ours."""
    given = headers.get("x-request-id", "")
    return given if _ACCEPTED_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _begin(scope: MutableMapping[str, Any]) -> Record:
    headers = Headers(raw=scope["headers"])
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    record = Record(
        Timings(
            request_id=request_id(headers),
            method=method,
            trace=telemetry.trace_id(headers.get("x-cloud-trace-context", ""), headers.get("traceparent", "")),
        )
    )
    scope.setdefault("state", {})["record"] = record
    return record


def answer_error(emit: Emit) -> Callable[[Request, Exception], Response]:
    """A handler for the framework: our own errors and the framework's, in the envelope, noted in the record."""

    def answer(request: Request, error: Exception) -> Response:
        known = error if isinstance(error, TickertapeError) else failures.from_framework(error)
        record = record_of(request)
        record.note(status=failures.status(known), code=known.code)
        if failures.status(known) == 500 and known.__cause__ is not None:
            emit(trace_line(known.__cause__, record.timings.request_id))
        allowed = getattr(error, "headers", None) or {}
        return failures.response(known, {name: value for name, value in allowed.items() if name.lower() == "allow"})

    return answer


def event_line(severity: Literal["INFO", "WARNING", "ERROR"], message: str, **facts: object) -> str:
    """A log line for something that is not a request."""
    return json.dumps({"severity": severity, "message": message, **facts}, separators=(",", ":"))


def trace_line(error: BaseException, request_id: str) -> str:
    """Where an unexpected exception came from; not its message, which may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
    return event_line("ERROR", f"unexpected {type(error).__name__}", request_id=request_id, where=where)
