"""The HTTP/1.1 protocol under a real uvicorn: `Upgrade` headers, and what a parser may receive in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fakes import Serving

HEAD = b"POST /path?q=1 HTTP/1.1\r\nHost: t\r\n"
OFFERS = {
    "HTTP/2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "WebSocket": b"Upgrade : websocket\r\nConnection: keep-alive, upgrade\r\n".replace(b"Upgrade :", b"uPGRADE:"),
    "twice": b"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the request as the application sees it."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    names = [name.decode() for name, _ in scope["headers"]]
    seen = {"path": scope["path"], "query": scope["query_string"].decode(), "names": names, "body": body.decode()}
    answer = json.dumps(seen).encode() + b"\n"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    serving = Serving(echo, keep_alive=20)
    with serving:
        yield serving.port


async def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send each piece as a TCP segment of its own; everything that the server sends before it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


def answers(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_an_upgrade_header_never_costs_the_body(port: int, offer: bytes) -> None:
    """Wherever two segments divide the head, the body arrives and the application sees no `Upgrade` header."""
    request = HEAD + offer + b"X-End: 1\r\nContent-Length: 5\r\n\r\nhello"
    last = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    cuts = range(len(HEAD), len(request) + 1)
    found = await asyncio.gather(*(exchange(port, request[:cut], request[cut:] + last, pause=0.02) for cut in cuts))
    for data in found:
        first, second = answers(data)
        assert ("/path", "q=1", "hello") == (first["path"], first["query"], first["body"])
        assert ["host", "connection", "x-end", "content-length"] == [
            name for name in first["names"] if name != "http2-settings"
        ]
        assert "/last" == second["path"]


async def test_an_upgrade_header_in_single_bytes(port: int) -> None:
    """A head that arrives byte by byte keeps its chunked body."""
    request = HEAD + OFFERS["HTTP/2"] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    data = await exchange(port, *(bytes([byte]) for byte in request), last, pause=0.001)
    assert "hello" == answers(data)[0]["body"]


async def test_pipelined_requests_keep_their_bodies(port: int) -> None:
    """In one segment with other requests, each offer is ignored; five hundred of them are no problem either."""
    request = HEAD + OFFERS["WebSocket"] + b"Content-Length: 5\r\n\r\nhello"
    plain = HEAD + b"Content-Length: 5\r\n\r\nworld"
    last = plain.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    data = await exchange(port, plain + request * 500 + last)
    assert ["world", *["hello"] * 500, "world"] == [answer["body"] for answer in answers(data)]


async def test_a_body_may_contain_the_header(port: int) -> None:
    """Lines of a body that look like an `Upgrade` header are passed on unchanged."""
    body = b"\r\nUpgrade: h2c\r\n\r\n"
    head = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    for cut in (len(head), len(head) + 2, len(head) + 6):
        data = await exchange(port, (head + body)[:cut], (head + body)[cut:], pause=0.02)
        assert body.decode() == answers(data)[0]["body"]


async def test_connect_is_answered(port: int) -> None:
    """CONNECT, which the parser treats as an upgrade as well, gets one response and no second parse."""
    data = await exchange(port, b"CONNECT t:443 HTTP/1.1\r\nHost: t\r\nUpgrade: x\r\nConnection: close\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 ")
