"""Recordings from object stores: what is refused before anything is looked up, and a store on the loopback."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import pytest
import trustme

from tests.fakes import TEXT, decoders, model, wav
from tickertape import objects
from tickertape.api import create_app
from tickertape.errors import EmptyFile, FileTooLarge, OptionError, Overloaded
from tickertape.objects import Objects, is_public, place
from tickertape.settings import Settings

HOST = "store.example"
ALLOWED = (HOST, "gs://calls")
SOUND = wav(1.0)
SECRET = "X-Signature=canary-5f2b"  # noqa: S105 - looked for in what is said
SIGNED = f"https://{HOST}/calls/a.wav?{SECRET}"
URL = "/v1/audio/transcriptions"


class Store(BaseHTTPRequestHandler):
    """Answers by path; remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]] = []
    reached: ClassVar[threading.Event] = threading.Event()  # by whom it keeps waiting
    released: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        """One of the situations of a store."""
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        name = self.path.partition("?")[0].rpartition("/")[2]
        getattr(self, f"answer_{name.replace('.', '_')}", self.answer_a_wav)()

    def answer_a_wav(self) -> None:
        self.send(200, SOUND)

    def answer_chunked(self) -> None:
        self.begin(200, ("transfer-encoding", "chunked"))
        for start in range(0, len(SOUND), 5000):
            piece = SOUND[start : start + 5000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def answer_large(self) -> None:
        self.begin(200, ("content-length", "100000000"))

    def answer_endless(self) -> None:
        self.begin(200, ("connection", "close"))
        try:
            while True:
                self.wfile.write(bytes(65536))
        except OSError:
            self.close_connection = True

    def answer_short(self) -> None:
        self.begin(200, ("content-length", str(len(SOUND))))
        self.wfile.write(SOUND[:1000])
        self.close_connection = True

    def answer_empty(self) -> None:
        self.send(200, b"")

    def answer_gone(self) -> None:
        self.send(404, b"<NoSuchKey/>")

    def answer_expired(self) -> None:
        self.send(403, b"<AccessDenied/>")

    def answer_moved(self) -> None:
        self.send(302, b"", ("location", f"https://{HOST}/a.wav"))

    def answer_squeezed(self) -> None:
        self.send(200, SOUND, ("content-encoding", "gzip"))

    def answer_nonsense(self) -> None:
        self.wfile.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
        self.close_connection = True

    def answer_never(self) -> None:
        self.reached.set()
        self.released.wait(60)
        self.close_connection = True

    def answer_token(self) -> None:
        good = self.headers["Metadata-Flavor"] == "Google"
        self.send(200 if good else 403, json.dumps({"access_token": "our-token", "expires_in": 3600}).encode())

    def send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.begin(status, ("content-length", str(len(body))), *headers)
        self.wfile.write(body)

    def begin(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serving(tls: ssl.SSLContext | None) -> Iterator[int]:
    """The store on a free port."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Clients that turn away are part of the test."""

        def get_request(self) -> Any:
            connection, address = super().get_request()
            if tls is None:
                return connection, address
            return tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    with Server(("127.0.0.1", 0), Store) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield int(server.server_address[1])
        Store.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def port(authority: trustme.CA) -> Iterator[int]:
    """Where the store listens, with a certificate for its name and Google's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, objects.STORAGE).configure_cert(tls)
    yield from serving(tls)


@pytest.fixture(scope="module")
def metadata() -> Iterator[int]:
    """Where Google's metadata server would listen."""
    yield from serving(None)


@pytest.fixture
def store(authority: trustme.CA, port: int, metadata: int) -> Objects:
    """Objects that find every host on the loopback and trust our authority."""
    Store.asked.clear()
    return near(authority, port, metadata=("127.0.0.1", metadata))


def near(authority: trustme.CA, port: int, **knobs: Any) -> Objects:
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    given = {"limit": 10**6, "timeout": 30.0, "accept": lambda _: True, "port": port, "tls": tls, **knobs}
    return Objects(ALLOWED, resolve=loopback, **given)


async def loopback(host: str) -> list[str]:
    return ["127.0.0.1"]


class Room:
    """Writes down what was asked for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def __call__(self, size: int) -> None:
        self.sizes.append(size)


async def refused(store: Objects, url: str) -> tuple[str, str]:
    """Code and message of a refusal, which names the field and never what was sent."""
    with pytest.raises(OptionError) as caught:
        await store.fetch(url, Room())
    error = caught.value
    assert "file_url" == error.param
    assert not any(part in error.message for part in (HOST, "canary", "127.0.0.1"))
    assert error.__cause__ is None or "canary" not in str(error.__cause__)
    return error.code, error.message


# -- which addresses are followed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"http://{HOST}/a", f"ftp://{HOST}/a", "file:///etc/passwd", "/etc/passwd", "data:audio/wav;base64,UklG", HOST,
        f"https://user@{HOST}/a", f"https://user:pass@{HOST}/a", f"https://{HOST}:8443/a", f"https://{HOST}:http/a",
        f"https://{HOST}:99999/a", f"https://{HOST}/a b", f"https://{HOST}/a\r\nHost: other", f"https://{HOST}/ä",
        f"https://{HOST}\\@other/a", f"https://{HOST}/a#b", "https://[::1/a", f"https://{HOST}/{'a' * 9000}",
        "gs://calls", "gs://calls/", "gs://calls/../private/a", "gs://calls/a//b", "gs://calls/./a",
        "gs://calls/" + "a" * 1100,
    ],
)  # fmt: skip
def test_what_is_no_proper_address_is_refused(url: str) -> None:
    """Only https on its own port and gs, without user, fragment, escapes that are none, or steps upwards."""
    with pytest.raises(OptionError) as caught:
        place(url, ALLOWED)
    assert ("invalid_file_url", "file_url") == (caught.value.code, caught.value.param)


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/a", f"https://sub.{HOST}/a", f"https://{HOST}./a", f"https://{HOST}.evil.example/a",
        f"https://evil{HOST}/a", "https://127.0.0.1/a", "https://[::1]/a", "https://2130706433/a", "https:///a",
        "https://metadata.google.internal/a", "https://storage.googleapis.com/calls/a", "gs://other/a", "gs:///a",
        f"gs://{HOST}/a", "gs://Calls/a",
    ],
)  # fmt: skip
def test_hosts_and_buckets_count_letter_by_letter(url: str) -> None:
    """What is not named is refused, however much it resembles what is."""
    with pytest.raises(OptionError) as caught:
        place(url, ALLOWED)
    assert ("file_url_not_allowed", "file_url") == (caught.value.code, caught.value.param)


def test_without_a_list_nothing_is_fetched() -> None:
    """The default: every address is refused as unsupported."""
    with pytest.raises(OptionError) as caught:
        place(SIGNED, ())
    assert "unsupported_field" == caught.value.code


def test_an_address_keeps_its_path_and_query() -> None:
    """What is signed is sent as it came; the host's letters may be large."""
    assert objects.Place(HOST, f"/calls/a.wav?{SECRET}") == place(SIGNED.replace(HOST, HOST.upper()), ALLOWED)
    assert "/" == place(f"https://{HOST}", ALLOWED).target
    assert not place(SIGNED, ALLOWED).identified


def test_an_object_of_a_bucket_is_one_segment() -> None:
    """Slashes, question marks and letters of any alphabet in the name of an object cannot lead elsewhere."""
    found = place("gs://calls/2026/Grüße?.wav", ALLOWED)
    assert (objects.STORAGE, True) == (found.host, found.identified)
    assert "/storage/v1/b/calls/o/2026%2FGr%C3%BC%C3%9Fe%3F.wav?alt=media" == found.target


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2a00:1450::1", True), ("199.36.153.4", True),
        ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("127.0.0.1", False), ("0.0.0.0", False),  # noqa: S104
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00:ec2::254", False), ("ff02::1", False),
        ("::ffff:10.0.0.1", False), ("::ffff:169.254.169.254", False), ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::808:808", True), ("2002:a00:1::", False), ("2001:0:a00:1::", False),
    ],
)  # fmt: skip
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    """Private, local, link-local and tunnelled addresses are not, in whatever notation."""
    assert public == is_public(address)


