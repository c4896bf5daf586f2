"""A real server over real sockets: clients that leave, dawdle, lie and flood."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.fakes import FakeEngine, Serving, model, wav
from tests.service import wait_for
from tickertape.api import create_app
from tickertape.settings import Settings
from tickertape.visits import Service

URL = "/v1/audio/transcriptions"
PATIENCE = 300  # seconds: a machine that is busy with other things is no failure
KIND = "Content-Type: multipart/form-data; boundary=XX"
AMPLE = 100_000  # seconds of audio: room for every client of a test at once, however few cores there are


class House:
    """A running server, its engine, its service and its log."""

    def __init__(self, *, keep_alive: int = 10, **knobs: Any) -> None:
        self.engine = FakeEngine()
        self.lines: list[str] = []
        settings = Settings(**{"body_limit": 2**20, "upload_room": 2**24, "max_audio_seconds": 600, **knobs})
        app = create_app({"demo": model("demo", self.engine)}, settings, emit=self.lines.append)
        self.service: Service = app.state.service
        self.serving = Serving(app, keep_alive=keep_alive)

    def __enter__(self) -> House:
        self.url = self.serving.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.engine.gate is not None:
            self.engine.gate.set()
        self.serving.__exit__(None, None, None)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.serving.port)

    async def say(self, text: bytes) -> bytes:
        """Send bytes on a connection of their own; everything that comes back until the server closes it."""
        reader, writer = await self.connect()
        writer.write(text)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        return answer

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def books(self) -> tuple[int, int, float]:
        """Requests inside, bytes of uploads and seconds of audio that are held."""
        return self.service.door.inside, self.service.uploads.taken, self.service.admission.in_flight

    async def logged(self, status: int) -> dict[str, Any]:
        """The log line with that status, as soon as it is there."""
        while True:
            for line in self.log:
                if line.get("status") == status:
                    return line
            await asyncio.sleep(0.01)


@pytest.fixture
def house() -> Iterator[House]:
    with House() as made:
        yield made


def request(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A request for text, as it goes over the wire."""
    size = len(body) if length is None else length
    lines = [f"POST {URL} HTTP/1.1", "Host: t", KIND, f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def form(sound: bytes | None = None, **fields: str) -> bytes:
    """A form with a recording of a second."""
    upload = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    parts = [
        f'--XX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"model": "demo", **fields}.items()
    ]
    return b"".join([*parts, upload, wav() if sound is None else sound, b"\r\n--XX--\r\n"])


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes the connection, even if a byte of ours is on its way to it then."""
    came = b""
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            came += piece
    return came


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def code(answer: bytes) -> str:
    """The error's code; fails unless the answer is JSON in the envelope."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    return str(json.loads(body)["error"]["code"])


async def test_a_declared_gigabyte_is_refused_at_once(house: House) -> None:
    """Row 65: a client that declares 1 GB and sends nothing gets its 413 without having to wait."""
    answer = await house.say(request(b"", length=10**9))
    assert (413, "file_too_large") == (status(answer), code(answer))
    assert b"connection: close" in answer.lower()


async def test_an_endless_chunked_body_is_cut_off() -> None:
    """Row 64: an undeclared body is read to 1.1 times the limit at most, then the connection is closed."""
    with House(body_limit=2**23) as house:
        await flooded(house)


async def flooded(house: House) -> None:
    reader, writer = await house.connect()
    head = f"POST {URL} HTTP/1.1\r\nHost: t\r\n{KIND}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    begin = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    writer.write(head + b"%x\r\n%s\r\n" % (len(begin), begin))
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"

    async def flood() -> None:
        for _ in range(400 * 16):  # 400 MiB, if anybody took it
            writer.write(chunk)
            await writer.drain()

    flooding = asyncio.create_task(flood())
    line = await house.logged(413)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flooding, PATIENCE)
    assert line["request_bytes"] <= 1.1 * 2**23
    answer = await reader.read() if not reader.exception() else b""
    assert answer == b"" or code(answer) == "file_too_large"
    writer.close()


async def test_a_body_that_stands_still_is_408() -> None:
    """Row 66: an upload without progress is given up, with the envelope and the connection closed."""
    with House(body_timeout=0.3) as house:
        answer = await house.say(request(form()[:1000], length=30_000))
    assert (408, "body_timeout") == (status(answer), code(answer))


async def test_a_body_that_trickles_is_bounded_too() -> None:
    """Row 66: a client that sends a byte now and then gets no more than a request's time."""
    with House(body_timeout=5, request_timeout=0.4) as house:
        reader, writer = await house.connect()
        writer.write(request(b"", length=30_000))
        answering = asyncio.create_task(everything(reader))
        for byte in form()[:1000]:
            if answering.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        answer = await answering
        assert (408, "body_timeout") == (status(answer), code(answer))
        writer.close()


async def test_a_client_that_leaves_while_uploading_is_forgotten(house: House) -> None:
    """Row 67: nothing is decoded, the room is given back, the log says 499."""
    _, writer = await house.connect()
    writer.write(request(form()[:1000], length=30_000))
    await writer.drain()
    writer.transport.abort()
    assert "client_closed_request" == (await house.logged(499))["code"]
    assert (0, 0.0) == (house.service.uploads.taken, house.service.admission.in_flight)
    assert [] == house.engine.asked


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_client_that_leaves_stops_the_engine(house: House, stream: str) -> None:
    """Row 68, C15: windows that have not begun never run; the room for audio is given back."""
    house.engine.gate = threading.Event()
    _, writer = await house.connect()
    writer.write(request(form(wav(500.0, rate=1000 * 8)[: 2**20 - 1000], stream=stream, vad="false")))
    await asyncio.to_thread(house.engine.begun.wait, PATIENCE)
    writer.transport.abort()
    assert "client_closed_request" == (await house.logged(499))["code"]
    house.engine.gate.set()
    async with httpx.AsyncClient(base_url=house.url, timeout=PATIENCE) as client:
        assert 200 == (await client.get("/readyz")).status_code
    assert 0.0 == house.service.admission.in_flight
    assert len(house.engine.asked) <= 2  # the window that was running, and the one that asks for readiness


