"""API keys: the file, authentication and rate limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tickertape.errors import OptionError
from tickertape.server import auth
from tickertape.server.auth import Key, Keyring, RateLimiter, add_key, read_keys, remove_key
from tickertape.server.errors import RateLimitError, UnauthorizedError

HASH = "0" * 64


def test_keys_are_stored_as_hashes(tmp_path: Path) -> None:
    """The file does not contain the key, only its owner can read it, and the key authenticates."""
    path = tmp_path / "keys.json"
    secret = add_key(path, "team")
    assert secret not in path.read_text()
    assert 0o600 == path.stat().st_mode & 0o777
    key = Keyring(path).authenticate([f"Bearer {secret}".encode()])
    assert key is not None
    assert "team" == key.id


def test_a_file_without_keys_rejects_every_key(tmp_path: Path) -> None:
    """With a file that has no keys every request is rejected; without a file none needs a key."""
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    with pytest.raises(UnauthorizedError):
        Keyring(path).authenticate([b"Bearer x"])
    assert Keyring(None).authenticate([]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": [{"key": "a"}]}',
        '{"keys": [{"id": "a"}]}',
        '{"keys": [{"id": "a", "sha256": "x"}]}',
        f'{{"keys": [{{"id": "a", "sha256": "{HASH}", "requests_per_minute": "60"}}]}}',
        f'{{"keys": [{{"id": "a", "sha256": "{HASH}", "concurrent_requests": -1}}]}}',
    ],
)
def test_a_malformed_file_is_an_error_at_start(tmp_path: Path, text: str) -> None:
    """One malformed entry makes the whole file invalid."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(OptionError):
        Keyring(path)


def test_ids_are_valid_and_unique(tmp_path: Path) -> None:
    """An id that could forge a log line cannot be added, nor one that exists; an unknown id cannot be removed."""
    path = tmp_path / "keys.json"
    add_key(path, "a")
    for action in (lambda: add_key(path, "a"), lambda: add_key(path, "a\nb"), lambda: remove_key(path, "b")):
        with pytest.raises(OptionError):
            action()
    remove_key(path, "a")
    assert [] == json.loads(path.read_text())["keys"]


def test_a_change_while_the_file_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is added just after the server has read the file is accepted from the next request on."""
    path = tmp_path / "keys.json"
    add_key(path, "first")
    added: list[str] = []

    def read_then_add(file: Path) -> list[Key]:
        keys = read_keys(file)
        if len(added) < 2:
            monkeypatch.setattr(auth, "read_keys", read_keys)  # `add_key` reads, too
            added.append(add_key(file, f"new-{len(added)}"))
            monkeypatch.setattr(auth, "read_keys", read_then_add)
        return keys

    monkeypatch.setattr(auth, "read_keys", read_then_add)
    keyring = Keyring(path)
    with pytest.raises(UnauthorizedError):
        keyring.authenticate([b"Bearer tt-unknown"])  # which reads the file again
    for number, secret in enumerate(added):
        key = keyring.authenticate([f"Bearer {secret}".encode()])
        assert key is not None
        assert f"new-{number}" == key.id


def test_a_missing_or_malformed_file_leaves_the_keys_unchanged(tmp_path: Path) -> None:
    """The server keeps its keys while the file is missing or malformed, and reads the file once it is valid."""
    path = tmp_path / "keys.json"
    secret = add_key(path, "first").encode()
    whole = path.read_text()
    keyring = Keyring(path)
    for change in (lambda: path.write_text("{"), path.unlink):
        change()
        with pytest.raises(OptionError):
            read_keys(path)
        assert keyring.authenticate([b"Bearer " + secret]) is not None
    path.write_text(whole.replace("first", "again"))
    key = keyring.authenticate([b"Bearer " + secret])
    assert key is not None
    assert "again" == key.id


def test_the_rate_limit_refills_over_the_minute() -> None:
    """With six requests a minute an empty bucket takes ten seconds to allow the next request."""
    now = [1000.0]  # seconds
    limiter = RateLimiter(lambda: now[0])
    key = Key(id="a", sha256=HASH, requests_per_minute=6)
    for _ in range(6):
        limiter.take(key)
    with pytest.raises(RateLimitError) as raised:
        limiter.take(key)
    assert 10.0 == pytest.approx(raised.value.retry_after)
    now[0] += 10
    limiter.take(key)
    expected = {"x-ratelimit-limit-requests": "6", "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "60.000s"}  # fmt: skip
    assert expected == limiter.headers(key)


def test_headers_show_the_remaining_requests() -> None:
    """Each limit has its own headers, before and after it is reached; a key without limits has none."""
    limiter, key = RateLimiter(), Key(id="a", sha256=HASH, concurrent_requests=2)
    limit, left = "x-ratelimit-limit-concurrent-requests", "x-ratelimit-remaining-concurrent-requests"
    with limiter.running(key):
        assert {limit: "2", left: "1"} == limiter.headers(key)
        with limiter.running(key), pytest.raises(RateLimitError), limiter.running(key):
            pass
        assert {limit: "2", left: "1"} == limiter.headers(key)
    assert {limit: "2", left: "2"} == limiter.headers(key)
    assert {} == limiter.headers(None) == limiter.headers(Key(id="b", sha256=HASH))