# -- a store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "room"), [("a.wav", len(SOUND)), ("chunked", 10**6)])
async def test_a_recording_comes(store: Objects, name: str, room: int) -> None:
    """The bytes come as they lie there; room is taken for what is declared, or for the most there may be."""
    asked = Room()
    data = await store.fetch(f"https://{HOST}/{name}?{SECRET}", asked)
    assert (SOUND, [room]) == (data.getvalue(), asked.sizes)
    path, headers = Store.asked[0]
    assert (f"/{name}?{SECRET}", HOST, "identity") == (path, headers["host"], headers["accept-encoding"])
    assert "authorization" not in headers


async def test_a_bucket_is_asked_with_the_services_own_token(store: Objects) -> None:
    """For `gs://` the metadata server is asked for a token, once as long as it is good."""
    for _ in range(2):
        assert SOUND == (await store.fetch("gs://calls/a.wav", Room())).getvalue()
    targets = [path.partition("?")[0] for path, _ in Store.asked]
    assert [objects.METADATA_PATH, "/storage/v1/b/calls/o/a.wav", "/storage/v1/b/calls/o/a.wav"] == targets
    assert "Bearer our-token" == Store.asked[-1][1]["authorization"]


async def test_without_a_metadata_server_a_public_bucket_is_read(authority: trustme.CA, port: int) -> None:
    """Elsewhere than at Google, `gs://` is asked for without a token."""
    Store.asked.clear()
    store = near(authority, port, metadata=("127.0.0.1", 1))
    assert SOUND == (await store.fetch("gs://calls/a.wav", Room())).getvalue()
    assert "authorization" not in Store.asked[-1][1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "the answer was 404."),
        ("expired", "the answer was 403, as if the address had expired or the object were private."),
        ("moved", "the answer was 302, and redirects are not followed."),
        ("squeezed", "the object is stored compressed."),
        ("short", "the connection failed."),
        ("nonsense", "the connection failed."),
    ],
)
async def test_what_a_store_refuses_is_told(store: Objects, name: str, reason: str) -> None:
    """Statuses, redirects and broken answers are the caller's to mend; nothing is asked for a second time."""
    code, message = await refused(store, f"https://{HOST}/{name}?{SECRET}")
    assert ("file_url_failed", f"The recording could not be fetched: {reason}") == (code, message)
    assert 1 == len(Store.asked)


