"""The middleware of Serve's proxies over a fake application. No Ray is started."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tickertape.cluster.proxy import SERVE_HEADERS, ProxyMiddleware
from tickertape.server.multipart import body_cap

OURS = (b"server-timing", b"total;dur=1")  # every answer of the application has it


class Application:
    """Records what arrives, reads the body, and answers with a status and headers."""

    def __init__(self, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = (OURS,)) -> None:
        self.scope: dict[str, Any] = {}
        self.body = b""
        self._start = {"type": "http.response.start", "status": status, "headers": list(headers)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = dict(scope)
        while True:
            message = await receive()
            self.body += message["body"]
            if not message["more_body"]:
                break
        await send(self._start)
        await send({"type": "http.response.body", "body": b"plain ", "more_body": True})
        await send({"type": "http.response.body", "body": b"text"})


async def ask(
    app: Application, *headers: tuple[bytes, bytes], path: str = "/v1/models", body: tuple[bytes, ...] = (b"",),
    limit: int = 0,
) -> tuple[int, dict[bytes, bytes], bytes]:  # fmt: skip
    """The answer's status, headers and body for a request through the middleware."""
    sent: list[dict[str, Any]] = []
    pieces = iter(body)
    left = len(body)

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(pieces), "more_body": left > 0}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "path": path, "method": "POST", "headers": list(headers)}
    await asyncio.wait_for(ProxyMiddleware(app, limit=limit)(scope, receive, send), 10)
    start, *rest = sent
    assert len(start["headers"]) == len(dict(start["headers"]))
    return start["status"], dict(start["headers"]), b"".join(message.get("body", b"") for message in rest)


async def test_the_applications_answers_pass_unchanged() -> None:
    """An answer of the application, an error included, keeps its status and body."""
    for status in (200, 404, 503):
        found, headers, body = await ask(Application(status))
        assert (status, b"plain text") == (found, body)
        assert OURS[0] in headers


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [(404, 503, "not_ready"), (503, 503, "overloaded"), (500, 500, "internal_error"), (408, 500, "internal_error")],
)
async def test_serves_own_errors_become_json(status: int, expected: int, code: str) -> None:
    """An error without the application's header is Serve's own; clients get a JSON error instead of plain text."""
    found, headers, body = await ask(Application(status, ((b"content-type", b"text/plain"),)))
    assert (expected, b"application/json") == (found, headers[b"content-type"])
    assert code == json.loads(body)["error"]["code"]


async def test_headers_that_steer_serve_are_removed() -> None:
    """Clients cannot set Serve's timeouts and routing."""
    app = Application()
    await ask(app, *((name, b"1") for name in SERVE_HEADERS), (b"accept", b"*/*"))
    assert {b"accept", b"x-request-id"} == {name for name, _ in app.scope["headers"]}


async def test_a_request_id_is_valid_and_unique() -> None:
    """A valid request id of the client is kept; an invalid one is replaced."""
    app = Application()
    await ask(app, (b"x-request-id", b"my-own"))
    assert [(b"x-request-id", b"my-own")] == app.scope["headers"]
    await ask(app, (b"x-request-id", b"two words"))
    assert app.scope["headers"][0][1].startswith(b"req_")


@pytest.mark.parametrize(
    "value", [b"", b"0" * 5000, b"9" * 5000, b"-1", b"1e9", b"\xff", "²".encode("latin-1"), "٣".encode()], ids=len
)
async def test_no_header_of_a_client_is_parsed_as_a_number(value: bytes) -> None:
    """Values that `int` would reject, or take for digits, reach the application, which rejects them itself."""
    app = Application()
    names = (b"content-length", b"keep-alive", b"x-request-timeout-seconds", b"x-request-id", b"traceparent")
    status, _, _ = await ask(app, *((name, value) for name in names), limit=100)
    assert 200 == status
    assert value == dict(app.scope["headers"])[b"content-length"]


async def test_a_body_ends_at_the_limit() -> None:
    """The application receives little more than the limit, and then the end of the body."""
    app, piece = Application(), bytes(100_000)
    await ask(app, body=(piece,) * 100, limit=1_000_000)
    assert body_cap(1_000_000) < len(app.body) <= body_cap(1_000_000) + len(piece)


async def test_serves_routes_are_hidden() -> None:
    """Serve's list of applications is not found."""
    status, _, body = await ask(Application(), path="/-/routes")
    assert (404, "not_found") == (status, json.loads(body)["error"]["code"])
