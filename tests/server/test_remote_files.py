"""Files from URLs: which URLs are rejected, and fetching from a server on the loopback interface."""

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

import httpcore
import httpx
import pytest
import trustme

from tests.support.fakes import TEXT, decoders, model, wav
from tests.support.logs import LOG
from tickertape.errors import EmptyFileError, FileTooLargeError, OptionError, OverloadedError
from tickertape.server.app import create_app
from tickertape.server.remote_files import (
    METADATA_PATH,
    STORAGE_HOST,
    PinnedBackend,
    RemoteFiles,
    is_public,
    locate,
)
from tickertape.server.settings import Settings

HOST = "store.example"
ALLOWED = (HOST, "gs://calls")
SOUND = wav(1.0)
SECRET = "X-Signature=canary-5f2b"  # noqa: S105 - must not appear in messages
SIGNED = f"https://{HOST}/calls/a.wav?{SECRET}"
URL = "/v1/audio/transcriptions"


class Store(BaseHTTPRequestHandler):
    """An object store whose responses depend on the path; records its requests."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]] = []
    reached: ClassVar[threading.Event] = threading.Event()
    released: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        """Call the method that the last part of the path names."""
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
        """Log nothing."""


def serving(tls: ssl.SSLContext | None) -> Iterator[int]:
    """Run the store on a free port; yields the port."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Log nothing: tests disconnect on purpose."""

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
    """The port of a store with a certificate for its own name and for Google's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, STORAGE_HOST).configure_cert(tls)
    yield from serving(tls)


@pytest.fixture(scope="module")
def metadata() -> Iterator[int]:
    """The port of a fake of Google's metadata server."""
    yield from serving(None)


@pytest.fixture
def store(authority: trustme.CA, port: int, metadata: int) -> RemoteFiles:
    """A client that resolves every host to the loopback interface and trusts the test's CA."""
    Store.asked.clear()
    return local_client(authority, port, metadata_server=("127.0.0.1", metadata))


def local_client(authority: trustme.CA, port: int, **knobs: Any) -> RemoteFiles:
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    backend = PinnedBackend(loopback, lambda _: True, port)
    return RemoteFiles(ALLOWED, **{"limit": 10**6, "timeout": 30.0, "backend": backend, "tls": tls, **knobs})


async def loopback(host: str) -> list[str]:
    return ["127.0.0.1"]


class Room:
    """Records the reserved sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def __call__(self, size: int) -> None:
        self.sizes.append(size)


async def fetch_error(store: RemoteFiles, url: str) -> tuple[str, str]:
    """The code and message of the error, which must not contain anything of the URL."""
    with pytest.raises(OptionError) as caught:
        await store.fetch(url, Room())
    error = caught.value
    assert "file_url" == error.param
    assert not any(part in error.message for part in (HOST, "canary", "127.0.0.1"))
    assert error.__cause__ is None or "canary" not in str(error.__cause__)
    return error.code, error.message


# -- which URLs are accepted ----------------------------------------------------------------------------------------


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
def test_malformed_urls_are_rejected(url: str) -> None:
    """URLs need https on port 443 or gs; users, fragments, unescaped characters and `..` are rejected."""
    with pytest.raises(OptionError) as caught:
        locate(url, ALLOWED)
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
def test_hosts_and_buckets_must_equal_an_entry(url: str) -> None:
    """A host or bucket that only resembles an entry of the allow-list is rejected."""
    with pytest.raises(OptionError) as caught:
        locate(url, ALLOWED)
    assert ("file_url_not_allowed", "file_url") == (caught.value.code, caught.value.param)


def test_an_empty_allow_list_rejects_every_url() -> None:
    """By default the field is not supported."""
    with pytest.raises(OptionError) as caught:
        locate(SIGNED, ())
    assert "unsupported_field" == caught.value.code


def test_path_and_query_stay_unchanged() -> None:
    """Signed URLs are requested exactly as sent; the host is compared in lower case."""
    assert httpcore.URL(SIGNED) == locate(SIGNED.replace(HOST, HOST.upper()), ALLOWED)
    assert b"/" == locate(f"https://{HOST}", ALLOWED).target


def test_an_object_of_a_bucket_is_one_segment() -> None:
    """An object's name is escaped as one path segment, so that it cannot change the path."""
    found = locate("gs://calls/2026/Grüße?.wav", ALLOWED)
    target = "/storage/v1/b/calls/o/2026%2FGr%C3%BC%C3%9Fe%3F.wav?alt=media"
    assert httpcore.URL(scheme="https", host=STORAGE_HOST, target=target) == found


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2a00:1450::1", True), ("199.36.153.4", True),
        ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("127.0.0.1", False), ("0.0.0.0", False),  # noqa: S104
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00:ec2::254", False), ("ff02::1", False),
        ("::ffff:10.0.0.1", False), ("::ffff:169.254.169.254", False), ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::808:808", True), ("2002:a00:1::", False), ("2001:0:a00:1::", False), ("64:ff9b:1::a00:1", False),
        ("::10.0.0.1", False), ("fec0::1", False), ("::ffff:8.8.8.8", True),
    ],
)  # fmt: skip
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    """Private, local, link-local, multicast and tunnelled addresses are not public, in any notation."""
    assert public == is_public(address)


