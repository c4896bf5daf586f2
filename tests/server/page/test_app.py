"""The page through HTTP, and the desk behind it: what a visitor gets, and what nobody can get out of it."""

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

from tests.fakes import TEXT, FakeEngine, Serving, decoders, model, wav
from tests.service import wait_for
from tickertape import keys, ui
from tickertape.api import create_app
from tickertape.errors import EngineFailed
from tickertape.gate import OPEN
from tickertape.local import BATCH
from tickertape.settings import Settings
from tickertape.types import Audio

MIB = 2**20
PATIENCE = 120.0  # seconds for whatever a test waits for, on a busy machine
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio", "ignore::FutureWarning:gradio")
SECRET = "marmalade-seventeen"  # noqa: S105 - a word to look for where it must not be


@dataclass
class House:
    """An application with the page, and what it wrote to its log."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    lines: list[str] = field(default_factory=list)
    knobs: dict[str, Any] = field(default_factory=dict)

    def build(self) -> FastAPI:
        """The application, made inside an event loop, as servers do: else Gradio makes loops and leaves them open."""

        async def inside() -> FastAPI:
            return self.within()

        return asyncio.run(inside())

    def within(self) -> FastAPI:
        app: FastAPI = ui.mount(self.bare())
        return app

    def bare(self) -> FastAPI:
        settings = Settings(**{"body_limit": MIB, "upload_room": 4 * MIB, "max_audio_seconds": 120, **self.knobs})
        models = {"demo": model("demo", self.engine), "spare": model("spare", translates=False)}
        return create_app(models, settings, emit=self.lines.append, decoders=decoders())


@dataclass
class Visitor:
    """Somebody at the page: sends recordings and wishes as its script does."""

    app: FastAPI
    house: House

    @property
    def service(self) -> Any:
        return self.app.state.service

    def client(self, **knobs: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, **knobs), base_url="http://test")

    async def send(self, recording: bytes, name: str = "recording", **headers: str) -> httpx.Response:
        async with self.client() as client:
            return await client.post("/recordings", files={"file": (name, recording)}, headers=headers)

    async def ask(self, recording: bytes, **wish: Any) -> list[dict[str, Any]]:
        """Every answer to a wish."""
        token = (await self.send(recording)).json()["token"]
        return await self.answers({"token": token, "run": 1, "model": "demo", **wish})

    async def answers(self, wish: Any) -> list[dict[str, Any]]:
        return [json.loads(json.dumps(answer)) async for answer in self.app.state.desk.transcribe(wish)]


@pytest.fixture(scope="module")
def shared() -> Visitor:
    """One page for the tests that only look at it: to build one takes a second."""
    house = House()
    return Visitor(house.build(), house)


@pytest.fixture
def visitor() -> Visitor:
    """A page of one's own."""
    house = House()
    return Visitor(house.build(), house)


async def test_the_page_needs_nothing_from_elsewhere(shared: Visitor) -> None:
    """The page names no foreign address to fetch from, and its policy forbids to."""
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


async def test_the_page_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an application that answers already, `/` asks for patience until Gradio is imported; the rest is there."""
    gate, imported = threading.Event(), importlib.import_module
    patient = SimpleNamespace(import_module=lambda name: gate.wait(60) and imported(name))
    monkeypatch.setattr(ui, "importlib", patient)
    house = House()
    app = house.bare()
    coming = asyncio.ensure_future(ui.mount_late(app))
    await asyncio.sleep(0)
    visitor = Visitor(app, house)
    async with visitor.client() as client:
        early = await client.get("/")
        assert (503, "1") == (early.status_code, early.headers["refresh"])
        assert 200 == (await client.get("/healthz")).status_code
        gate.set()
        await coming
        assert "<title>Tickertape</title>" in (await client.get("/")).text
        assert 405 == (await client.delete("/healthz")).status_code
    *_, last = await visitor.ask(wav())
    assert TEXT == last["text"]
    await app.state.page.aclose()


async def test_the_page_is_what_the_script_expects(shared: Visitor) -> None:
    """Every element that the script asks for is in the page."""
    script, page = ui._asset("page.js"), ui._asset("page.html")
    wanted = set(re.findall(r"at\(\"([\w-]+)\"\)", script))
    assert set() == {name for name in wanted if f'id="tt-{name}"' not in page}


async def test_the_api_answers_beside_the_page(shared: Visitor) -> None:
    """The routes of the API, their refusals included, are as they are without the page."""
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
async def test_what_gradio_offers_beyond_the_page_is_closed(shared: Visitor, request_line: str) -> None:
    """No path reaches a file, a proxy, an upload or a function; the answer is the API's plain 404."""
    method, path = request_line.split(" ", 1)
    async with shared.client() as client:
        answer = await client.request(
            method, path, json={"data": [{"path": "/etc/passwd"}]} if method == "POST" else None
        )
    assert (404, "not_found") == (answer.status_code, answer.json()["error"]["code"])


