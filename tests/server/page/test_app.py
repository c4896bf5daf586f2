"""The page over HTTP and its handlers: transcriptions, errors, and what the guard blocks."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from tests.support.fakes import TEXT, FakeEngine, Serving, decoders, model, wav
from tests.support.logs import LOG
from tests.support.waiting import TIMEOUT, wait_until, wait_until_async
from tickertape.engine.batching import BATCH
from tickertape.errors import EngineError
from tickertape.server.app import create_app
from tickertape.server.auth import add_key
from tickertape.server.page import app as page_app
from tickertape.server.page.guard import ALLOWED_PATHS
from tickertape.server.page.messages import WAVEFORM_BARS, waveform
from tickertape.server.settings import Settings
from tickertape.transcripts import formats
from tickertape.types import Audio, Transcript

MIB = 2**20
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio", "ignore::FutureWarning:gradio")
SECRET = "marmalade-seventeen"  # noqa: S105 - must not appear in logs or files


@dataclass
class PageApp:
    """An application with the page."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    knobs: dict[str, Any] = field(default_factory=dict)

    def build(self) -> FastAPI:
        """The application, built in an event loop as in a server; otherwise Gradio leaves event loops open."""

        async def inside() -> FastAPI:
            return self.build_in_loop()

        return asyncio.run(inside())

    def build_in_loop(self) -> FastAPI:
        app: FastAPI = page_app.mount(self.build_without_page())
        return app

    def build_without_page(self) -> FastAPI:
        settings = Settings(**{"body_limit": MIB, "max_audio_seconds": 120, **self.knobs})
        models = {"demo": model("demo", self.engine), "spare": model("spare", translates=False)}
        return create_app(models, settings, decoders=decoders())


@dataclass
class Browser:
    """A browser: uploads recordings and submits requests as page.js does."""

    app: FastAPI
    page: PageApp

    @property
    def service(self) -> Any:
        return self.app.state.service

    def client(self, **knobs: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, **knobs), base_url="http://test")

    async def send(self, recording: bytes, name: str = "recording", **headers: str) -> httpx.Response:
        async with self.client() as client:
            return await client.post("/recordings", files={"file": (name, recording)}, headers=headers)

    async def ask(self, recording: bytes, **submission: Any) -> list[dict[str, Any]]:
        """Upload and transcribe; the messages of the server."""
        token = (await self.send(recording)).json()["token"]
        return await self.answers({"token": token, "run": 1, "model": "demo", **submission})

    async def answers(self, submission: Any) -> list[dict[str, Any]]:
        return [json.loads(json.dumps(answer)) async for answer in self.app.state.page_handlers.transcribe(submission)]


def segments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The segments of a transcription, in the order in which they were sent; each is sent once."""
    sent = [entry for message in messages for entry in message.get("segments", {}).items()]
    assert [str(number) for number in range(len(sent))] == [index for index, _ in sent]
    return [segment for _, segment in sent]


@pytest.fixture(scope="module")
def shared() -> Browser:
    """A page for tests that change nothing, because building one takes a second."""
    page = PageApp()
    return Browser(page.build(), page)


@pytest.fixture
def browser() -> Browser:
    """A new page."""
    page = PageApp()
    return Browser(page.build(), page)


async def test_the_page_requests_no_other_host(shared: Browser) -> None:
    """The page has no URL of another host to load from, and its Content-Security-Policy forbids them."""
    async with shared.client() as client:
        page = await client.get("/")
    head = page.text.split("window.gradio_config")[0]
    foreign = set(re.findall(r"(?:src|href|content)=\"(https?://[^\"]+)", page.text)) | set(
        re.findall(r"url\([\"']?(https?://[^\"')]+)", page.text)
    )
    assert (200, set()) == (page.status_code, foreign)
    assert "<title>Tickertape</title>" in page.text
    assert "gradio-app/gradio" not in head
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert "'self'" == policy["connect-src"]
    assert "'self'" == policy["default-src"]


@pytest.mark.slow
async def test_the_page_can_be_mounted_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Gradio is imported, `/` answers 503 and reloads; the API works meanwhile."""
    gate, imported = threading.Event(), importlib.import_module
    patient = SimpleNamespace(import_module=lambda name: gate.wait(60) and imported(name))
    monkeypatch.setattr(page_app, "importlib", patient)
    page = PageApp()
    app = page.build_without_page()
    coming = asyncio.ensure_future(page_app.mount_late(app))
    await asyncio.sleep(0)
    browser = Browser(app, page)
    async with browser.client() as client:
        early = await client.get("/")
        assert (503, "1") == (early.status_code, early.headers["refresh"])
        assert 200 == (await client.get("/healthz")).status_code
        gate.set()
        await coming
        assert "<title>Tickertape</title>" in (await client.get("/")).text
        assert 405 == (await client.delete("/healthz")).status_code
    *_, last = await browser.ask(wav())
    assert TEXT == last["text"]
    await app.state.page.aclose()


