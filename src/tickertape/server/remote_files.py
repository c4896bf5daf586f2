"""Fetches recordings from `https://` and `gs://` URLs whose hosts and buckets are on the operator's allow-list.

A client that sends a URL must not reach internal services through this server (server-side request forgery). So:

- The host or bucket must equal an entry of the allow-list; the scheme is `https` on port 443, or `gs`.
- URLs with a user, password, fragment or unescaped characters are rejected; redirects are not followed.
- The host is resolved once, all of its addresses must be public, and the connection uses one of these.
- Size and total time are limited.

Messages and logs never contain URLs, because a signed URL is a secret. The server's own access token is sent only for
`gs://` URLs. The client is httpcore: httpx cannot pin an address, normalises URLs and follows proxy variables.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import httpcore

from tickertape.errors import EmptyFileError, FileTooLargeError, OptionError
from tickertape.server.middleware import parse_content_length

FIELD = "file_url"
MAX_URL_LENGTH = 8192  # characters; signed URLs have about 1,500
MAX_OBJECT_NAME = 1024  # bytes, Google's limit
STORAGE_HOST = "storage.googleapis.com"
CONNECT_TIMEOUT = 10.0  # seconds for each address of a host
METADATA_SERVER = ("169.254.169.254", 80)  # the same on every machine of Google Cloud
METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
FETCH_TIMEOUT = 120.0  # seconds for the whole fetch: 200 MiB at 14 Mbit/s
METADATA_TIMEOUT = 3.0  # seconds
TOKEN_MARGIN = 60.0  # seconds before its expiry at which a token is replaced
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 addresses in IPv6 networks (RFC 6052)
HEADERS = (("accept-encoding", "identity"), ("connection", "close"), ("user-agent", "tickertape"))
CLIENT_ERRORS = (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


class RemoteFiles:
    """Fetches files: `await remote_files.fetch(url, reserve)`.

    `allowed` lists hosts and `gs://` buckets, `limit` is in bytes, `timeout` in seconds for the whole fetch.
    """

    def __init__(
        self,
        allowed: Collection[str],
        *,
        limit: int,
        timeout: float = FETCH_TIMEOUT,
        backend: PinnedBackend | None = None,
        tls: ssl.SSLContext | None = None,
        metadata_server: tuple[str, int] = METADATA_SERVER,
    ) -> None:
        self._allowed = frozenset(allowed)
        self._limit = limit
        self._timeout = timeout
        self._backend = backend or PinnedBackend()
        self._tls = tls or (ssl.create_default_context() if allowed else None)
        host, port = metadata_server
        self._token_url = httpcore.URL(scheme="http", host=host, port=port, target=METADATA_PATH)
        self._token = ""
        self._token_expiry = 0.0  # on the monotonic clock

    async def fetch(self, url: str, reserve: Callable[[int], Awaitable[object]]) -> io.BytesIO:
        """Fetch a file. `reserve` is awaited with its declared size, or the limit, before the body is read.

        Raises `OptionError`, `FileTooLargeError` or `EmptyFileError`, and what `reserve` raises.
        """
        location = locate(url, self._allowed)
        timeouts = {"timeout": {"connect": CONNECT_TIMEOUT}}  # for TLS, too
        try:
            with anyio.fail_after(self._timeout):
                token = await self._access_token() if url.startswith("gs://") else ""
                headers = [*HEADERS, ("authorization", f"Bearer {token}")] if token else HEADERS
                async with (
                    httpcore.AsyncConnectionPool(self._tls, network_backend=self._backend) as client,
                    client.stream("GET", location, headers=headers, extensions=timeouts) as response,
                ):
                    await reserve(_declared_size(response, self._limit))
                    return await _read(response, self._limit)
        except TimeoutError:
            raise _failed(f"it took more than {self._timeout:g} seconds") from None
        except CLIENT_ERRORS:  # the message would name the host
            raise _failed("the connection failed") from None

    async def _access_token(self) -> str:
        """The token of Google's service account, or an empty string elsewhere, which suffices for public objects."""
        if time.monotonic() < self._token_expiry:
            return self._token
        headers = [*HEADERS, ("host", "metadata.google.internal"), ("metadata-flavor", "Google")]
        try:
            with anyio.fail_after(METADATA_TIMEOUT):
                async with httpcore.AsyncConnectionPool() as client:
                    response = await client.request("GET", self._token_url, headers=headers)
            answer = json.loads(response.content)
            self._token = str(answer["access_token"])
            self._token_expiry = time.monotonic() + answer["expires_in"] - TOKEN_MARGIN
        except (*CLIENT_ERRORS, ValueError, KeyError, TypeError):
            self._token = ""
        return self._token