@pytest.mark.parametrize("name", ["large", "endless"])
async def test_what_is_too_large_is_cut_off(store: Objects, name: str) -> None:
    """An object over the limit is refused unread where it declares its size, and otherwise where it exceeds it."""
    with pytest.raises(FileTooLarge):
        await store.fetch(f"https://{HOST}/{name}", Room())


async def test_an_empty_object_is_an_empty_file(store: Objects) -> None:
    """As with uploads."""
    with pytest.raises(EmptyFile):
        await store.fetch(f"https://{HOST}/empty", Room())


async def test_a_slow_store_is_given_up(authority: trustme.CA, port: int) -> None:
    """The time is for the whole, the wait for the first byte included."""
    code, message = await refused(near(authority, port, timeout=0.3), f"https://{HOST}/never")
    assert ("file_url_failed", True) == (code, "more than 0.3 seconds" in message)


async def test_a_host_that_is_not_there_is_told(authority: trustme.CA, port: int) -> None:
    """Neither name nor address leaves the server."""

    async def nowhere(host: str) -> list[str]:
        raise OSError(f"no such host: {host}")

    store = Objects(ALLOWED, limit=1, timeout=30, resolve=nowhere)
    assert "file_url_failed" == (await refused(store, SIGNED))[0]
    assert "file_url_failed" == (await refused(near(authority, 1), SIGNED))[0]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"], []])
async def test_a_host_that_leads_inside_is_refused(addresses: list[str]) -> None:
    """One private address among a host's is enough; no connection is made."""

    async def inside(host: str) -> list[str]:
        return addresses

    store = Objects(ALLOWED, limit=1, timeout=30, resolve=inside)
    assert "file_url_not_allowed" == (await refused(store, SIGNED))[0]


