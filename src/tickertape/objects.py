"""Recordings fetched from object stores: `https://` addresses and `gs://` buckets that the operator has named.

Whoever may send an address could make the service speak to whatever it reaches (server-side request forgery). So: no
host that is not on the list, letter by letter; no address but public ones, looked up once and connected to as found; no
other port, no redirect, no user or password, nothing beyond the limits of size and time. Addresses are never logged or
repeated: a signed one is a secret. Only a `gs://` address is sent with the service's own identity, and only for a
bucket that is named itself.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import anyio
import h11

from tickertape.errors import EmptyFile, FileTooLarge, OptionError

FIELD = "file_url"
LONGEST = 8192  # characters of an address; signed ones have some 1,500
STORAGE = "storage.googleapis.com"
CONNECT = 10.0  # seconds for one address of a host to answer
PIECE = 65536  # bytes
METADATA = ("169.254.169.254", 80)  # where Google's machines tell who they are; the same for all of them
METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
METADATA_SECONDS, METADATA_BYTES = 3.0, 16384
EARLY = 60.0  # seconds before its end that a token is no longer used
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 as seen through NAT64 (RFC 6052)

Resolve = Callable[[str], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object lies: the host, what is asked of it, and whether the service says who it is."""

    host: str
    target: str
    identified: bool = False


def place(url: str, allowed: Collection[str]) -> Place:
    """What an address means. Raises `OptionError` for what is no proper address, or not allowed."""
    if not allowed:
        raise OptionError("Recordings are not fetched from addresses here; send `file`.", FIELD, "unsupported_field")
    if len(url) > LONGEST or not url.isprintable() or any(mark in url for mark in ' \\"<>^`{|}#'):
        raise _invalid()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid() from error
    if parts.scheme == "gs":
        return _in_bucket(url, allowed)
    if parts.scheme != "https" or port not in {None, 443} or "@" in parts.netloc or not url.isascii():
        raise _invalid()
    host = (parts.hostname or "").lower()
    if host not in allowed:
        raise _forbidden()
    query = f"?{parts.query}" if parts.query else ""
    return Place(host, (parts.path or "/") + query)


def _in_bucket(url: str, allowed: Collection[str]) -> Place:
    """An object by Google's JSON API, where its name is one segment of the path, dots and slashes included."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if f"gs://{bucket}" not in allowed:
        raise _forbidden()
    if not name or len(name.encode()) > 1024 or any(part in {"", ".", ".."} for part in name.split("/")):
        raise _invalid()
    return Place(STORAGE, f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media", identified=True)


def is_public(address: str) -> bool:
    """Whether an IP address lies on the internet: not here, not nearby, not in a cloud's own network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return True
    if ip in TRANSLATED:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.sixtofour is None and ip.teredo is None  # tunnels, which may lead anywhere


