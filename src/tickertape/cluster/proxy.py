"""ASGI middleware in front of the application in Ray Serve's HTTP proxy.

Serve's proxy obeys routing headers of clients, reads bodies without limit, and answers in plain text while it starts or
when a replica is lost. The middleware removes the headers, limits the body and rewrites such answers to JSON errors.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send

from tickertape.errors import OverloadedError, TickertapeError
from tickertape.server import http_protocol
from tickertape.server.deployments import BODY_LIMIT_VARIABLE
from tickertape.server.errors import NotFoundError, NotReadyError, response
from tickertape.server.logs import configure_logging, restore_logging
from tickertape.server.middleware import request_id
from tickertape.server.multipart import body_cap

SERVE_HEADERS = frozenset({  # set timeouts and routing in Serve
    b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"x-session-id",
    b"serve_multiplexed_model_id", b"serve-multiplexed-model-id",
})  # fmt: skip
ROUTES_PATH = "/-/routes"  # Serve lists its applications there
APPLICATION_HEADER = "server-timing"  # every answer of the application has it, and none of Serve's own


def middlewares() -> list[Any]:
    """The middleware of every proxy; `ENVIRONMENT` names this function to Serve."""
    from starlette.middleware import Middleware

    configure_logging()
    http_protocol.install()
    return [Middleware(ProxyMiddleware, limit=int(os.environ.get(BODY_LIMIT_VARIABLE, "0")))]


class ProxyMiddleware:
    """The outermost layer of the proxy."""

    def __init__(self, app: ASGIApp, *, limit: int = 0) -> None:
        """`limit` is the maximum size of a body in bytes; 0: none."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass a request on with clean headers and a limited body."""
        restore_logging()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == ROUTES_PATH:
            await response(NotFoundError("There is nothing at this path; see /docs."))(scope, receive, send)
        else:
            headers = [header for header in scope["headers"] if header[0] not in (*SERVE_HEADERS, b"x-request-id")]
            headers.append((b"x-request-id", request_id(Headers(scope=scope)).encode()))
            scope = {**scope, "headers": headers}
            await self._app(scope, self._limited(receive), _with_json_errors(scope, receive, send))

    def _limited(self, receive: Receive) -> Receive:
        """End the body once it exceeds the limit; the application rejects it."""
        left = body_cap(self._limit) if self._limit else 0

        async def receive_limited() -> Message:
            nonlocal left
            if left < 0:
                await asyncio.Event().wait()  # cancelled when the answer has been sent
            message = await receive()
            if self._limit and message["type"] == "http.request":
                left -= len(message.get("body", b""))
            return {**message, "more_body": False} if left < 0 else message

        return receive_limited


def _with_json_errors(scope: Any, receive: Receive, send: Send) -> Send:
    """Pass the application's answer on; send a JSON error in place of an error of Serve's own."""
    replaced = False

    async def send_checked(message: Message) -> None:
        nonlocal replaced
        if replaced:
            return
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers["x-request-id"] = identity = headers.get("x-request-id", "")  # Serve may have added a second one
            if replaced := message["status"] >= 400 and APPLICATION_HEADER not in headers:
                answer = response(_error_for(message["status"]))
                answer.headers["x-request-id"] = identity
                await answer(scope, receive, send)
                return
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_checked


def _error_for(status: int) -> TickertapeError:
    """The error that a status of Serve's own means."""
    if status == 404:  # the application handles every path, so it has not started yet
        return NotReadyError("The service is starting; try again in a few seconds.")
    if status == 503:
        return OverloadedError("The service has no capacity left; try again later.")
    return TickertapeError("The server lost this request; send it again.")
