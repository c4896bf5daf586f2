"""uvicorn's HTTP/1.1 protocol with three changes.

- A malformed request gets the JSON error envelope; uvicorn answers in plain text.
- The head of a request must arrive within `HEAD_TIMEOUT`, and a connection without a first request is closed like an
  idle one; uvicorn limits neither, so slow clients could occupy all connections.
- An `Upgrade` header is ignored, as RFC 9110 section 7.8 allows; uvicorn would lose the body of such a request. Java's
  HTTP client offers HTTP/2 with every request, uploads included.
"""

from __future__ import annotations

import asyncio
import json

import httptools
from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tickertape.errors import CallerError
from tickertape.server.errors import envelope
from tickertape.server.middleware import request_id

HEAD_TIMEOUT = 10.0  # seconds from the first byte of a request's head to its last
MALFORMED = CallerError("The request is not valid HTTP/1.1.")


def install() -> None:
    """Use this protocol in every uvicorn server of the process, including those of other libraries."""
    from uvicorn.config import HTTP_PROTOCOLS

    HTTP_PROTOCOLS["auto"] = f"{__name__}:{HTTPProtocol.__name__}"


class HTTPProtocol(HttpToolsProtocol):
    """One connection. It is closed after `timeout_keep_alive` seconds without a byte or a request in work."""

    _head_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _upgrade_offered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the idle timer."""
        super().connection_made(transport)
        self._update_timers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel both timers."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._cancel_head_timer()

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; a head with an `Upgrade` header is parsed again without it."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parse(data)
        except httptools.HttpParserError:
            self._reject()
        self._update_timers()

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, unless its head must be parsed again without the `Upgrade` header."""
        self._in_head = False
        self._upgrade_offered = self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)
        if not self._upgrade_offered:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request, unless only its head has been parsed."""
        if not self._upgrade_offered:
            super().on_message_complete()

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _parse(self, data: bytes) -> bytes:
        """Parse the bytes; return those that must be parsed by a new parser."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            if self._upgrade_offered:  # otherwise the method is CONNECT, which has no body
                rest = self._head_without_upgrade() + data[stopped.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
                return rest
        return b""

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _reject(self) -> None:
        """Send a 400 response, unless another response has started, and close the connection."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(_bad_request())
        self.transport.close()

    def _update_timers(self) -> None:
        """Limit the duration of a head and, between requests, the silence. A request in work has limits of its own."""
        waiting = (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()
        if not (waiting and self._in_head):
            self._cancel_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)
        if waiting and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _bad_request() -> bytes:
    """The complete response to a malformed request."""
    body = json.dumps(envelope(MALFORMED)).encode()
    head = (
        "HTTP/1.1 400 Bad Request",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id(Headers())}",
        "x-content-type-options: nosniff",
        "connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