def test_gradio_offers_nothing_new_that_is_open(shared: Visitor) -> None:
    """Of all routes of the installed Gradio, exactly these pass: a new version cannot open another one."""
    inner: Any = shared.app.router.routes[-1]
    paths = {str(getattr(route, "path", "")) for route in _routes(inner.app._app)}
    filled = {path: re.sub(r"{[^}]+}", "x", path) for path in paths}
    assert {
        "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/{path:path}",
        "/svelte/{path:path}", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel",
        "/gradio_api/startup-events", "/gradio_api/heartbeat/{session_hash}",
    } == {path for path, example in filled.items() if OPEN.fullmatch(example)}  # fmt: skip


def _routes(app: Any) -> Iterator[Any]:
    for route in app.routes:
        yield route
        if hasattr(route, "original_router"):  # Gradio's own prefix stands in the paths
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
async def test_a_wish_names_no_path(shared: Visitor, token: Any) -> None:
    """What stands where the token belongs is looked up among the recordings, and opened never."""
    answers = await shared.answers({"token": token, "run": 3, "model": "demo"})
    assert [("failed", 3, "The recording is no longer here; send it again.")] == [
        (answer["state"], answer["run"], answer["error"]["message"]) for answer in answers
    ]


@pytest.mark.parametrize("wish", [None, "text", 7, [], {"run": "x"}], ids=str)
async def test_nonsense_gets_an_answer(shared: Visitor, wish: Any) -> None:
    """A wish of any shape ends in an answer, never in an exception."""
    assert ["failed"] == [answer["state"] for answer in await shared.answers(wish)]


async def test_a_recording_becomes_text(visitor: Visitor) -> None:
    """The answers tell how far it is; the last holds the text, its times, and every file to take along."""
    *running, last = await visitor.ask(wav(2), words=True)
    assert ["running"] * len(running) == [answer["state"] for answer in running]
    assert ("done", TEXT, 2.0, "english") == (last["state"], last["text"], last["duration"], last["language"])
    assert [(0.0, 1.0, "Good morning,"), (1.0, 2.0, "this is a test.")] == [
        (segment["start"], segment["end"], segment["text"]) for segment in last["segments"]
    ]
    assert [[0.0, 0.5, " Good"], [0.5, 1.0, " morning,"]] == last["segments"][0]["words"]
    assert {"txt", "srt", "vtt", "json"} == set(last["files"])
    assert f"{TEXT}\n" == last["files"]["txt"]
    assert last["elapsed"] / 2 == pytest.approx(last["factor"], abs=0.001)


async def test_text_appears_while_it_is_decoded(visitor: Visitor) -> None:
    """Of a long recording, the first text is there before the last window is done, and nothing shown changes later."""
    answers = await visitor.ask(wav(100, rate=4000))
    texts = [[segment["text"] for segment in answer["segments"]] for answer in answers]
    assert len(texts[-1]) > len(texts[2]) > 0
    assert texts == [texts[-1][: len(text)] for text in texts]
    assert sorted(answer["done"] for answer in answers[:-1]) == [answer["done"] for answer in answers[:-1]]


async def test_wishes_are_read_as_the_api_reads_forms(visitor: Visitor) -> None:
    """Language, task and words reach the engine; the second model refuses what it cannot do."""
    await visitor.ask(wav(), language="de", task="translate", words=True)
    asked = visitor.house.engine.asked[-1]
    assert ("de", "translate", True) == (asked.language, asked.task, asked.word_timestamps)
    [failed] = await visitor.ask(wav(), model="spare", task="translate")
    assert "An English-only model cannot translate." == failed["error"]["message"]


@pytest.mark.parametrize(
    ("recording", "code"),
    [(b"", "empty_file"), (b"#!/bin/sh\necho hello\n", "invalid_audio"), (wav(0), "empty_audio"),
     (wav(0.05), "audio_too_short"), (wav(121, rate=4000), "audio_too_long")],
    ids=["empty", "text", "no samples", "short", "long"],
)  # fmt: skip
async def test_bad_recordings_get_a_sentence(visitor: Visitor, recording: bytes, code: str) -> None:
    """What is wrong with a recording is said in a sentence, under the API's code, and its memory is given back."""
    *_, last = await visitor.ask(recording)
    assert ("failed", code) == (last["state"], last["error"]["code"])
    assert re.fullmatch(r"[A-Z][^\n]{10,200}\.", last["error"]["message"])
    assert 0 == visitor.service.uploads.taken


