"""Bad requests at their full size and as they come over the wire: what the table of bad requests names in numbers.

`tests/server/test_app.py` and `tests/server/test_run.py` hold most of its rows; here is what those show only in part.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.asgi import END, MODEL, SOUND, URL, ApiClient, api_client, part, refusal, small
from tests.support.fakes import TEXT, FakeEngine, Serving, model, wav
from tests.support.logs import LOG
from tests.support.sockets import FORM_TYPE, RunningServer, code, raw_form, raw_request, read_to_end, status
from tests.support.waiting import TIMEOUT, wait_until_async
from tickertape.server import auth, http_protocol
from tickertape.server.app import create_app
from tickertape.server.auth import Keyring, add_key
from tickertape.server.errors import UnauthorizedError
from tickertape.server.settings import Settings

MEGABYTE = 2**20
PIECE = 2**16  # bytes that a client sends at a time


@pytest.fixture
async def large() -> AsyncIterator[ApiClient]:
    """The limits of a real service."""
    made = api_client(Settings(body_limit=25 * MEGABYTE, max_audio_seconds=600))
    async with made.client:
        yield made


async def streamed(api: ApiClient, *pieces: bytes) -> httpx.Response:
    """The answer to a body whose length is not declared, sent in pieces."""

    async def body() -> AsyncIterator[bytes]:
        for whole in pieces:
            for start in range(0, len(whole), PIECE):
                yield whole[start : start + PIECE]

    return await api.client.post(URL, content=body(), headers={"content-type": "multipart/form-data; boundary=XX"})


# -- the form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"), [(MODEL, "file"), (SOUND, "model"), (b"", "file")], ids=["no file", "no model", "neither"]
)
async def test_row_50_the_missing_field_is_named(api: ApiClient, body: bytes, param: str) -> None:
    """400 `missing_field`, with the field in `param`."""
    assert (400, "missing_field", param) == refusal(await api.send(body + END))


@pytest.mark.parametrize("filename", [None, "a.wav"], ids=["51 as a field", "as a file"])
async def test_row_51_no_audio_comes_back(api: ApiClient, filename: str | None) -> None:
    """A refusal holds nothing of the recording, whether it came as a field or as a file that is no recording."""
    answer = await api.send(part("file", b"canary-in-the-audio" * 50, filename=filename) + MODEL + END)
    assert 400 == refusal(answer)[0]
    assert b"canary" not in answer.content
    assert "canary" not in "".join(LOG.lines)


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/json", b'{"model": "demo", "file": "UklGRg=="}'), ("audio/wav", wav())],
    ids=["JSON", "raw audio"],
)
async def test_row_52_what_is_no_form_is_told_what_to_send(api: ApiClient, kind: str, body: bytes) -> None:
    """415, and a message that names the content type to use."""
    answer = await api.client.post(URL, content=body, headers={"content-type": kind})
    assert (415, "unsupported_media_type", None) == refusal(answer)
    assert "multipart/form-data" in answer.json()["error"]["message"]


async def test_row_9_a_compressed_form_is_not_unpacked(api: ApiClient) -> None:
    """50 MB of zeros as a few kilobytes of gzip, declared as such, is refused before any of it is read."""
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(bytes(50 * MEGABYTE)) + packer.flush()
    assert (415, "unsupported_encoding", None) == refusal(await api.send(packed, **{"content-encoding": "gzip"}))
    assert 0 == api.log[-1].get("request_bytes", 0)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "not declared"])
async def test_row_55_a_preamble_of_20_mb_is_not_searched(large: ApiClient, declared: bool) -> None:
    """400 at the first piece: what should be the boundary is something else."""
    body = b"\r\n" * (10 * MEGABYTE) + SOUND + MODEL + END
    answer = await (large.send(body) if declared else streamed(large, body))
    assert (400, "invalid_multipart", None) == refusal(answer)
    if not declared:
        assert large.log[-1]["request_bytes"] <= PIECE


@pytest.mark.parametrize(("name", "expected"), [("language", "field_too_large"), ("prompt", "prompt_too_long")])
async def test_row_56_a_field_of_2_mb_is_too_large(large: ApiClient, name: str, expected: str) -> None:
    """400 that names the field; the rest is not read."""
    answer = await streamed(large, SOUND, MODEL, part(name, b"x" * 2 * MEGABYTE), END)
    assert (400, expected, name) == refusal(answer)
    assert large.log[-1]["request_bytes"] <= MEGABYTE


async def test_row_57_unknown_fields_are_refused_at_the_first(large: ApiClient) -> None:
    """Two hundred unknown fields of a megabyte: 400 when the first begins; declared as a whole, 413."""
    field = part("bogus", b"x" * MEGABYTE)
    answer = await streamed(large, SOUND, *[field] * 200, END)
    assert (400, "unknown_field", None) == refusal(answer)
    assert large.log[-1]["request_bytes"] <= 2 * PIECE
    declared = {"content-type": "multipart/form-data; boundary=XX", "content-length": str(200 * MEGABYTE)}
    answer = await large.client.post(URL, content=b"", headers=declared)
    assert (413, "file_too_large", "file") == refusal(answer)


async def test_row_58_many_files_are_refused(api: ApiClient) -> None:
    """1,100 files: 400 at the second."""
    answer = await api.send(part("file", b"x", filename="a.wav") * 1100 + MODEL + END)
    assert (400, "duplicate_field", "file") == refusal(answer)


async def test_row_59_whichever_file_comes_first(api: ApiClient) -> None:
    """Two files are never one of them, whatever is between them."""
    other = part("file", wav(0.5), filename="b.wav")
    for body in (SOUND + MODEL + other, other + SOUND + MODEL, MODEL + SOUND + other):
        assert (400, "duplicate_field", "file") == refusal(await api.send(body + END))
    assert [] == api.engine.asked


@pytest.mark.parametrize(
    "name", ["a\0b.wav", "%00%0d%0a.wav", "a%0D%0AX-Injected: yes", "con", "-rf", "nul.wav", "x" * 255]
)
async def test_row_61_odd_names_change_nothing(api: ApiClient, name: str) -> None:
    """A NUL, escaped line ends and names that mean something to a system: 200, and no header or line of theirs."""
    answer = await api.send(part("file", wav(), filename=name) + MODEL + END)
    assert (200, TEXT) == (answer.status_code, answer.json()["text"])
    assert "x-injected" not in answer.headers
    assert not any("Injected" in line or "\\u0000" in line for line in LOG.lines)


async def test_row_61_a_name_with_a_line_end_is_no_name(api: ApiClient) -> None:
    """A raw line end begins another header of the part, which is ignored as all others are."""
    answer = await api.send(part("file", wav(), filename='a"\r\nX-Injected: "yes') + MODEL + END)
    assert 200 == answer.status_code
    assert "x-injected" not in answer.headers


@pytest.mark.parametrize(
    ("given", "expected"),
    [("english", "en"), ("ENGLISH", "en"), ("de-AT", "de"), ("ger", "de"), ("auto", None), ("Deutsch", ""),
     ("xx-INVALID", "")],
)  # fmt: skip
async def test_row_70_names_and_regions_of_languages(api: ApiClient, given: str, expected: str | None) -> None:
    """Names, codes, regions and `auto` are accepted, as documented; anything else is refused without echo."""
    answer = await api.ask({"language": given})
    if expected != "":
        assert (200, expected) == (answer.status_code, api.engine.asked[-1].language)
    else:
        assert (400, "invalid_language", "language") == refusal(answer)
        assert given not in answer.text


async def test_row_71_an_empty_temperature_is_the_default(api: ApiClient) -> None:
    """Empty, 0 and 0.0 are greedy with fallback; 1 is the highest."""
    for given, first in (("", 0.0), ("0", 0.0), ("0.0", 0.0), ("1", 1.0), ("1e-1", 0.1)):
        assert 200 == (await api.ask({"temperature": given})).status_code
        assert first == api.engine.asked[-1].temperatures[0]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("🎙️" * 50, set()),
        ("\u202eb\u2066c", set()),
        ("a\0b", set()),
        ("\n" * 10_000, {"prompt_truncated"}),
        ("word " * 250, {"prompt_truncated"}),
    ],
    ids=["emoji", "bidi", "NUL", "10 000 newlines", "250 words"],
)
async def test_row_72_odd_prompts_reach_the_engine(api: ApiClient, prompt: str, expected: set[str]) -> None:
    """A prompt is text, whatever it holds; one that is too long for the model is cut, with a warning."""
    answer = await api.ask({"prompt": prompt})
    assert (200, expected) == (answer.status_code, {one["code"] for one in answer.json().get("warnings", [])})
    assert prompt == api.engine.asked[-1].prompt


# -- keys ----------------------------------------------------------------------------------------------------------


def test_row_74_every_hash_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever key is right, or none, all known hashes are compared, each by a comparison of constant time."""
    path = tmp_path / "keys.json"
    secrets = [add_key(path, name) for name in ("first", "second", "third")]
    keyring = Keyring(path)
    compared: list[str] = []

    def compare(known: str, given: str) -> bool:
        compared.append(known)
        return hmac.compare_digest(known, given)

    monkeypatch.setattr(auth, "hmac", type("Watched", (), {"compare_digest": staticmethod(compare)}))
    for secret in (secrets[0], secrets[2], "tt-wrong"):
        compared.clear()
        try:
            keyring.authenticate([f"Bearer {secret}".encode()])
        except UnauthorizedError:
            assert secret not in secrets
        assert 3 == len(compared)


