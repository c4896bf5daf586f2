"""The gate before Gradio: its page and its queue pass, everything else that it offers does not exist here.

Gradio serves files by path, proxies addresses, takes uploads to disk, records runs and has an API of its own. The page
needs none of that, and what is shut cannot be tricked. The gate also sets the headers that keep the page's requests at
home, bounds bodies, takes the advertising out of the page's head, and stops the work of visitors who leave: Gradio
itself would only notice between two answers, when the engine has long begun the next batch.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from tickertape.errors import FileTooLarge
from tickertape.frame import App, Message, Receive, Send

OPEN = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json"
    r"|/(assets|svelte)/[\w.-]+|/static/(fonts|img|js)(/[\w-][\w.-]*){1,2}"
    r"|/gradio_api/(queue/(join|data)|cancel|startup-events|heartbeat/[\w-]+)"
)
ANSWERS = "/gradio_api/queue/data"  # the stream of a visit's answers: whoever closes it has left
SEPARATOR = "<gradio-sep>"  # in the names of Gradio's tasks, after the visit: `VISIT_FUNCTION<gradio-sep>EVENT`
BODY_LIMIT = 64 * 1024  # bytes: a request of the page is a few hundred
# Gradio's front end builds its components with `new Function` and inline scripts; what matters is that nothing is
# fetched from elsewhere, sent elsewhere or framed elsewhere.
POLICY = "; ".join(
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
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), browsing-topics=()",
}
FOREVER = "public, max-age=31536000, immutable"
_ADVERTISING = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link rel="manifest"[^>]*>')


class Gate:
    """Stands before the mounted Gradio application; `routes` are those of the application around it."""

    def __init__(self, app: App, routes: Collection[BaseRoute], head: bytes) -> None:
        """`head` goes into the page's `<head>`."""
        self._app = app
        self._routes = routes
        self._head = head

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it as the application around would."""
        path = _path(scope)
        if scope["type"] != "http" or not OPEN.fullmatch(path) or ".." in path:
            raise self._refusal(scope)
        home = path == "/" and scope["method"] == "GET"
        hashed = path.startswith(("/assets/", "/static/fonts/"))
        sender = _Home(send, self._head) if home else _Dressed(send, lasting=hashed)
        if path == ANSWERS:
            await self._attended(scope, receive, sender.send)
        else:
            await self._app(dict(scope), _bounded(scope, receive), sender.send)

    async def _attended(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a visit's answers on; if the visitor leaves before their end, stop what is being done for the visit."""
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        complete = False

        def leave() -> None:
            if not complete:
                _abandon(scope)

        async def listen() -> None:
            message: Message = {}
            while message.get("type") != "http.disconnect":
                message = await receive()
                inbox.put_nowait(message)
            leave()

        async def watched(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        listening = asyncio.ensure_future(listen())
        try:
            await self._app(dict(scope), inbox.get, watched)
        finally:
            listening.cancel()
            leave()

    def _refusal(self, scope: Message) -> HTTPException:
        """404; 405 where the path is one of ours, which the mounted application would otherwise hide."""
        methods = sorted(
            method
            for route in self._routes
            if scope["type"] == "http" and route.matches(scope)[0] is Match.PARTIAL
            for method in getattr(route, "methods", None) or ()
        )
        return HTTPException(405, headers={"allow": ", ".join(methods)}) if methods else HTTPException(404)


def _abandon(scope: Message) -> None:
    """Cancel Gradio's tasks for the visit that a stream of answers belongs to, as its own Stop does."""
    [visit] = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[:1]
    for task in asyncio.all_tasks():
        if visit and SEPARATOR in task.get_name() and task.get_name().startswith(f"{visit}_"):
            task.cancel()


def _path(scope: Message) -> str:
    """The path below the mount."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root else path


def _bounded(scope: Message, receive: Receive) -> Receive:
    """`receive`, which raises `FileTooLarge` beyond the limit."""
    size = 0
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > BODY_LIMIT:
            raise FileTooLarge("The page's requests are small; this one is not.")

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > BODY_LIMIT:
            raise FileTooLarge("The page's requests are small; this one is not.")
        return message

    return counted


class _Dressed:
    """Sends an answer with our headers."""

    def __init__(self, send: Send, *, lasting: bool = False) -> None:
        """`lasting` answers never change under their name, so browsers may keep them."""
        self._send = send
        self._lasting = lasting

    async def send(self, message: Message) -> None:
        """Add the headers as the answer begins."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in HEADERS.items():
                headers[name] = value
            if self._lasting and message["status"] == 200:
                headers["cache-control"] = FOREVER
        await self._send(message)


class _Home(_Dressed):
    """Sends the page itself, its head put right."""

    def __init__(self, send: Send, head: bytes) -> None:
        super().__init__(send)
        self._head = head
        self._start: Message = {}
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        """Keep everything until the page is whole."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        page = _ADVERTISING.sub(b"", bytes(self._body)).replace(b"</head>", self._head + b"</head>", 1)
        headers: Any = MutableHeaders(raw=self._start.setdefault("headers", []))
        headers["content-length"] = str(len(page))
        await super().send(self._start)
        await super().send({"type": "http.response.body", "body": page})
