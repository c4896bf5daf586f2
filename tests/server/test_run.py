"""A server on real sockets: clients that disconnect, are slow, send too much, or send invalid requests."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections import Counter

import httpx
import pytest

from tests.support.asgi import URL
from tests.support.fakes import model, wav
from tests.support.logs import LOG
from tests.support.sockets import FORM_TYPE, RunningServer, code, raw_form, raw_request, read_to_end, status
from tests.support.waiting import TIMEOUT, wait_until_async
from tickertape.errors import OptionError
from tickertape.server import run, uploads
from tickertape.server.app import create_app
from tickertape.server.run import Server, bind
from tickertape.server.settings import Settings

AMPLE = 100_000  # seconds of audio: room for every client of a test at once, however few cores there are


async def test_a_declared_gigabyte_is_refused_at_once(server: RunningServer) -> None:
    """Row 65: a client that declares 1 GB and sends nothing gets a 413 at once."""
    answer = await server.exchange(raw_request(b"", length=10**9))
    assert (413, "file_too_large") == (status(answer), code(answer))
    assert b"connection: close" in answer.lower()


async def test_an_endless_chunked_body_is_cut_off() -> None:
    """Row 64: of a body without Content-Length at most 1.1 times the limit is read, then the connection is closed."""
    with RunningServer(body_limit=2**23) as server:
        await flooded(server)


async def flooded(server: RunningServer) -> None:
    reader, writer = await server.connect()
    head = f"POST {URL} HTTP/1.1\r\nHost: t\r\n{FORM_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    begin = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    writer.write(head + b"%x\r\n%s\r\n" % (len(begin), begin))
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"

    async def flood() -> None:
        for _ in range(400 * 16):  # 400 MiB in total
            writer.write(chunk)
            await writer.drain()

    flooding = asyncio.create_task(flood())
    line = await server.logged(413)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flooding, TIMEOUT)
    assert line["request_bytes"] <= 1.1 * 2**23
    answer = await reader.read() if not reader.exception() else b""
    assert answer == b"" or code(answer) == "file_too_large"
    writer.close()


async def test_a_body_that_stands_still_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 66: an upload that stalls gets a 408 in the envelope, and the connection is closed."""
    monkeypatch.setattr(uploads, "BODY_TIMEOUT", 0.3)
    with RunningServer() as server:
        answer = await server.exchange(raw_request(raw_form()[:1000], length=30_000))
    assert (408, "body_timeout") == (status(answer), code(answer))


async def test_a_body_that_trickles_is_bounded_too() -> None:
    """Row 66: an upload in single bytes ends with `request_timeout` at the latest."""
    with RunningServer(request_timeout=0.4) as server:
        reader, writer = await server.connect()
        writer.write(raw_request(b"", length=30_000))
        answering = asyncio.create_task(read_to_end(reader))
        for byte in raw_form()[:1000]:
            if answering.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        answer = await answering
        assert (408, "body_timeout") == (status(answer), code(answer))
        writer.close()


async def test_a_client_that_leaves_while_uploading_is_forgotten(server: RunningServer) -> None:
    """Row 67: nothing is decoded, the memory is released, and the log has status 499."""
    _, writer = await server.connect()
    writer.write(raw_request(raw_form()[:1000], length=30_000))
    await writer.drain()
    writer.transport.abort()
    assert "client_closed_request" == (await server.logged(499))["code"]
    assert (0, 0.0) == (server.service.uploads.taken, server.service.admission.in_flight)
    assert [] == server.engine.asked


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.slow
async def test_a_client_that_leaves_stops_the_engine(server: RunningServer, stream: str) -> None:
    """Row 68: windows that have not started are never decoded; the reserved audio is released."""
    server.engine.gate = threading.Event()
    _, writer = await server.connect()
    writer.write(raw_request(raw_form(wav(500.0, rate=1000 * 8)[: 2**20 - 1000], stream=stream, vad="false")))
    await asyncio.to_thread(server.engine.started.wait, TIMEOUT)
    writer.transport.abort()
    assert "client_closed_request" == (await server.logged(499))["code"]
    server.engine.gate.set()
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
        assert 200 == (await client.get("/readyz")).status_code
    assert 0.0 == server.service.admission.in_flight
    assert len(server.engine.asked) <= 2  # the window that was running, and the one that asks for readiness


@pytest.mark.slow
async def test_half_uploads_leave_nothing_behind() -> None:
    """200 clients that disconnect in the middle of their upload leave no reservation and no request."""
    with RunningServer(audio_seconds_in_flight=AMPLE) as server:
        await half_uploaded(server)


async def half_uploaded(server: RunningServer) -> None:
    for _ in range(10):
        pairs = await asyncio.gather(*(server.connect() for _ in range(20)))
        for _, writer in pairs:
            writer.write(raw_request(raw_form()[:9000], length=30_000))
            await writer.drain()
            writer.transport.abort()
    await wait_until_async(lambda: len(LOG.lines) >= 200 and not server.service.requests.active)
    assert {499} == {line["status"] for line in server.log}
    assert (0, 0.0) == (server.service.uploads.taken, server.service.admission.in_flight)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
        (b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n" + b"X-A: b\r\n" * 90 + b"\r\n", {200}),
        (b"GET /" + b"x" * 2**20 + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", {400, 404, 414, 431}),
        (
            f"POST {URL} HTTP/1.1\r\nHost: t\r\n{FORM_TYPE}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
            "Connection: close\r\n\r\n0\r\n\r\n".encode(),
            {400},
        ),
        (b"nonsense\r\n\r\n", {400}),
    ],
    ids=["75 HTTP/1.0", "75 90 headers", "75 URL of 1 MB", "75 TE and CL", "75 nonsense"],
)
async def test_odd_requests_get_an_answer(server: RunningServer, text: bytes, expected: set[int]) -> None:
    """Unusual and invalid HTTP gets a response, and the server works afterwards."""
    assert status(await server.exchange(text)) in expected
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
        assert 200 == (await client.get("/healthz")).status_code


