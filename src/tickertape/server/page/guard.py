"""The guard in front of Gradio: an allow-list of its paths, and limits on what these do.

Gradio also serves files by path, proxies URLs, stores uploads, records runs and has an API. The page needs none of
these, so they answer 404. The guard further sets security headers, limits request bodies, removes social-media tags
from the page, and cancels transcriptions whose browser has disconnected; Gradio notices that only at the next message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tickertape.errors import FileTooLargeError
from tickertape.server.middleware import not_found, parse_content_length
from tickertape.server.tasks import background

ALLOWED_PATHS = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json"
    r"|/(assets|svelte)/[\w.-]+|/static/(fonts|img|js)(/[\w-][\w.-]*){1,2}"
    r"|/gradio_api/(queue/(join|data)|cancel|startup-events|heartbeat/[\w-]+)"
)
EVENT_STREAM = "/gradio_api/queue/data"  # the messages of one browser session; closing it means leaving
SEPARATOR = "<gradio-sep>"  # Gradio names its tasks `SESSION_FUNCTION<gradio-sep>EVENT`
BODY_LIMIT = 64 * 1024  # bytes; a request of the page has a few hundred
# Gradio's front end needs inline scripts and `new Function`. All requests and frames stay on this host.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), browsing-topics=()",
}
CACHE_FOREVER = "public, max-age=31536000, immutable"
_SOCIAL_TAGS = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link rel="manifest"[^>]*>')


class Guard:
    """Wraps the mounted Gradio application. `routes` are those of the application around it."""

    def __init__(self, app: ASGIApp, routes: Collection[BaseRoute], head: bytes) -> None:
        """`head` is HTML for the `<head>` of the page."""
        self._app = app
        self._routes = routes
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request on; reject others as the application around it would."""
        path = _path(scope)
        if scope["type"] != "http" or not ALLOWED_PATHS.fullmatch(path) or ".." in path:
            raise not_found(self._routes, scope)
        send = _add_headers(send, immutable=path.startswith(("/assets/", "/static/fonts/")))
        if path == "/" and scope["method"] == "GET":
            send = _replace_head(send, self._head)
        if path == EVENT_STREAM:
            await self._stream_events(scope, receive, send)
        else:
            await self._app(dict(scope), _limit_body(scope, receive), send)

    async def _stream_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the messages of a session; if the browser disconnects before their end, cancel the session's tasks."""
        received: asyncio.Queue[Message] = asyncio.Queue()
        complete = False

        async def watch_for_disconnect() -> None:
            message: Message = {}
            while message.get("type") != "http.disconnect":
                message = await receive()
                received.put_nowait(message)
            if not complete:
                _cancel_session(scope)

        async def watched_send(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            async with background(watch_for_disconnect()):
                await self._app(dict(scope), received.get, watched_send)
        finally:
            if not complete:
                _cancel_session(scope)


def _cancel_session(scope: Scope) -> None:
    """Cancel Gradio's tasks of the session in the query string, as its own Stop event does."""
    session = QueryParams(scope["query_string"]).get("session_hash")
    for task in asyncio.all_tasks():
        if session and SEPARATOR in task.get_name() and task.get_name().startswith(f"{session}_"):
            task.cancel()


def _path(scope: Scope) -> str:
    """The path below the mount."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root else path


def _limit_body(scope: Scope, receive: Receive) -> Receive:
    """A `receive` that raises `FileTooLargeError` for a body over the limit, which may be declared already."""
    size = 0

    def check(size: int) -> None:
        if size > BODY_LIMIT:
            raise FileTooLargeError(f"A request of the page is limited to {BODY_LIMIT:,} bytes.")

    async def receive_within_limit() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        check(size)
        return message

    check(parse_content_length(Headers(scope=scope).get("content-length", "")) or 0)
    return receive_within_limit


def _add_headers(send: Send, *, immutable: bool) -> Send:
    """A `send` that adds the security headers, and lets browsers cache files whose name contains their hash."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers.update(HEADERS)
            if immutable and message["status"] == 200:
                headers["cache-control"] = CACHE_FOREVER
        await send(message)

    return send_with_headers


def _replace_head(send: Send, head: bytes) -> Send:
    """A `send` that collects the page's HTML, removes its social-media tags and adds `head`."""
    start: Message = {}
    body = bytearray()

    async def send_page(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body", False):
            return
        page = _SOCIAL_TAGS.sub(b"", bytes(body)).replace(b"</head>", head + b"</head>", 1)
        MutableHeaders(raw=start["headers"])["content-length"] = str(len(page))
        await send(start)
        await send({"type": "http.response.body", "body": page})

    return send_page
