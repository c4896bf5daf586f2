"""HTTP as uvicorn speaks it, with three faults mended.

uvicorn answers what is not proper HTTP in plain text; here that gets the envelope of every other error. It waits for
ever for a request's first line and headers; here that ends after the time for which a connection may be idle, so that
slow clients cannot use up all connections. And it loses the body of a request that offers to change the protocol; here
the offer is overlooked, as HTTP allows (RFC 9110 section 7.8).
"""

from __future__ import annotations

import asyncio
import json
import re

from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tickertape import failures
from tickertape.errors import CallerError
from tickertape.frame import request_id

OFFER = re.compile(rb"(?<=\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
UNKNOWN = b"x-offer"  # a header's name that means nothing, as long as the one it replaces
MALFORMED = CallerError("This is not a proper HTTP/1.1 request.")


class Wire(HttpToolsProtocol):
    """One connection; `timeout_keep_alive` of uvicorn's settings is the time that a request's head may take."""

    _timer: asyncio.TimerHandle | None = None
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        self._stop()

    def data_received(self, data: bytes) -> None:
        """Take what came, and look whether a request's head is still to come."""
        super().data_received(data if self._in_body else without_offers(data))
        self._watch()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there; what comes next is another."""
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's wording; ours is in the envelope
        """Refuse what is not HTTP; where an answer is under way already, end it there."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(refusal())
        self.transport.close()

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """No line in the log that any client could write there."""

    def _watch(self) -> None:
        """Run the clock as long as a request's head is awaited, from its beginning."""
        answered = self.cycle is None or self.cycle.response_complete
        waiting = answered and not self._in_body and not self.transport.is_closing()
        if not waiting:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def without_offers(data: bytes) -> bytes:
    """The beginning of a request, asking for no other protocol: the parser would drop the body that comes with it.

    Java's client offers HTTP/2 with every request, uploads included.
    """
    end = data.find(b"\r\n\r\n")
    offer = OFFER.search(data, 0, len(data) if end < 0 else end)
    return data if offer is None else data[: offer.start()] + UNKNOWN + data[offer.end() :]


def refusal() -> bytes:
    """The whole answer to what is not HTTP."""
    body = json.dumps(failures.envelope(MALFORMED)).encode()
    head = (
        "HTTP/1.1 400 Bad Request",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id(Headers())}",
        "x-content-type-options: nosniff",
        "connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def speak_http() -> None:
    """Let every uvicorn of this process speak so, those included that others configure."""
    from uvicorn.config import HTTP_PROTOCOLS

    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Wire.__name__}"