@pytest.mark.slow
async def test_good_requests_survive_a_crowd_of_bad_ones() -> None:
    """Of parallel requests, every invalid file gets a 4xx and every valid one a 200; all reservations are released."""
    with RunningServer(audio_seconds_in_flight=AMPLE) as server:
        await crowded(server)


async def crowded(server: RunningServer) -> None:
    bomb = wav(1.0).replace((16_000).to_bytes(4, "little"), (1).to_bytes(4, "little"), 1)  # declares 1 Hz
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:

        async def post(content: bytes) -> int:
            answer = await client.post(URL, data={"model": "demo"}, files={"file": ("a.wav", content)})
            return answer.status_code

        statuses = await asyncio.gather(*(post(bomb) for _ in range(25)), *(post(wav()) for _ in range(10)),
                                        *(post(bytes(range(256)) * 100) for _ in range(25)))  # fmt: skip
    assert ([400] * 25, [200] * 10, [400] * 25) == (statuses[:25], statuses[25:35], statuses[35:])
    await wait_until_async(lambda: (0, 0, 0.0) == server.reserved)


@pytest.mark.slow
async def test_uploads_wait_their_turn_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """More uploads than fit in memory are read one after the other, and all are answered."""
    monkeypatch.setattr(Settings, "upload_memory", 60_000)
    with RunningServer() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            posts = [client.post(URL, data={"model": "demo"}, files={"file": ("a.wav", wav())}) for _ in range(8)]
            assert [200] * 8 == [answer.status_code for answer in await asyncio.gather(*posts)]
        assert 0 == server.service.uploads.taken


@pytest.mark.slow
async def test_memory_stays_flat_over_many_requests(server: RunningServer) -> None:
    """After 100 mixed requests no object of a request is left in memory."""
    before = _alive()
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
        for number in range(100):
            files = {"file": ("a.wav", wav(0.2) if number % 3 else b"noise")}
            data = {"model": "demo", "stream": "true" if number % 2 else "false"}
            await client.post(URL, data=data, files=files)
    await wait_until_async(lambda: not server.service.requests.active)
    await wait_until_async(lambda: _alive() <= before)  # the last request's frames may still be unwinding


def _alive() -> Counter[str]:
    """The number of objects of each class of which a request has one."""
    gc.collect()
    kinds = Counter(f"{kind.__module__}.{kind.__name__}" for kind in map(type, gc.get_objects()))
    ours = (
        "tickertape.server.transcription.TranscriptionResponse",
        "tickertape.server.multipart.Form",
        "tickertape.server.admission.AudioReservation",
    )
    return Counter({kind: kinds[kind] for kind in ours if kinds[kind]})


def test_shutting_down_the_server_waits_for_requests() -> None:
    """A server that shuts down completes the requests that it has accepted."""
    with RunningServer() as server:
        server.engine.gate = threading.Event()
        answers: list[int] = []

        def ask() -> None:
            answer = httpx.post(
                server.url + URL, data={"model": "demo"}, files={"file": ("a.wav", wav())}, timeout=TIMEOUT
            )
            answers.append(answer.status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        server.engine.started.wait(TIMEOUT)
        server.serving.server.should_exit = True
        time.sleep(0.2)
        server.engine.gate.set()
        asking.join(TIMEOUT)
    assert [200] == answers


async def start(settings: Settings, listener: socket.socket) -> None:
    """Run the server of `tickertape serve --no-ray` until it listens or fails."""
    app = create_app({"demo": model()}, settings)
    server = Server(app, settings)
    server.should_exit = True  # once it has started
    await server.serve([listener])


def test_connections_are_kept_as_long_as_the_setting_says() -> None:
    """Uvicorn keeps idle connections for `keep_alive` seconds; the default exceeds the 60 s of common balancers."""
    assert 60 < Settings().keep_alive == Server(None, Settings()).config.timeout_keep_alive


async def test_listening_is_logged_once_the_port_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects as soon as the log says "listening" is accepted, and before that it is not."""
    settings = Settings(host="127.0.0.1", port=0).resolve()
    listener = bind(settings)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname(), TIMEOUT)
    reached: list[bool] = []

    def connect(message: str, **_: object) -> None:
        assert "listening" == message
        socket.create_connection(listener.getsockname(), TIMEOUT).close()
        reached.append(True)

    monkeypatch.setattr(run.logger, "info", connect)
    await start(settings, listener)
    assert [True] == reached


async def test_a_port_taken_while_the_models_loaded_is_reported() -> None:
    """A port that another process took between binding and listening is an error of the setting `port`."""
    settings = Settings(host="127.0.0.1", port=0).resolve()
    listener = bind(settings)
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    with bind(settings) as other:
        other.listen()
        with pytest.raises(OptionError, match="Cannot listen on ") as caught:
            await start(settings, listener)
    listener.close()
    assert not any("listening" in line for line in LOG.lines)
    assert "port" == caught.value.param