# -- fetching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "room"), [("a.wav", len(SOUND)), ("chunked", 10**6)])
async def test_a_file_is_fetched(store: RemoteFiles, name: str, room: int) -> None:
    """The bytes arrive unchanged; the declared size is reserved, or else the limit."""
    asked = Room()
    data = await store.fetch(f"https://{HOST}/{name}?{SECRET}", asked)
    assert (SOUND, [room]) == (data.getvalue(), asked.sizes)
    path, headers = Store.asked[0]
    assert (f"/{name}?{SECRET}", HOST, "identity") == (path, headers["host"], headers["accept-encoding"])
    assert "authorization" not in headers


async def test_bucket_requests_carry_the_access_token(store: RemoteFiles) -> None:
    """For `gs://` URLs the metadata server supplies a token, which is reused until it expires."""
    for _ in range(2):
        assert SOUND == (await store.fetch("gs://calls/a.wav", Room())).getvalue()
    targets = [path.partition("?")[0] for path, _ in Store.asked]
    assert [METADATA_PATH, "/storage/v1/b/calls/o/a.wav", "/storage/v1/b/calls/o/a.wav"] == targets
    assert "Bearer our-token" == Store.asked[-1][1]["authorization"]


async def test_a_public_bucket_needs_no_metadata_server(authority: trustme.CA, port: int) -> None:
    """Outside Google Cloud, `gs://` objects are requested without a token."""
    Store.asked.clear()
    store = local_client(authority, port, metadata_server=("127.0.0.1", 1))
    assert SOUND == (await store.fetch("gs://calls/a.wav", Room())).getvalue()
    assert "authorization" not in Store.asked[-1][1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "the server answered 404."),
        ("expired", "the server answered 403; the URL may have expired or the object is private."),
        ("moved", "the server answered 302; redirects are not followed."),
        ("squeezed", "the file is stored with a Content-Encoding; store it without."),
        ("short", "the connection failed."),
        ("nonsense", "the connection failed."),
    ],
)
async def test_failures_name_their_reason(store: RemoteFiles, name: str, reason: str) -> None:
    """Error statuses, redirects and broken responses are client errors; the request is not repeated."""
    code, message = await fetch_error(store, f"https://{HOST}/{name}?{SECRET}")
    assert ("file_url_failed", f"The recording could not be fetched: {reason}") == (code, message)
    assert 1 == len(Store.asked)


@pytest.mark.parametrize("name", ["large", "endless"])
async def test_a_file_over_the_limit_is_rejected(store: RemoteFiles, name: str) -> None:
    """A file over the limit is rejected by its declared size, or else as soon as it exceeds the limit."""
    with pytest.raises(FileTooLargeError):
        await store.fetch(f"https://{HOST}/{name}", Room())


async def test_an_empty_object_is_an_empty_file(store: RemoteFiles) -> None:
    """An empty file is the same error as an empty upload."""
    with pytest.raises(EmptyFileError):
        await store.fetch(f"https://{HOST}/empty", Room())


async def test_a_slow_server_times_out(authority: trustme.CA, port: int) -> None:
    """The timeout covers the whole fetch, including the wait for the first byte."""
    code, message = await fetch_error(local_client(authority, port, timeout=0.3), f"https://{HOST}/never")
    assert ("file_url_failed", True) == (code, "more than 0.3 seconds" in message)


async def test_an_unreachable_host_is_an_error(authority: trustme.CA, port: int) -> None:
    """The message contains neither the host's name nor its address."""

    async def nowhere(host: str) -> list[str]:
        raise OSError(f"no such host: {host}")

    store = RemoteFiles(ALLOWED, limit=1, timeout=30, backend=PinnedBackend(nowhere))
    assert "file_url_failed" == (await fetch_error(store, SIGNED))[0]
    assert "file_url_failed" == (await fetch_error(local_client(authority, 1), SIGNED))[0]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"], []])
async def test_a_host_with_a_private_address_is_rejected(addresses: list[str]) -> None:
    """One private address among several suffices; no connection is opened."""

    async def inside(host: str) -> list[str]:
        return addresses

    store = RemoteFiles(ALLOWED, limit=1, timeout=30, backend=PinnedBackend(inside))
    assert "file_url_not_allowed" == (await fetch_error(store, SIGNED))[0]