# -- what comes over the wire --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One server for all tests of this file."""
    with RunningServer() as made:
        yield made


def headed(*lines: str) -> bytes:
    return "\r\n".join([*lines, "Host: t", "Connection: close"]).encode() + b"\r\n\r\n"


LENGTHS = (f"POST {URL} HTTP/1.1", FORM_TYPE)
SIZED, CHUNKED = "Content-Length: 5", "Transfer-Encoding: chunked"
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
WIRE: list[Any] = [
    pytest.param(headed("GET //v1/../v1/models HTTP/1.1"), {404}, id="//v1/.."),
    pytest.param(headed("GET /v1/../../etc/passwd HTTP/1.1"), {404}, id="dots"),
    pytest.param(headed("GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1"), {404}, id="%2e%2e"),
    pytest.param(headed("GET /v1/models/%2e%2e%2f%2e%2e%2fetc HTTP/1.1"), {404}, id="%2e%2e%2f in a model's name"),
    pytest.param(headed("GET /healthz%00 HTTP/1.1"), {404}, id="NUL in the path"),
    pytest.param(headed(f"TRACE {URL} HTTP/1.1"), {405}, id="TRACE"),
    pytest.param(headed(f"GET {URL} HTTP/1.0"), {405}, id="HTTP/1.0"),
    pytest.param(headed("GET /" + "x" * MEGABYTE + " HTTP/1.1"), {400, 404, 414, 431}, id="URL of 1 MB"),
    pytest.param(headed("GET /v1/nothing HTTP/1.1", *["X-A: b"] * 200), {404, 431}, id="200 headers"),
    pytest.param(headed(*LENGTHS, SIZED, CHUNKED) + b"0\r\n\r\n", {400}, id="TE, CL"),
    pytest.param(headed(*LENGTHS, CHUNKED, SIZED) + b"0\r\n\r\n", {400}, id="CL, TE"),
    pytest.param(headed(*LENGTHS, SIZED, "Content-Length: 6") + b"hello", {400}, id="two lengths"),
    pytest.param(headed(*LENGTHS, "Content-Length: -1"), {400}, id="negative length"),
    pytest.param(headed(*LENGTHS, "Content-Length: 1e3"), {400}, id="length that is no number"),
    pytest.param(headed(*LENGTHS, CHUNKED) + b"zz\r\nhello\r\n", {400}, id="chunk that is no number"),
    pytest.param(headed("GET /v1/nothing HTTP/1.1", "Bad Header: x"), {400}, id="space in a header's name"),
    pytest.param(headed("GET /v1/nothing HTTP/9.9"), {400}, id="HTTP/9.9"),
    pytest.param(headed(f"GET {URL} HTTP/1.1", *WEBSOCKET), {405}, id="WebSocket"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}, id="77 HTTP/2"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), {400}, id="TLS"),
    pytest.param(b"nonsense\r\n\r\n", {400}, id="nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WIRE)
async def test_row_75_odd_requests_are_refused_in_the_envelope(
    server: RunningServer, text: bytes, expected: set[int]
) -> None:
    """Whatever is odd on the wire is a 4xx in JSON, on a connection that closes; the server goes on."""
    answer = await server.exchange(text)
    assert status(answer) in expected
    assert code(answer)
    assert b"x-request-id: " in answer.lower()
    assert 200 == status(await server.exchange(headed("GET /healthz HTTP/1.1")))


@pytest.mark.parametrize("lengths", [(SIZED, CHUNKED), (CHUNKED, SIZED), ("Content-Length: 0", SIZED)])
async def test_row_75_nothing_is_smuggled(server: RunningServer, lengths: tuple[str, str]) -> None:
    """Behind two lengths that contradict each other no second request is found."""
    answer = await server.exchange(headed(*LENGTHS, *lengths) + b"0\r\n\r\n" + headed("GET /healthz HTTP/1.1"))
    assert (400, 1) == (status(answer), answer.count(b"x-request-id: "))


async def test_row_76_a_spike_is_turned_away_politely() -> None:
    """Ten times what there is room for: what fits is answered, the rest is told in JSON when to come back."""
    api = api_client(small(audio_seconds_in_flight=60))
    api.engine.gate = threading.Event()
    long = ("a.wav", wav(25.0, rate=8000), "audio/wav")
    async with api.client:
        asked = [asyncio.create_task(api.ask(file=long)) for _ in range(20)]
        await wait_until_async(lambda: sum(task.done() for task in asked) >= 18)
        refused = [task for task in asked if task.done()]
        api.engine.gate.set()
        answers = [await task for task in asked]
    assert {200: 2, 503: 18} == Counter(answer.status_code for answer in answers)
    for answer in (task.result() for task in refused):
        assert (503, "overloaded", None) == refusal(answer)
        assert 1 <= int(answer.headers["retry-after"]) <= 60


@pytest.mark.slow
async def test_row_77_a_key_gets_no_more_than_its_share_of_connections(tmp_path: Path) -> None:
    """A hundred connections under one key that may have four requests under way: 96 are told 429 while four run."""
    path = tmp_path / "keys.json"
    headers = {"authorization": f"Bearer {add_key(path, 'team', concurrent_requests=4)}"}
    engine = FakeEngine(gate=threading.Event())
    app = create_app({"demo": model("demo", engine)}, Settings(keys_file=path))
    limits = httpx.Limits(max_connections=100)
    with Serving(app) as url:
        async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=TIMEOUT) as client:

            async def ask() -> tuple[int, str | None]:
                answer = await client.post(URL, data={"model": "demo"}, files={"file": ("a.wav", wav())})
                return answer.status_code, answer.headers.get("retry-after")

            asked = [asyncio.create_task(ask()) for _ in range(100)]
            await wait_until_async(lambda: sum(task.done() for task in asked) >= 96)
            assert engine.gate is not None
            engine.gate.set()
            outcomes = Counter([await task for task in asked])
    assert {(200, None): 4, (429, "1"): 96} == outcomes


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["HTTP/2", "WebSocket"])
async def test_row_77_no_other_protocol_is_offered(server: RunningServer, offer: tuple[str, ...]) -> None:
    """An offer to change the protocol is not taken up: the form that came with it is answered over HTTP/1.1."""
    body = raw_form()
    answer = await server.exchange(headed(*LENGTHS, f"Content-Length: {len(body)}", *offer) + body)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert TEXT.encode() in answer