async def test_the_page_has_the_elements_of_the_script(shared: Browser) -> None:
    """Every element that page.js uses is in page.html."""
    script, page = page_app._asset("page.js"), page_app._asset("page.html")
    wanted = set(re.findall(r"at\(\"([\w-]+)\"\)", script))
    assert set() == {name for name in wanted if f'id="tt-{name}"' not in page}


async def test_the_api_works_with_the_page(shared: Browser) -> None:
    """The API's responses and errors are the same with and without the page."""
    async with shared.client() as client:
        models, missing, wrong = [
            await client.get(path) for path in ("/v1/models", "/v1/nothing", "/v1/audio/transcriptions")
        ]
    assert ["demo", "spare"] == [entry["id"] for entry in models.json()["data"]]
    assert (404, "not_found") == (missing.status_code, missing.json()["error"]["code"])
    assert (405, "POST") == (wrong.status_code, wrong.headers["allow"])


CLOSED = [
    "GET /gradio_api/file=/etc/passwd",
    "GET /gradio_api/file=%2Fetc%2Fpasswd",
    "GET /gradio_api/file=../../../../etc/passwd",
    "GET /gradio_api/file=file:///etc/passwd",
    "GET /gradio_api/file=http://127.0.0.1:9/",
    "GET /gradio_api/file//etc/passwd",
    "GET /file=/etc/passwd",
    "GET /file/etc/passwd",
    "GET /gradio_api/proxy=http://127.0.0.1:9/",
    "GET /gradio_api/stream/a/1/1/playlist.m3u8",
    "GET /gradio_api/info",
    "GET /gradio_api/openapi.json",
    "GET /gradio_api/runs",
    "GET /gradio_api/app_id",
    "GET /gradio_api/token",
    "GET /gradio_api/deep_link?session_hash=a",
    "GET /gradio_api/custom_component/1/client/component/../../../../etc/passwd",
    "GET /gradio_api/upload_progress?upload_id=1",
    "GET /monitoring",
    "GET /monitoring/summary",
    "GET /login_check",
    "GET /static/../../../../../../etc/passwd",
    "GET /static/fonts/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "GET /static/fonts//etc/passwd",
    "GET /assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "GET /svelte/../../../../etc/passwd",
    "GET /theme.css/../../etc/passwd",
    "GET /examples/..%2f..%2fpyproject.toml",
    "GET /examples/manifest.jsonl",
    "GET /examples/nothing.wav",
    "GET /recordings/nothing",
    "POST /gradio_api/upload",
    "POST /gradio_api/component_server",
    "POST /gradio_api/component_server/",
    "POST /gradio_api/process_recording",
    "POST /gradio_api/run/transcribe",
    "POST /gradio_api/api/transcribe",
    "POST /gradio_api/call/transcribe",
    "POST /gradio_api/call/v2/transcribe",
    "POST /gradio_api/reset",
    "POST /gradio_api/vibe-edit",
    "POST /login",
]