async def resolve(host: str) -> list[str]:
    """The addresses of a host. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Objects:
    """Fetches recordings: `await objects.fetch(url, reserve)`.

    `allowed` holds hosts and `gs://` buckets; `limit` is in bytes, `timeout` in seconds and for the whole. The rest is
    for tests, whose server is on the loopback.
    """

    def __init__(
        self,
        allowed: Collection[str],
        *,
        limit: int,
        timeout: float,
        resolve: Resolve = resolve,
        accept: Callable[[str], bool] = is_public,
        port: int = 443,
        tls: ssl.SSLContext | None = None,
        metadata: tuple[str, int] = METADATA,
    ) -> None:
        self._allowed = frozenset(allowed)
        self._limit = limit
        self._timeout = timeout
        self._resolve = resolve
        self._accept = accept
        self._port = port
        self._tls = tls or (ssl.create_default_context() if allowed else None)
        self._identity = _Identity(metadata)

    async def fetch(self, url: str, reserve: Callable[[int], Awaitable[object]]) -> io.BytesIO:
        """The object's bytes; `reserve` is awaited with their number, or the limit, before any of them is read.

        Raises `OptionError`, `FileTooLarge` or `EmptyFile`, and what `reserve` raises.
        """
        wanted = place(url, self._allowed)
        try:
            with anyio.fail_after(self._timeout):
                return await self._fetch(wanted, reserve)
        except TimeoutError:
            raise _failed(f"it took more than {self._timeout:g} seconds") from None
        except (OSError, h11.RemoteProtocolError):  # TLS included; the message would name the host
            raise _failed("the connection failed") from None

    async def _fetch(self, wanted: Place, reserve: Callable[[int], Awaitable[object]]) -> io.BytesIO:
        headers = {"host": wanted.host}
        if wanted.identified and (token := await self._identity.token()):
            headers["authorization"] = f"Bearer {token}"
        async with self._connected(wanted.host) as (reader, writer):
            answer = _Answer(reader, writer)
            head = await answer.ask(wanted.target, headers)
            await reserve(self._size(head))
            data = io.BytesIO()
            async with aclosing(answer.body()) as pieces:
                async for piece in pieces:
                    if data.tell() + len(piece) > self._limit:
                        raise _too_large(self._limit)
                    data.write(piece)
        if not data.tell():
            raise EmptyFile("The file is empty.")
        data.seek(0)
        return data

    def _size(self, head: h11.Response) -> int:
        """What is to come, or the limit where that is not said. Raises for whatever is no recording in full."""
        headers = {name.lower(): value for name, value in head.headers}
        if head.status_code != 200:
            raise _failed(f"the answer was {head.status_code}" + _meaning(head.status_code))
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _failed("the object is stored compressed")
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > self._limit:
            raise _too_large(self._limit)
        return self._limit if declared is None else int(declared)

    @asynccontextmanager
    async def _connected(self, host: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to one of the host's addresses, all of which must be public; its certificate is the host's."""
        addresses = await self._resolve(host)
        if not addresses or not all(map(self._accept, addresses)):
            raise _forbidden()
        failure: OSError | None = None
        for address in addresses:
            opening = asyncio.open_connection(address, self._port, ssl=self._tls, server_hostname=host)
            try:
                reader, writer = await asyncio.wait_for(opening, CONNECT)
            except (OSError, asyncio.TimeoutError) as error:
                failure = error if isinstance(error, OSError) else OSError()
                continue
            try:
                yield reader, writer
            finally:
                writer.transport.abort()
            return
        raise failure or OSError


class _Answer:
    """One request over a connection, and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._state = h11.Connection(h11.CLIENT)

    async def ask(self, target: str, headers: Mapping[str, str]) -> h11.Response:
        """Ask for a target; the answer's head."""
        always = {"accept-encoding": "identity", "connection": "close", "user-agent": "tickertape"}
        request = h11.Request(method="GET", target=target, headers=list({**headers, **always}.items()))
        self._writer.write((self._state.send(request) or b"") + (self._state.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()
        while not isinstance(event := await self._next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise OSError
        return event

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the answer's body. Raises `h11.RemoteProtocolError` if it ends too early."""
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def _next(self) -> object:
        while (event := self._state.next_event()) is h11.NEED_DATA:
            self._state.receive_data(await self._reader.read(PIECE))
        return event


class _Identity:
    """The service's own token for Google Cloud, where there is one: kept as long as it is good."""

    def __init__(self, metadata: tuple[str, int]) -> None:
        self._metadata = metadata
        self._token = ""
        self._until = 0.0

    async def token(self) -> str:
        """The token; empty where no metadata server answers, which leaves what everybody may read."""
        if time.monotonic() < self._until:
            return self._token
        try:
            with anyio.fail_after(METADATA_SECONDS):
                answer = json.loads(await self._ask())
            self._token, self._until = str(answer["access_token"]), time.monotonic() + answer["expires_in"] - EARLY
        except (OSError, TimeoutError, ValueError, KeyError, TypeError, h11.RemoteProtocolError):
            self._token = ""
        return self._token

    async def _ask(self) -> bytes:
        reader, writer = await asyncio.open_connection(*self._metadata)
        try:
            answer = _Answer(reader, writer)
            head = await answer.ask(METADATA_PATH, {"host": "metadata.google.internal", "metadata-flavor": "Google"})
            if head.status_code != 200:
                return b""
            body = b""
            async with aclosing(answer.body()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > METADATA_BYTES:
                        return b""
            return body
        finally:
            writer.transport.abort()


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return ", and redirects are not followed"
    return ", as if the address had expired or the object were private" if status in {401, 403} else ""


def _invalid() -> OptionError:
    message = "`file_url` must be https://HOST/... or gs://BUCKET/OBJECT, properly escaped."
    return OptionError(message, FIELD, "invalid_file_url")


def _forbidden() -> OptionError:
    return OptionError("The server may not fetch from there; see `object_hosts`.", FIELD, "file_url_not_allowed")


def _failed(reason: str) -> OptionError:
    return OptionError(f"The recording could not be fetched: {reason}.", FIELD, "file_url_failed")


def _too_large(limit: int) -> FileTooLarge:
    return FileTooLarge(f"The object is larger than the limit of {limit:,} bytes.")