async def test_the_connection_uses_the_checked_address(authority: trustme.CA, port: int) -> None:
    """A host is resolved once, so that a second DNS response cannot change the address."""
    asked: list[str] = []

    async def once(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    backend = PinnedBackend(once, "127.0.0.1".__eq__, port)
    store = RemoteFiles(ALLOWED, limit=10**6, timeout=30, backend=backend, tls=tls)
    assert SOUND == (await store.fetch(SIGNED, Room())).getvalue()
    assert [HOST] == asked


async def test_the_certificate_must_match_the_host(authority: trustme.CA, port: int) -> None:
    """A server with an unknown CA or another name in its certificate gets no request."""
    Store.asked.clear()
    strangers = local_client(trustme.CA(), port)
    assert "file_url_failed" == (await fetch_error(strangers, SIGNED))[0]
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    backend = PinnedBackend(loopback, lambda _: True, port)
    renamed = RemoteFiles(["other.example"], limit=1, timeout=30, backend=backend, tls=tls)
    with pytest.raises(OptionError, match="connection failed"):
        await renamed.fetch("https://other.example/a", Room())
    assert [] == Store.asked


async def test_errors_of_reserve_are_raised_unchanged(store: RemoteFiles) -> None:
    """An error of `reserve` is not reported as a failed fetch."""

    async def full(size: int) -> None:
        raise OverloadedError("no room")

    with pytest.raises(OverloadedError):
        await store.fetch(SIGNED, full)


# -- over HTTP -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def api(store: RemoteFiles | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with this `RemoteFiles`; at the end everything reserved must be released."""
    settings = Settings(body_limit=2**14, max_audio_seconds=60)
    app = create_app({"demo": model()}, settings, decoders=decoders())
    if store is not None:
        app.state.service.remote_files = store
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
    service = app.state.service
    assert (0, 0.0, 0) == (service.uploads.taken, service.admission.in_flight, service.requests.active)


def form(**fields: str) -> dict[str, Any]:
    """A form of fields only, as multipart."""
    return {"files": {name: (None, value) for name, value in {"model": "demo", **fields}.items()}}


async def test_file_url_replaces_file(store: RemoteFiles) -> None:
    """`file_url` works for every endpoint and for streams, also over `body_limit`; logs contain no URL."""
    async with api(store) as client:
        answer = await client.post(URL, **form(file_url=SIGNED))
        streamed = await client.post(URL, **form(file_url=SIGNED, stream="true"))
        translated = await client.post("/v1/audio/translations", **form(file_url="gs://calls/a.wav"))
    assert (200, TEXT) == (answer.status_code, answer.json()["text"])
    assert "transcript.text.done" in streamed.text
    assert 200 == translated.status_code
    assert len(SOUND) > 2**14
    assert not any(secret in line for line in LOG.lines for secret in ("canary", HOST, "our-token", "a.wav"))


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
async def test_errors_are_in_the_envelope(
    store: RemoteFiles, fields: dict[str, str], expected: tuple[int, str, str]
) -> None:
    """Errors have the right status, code and param, and contain nothing of the URL."""
    async with api(store) as client:
        answer = await client.post(URL, **form(**fields))
    error = answer.json()["error"]
    assert expected == (answer.status_code, error["code"], error["param"])
    assert HOST not in answer.text + "".join(LOG.lines)


async def test_file_and_file_url_conflict(store: RemoteFiles) -> None:
    """A request with both fields is rejected, and nothing is fetched."""
    async with api(store) as client:
        files = {"file": ("a.wav", io.BytesIO(SOUND[:1000])), **form(file_url=SIGNED)["files"]}
        answer = await client.post(URL, files=files)
    assert (400, "conflicting_field") == (answer.status_code, answer.json()["error"]["code"])
    assert [] == Store.asked


async def test_file_url_is_off_by_default() -> None:
    """Without `object_hosts` the field is rejected."""
    async with api(None) as client:
        answer = await client.post(URL, **form(file_url=SIGNED))
    assert (400, "unsupported_field") == (answer.status_code, answer.json()["error"]["code"])


async def test_a_disconnect_cancels_the_fetch(authority: trustme.CA, port: int) -> None:
    """If the client disconnects during a fetch, the fetch is cancelled and its memory is released."""
    Store.reached.clear()
    async with api(local_client(authority, port, timeout=300.0)) as client:
        asking = asyncio.ensure_future(client.post(URL, **form(file_url=f"https://{HOST}/never")))
        await asyncio.to_thread(Store.reached.wait, 60)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert 499 == json.loads(LOG.lines[-1])["status"]


@pytest.mark.parametrize("entry", ["https://a.example", "a.example/x", "a.example:443", "A.example", "*.example",
                                   "localhost", "127.0.0.1", "gs://", "gs://a/b", "a b"])  # fmt: skip
def test_entries_of_the_allow_list_are_validated(entry: str) -> None:
    """An entry that could not match, or would match too much, is an error at start."""
    with pytest.raises(OptionError) as caught:
        Settings.load(object_hosts=entry)
    assert "object_hosts" == caught.value.param


def test_the_allow_list_is_separated_by_commas() -> None:
    """`object_hosts` is a list of hosts and buckets; a fetched file may have at least the size of an upload."""
    loaded = Settings.load(object_hosts="a.example, gs://calls").resolve()
    assert (("a.example", "gs://calls"), True) == (loaded.object_hosts, loaded.fetch_limit >= loaded.body_limit)