@pytest.mark.parametrize("request_line", CLOSED)
async def test_other_paths_of_gradio_are_blocked(shared: Browser, request_line: str) -> None:
    """No path reaches a file, a proxy, an upload or a function; the response is the API's 404."""
    method, path = request_line.split(" ", 1)
    async with shared.client() as client:
        answer = await client.request(
            method, path, json={"data": [{"path": "/etc/passwd"}]} if method == "POST" else None
        )
    assert (404, "not_found") == (answer.status_code, answer.json()["error"]["code"])


def test_the_allow_list_passes_only_known_routes(shared: Browser) -> None:
    """Of all routes of the installed Gradio exactly these pass, so that a new version cannot add one."""
    inner: Any = shared.app.router.routes[-1]
    paths = {str(getattr(route, "path", "")) for route in _routes(inner.app._app)}
    filled = {path: re.sub(r"{[^}]+}", "x", path) for path in paths}
    assert {
        "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/{path:path}",
        "/svelte/{path:path}", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel",
        "/gradio_api/startup-events", "/gradio_api/heartbeat/{session_hash}",
    } == {path for path, example in filled.items() if ALLOWED_PATHS.fullmatch(example)}  # fmt: skip


def _routes(app: Any) -> Iterator[Any]:
    for route in app.routes:
        yield route
        if hasattr(route, "original_router"):  # its paths include Gradio's prefix
            yield from _routes(route.original_router)


@pytest.mark.parametrize(
    "token",
    [
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "/etc/passwd"},
        {"url": "http://127.0.0.1:9/", "meta": {"_type": "gradio.FileData"}},
        "/etc/passwd",
        "../../etc/passwd",
        ["/etc/passwd"],
        "",
        0,
        None,
    ],
    ids=str,
)
async def test_a_token_is_never_a_path(shared: Browser, token: Any) -> None:
    """A path or URL in place of the token is an unknown token; nothing is opened."""
    answers = await shared.answers({"token": token, "run": 3, "model": "demo"})
    assert [("failed", 3, "The recording is no longer here; send it again.")] == [
        (answer["state"], answer["run"], answer["error"]["message"]) for answer in answers
    ]


@pytest.mark.parametrize("submission", [None, "text", 7, [], {"run": "x"}], ids=str)
async def test_a_malformed_submission_is_an_error(shared: Browser, submission: Any) -> None:
    """A submission of any type gets an error message, never an exception."""
    assert ["failed"] == [answer["state"] for answer in await shared.answers(submission)]


async def test_an_upload_is_transcribed(browser: Browser) -> None:
    """Messages report the progress; the last has the text, the timing figures and the files to download."""
    *running, last = await browser.ask(wav(2), words=True)
    assert ["running"] * len(running) == [answer["state"] for answer in running]
    assert ("done", TEXT, 2.0, "english") == (last["state"], last["text"], last["duration"], last["language"])
    first, second = segments([*running, last])
    assert [(0.0, 1.0, "Good morning,"), (1.0, 2.0, "this is a test.")] == [
        (segment["start"], segment["end"], segment["text"]) for segment in (first, second)
    ]
    assert [[0.0, 0.5, " Good"], [0.5, 1.0, " morning,"]] == first["words"]
    assert 2 == last["count"]
    assert {"txt", "srt", "vtt", "json"} == set(last["files"])
    assert f"{TEXT}\n" == last["files"]["txt"]
    assert last["elapsed"] / 2 == pytest.approx(last["factor"], abs=0.001)


async def test_text_appears_while_it_is_decoded(browser: Browser) -> None:
    """The first segments of a long recording arrive before its end, and every segment is sent once."""
    answers = await browser.ask(wav(100, rate=4000))
    assert 0 < len(segments(answers[:3])) < len(segments(answers)) == answers[-1]["count"]
    assert sorted(answer["done"] for answer in answers[:-1]) == [answer["done"] for answer in answers[:-1]]