def locate(url: str, allowed: Collection[str]) -> httpcore.URL:
    """Check a URL against the allow-list; return the URL of the request for its file. Raises `OptionError`."""
    if not allowed:
        raise OptionError("This server does not fetch URLs; send `file`.", FIELD, "unsupported_field")
    try:
        entry, host, target = _parse(url)
    except ValueError:
        message = "`file_url` must be https://HOST/... or gs://BUCKET/OBJECT, properly escaped."
        raise OptionError(message, FIELD, "invalid_file_url") from None
    if entry not in allowed:
        raise _not_allowed()
    return httpcore.URL(scheme="https", host=host, target=target)


def _parse(url: str) -> tuple[str, str, str]:
    """The allow-list entry that a URL needs, and the host and target of its request. Raises `ValueError`."""
    if len(url) > MAX_URL_LENGTH or not url.isprintable() or any(mark in url for mark in ' \\"<>^`{|}#'):
        raise ValueError
    parts = urlsplit(url)
    if parts.scheme == "gs":
        bucket, _, name = url.removeprefix("gs://").partition("/")
        if len(name.encode()) > MAX_OBJECT_NAME or {"", ".", ".."} & set(name.split("/")):
            raise ValueError
        path = quote(name, safe="")  # Google's JSON API takes the whole name as one segment
        return f"gs://{bucket}", STORAGE_HOST, f"/storage/v1/b/{bucket}/o/{path}?alt=media"
    if parts.scheme != "https" or parts.port not in {None, 443} or "@" in parts.netloc or not url.isascii():
        raise ValueError
    host = (parts.hostname or "").lower()
    query = f"?{parts.query}" if parts.query else ""
    return host, host, (parts.path or "/") + query


def is_public(address: str) -> bool:
    """Whether an IP address is on the internet: not private, local, link-local, multicast or in a tunnel."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in GLOBAL_UNICAST or ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not ip.is_multicast


async def resolve(host: str) -> list[str]:
    """The addresses of a host. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host once, checks every address and connects to one of these. TLS and `Host` keep the host's name.

    Tests replace the fields, because their server is on the loopback interface.
    """

    resolve: Callable[[str], Awaitable[list[str]]] = resolve
    accept: Callable[[str], bool] = is_public
    port: int = 443

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers. Raises `OptionError` unless all addresses are acceptable."""
        addresses = await self.resolve(host)
        if not addresses or not all(map(self.accept, addresses)):
            raise _not_allowed()
        failure: Exception | None = None
        for address in addresses:
            try:
                return await httpcore.AnyIOBackend().connect_tcp(address, self.port, CONNECT_TIMEOUT)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:  # noqa: PERF203 - try the next address
                failure = error
        raise failure or OSError


def _declared_size(response: httpcore.Response, limit: int) -> int:
    """The size of the body in bytes, or the limit if it is not declared. Raises if the response is not a file."""
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in {401, 403}:
        raise _failed(f"the server answered {response.status}; the URL may have expired or the object is private")
    if 300 <= response.status < 400:
        raise _failed(f"the server answered {response.status}; redirects are not followed")
    if response.status != 200:
        raise _failed(f"the server answered {response.status}")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _failed("the file is stored with a Content-Encoding; store it without")
    declared = parse_content_length(headers.get(b"content-length", b""))
    size = limit if declared is None else declared
    if size > limit:
        raise _too_large(limit)
    return size


async def _read(response: httpcore.Response, limit: int) -> io.BytesIO:
    """The body. Raises `FileTooLargeError` or `EmptyFileError`."""
    data = io.BytesIO()
    async for piece in response.aiter_stream():
        if data.tell() + len(piece) > limit:
            raise _too_large(limit)
        data.write(piece)
    if not data.tell():
        raise EmptyFileError("The file is empty.")
    data.seek(0)
    return data


def _not_allowed() -> OptionError:
    message = "The server may not fetch from this host or bucket; see its setting `object_hosts`."
    return OptionError(message, FIELD, "file_url_not_allowed")


def _failed(reason: str) -> OptionError:
    return OptionError(f"The recording could not be fetched: {reason}.", FIELD, "file_url_failed")


def _too_large(limit: int) -> FileTooLargeError:
    return FileTooLargeError(f"The file is larger than the limit of {limit:,} bytes.")
