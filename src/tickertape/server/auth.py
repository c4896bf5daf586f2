"""API keys: a file of their hashes, and each key's limits.

The file is JSON, written by `add` and by hand:

    {"keys": [{"id": "call-centre", "sha256": "9f86d0...", "requests_per_minute": 60, "concurrent_requests": 4}]}

A plain SHA-256 is enough, because a key is 256 random bits of our making: there is no dictionary to try. A slow hash
would only give strangers a way to keep the processor busy.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tickertape.errors import OptionError
from tickertape.failures import RateLimited, Unauthorized

KEY_PREFIX = "tt-"  # lets secret scanners recognise a leaked key
KEY_BYTES = 32
LONGEST_KEY = 256  # bytes: a longer one is not hashed at all
PER_MINUTE = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
AT_ONCE = ("x-ratelimit-limit-concurrent-requests", "x-ratelimit-remaining-concurrent-requests")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the file knows it. Limits of 0 mean none."""

    id: str
    sha256: str
    requests_per_minute: int = 0
    concurrent_requests: int = 0


def add(path: Path, id: str, *, requests_per_minute: int = 0, concurrent_requests: int = 0) -> str:  # noqa: A002 - the file's name for it
    """Make a key, write its hash to the file (created if absent, mode 600) and return the key, shown this once."""
    if not _ID.fullmatch(id):
        raise OptionError("a key's id is 1 to 64 letters, digits, dots, dashes or underscores", "id", "invalid_key_id")
    known = read(path) if path.exists() else []
    if any(key.id == id for key in known):
        raise OptionError("there is a key with this id already", "id", "duplicate_key_id")
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    _write(path, [*known, Key(id, _digest(secret.encode()), requests_per_minute, concurrent_requests)])
    return secret


def remove(path: Path, id: str) -> None:  # noqa: A002 - as above
    """Take a key out of the file. Raises `OptionError` if it is not there."""
    known = read(path)
    if all(key.id != id for key in known):
        raise OptionError("there is no key with this id", "id", "unknown_key_id")
    _write(path, [key for key in known if key.id != id])


def read(path: Path) -> list[Key]:
    """The keys of a file. Raises `OptionError` if it is missing or not as the module describes it."""
    try:
        keys = [Key(**entry) for entry in json.loads(path.read_text("utf-8"))["keys"]]
        valid = all(_ID.fullmatch(key.id) and re.fullmatch(r"[0-9a-f]{64}", key.sha256) for key in keys)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OptionError(
            f"the keys file cannot be read ({type(error).__name__})", "keys_file", "invalid_keys"
        ) from error
    if not valid:
        raise OptionError("the keys file holds an entry without a proper id and sha256", "keys_file", "invalid_keys")
    return keys


class Keyring:
    """The keys of a file, read again when it changes. Without a file every caller is let in."""

    def __init__(self, path: Path | None, *, on_problem: Callable[[str], None] | None = None) -> None:
        self._path = path
        self._on_problem = on_problem
        self._keys: list[Key] = read(path) if path else []
        self._seen = _fingerprint(path) if path else None

    def authenticate(self, headers: Sequence[bytes]) -> Key | None:
        """The key of the one `Authorization: Bearer ...` header; None where no keys are asked for.

        Every known hash is compared, each in constant time, so that timing tells nothing. Raises `Unauthorized`.
        """
        if self._path is None:
            return None
        self._reload(self._path)
        if len(headers) != 1:
            raise Unauthorized("Send one API key as 'Authorization: Bearer KEY'.")
        scheme, _, secret = headers[0].partition(b" ")
        if scheme.lower() != b"bearer" or not 0 < len(secret) <= LONGEST_KEY:
            raise Unauthorized("Send one API key as 'Authorization: Bearer KEY'.")
        digest = _digest(secret.strip())
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not matches:
            raise Unauthorized("The API key is not known here.")
        return matches[0]

    def _reload(self, path: Path) -> None:
        """Take up a changed file; a broken one leaves the keys as they were."""
        seen = _fingerprint(path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read(path)
        except OptionError as error:
            if self._on_problem is not None:
                self._on_problem(error.message)


class Meter:
    """Counts what each key does: a bucket that refills evenly over a minute, and the requests under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # key id: (tokens, when)
        self._running: dict[str, int] = {}

    def take(self, key: Key | None) -> None:
        """Spend one request of the key's minute, where it has a limit. Raises `RateLimited`."""
        if key is None or not key.requests_per_minute:
            return
        tokens = self._tokens(key)
        if tokens < 1:
            wait = (1 - tokens) * 60 / key.requests_per_minute
            raise RateLimited("This key's requests per minute are used up.", wait)
        self._buckets[key.id] = (tokens - 1, self._clock())

    @contextmanager
    def running(self, key: Key | None) -> Iterator[None]:
        """Count a request as under way. Raises `RateLimited` if the key has too many already."""
        if key is None or not key.concurrent_requests:
            yield
            return
        if self._running.get(key.id, 0) >= key.concurrent_requests:
            raise RateLimited("This key has as many requests under way as it may.")
        self._running[key.id] = self._running.get(key.id, 0) + 1
        try:
            yield
        finally:
            self._running[key.id] -= 1

    def headers(self, key: Key | None) -> dict[str, str]:
        """How much of each of its limits the key has left: OpenAI's names, and ours for requests under way."""
        told: list[str] = []
        names: list[str] = []
        if key is not None and (limit := key.requests_per_minute):
            tokens = self._tokens(key)
            names += PER_MINUTE
            told += [str(limit), str(int(tokens)), f"{(limit - tokens) * 60 / limit:.3f}s"]
        if key is not None and (limit := key.concurrent_requests):
            names += AT_ONCE
            told += [str(limit), str(limit - self._running.get(key.id, 0))]
        return dict(zip(names, told, strict=True))

    def _tokens(self, key: Key) -> float:
        """Requests that the key may send now, with the part of the next."""
        limit, now = float(key.requests_per_minute), self._clock()
        tokens, when = self._buckets.get(key.id, (limit, now))
        return min(limit, tokens + (now - when) * limit / 60)


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file is written or replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _write(path: Path, keys: list[Key]) -> None:
    """Replace the file at once, so that a server never reads half of it."""
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n"
    draft = path.with_name(path.name + ".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
