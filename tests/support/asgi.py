"""The application called through ASGI, without sockets: a client, and the pieces of a form."""

from __future__ import annotations

import json
from typing import Any

import httpx
from fastapi import FastAPI

from tests.support.fakes import FakeEngine, decoders, model, wav
from tests.support.logs import LOG
from tickertape.pipeline import Model
from tickertape.server.app import create_app
from tickertape.server.settings import Settings

URL = "/v1/audio/transcriptions"
ENVELOPE = {"message", "type", "param", "code"}


def small(**values: Any) -> Settings:
    """Settings with a body limit of 1 MiB, so that exceeding it is cheap."""
    return Settings(**{"body_limit": 2**20, "max_audio_seconds": 60, **values})


class ApiClient:
    """An application around the fake engine, and an HTTP client for it."""

    def __init__(self, app: FastAPI, engine: FakeEngine) -> None:
        self.app = app
        self.engine = engine
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log lines since the test began."""
        return [json.loads(line) for line in LOG.lines]

    async def ask(
        self, fields: dict[str, Any] | None = None, *, url: str = URL, file: Any = None, **request: Any
    ) -> httpx.Response:
        """Send a recording of a second, or `file`, and the fields."""
        upload = {"file": ("a.wav", wav(), "audio/wav")} if file is None else {"file": file}
        return await self.client.post(url, data={"model": "demo", **(fields or {})}, files=upload, **request)

    async def send(self, body: bytes, boundary: str = "XX", **headers: str) -> httpx.Response:
        """Send a body as it is."""
        kind = {"content-type": f"multipart/form-data; boundary={boundary}", **headers}
        return await self.client.post(URL, content=body, headers=kind)


def api_client(settings: Settings | None = None, models: dict[str, Model] | None = None) -> ApiClient:
    """A client of a new application with these models, by default one named `demo`."""
    engine = FakeEngine()
    app = create_app(models or {"demo": model("demo", engine)}, settings or small(), decoders=decoders())
    return ApiClient(app, engine)


def refusal(response: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of an error; fails unless the body is OpenAI's envelope."""
    error = response.json()["error"]
    assert ENVELOPE == set(error)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return response.status_code, error["code"], error["param"]


def part(name: str, value: bytes, *, filename: str | None = None, extra: bytes = b"", boundary: bytes = b"XX") -> bytes:
    """One part of a form; `extra` is more header lines."""
    suffix = f'; filename="{filename}"' if filename is not None else ""
    head = f'Content-Disposition: form-data; name="{name}"{suffix}\r\n'.encode()
    return b"--" + boundary + b"\r\n" + head + extra + b"\r\n" + value + b"\r\n"


END = b"--XX--\r\n"
SOUND = part("file", wav(), filename="a.wav")
MODEL = part("model", b"demo")