def test_traffic_is_linear_in_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the audio sends four times the bytes, and the files are rendered in a thread."""
    threads: list[bool] = []
    render = formats.RENDERERS["srt"]

    def watched(transcript: Transcript) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            threads.append(True)
        return render(transcript)

    monkeypatch.setitem(formats.RENDERERS, "srt", watched)
    page = PageApp(knobs={"max_audio_seconds": 7200, "body_limit": 40 * MIB})
    sizes = {}
    with Serving(page.build()) as url, httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        for seconds in (0.5, 300, 1200):
            sizes[seconds] = sum(len(json.dumps(event)) for event in submit(client, wav(seconds, rate=4000)))
    constant = sizes.pop(0.5)
    assert 3 < (sizes[1200] - constant) / (sizes[300] - constant) < 5
    assert sizes[1200] < 150 * 1024  # of which the four files, sent twice by Gradio, are a half
    assert [True] * 3 == threads


async def test_options_are_those_of_the_api(browser: Browser) -> None:
    """Language, task and words reach the engine; a model without translation rejects it."""
    await browser.ask(wav(), language="de", task="translate", words=True)
    asked = browser.page.engine.asked[-1]
    assert ("de", "translate", True) == (asked.language, asked.task, asked.word_timestamps)
    [failed] = await browser.ask(wav(), model="spare", task="translate")
    assert "An English-only model cannot translate." == failed["error"]["message"]


@pytest.mark.parametrize(
    ("recording", "code"),
    [(b"", "empty_file"), (b"#!/bin/sh\necho hello\n", "invalid_audio"), (wav(0), "empty_audio"),
     (wav(0.05), "audio_too_short"), (wav(121, rate=4000), "audio_too_long")],
    ids=["empty", "text", "no samples", "short", "long"],
)  # fmt: skip
async def test_invalid_recordings_get_an_error(browser: Browser, recording: bytes, code: str) -> None:
    """An invalid recording gets a one-sentence message and the API's code, and its memory is released."""
    *_, last = await browser.ask(recording)
    assert ("failed", code) == (last["state"], last["error"]["code"])
    assert re.fullmatch(r"[A-Z][^\n]{10,200}\.", last["error"]["message"])
    assert 0 == browser.service.uploads.taken


async def test_unexpected_exceptions_are_hidden(browser: Browser) -> None:
    """An unexpected exception becomes a message with a reference that is also in the log."""
    browser.service.decoders = None
    *_, last = await browser.ask(wav())
    reference = re.search(r"page_[0-9a-f]{12}", last["error"]["message"])
    assert reference is not None
    assert "Traceback" not in json.dumps(last)
    assert [reference[0]] == [line["request_id"] for line in map(json.loads, LOG.lines) if "where" in line]


async def test_an_engine_error_is_shown(browser: Browser) -> None:
    """The message of an `EngineError` reaches the browser."""
    browser.page.engine.failure = EngineError("The engine failed; try again.")
    *_, last = await browser.ask(wav())
    assert {"code": "engine_failed", "message": "The engine failed; try again."} == last["error"]


async def test_a_token_works_once(browser: Browser) -> None:
    """A recording can be transcribed once; then its memory is released."""
    submission = {"token": (await browser.send(wav())).json()["token"], "model": "demo"}
    first, second = [(await browser.answers(submission))[-1]["state"] for _ in range(2)]
    assert ("done", "failed") == (first, second)
    assert 0 == browser.service.uploads.taken