async def test_our_own_failures_show_no_trace(visitor: Visitor) -> None:
    """An unexpected exception becomes a sentence with a reference, which leads to the place in the log."""
    visitor.service.decode_audio = None
    *_, last = await visitor.ask(wav())
    reference = re.search(r"page_[0-9a-f]{12}", last["error"]["message"])
    assert reference is not None
    assert "Traceback" not in json.dumps(last)
    assert [reference[0]] == [line["request_id"] for line in map(json.loads, visitor.house.lines) if "where" in line]


async def test_an_engine_that_fails_is_told(visitor: Visitor) -> None:
    """The engine's failure reaches the visitor in our words."""
    visitor.house.engine.failure = EngineFailed("The engine failed; try again.")
    *_, last = await visitor.ask(wav())
    assert {"code": "engine_failed", "message": "The engine failed; try again."} == last["error"]


async def test_a_token_fetches_once(visitor: Visitor) -> None:
    """A recording is forgotten as soon as it has been taken."""
    wish = {"token": (await visitor.send(wav())).json()["token"], "model": "demo"}
    first, second = [(await visitor.answers(wish))[-1]["state"] for _ in range(2)]
    assert ("done", "failed") == (first, second)
    assert 0 == visitor.service.uploads.taken


async def test_recordings_that_nobody_asks_about_are_forgotten(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the room of an upload is free again."""
    monkeypatch.setattr(ui, "WAITING", 0.01)
    await visitor.send(wav())
    await asyncio.wait_for(visitor.service.uploads._freed.wait(), 10)
    assert 0 == visitor.service.uploads.taken
    assert {} == visitor.app.state.desk._waiting


async def test_uploads_are_bounded(visitor: Visitor) -> None:
    """A recording over the limit is refused with the API's 413, and its room is given back."""
    answer = await visitor.send(bytes(MIB + MIB // 8))
    assert (413, "file_too_large") == (answer.status_code, answer.json()["error"]["code"])
    async with visitor.client() as client:
        wrong = await client.post("/recordings", content=b"RIFF", headers={"content-type": "audio/wav"})
        missing = await client.post("/recordings", files={"other": b"x"})
    assert (415, 400) == (wrong.status_code, missing.status_code)
    assert 0 == visitor.service.uploads.taken


async def test_the_queue_takes_small_wishes_only(shared: Visitor) -> None:
    """The page's own requests are a few hundred bytes; of a large one, no more is read."""
    async with shared.client() as client:
        declared = await client.post("/gradio_api/queue/join", content=bytes(100_000))
        streamed = await client.post("/gradio_api/queue/join", content=_pieces())
    assert [413, 400] == [declared.status_code, streamed.status_code]


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield bytes(10_000)


async def test_keys_are_asked_for(tmp_path: Path) -> None:
    """Where the API wants a key, the page wants it too: for the upload, and for the text."""
    file = tmp_path / "keys.json"
    secret = keys.add(file, "visitors")
    house = House(knobs={"keys_file": file})
    visitor = Visitor(house.within(), house)
    refused = await visitor.send(wav())
    sent = await visitor.send(wav(), authorization=f"Bearer {secret}")
    assert (401, 200) == (refused.status_code, sent.status_code)
    [failed] = await visitor.answers({"token": sent.json()["token"], "model": "demo", "key": "wrong"})
    assert "invalid_api_key" == failed["error"]["code"]
    again = (await visitor.send(wav(), authorization=f"Bearer {secret}")).json()["token"]
    assert "done" == (await visitor.answers({"token": again, "model": "demo", "key": secret}))[-1]["state"]


async def test_a_service_that_drains_says_so(visitor: Visitor) -> None:
    """While the service shuts down, the page takes nothing new."""
    token = (await visitor.send(wav())).json()["token"]
    visitor.service.door.close()
    [failed] = await visitor.answers({"token": token, "model": "demo"})
    assert (503, "shutting_down") == ((await visitor.send(wav())).status_code, failed["error"]["code"])


async def test_the_page_works_below_a_prefix(shared: Visitor) -> None:
    """On a cluster the page lives at /page/; what it asks for is below that."""
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
        bars = ui.peaks(Audio(samples))
        assert (ui.BARS, 0, 100) == (len(bars), bars[0], bars[-1])
    assert [0] * ui.BARS == ui.peaks(Audio(np.zeros((1, 1600), np.float32)))


def test_a_visit_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over real HTTP: what was said reaches the visitor only: no file, no log line, not even the file's name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    house = House()
    with Serving(house.build()) as url, httpx.Client(base_url=url, timeout=30) as client:
        events = list(talk(client, wav(), SECRET + ".wav"))
    assert TEXT in json.dumps(events)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [line for line in house.lines if SECRET in line or "morning" in line]
    assert ["/recordings", ui.ENDPOINT] == [json.loads(line)["endpoint"] for line in house.lines]


async def test_a_transcription_is_recorded_as_a_request_is(visitor: Visitor) -> None:
    """One record: what it was, what it held and what each step took, never what was said; and it counts."""
    await visitor.ask(wav(2), words=True)
    [line] = [json.loads(line) for line in visitor.house.lines if json.loads(line)["endpoint"] == ui.ENDPOINT]
    known = ("status", "model", "task", "stream", "audio_seconds", "channels", "windows", "batch_size")
    assert (200, "demo", "transcribe", True, 2.0, 1, 1, 1.0) == tuple(line[name] for name in known)
    assert {"decode_audio", "encode", "decode", "first_text", "total", "real_time_factor"} <= set(line)
    assert line["request_id"].startswith("page_")
    assert "morning" not in json.dumps(line)
    counted = 'tickertape_requests_total{code="",endpoint="page",model="demo",status="200"} 1.0'
    assert counted in visitor.service.scrape().decode()


async def test_what_fails_on_the_page_is_recorded_too(visitor: Visitor) -> None:
    """A recording that is none ends as the API's status and code would; a visitor who leaves as 499."""
    await visitor.ask(b"no recording at all")
    token = (await visitor.send(wav())).json()["token"]
    talking = visitor.app.state.desk.transcribe({"token": token, "run": 1, "model": "demo"})
    await anext(talking)
    await talking.aclose()
    lines = [json.loads(line) for line in visitor.house.lines]
    assert [(400, "invalid_audio"), (499, "client_closed_request")] == [
        (line["status"], line["code"]) for line in lines if line["endpoint"] == ui.ENDPOINT
    ]


def test_a_visitor_who_leaves_stops_the_work() -> None:
    """Goal 9: when the page is closed, no further batch begins, the room is free, and who waits behind is served."""
    gate = threading.Event()
    house = House(engine=FakeEngine(gate=gate), knobs={"max_audio_seconds": 7200, "body_limit": 40 * MIB})
    app = house.build()
    with Serving(app) as url, opened(gate), httpx.Client(base_url=url, timeout=PATIENCE) as client:
        events = talk(client, wav(1200, rate=8000), language="de")
        next(events)
        assert house.engine.begun.wait(PATIENCE)
        events.close()
        wait_for(lambda: not app.state.service.door.inside)
        gate.set()
        list(talk(client, wav(), language="fr", visit="next"))
    asked = [wish.language for wish in house.engine.asked]
    assert (True, 1) == (0 < asked.count("de") <= BATCH, asked.count("fr"))
    assert 0.0 == app.state.service.admission.in_flight


def test_who_left_while_waiting_is_never_served() -> None:
    """Goal 9: of a transcription that waits behind another, nothing runs once its visitor has left."""
    gate = threading.Event()
    house = House(engine=FakeEngine(gate=gate), knobs={"max_audio_seconds": 7200, "body_limit": 40 * MIB})
    app = house.build()
    with Serving(app) as url, opened(gate), httpx.Client(base_url=url, timeout=PATIENCE) as client:
        first = talk(client, wav(), language="de", visit="first")
        next(first)
        assert house.engine.begun.wait(PATIENCE)
        second = talk(client, wav(60, rate=8000), language="fr", visit="second")
        next(second)
        wait_for(lambda: app.state.service.door.inside == 2)
        second.close()
        wait_for(lambda: app.state.service.door.inside == 1)
        gate.set()
        list(first)
    assert {"de"} == {wish.language for wish in house.engine.asked}


@contextmanager
def opened(gate: threading.Event) -> Iterator[None]:
    """Whatever happens in the block, the engine can go on afterwards."""
    try:
        yield
    finally:
        gate.set()


def talk(
    client: httpx.Client, recording: bytes, name: str = "recording", language: str = "", visit: str = "visit"
) -> Iterator[dict[str, Any]]:
    """Send a recording and a wish as a browser does; the queue's events."""
    token = client.post("/recordings", files={"file": (name, recording)}).json()["token"]
    wish = {"token": token, "run": 1, "model": "demo", "words": True, "language": language}
    config = client.get("/config").json()
    [talking] = [entry["id"] for entry in config["dependencies"] if entry["backend_fn"]]
    join = {"data": [wish], "fn_index": talking, "session_hash": visit, "event_data": None, "trigger_id": None}
    assert 200 == client.post("/gradio_api/queue/join", json=join).status_code
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": visit}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])
