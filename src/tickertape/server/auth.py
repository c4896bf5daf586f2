"""API keys, stored as hashes in a JSON file, and their rate limits.

`add_key` and `remove_key` write the file, which may also be edited by hand:

    {"keys": [{"id": "call-centre", "sha256": "9f86d0...", "requests_per_minute": 60, "concurrent_requests": 4}]}

Plain SHA-256 suffices, because a key is 256 random bits. A slow hash would let anybody load the CPU with invalid keys.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from tickertape.errors import OptionError
from tickertape.server.errors import RateLimitError, UnauthorizedError

logger = logging.getLogger(__name__)

KEY_PREFIX = "tt-"  # lets secret scanners recognise a leaked key
KEY_BYTES = 32
MAX_KEY_BYTES = 256  # longer ones are rejected without hashing
# Response headers: OpenAI's for the rate limit, and the same pattern for concurrency.
PER_MINUTE = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
CONCURRENT = ("x-ratelimit-limit-concurrent-requests", "x-ratelimit-remaining-concurrent-requests")
ID = r"^[A-Za-z0-9._-]{1,64}$"


class Key(BaseModel, extra="forbid", frozen=True, strict=True):
    """An entry of the file. A limit of 0 means no limit."""

    id: str = Field(pattern=ID)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int = Field(0, ge=0)
    concurrent_requests: int = Field(0, ge=0)


class Keys(BaseModel):
    """The content of the file."""

    keys: list[Key]


def add_key(path: Path, id: str, *, requests_per_minute: int = 0, concurrent_requests: int = 0) -> str:  # noqa: A002
    """Create a key, add its hash to the file (created with mode 600 if absent) and return the key.

    Raises `OptionError` if the id is malformed or taken, or the file cannot be read.
    """
    if not re.fullmatch(ID, id):
        raise OptionError(
            "The id of a key must be 1 to 64 letters, digits, dots, dashes or underscores.", "id", "invalid_key_id"
        )
    keys = read_keys(path) if path.exists() else []
    if any(key.id == id for key in keys):
        raise OptionError("The keys file already has a key with this id; choose another.", "id", "duplicate_key_id")
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    key = Key(
        id=id,
        sha256=_digest(secret.encode()),
        requests_per_minute=requests_per_minute,
        concurrent_requests=concurrent_requests,
    )
    _write(path, [*keys, key])
    return secret


def remove_key(path: Path, id: str) -> None:  # noqa: A002
    """Remove a key from the file. Raises `OptionError` if the file has no such key."""
    keys = read_keys(path)
    if all(key.id != id for key in keys):
        raise OptionError("The keys file has no key with this id.", "id", "unknown_key_id")
    _write(path, [key for key in keys if key.id != id])


def read_keys(path: Path) -> list[Key]:
    """The keys of a file. Raises `OptionError` if it is missing or malformed."""
    try:
        return Keys.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        message = f"The keys file cannot be read ({type(error).__name__})."
        raise OptionError(message, "keys_file", "invalid_keys") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"])) or "its JSON"
        raise OptionError(f"The keys file is malformed at {where}.", "keys_file", "invalid_keys") from error


class Keyring:
    """The keys of a file, reloaded when the file changes. Without a file no key is required."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = _fingerprint(path) if path else None  # before reading: a change in between is read again
        self._keys: list[Key] = read_keys(path) if path else []

    def authenticate(self, headers: Sequence[bytes]) -> Key | None:
        """The key in the single `Authorization: Bearer ...` header, or None if no key is required.

        Compares every hash in constant time, so that timing reveals nothing. Raises `UnauthorizedError`.
        """
        if self._path is None:
            return None
        self._reload(self._path)
        scheme, _, secret = headers[0].partition(b" ") if len(headers) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not 0 < len(secret) <= MAX_KEY_BYTES:
            raise UnauthorizedError("Send one API key as 'Authorization: Bearer KEY'.")
        digest = _digest(secret.strip())
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matches:
            raise UnauthorizedError("The API key is not valid.")
        return matches[0]

    def _reload(self, path: Path) -> None:
        """Read a changed file again; keep the keys if it is malformed."""
        seen = _fingerprint(path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read_keys(path)
        except OptionError as error:
            logger.warning("%s", error.message)


class RateLimiter:
    """Each key's rate limit (a token bucket that refills evenly over a minute) and concurrency limit."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # key id: (tokens, when)
        self._running: dict[str, int] = {}

    def take(self, key: Key | None) -> None:
        """Count a request against the key's rate limit. Raises `RateLimitError`."""
        if key is None or not key.requests_per_minute:
            return
        tokens = self._tokens(key)
        if tokens < 1:
            wait = (1 - tokens) * 60 / key.requests_per_minute
            raise RateLimitError("The API key has reached its limit of requests per minute.", wait)
        self._buckets[key.id] = (tokens - 1, self._clock())

    @contextmanager
    def running(self, key: Key | None) -> Iterator[None]:
        """Count a request as running within the block. Raises `RateLimitError` at the key's concurrency limit."""
        if key is None or not key.concurrent_requests:
            yield
            return
        if self._running.get(key.id, 0) >= key.concurrent_requests:
            raise RateLimitError("The API key has reached its limit of concurrent requests.")
        self._running[key.id] = self._running.get(key.id, 0) + 1
        try:
            yield
        finally:
            self._running[key.id] -= 1

    def headers(self, key: Key | None) -> dict[str, str]:
        """Response headers with the key's limits and what remains of them."""
        found: dict[str, str] = {}
        if key is not None and (limit := key.requests_per_minute):
            tokens = self._tokens(key)
            values = (str(limit), str(int(tokens)), f"{(limit - tokens) * 60 / limit:.3f}s")
            found |= zip(PER_MINUTE, values, strict=True)
        if key is not None and (limit := key.concurrent_requests):
            found |= zip(CONCURRENT, (str(limit), str(limit - self._running.get(key.id, 0))), strict=True)
        return found

    def _tokens(self, key: Key) -> float:
        """The tokens in the key's bucket, fractions included."""
        limit, now = float(key.requests_per_minute), self._clock()
        tokens, when = self._buckets.get(key.id, (limit, now))
        return min(limit, tokens + (now - when) * limit / 60)


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    """A value that changes when the file is written or replaced; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _write(path: Path, keys: list[Key]) -> None:
    """Replace the file atomically, so that a server never reads half of it."""
    text = Keys(keys=keys).model_dump_json(indent=2) + "\n"
    draft = path.with_name(path.name + ".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