async def test_unused_uploads_expire(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that is never transcribed is discarded after `UPLOAD_LIFETIME`."""
    monkeypatch.setattr(page_app, "UPLOAD_LIFETIME", 0.01)
    await browser.send(wav())
    await wait_until_async(lambda: 0 == browser.service.uploads.taken)
    assert {} == browser.app.state.page_handlers._pending


async def test_uploads_are_limited(browser: Browser) -> None:
    """A recording over the limit gets the API's 413, and its memory is released."""
    answer = await browser.send(bytes(MIB + MIB // 8))
    assert (413, "file_too_large") == (answer.status_code, answer.json()["error"]["code"])
    async with browser.client() as client:
        wrong = await client.post("/recordings", content=b"RIFF", headers={"content-type": "audio/wav"})
        missing = await client.post("/recordings", files={"other": b"x"})
    assert (415, 400) == (wrong.status_code, missing.status_code)
    assert 0 == browser.service.uploads.taken


async def test_submissions_are_limited(shared: Browser) -> None:
    """A submission over `BODY_LIMIT` is rejected."""
    async with shared.client() as client:
        declared = await client.post("/gradio_api/queue/join", content=bytes(100_000))
        streamed = await client.post("/gradio_api/queue/join", content=_pieces())
    assert [413, 400] == [declared.status_code, streamed.status_code]


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield bytes(10_000)


async def test_keys_are_required(tmp_path: Path) -> None:
    """If the API requires keys, uploads and transcriptions of the page require them, too."""
    file = tmp_path / "keys.json"
    secret = add_key(file, "visitors")
    page = PageApp(knobs={"keys_file": file})
    browser = Browser(page.build_in_loop(), page)
    refused = await browser.send(wav())
    sent = await browser.send(wav(), authorization=f"Bearer {secret}")
    assert (401, 200) == (refused.status_code, sent.status_code)
    [failed] = await browser.answers({"token": sent.json()["token"], "model": "demo", "key": "wrong"})
    assert "invalid_api_key" == failed["error"]["code"]
    again = (await browser.send(wav(), authorization=f"Bearer {secret}")).json()["token"]
    assert "done" == (await browser.answers({"token": again, "model": "demo", "key": secret}))[-1]["state"]


async def test_a_draining_service_rejects_the_page(browser: Browser) -> None:
    """While the service drains, uploads and transcriptions are rejected."""
    token = (await browser.send(wav())).json()["token"]
    browser.service.requests.draining = True
    [failed] = await browser.answers({"token": token, "model": "demo"})
    assert (503, "shutting_down") == ((await browser.send(wav())).status_code, failed["error"]["code"])


async def test_the_page_works_below_a_prefix(shared: Browser) -> None:
    """On a cluster the page is at /page/, and its requests are below that path."""
    async with shared.client(root_path="/page") as client:
        page = await client.get("/page/")
        closed = await client.get("/page/gradio_api/file=/etc/passwd")
    root = re.search(r'"root":\s*"([^"]*)"', page.text)
    assert root is not None
    assert "http://test/page" == root[1]
    assert 404 == closed.status_code


def test_peaks_are_the_loudest_samples() -> None:
    """The waveform has as many bars for a tenth of a second as for hours, the loudest of them 100."""
    for count in (1600, 16_001, 5_000_000):
        samples = np.zeros((2, count), np.float32)
        samples[1, -400:] = 0.5
        bars = waveform(Audio(samples))
        assert (WAVEFORM_BARS, 0, 100) == (len(bars), bars[0], bars[-1])
    assert [0] * WAVEFORM_BARS == waveform(Audio(np.zeros((1, 1600), np.float32)))


def test_nothing_is_stored_or_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the text nor the file's name gets into files or logs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = PageApp()
    with Serving(page.build()) as url, httpx.Client(base_url=url, timeout=30) as client:
        events = list(submit(client, wav(), SECRET + ".wav"))
    assert TEXT in json.dumps(events)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [line for line in LOG.lines if SECRET in line or "morning" in line]
    assert ["/recordings", page_app.ENDPOINT] == [json.loads(line)["endpoint"] for line in LOG.lines]


async def test_a_transcription_has_a_record(browser: Browser) -> None:
    """A transcription is logged and counted like a request of the API, without its text."""
    await browser.ask(wav(2), words=True)
    [line] = [json.loads(line) for line in LOG.lines if json.loads(line)["endpoint"] == page_app.ENDPOINT]
    known = ("status", "model", "task", "stream", "audio_seconds", "channels", "windows", "batch_size")
    assert (200, "demo", "transcribe", True, 2.0, 1, 1, 1.0) == tuple(line[name] for name in known)
    assert {"decode_audio", "encode", "decode", "first_text", "total", "real_time_factor"} <= set(line)
    assert line["request_id"].startswith("page_")
    assert "morning" not in json.dumps(line)
    counted = 'tickertape_requests_total{code="",endpoint="page",model="demo",status="200"} 1.0'
    assert counted in (await browser.service.scrape()).decode()


async def test_errors_and_disconnects_are_recorded(browser: Browser) -> None:
    """An error is recorded with the API's status and code, a browser that disconnects with 499."""
    await browser.ask(b"no recording at all")
    token = (await browser.send(wav())).json()["token"]
    transcribing = browser.app.state.page_handlers.transcribe({"token": token, "run": 1, "model": "demo"})
    await anext(transcribing)
    await transcribing.aclose()
    lines = [json.loads(line) for line in LOG.lines]
    assert [(400, "invalid_audio"), (499, "client_closed_request")] == [
        (line["status"], line["code"]) for line in lines if line["endpoint"] == page_app.ENDPOINT
    ]


@pytest.mark.slow
def test_a_disconnect_stops_the_transcription() -> None:
    """When the page is closed no further batch starts, reservations are released, and the next request runs."""
    gate = threading.Event()
    page = PageApp(engine=FakeEngine(gate=gate), knobs={"max_audio_seconds": 7200, "body_limit": 40 * MIB})
    app = page.build()
    with Serving(app) as url, opening(gate), httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        events = submit(client, wav(1200, rate=8000), language="de")
        next(events)
        assert page.engine.started.wait(TIMEOUT)
        events.close()
        wait_until(lambda: not app.state.service.requests.active)
        gate.set()
        list(submit(client, wav(), language="fr", session="next"))
    asked = [options.language for options in page.engine.asked]
    assert (True, 1) == (0 < asked.count("de") <= BATCH, asked.count("fr"))
    assert 0.0 == app.state.service.admission.in_flight


@pytest.mark.slow
def test_a_queued_transcription_stops_at_a_disconnect() -> None:
    """A transcription that waits behind another is never decoded once its browser has disconnected."""
    gate = threading.Event()
    page = PageApp(engine=FakeEngine(gate=gate), knobs={"max_audio_seconds": 7200, "body_limit": 40 * MIB})
    app = page.build()
    with Serving(app) as url, opening(gate), httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        first = submit(client, wav(), language="de", session="first")
        next(first)
        assert page.engine.started.wait(TIMEOUT)
        second = submit(client, wav(60, rate=8000), language="fr", session="second")
        next(second)
        wait_until(lambda: app.state.service.requests.active == 2)
        second.close()
        wait_until(lambda: app.state.service.requests.active == 1)
        gate.set()
        list(first)
    assert {"de"} == {options.language for options in page.engine.asked}


@contextmanager
def opening(gate: threading.Event) -> Iterator[None]:
    """Open the gate at the end of the block, so that the engine can continue."""
    try:
        yield
    finally:
        gate.set()


def submit(
    client: httpx.Client, recording: bytes, name: str = "recording", language: str = "", session: str = "session"
) -> Iterator[dict[str, Any]]:
    """Upload and submit as a browser does; yields the events of Gradio's queue."""
    token = client.post("/recordings", files={"file": (name, recording)}).json()["token"]
    submission = {"token": token, "run": 1, "model": "demo", "words": True, "language": language}
    config = client.get("/config").json()
    [function] = [entry["id"] for entry in config["dependencies"] if entry["backend_fn"]]
    join = {
        "data": [submission],
        "fn_index": function,
        "session_hash": session,
        "event_data": None,
        "trigger_id": None,
    }
    assert 200 == client.post("/gradio_api/queue/join", json=join).status_code
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])