async def test_the_address_that_was_looked_at_is_the_one_connected_to(authority: trustme.CA, port: int) -> None:
    """A host is looked up once, so that a second answer cannot lead elsewhere."""
    asked: list[str] = []

    async def once(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    store = Objects(ALLOWED, limit=10**6, timeout=30, resolve=once, accept="127.0.0.1".__eq__, port=port, tls=tls)
    assert SOUND == (await store.fetch(SIGNED, Room())).getvalue()
    assert [HOST] == asked


async def test_a_certificate_must_be_the_hosts(authority: trustme.CA, port: int) -> None:
    """A server that others vouch for, or that has another name, gets no request."""
    Store.asked.clear()
    strangers = near(trustme.CA(), port)
    assert "file_url_failed" == (await refused(strangers, SIGNED))[0]
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    renamed = Objects(
        ["other.example"], limit=1, timeout=30, resolve=loopback, accept=lambda _: True, port=port, tls=tls
    )
    with pytest.raises(OptionError, match="connection failed"):
        await renamed.fetch("https://other.example/a", Room())
    assert [] == Store.asked


async def test_no_room_is_no_fault_of_the_caller(store: Objects) -> None:
    """What the server's own books raise comes through as it is."""

    async def full(size: int) -> None:
        raise Overloaded("no room")

    with pytest.raises(Overloaded):
        await store.fetch(SIGNED, full)


# -- over HTTP -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def api(store: Objects | None, lines: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    """The API, and what it logs."""
    settings = Settings(body_limit=2**14, upload_room=2**24, max_audio_seconds=60)
    app = create_app({"demo": model()}, settings, emit=lines.append, decoders=decoders())
    if store is not None:
        app.state.service.objects = store
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
    service = app.state.service
    assert (0, 0.0, 0) == (service.uploads.taken, service.admission.in_flight, service.door.inside)


def form(**fields: str) -> dict[str, Any]:
    """A form of fields only, as multipart."""
    return {"files": {name: (None, value) for name, value in {"model": "demo", **fields}.items()}}


async def test_an_address_is_as_good_as_a_file(store: Objects) -> None:
    """A recording larger than any body comes from its address, in one piece and as events; the log has no address."""
    lines: list[str] = []
    async with api(store, lines) as client:
        answer = await client.post(URL, **form(file_url=SIGNED))
        streamed = await client.post(URL, **form(file_url=SIGNED, stream="true"))
        translated = await client.post("/v1/audio/translations", **form(file_url="gs://calls/a.wav"))
    assert (200, TEXT) == (answer.status_code, answer.json()["text"])
    assert "transcript.text.done" in streamed.text
    assert 200 == translated.status_code
    assert len(SOUND) > 2**14
    assert not any(secret in line for line in lines for secret in ("canary", HOST, "our-token", "a.wav"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (400, "missing_field", "file")),
        ({"file_url": ""}, (400, "missing_field", "file")),
        ({"file_url": SIGNED, "model": ""}, (400, "missing_field", "model")),
        ({"file_url": "http://127.0.0.1/"}, (400, "invalid_file_url", "file_url")),
        ({"file_url": "https://127.0.0.1/"}, (400, "file_url_not_allowed", "file_url")),
        ({"file_url": f"https://{HOST}/gone"}, (400, "file_url_failed", "file_url")),
        ({"file_url": f"https://{HOST}/gone", "stream": "true"}, (400, "file_url_failed", "file_url")),
        ({"file_url": f"https://{HOST}/large"}, (413, "file_too_large", "file")),
        ({"file_url": f"https://{HOST}/empty"}, (400, "empty_file", "file")),
    ],
    ids=str,
)
async def test_refusals_are_in_the_envelope(
    store: Objects, fields: dict[str, str], expected: tuple[int, str, str]
) -> None:
    """Status, code and field; never a 5xx, never a word of the address."""
    lines: list[str] = []
    async with api(store, lines) as client:
        answer = await client.post(URL, **form(**fields))
    error = answer.json()["error"]
    assert expected == (answer.status_code, error["code"], error["param"])
    assert HOST not in answer.text + "".join(lines)


async def test_a_file_and_an_address_are_one_too_many(store: Objects) -> None:
    """Both at once are refused, and nothing is fetched."""
    async with api(store, []) as client:
        files = {"file": ("a.wav", io.BytesIO(SOUND[:1000])), **form(file_url=SIGNED)["files"]}
        answer = await client.post(URL, files=files)
    assert (400, "conflicting_field") == (answer.status_code, answer.json()["error"]["code"])
    assert [] == Store.asked


async def test_it_is_off_by_default() -> None:
    """Without `object_hosts` the field is refused."""
    async with api(None, []) as client:
        answer = await client.post(URL, **form(file_url=SIGNED))
    assert (400, "unsupported_field") == (answer.status_code, answer.json()["error"]["code"])


async def test_a_client_that_leaves_stops_the_fetch(authority: trustme.CA, port: int) -> None:
    """While a slow store is waited for, the client's leaving ends it and gives all room back."""
    lines: list[str] = []
    Store.reached.clear()
    async with api(near(authority, port, timeout=300.0), lines) as client:
        asking = asyncio.ensure_future(client.post(URL, **form(file_url=f"https://{HOST}/never")))
        await asyncio.to_thread(Store.reached.wait, 60)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert 499 == json.loads(lines[-1])["status"]


@pytest.mark.parametrize("entry", ["https://a.example", "a.example/x", "a.example:443", "A.example", "*.example",
                                   "localhost", "127.0.0.1", "gs://", "gs://a/b", "a b"])  # fmt: skip
def test_entries_of_the_list_are_checked(entry: str) -> None:
    """An entry that could never match, or would match too much, stops the start."""
    with pytest.raises(OptionError) as caught:
        Settings.load(object_hosts=entry)
    assert "object_hosts" == caught.value.param


def test_the_list_comes_as_words() -> None:
    """Hosts and buckets, separated by commas; the largest object is at least the largest upload."""
    loaded = Settings.load(object_hosts="a.example, gs://calls").resolve()
    assert (("a.example", "gs://calls"), True) == (loaded.object_hosts, loaded.object_limit >= loaded.body_limit)
