"""What stands before the application in Ray Serve's HTTP proxy.

Serve's proxy lets clients steer it by headers, reads bodies without limit, and answers in plain text while it starts or
when a replica is lost. The doorman takes the headers away, stops reading at the limit, and gives errors our shape.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from tickertape import failures
from tickertape.errors import Overloaded, TickertapeError
from tickertape.failures import NoSuchPath, NotReady
from tickertape.forms import body_cap
from tickertape.frame import App, Message, Receive, Send, request_id
from tickertape.lines import keep_json, speak_json
from tickertape.wire import speak_http

LIMIT = "TICKERTAPE_PROXY_BODY_LIMIT"  # how the limit reaches the proxies' processes; bytes
STEERING = frozenset({
    b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"x-session-id",
    b"serve_multiplexed_model_id", b"serve-multiplexed-model-id",
})  # fmt: skip
ROUTES = "/-/routes"  # names the applications to anybody who asks
BY_FRAME = "server-timing"  # our own frame has set it: the answer is the application's
MISSING, UNAVAILABLE = 404, 503


def middlewares() -> list[Any]:
    """Serve calls this in every proxy; see `serving`."""
    from starlette.middleware import Middleware

    speak_json()
    speak_http()
    return [Middleware(Doorman, limit=int(os.environ.get(LIMIT, "0")))]


class Doorman:
    """The outermost layer of the proxy."""

    def __init__(self, app: App, *, limit: int = 0) -> None:
        """`limit` is the largest body in bytes; 0: any."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let a request in, cleaned."""
        keep_json()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == ROUTES:
            await failures.response(NoSuchPath("There is nothing at this path; see /docs."))(scope, receive, send)
            return
        scope = {**scope, "headers": cleaned(scope["headers"])}
        await self._app(scope, self._limited(receive), _Reworded(send).send)

    def _limited(self, receive: Receive) -> Receive:
        """Stop reading once a body is longer than any that is accepted; the application refuses it meanwhile."""
        left = body_cap(self._limit) if self._limit else 0

        async def limited() -> Message:
            nonlocal left
            if left < 0:
                await asyncio.Event().wait()  # until the answer is out, which cancels this
            message = await receive()
            if self._limit and message["type"] == "http.request":
                left -= len(message.get("body", b""))
            return {**message, "more_body": False} if left < 0 else message

        return limited


def cleaned(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without those that steer Serve, and with a request id that can be trusted."""
    kept = [(name, value) for name, value in headers if name not in STEERING and name != b"x-request-id"]
    return [*kept, (b"x-request-id", request_id(Headers(raw=headers)).encode())]


class _Reworded:
    """Passes the application's answers on, and puts Serve's own into the envelope."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._replaced: TickertapeError | None = None

    async def send(self, message: Message) -> None:
        """One message of the answer."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._replaced is None:
            await self._send(message)
        elif not message.get("more_body", False):
            body = json.dumps(failures.envelope(self._replaced)).encode()
            await self._send({"type": "http.response.body", "body": body})

    async def _start(self, message: Message) -> None:
        headers = MutableHeaders(raw=list(message.get("headers", [])))
        identity = headers.get("x-request-id", "")
        if BY_FRAME not in headers and message["status"] >= 400:
            self._replaced = _situation(message["status"])
            response = failures.response(self._replaced)
            del response.headers["content-length"]
            headers = MutableHeaders(raw=list(response.raw_headers))
            message = {**message, "status": response.status_code}
        del headers["x-request-id"]
        headers["x-request-id"] = identity
        await self._send({**message, "headers": headers.raw})


def _situation(status: int) -> TickertapeError:
    """What Serve means."""
    if status == MISSING:  # every path is the application's, so none is there yet
        return NotReady("The service is starting; try again in a few seconds.")
    if status == UNAVAILABLE:
        return Overloaded("The service has no room; try again later.")
    return TickertapeError("The server lost this request; send it again.")