async def test_a_websocket_is_turned_away() -> None:
    """Behind another server's upgrade as well: the handshake ends at once, and nothing is asked of the application."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    made = api_client()
    await made.app({"type": "websocket", "path": URL, "headers": [], "query_string": b""}, None, send)
    assert [{"type": "websocket.close", "code": 1008}] == sent


async def ended(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    """What still comes until the server closes the connection."""
    reader, writer = connection
    rest = await asyncio.wait_for(reader.read(), TIMEOUT)
    writer.close()
    return rest


HEAD = b"GET /healthz HTTP/1.1\r\nHost: t\r\n"


@pytest.mark.parametrize("begun", [b"", b"\r\n"], ids=["idle", "a line end"])
@pytest.mark.slow
async def test_row_66_a_connection_without_a_request_is_closed(begun: bytes) -> None:
    """A connection on which no request begins is closed after the keep-alive time."""
    with RunningServer(keep_alive=1) as server:
        connection = await server.connect()
        connection[1].write(begun)
        assert b"" == await ended(connection)


@pytest.mark.parametrize("begun", [b"GE", HEAD], ids=["half a line", "no end"])
async def test_row_66_a_head_that_does_not_end_ends_the_connection(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose head stops is closed after the limit on heads; a connection that is only idle outlives it."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.2)
    with RunningServer(keep_alive=100) as server:
        idle, stalled = await server.connect(), await server.connect()
        idle[1].write(HEAD + b"\r\n")
        await idle[0].readuntil(b'{"status":"ok"}')
        stalled[1].write(begun)
        assert b"" == await ended(stalled)
        idle[1].write(HEAD + b"Connection: close\r\n\r\n")
        assert 200 == status(await ended(idle))


async def test_row_66_headers_that_trickle_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header now and then does not keep a connection: the clock runs from a head's beginning."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 1.0)
    with RunningServer(keep_alive=100) as server:
        reader, writer = await server.connect()
        writer.write(HEAD)
        ending = asyncio.create_task(asyncio.wait_for(read_to_end(reader), TIMEOUT))
        sent = 0
        while not ending.done() and sent < 1000:
            writer.write(b"X-A: b\r\n")
            sent += 1
            await asyncio.sleep(0.05)
        assert b"" == await ending
        assert sent < 1000
        writer.close()


@pytest.mark.slow
async def test_row_66_a_connection_is_kept_between_requests_only_so_long() -> None:
    """After an answer another request is answered; if none comes, the connection ends."""
    with RunningServer(keep_alive=4) as server:
        connection = await server.connect()
        for _ in range(2):
            connection[1].write(HEAD + b"\r\n")
            assert b"200 OK" in await connection[0].readuntil(b'{"status":"ok"}')
        assert b"" == await ended(connection)


@pytest.mark.slow
async def test_row_66_an_unread_body_that_stops_ends_the_connection() -> None:
    """A request that is answered before its body has arrived does not keep its connection for ever."""
    with RunningServer(keep_alive=1) as server:
        connection = await server.connect()
        connection[1].write(b"POST /nothing HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n")
        assert b"404" in await connection[0].readuntil(b"}}")
        connection[1].write(b"x")
        assert b"" == await ended(connection)


@pytest.mark.slow
async def test_row_66_work_is_not_idleness() -> None:
    """A request that takes longer than a connection may be idle is answered, and so is an upload that does."""
    with RunningServer(keep_alive=4) as server:
        server.engine.gate = threading.Event()
        body = raw_form()
        reader, writer = await server.connect()
        writer.write(raw_request(body)[: -len(body)] + body[:5000])
        await asyncio.sleep(5)
        writer.write(body[5000:])
        await asyncio.to_thread(server.engine.started.wait, TIMEOUT)
        await asyncio.sleep(5)
        server.engine.gate.set()
        assert 200 == status(await ended((reader, writer)))


async def test_row_67_a_client_that_leaves_between_chunks_is_forgotten() -> None:
    """The same as with a declared length: nothing is decoded, the room is given back, the log says 499."""
    with RunningServer() as server:
        _, writer = await server.connect()
        head = f"POST {URL} HTTP/1.1\r\nHost: t\r\n{FORM_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        writer.write(head + b"3e8\r\n" + raw_form()[:1000] + b"\r\n")
        await writer.drain()
        writer.transport.abort()
        assert "client_closed_request" == (await server.logged(499))["code"]
        assert (0, 0.0) == (server.service.uploads.taken, server.service.admission.in_flight)
        assert [] == server.engine.asked