async def test_half_uploads_leave_nothing_behind() -> None:
    """C14: 200 clients that upload half and vanish leave no reservation and no request."""
    with House(audio_seconds_in_flight=AMPLE) as house:
        await half_uploaded(house)


async def half_uploaded(house: House) -> None:
    for _ in range(10):
        pairs = await asyncio.gather(*(house.connect() for _ in range(20)))
        for _, writer in pairs:
            writer.write(request(form()[:9000], length=30_000))
            await writer.drain()
            writer.transport.abort()
    while len(house.lines) < 200 or house.service.door.inside:  # noqa: ASYNC110 - the server is in another thread
        await asyncio.sleep(0.01)
    assert {499} == {line["status"] for line in house.log}
    assert (0, 0.0) == (house.service.uploads.taken, house.service.admission.in_flight)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
        (b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n" + b"X-A: b\r\n" * 90 + b"\r\n", {200}),
        (b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", {400, 404, 414, 431}),
        (
            f"POST {URL} HTTP/1.1\r\nHost: t\r\n{KIND}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
            "Connection: close\r\n\r\n0\r\n\r\n".encode(),
            {400},
        ),
        (b"nonsense\r\n\r\n", {400}),
    ],
    ids=["75 HTTP/1.0", "75 90 headers", "75 URL of 1 MB", "75 TE and CL", "75 nonsense"],
)
async def test_odd_requests_get_an_answer(house: House, text: bytes, expected: set[int]) -> None:
    """What is odd on the wire is answered or refused, and the server goes on."""
    assert status(await house.say(text)) in expected
    async with httpx.AsyncClient(base_url=house.url, timeout=PATIENCE) as client:
        assert 200 == (await client.get("/healthz")).status_code


async def test_good_requests_survive_a_crowd_of_bad_ones() -> None:
    """Bombs and noise in parallel: every bad one is a 4xx, every good one a 200, and nothing stays in the books."""
    with House(audio_seconds_in_flight=AMPLE) as house:
        await crowded(house)


async def crowded(house: House) -> None:
    bomb = wav(1.0).replace((16_000).to_bytes(4, "little"), (1).to_bytes(4, "little"), 1)  # declares 1 Hz
    async with httpx.AsyncClient(base_url=house.url, timeout=PATIENCE) as client:

        async def post(content: bytes) -> int:
            answer = await client.post(URL, data={"model": "demo"}, files={"file": ("a.wav", content)})
            return answer.status_code

        statuses = await asyncio.gather(*(post(bomb) for _ in range(25)), *(post(wav()) for _ in range(10)),
                                        *(post(bytes(range(256)) * 100) for _ in range(25)))  # fmt: skip
    assert ([400] * 25, [200] * 10, [400] * 25) == (statuses[:25], statuses[25:35], statuses[35:])
    await asyncio.to_thread(wait_for, lambda: (0, 0, 0.0) == house.books)


async def test_uploads_wait_their_turn_when_memory_is_short() -> None:
    """More uploads than fit in memory are read one after the other, and all are answered."""
    with House(upload_room=60_000) as house:
        async with httpx.AsyncClient(base_url=house.url, timeout=PATIENCE) as client:
            posts = [client.post(URL, data={"model": "demo"}, files={"file": ("a.wav", wav())}) for _ in range(8)]
            assert [200] * 8 == [answer.status_code for answer in await asyncio.gather(*posts)]
        assert 0 == house.service.uploads.taken


async def test_memory_stays_flat_over_many_requests(house: House) -> None:
    """C17 in small: after 100 mixed requests no object of ours is left that was not there before."""
    before = _alive()
    async with httpx.AsyncClient(base_url=house.url, timeout=PATIENCE) as client:
        for number in range(100):
            files = {"file": ("a.wav", wav(0.2) if number % 3 else b"noise")}
            data = {"model": "demo", "stream": "true" if number % 2 else "false"}
            await client.post(URL, data=data, files=files)
    while house.service.door.inside:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    for _ in range(100):  # the last request's frames may still be unwinding in the server's thread
        if _alive() <= before:
            break
        await asyncio.sleep(0.05)
    assert _alive() <= before


def _alive() -> Counter[str]:
    """How many of the objects that belong to one request exist, by kind."""
    gc.collect()
    kinds = Counter(f"{kind.__module__}.{kind.__name__}" for kind in map(type, gc.get_objects()))
    ours = ("tickertape.visits.Visit", "tickertape.forms.Form", "tickertape.admission.Hold")
    return Counter({kind: kinds[kind] for kind in ours if kinds[kind]})


def test_shutting_down_the_server_waits_for_requests() -> None:
    """A server that is told to stop answers what it has accepted."""
    with House() as house:
        house.engine.gate = threading.Event()
        answers: list[int] = []

        def ask() -> None:
            answer = httpx.post(
                house.url + URL, data={"model": "demo"}, files={"file": ("a.wav", wav())}, timeout=PATIENCE
            )
            answers.append(answer.status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        house.engine.begun.wait(PATIENCE)
        house.serving.server.should_exit = True
        time.sleep(0.2)
        house.engine.gate.set()
        asking.join(PATIENCE)
    assert [200] == answers
