"""The application under a real server, and requests as bytes: for clients that leave, stall and break the protocol."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from typing_extensions import Self

from tests.support.asgi import URL
from tests.support.fakes import FakeEngine, Serving, model, wav
from tests.support.logs import LOG
from tests.support.waiting import TIMEOUT, wait_until_async
from tickertape.server.app import create_app
from tickertape.server.service import Service
from tickertape.server.settings import Settings

FORM_TYPE = "Content-Type: multipart/form-data; boundary=XX"


class RunningServer:
    """A server in a thread, with its engine, its service and its log."""

    def __init__(self, *, keep_alive: int = 10, **values: Any) -> None:
        self.engine = FakeEngine()
        settings = Settings(**{"body_limit": 2**20, "max_audio_seconds": 600, **values})
        app = create_app({"demo": model("demo", self.engine)}, settings)
        self.service: Service = app.state.service
        self.serving = Serving(app, keep_alive=keep_alive)

    def __enter__(self) -> Self:
        self.url = self.serving.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.engine.gate is not None:
            self.engine.gate.set()
        self.serving.__exit__(None, None, None)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        return await asyncio.open_connection("127.0.0.1", self.serving.port)

    async def exchange(self, request: bytes) -> bytes:
        """Send bytes on a new connection; return everything that comes until the server closes it."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), TIMEOUT)
        writer.close()
        return answer

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log lines since the test began."""
        return [json.loads(line) for line in LOG.lines]

    @property
    def reserved(self) -> tuple[int, int, float]:
        """Open requests, reserved bytes of uploads, reserved seconds of audio."""
        return self.service.requests.active, self.service.uploads.taken, self.service.admission.in_flight

    async def logged(self, status: int) -> dict[str, Any]:
        """Wait for the log line with that status."""
        lines = await wait_until_async(lambda: [line for line in self.log if line.get("status") == status])
        return lines[0]


def raw_request(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A transcription request as bytes; `length` is the Content-Length if it is not the true one."""
    size = len(body) if length is None else length
    lines = [f"POST {URL} HTTP/1.1", "Host: t", FORM_TYPE, f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def raw_form(sound: bytes | None = None, **fields: str) -> bytes:
    """A form as bytes, with a recording of a second unless `sound` is given."""
    upload = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    parts = [
        f'--XX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"model": "demo", **fields}.items()
    ]
    return b"".join([*parts, upload, wav() if sound is None else sound, b"\r\n--XX--\r\n"])


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """Everything that comes until the server closes or resets the connection."""
    received = b""
    with suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(65_536), TIMEOUT):
            received += piece
    return received


def status(answer: bytes) -> int:
    """The status of an answer."""
    return int(answer.split(b" ")[1])


def code(answer: bytes) -> str:
    """The error's code; fails unless the answer is JSON in the envelope."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return str(json.loads(body)["error"]["code"])
