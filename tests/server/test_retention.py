"""Nothing is kept and nothing leaks: canaries in the sound and in the words are looked for wherever they might be.

Goal 13 of the project's rules for robustness, on the service as users start it: its temporary folder, its home, its
working folder, every file that its processes hold open (deleted ones included), its log, Ray's logs, the metrics, and
the bodies of errors. What Ray keeps of a window while it is decoded lies in shared memory, which is not looked at.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.service import Service, calls, expected_text, sound, started
from tests.support.waiting import wait_until
from tickertape.server.auth import add_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::ResourceWarning")]
WORD = "zanzibarquux"  # in every field, name and header that a client can fill
TONE = sound(7001, seconds=3.0)  # noise that no other file holds
OTHER = sound(7002, seconds=3.0)  # the same for the client that leaves
SECONDS = 2.0  # that a call of the engine takes: time to look around
LEAVING = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 1.0)  # seconds after which clients leave: at every stage of a request


def marks(recording: bytes) -> list[bytes]:
    """Pieces of a recording as they would lie in a file: as sent, and as the samples that were made of it."""
    piece = recording[44 + 6400 : 44 + 6400 + 64]
    return [piece, (np.frombuffer(piece, "<i2").astype("<f4") / 32768).tobytes()]


STORE = ("/dev/shm/",)  # noqa: S108 - Ray's store of objects, which is memory
CANARIES = [*marks(TONE), *marks(OTHER), WORD.encode(), *(expected_text(one).encode() for one in (TONE, OTHER))]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path: Ray puts sockets below it."""
    folder = Path(tempfile.gettempdir()) / f"k{os.getpid()}"
    (folder / "work").mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def stored(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file in the folders that the service may write to."""
    for path in home.rglob("*"):
        with suppress(OSError):
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(home)), path.read_bytes()


def held(service: Service, memory: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Every file that a process of the service holds open for writing, whether it has a name or not."""
    for pid in (service.process.pid, *service.children()):
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    name = str(entry.readlink())
                    writable = int((Path(f"/proc/{pid}/fdinfo") / entry.name).read_text().split()[3], 8) & os.O_ACCMODE
                    if writable and stat.S_ISREG(entry.stat().st_mode) and not name.startswith(memory):
                        yield f"{pid}: {name}", entry.read_bytes()


def found(service: Service, home: Path, memory: tuple[str, ...] = STORE) -> list[str]:
    """Where a canary is; files that are only memory are left out by the beginnings of their names."""
    places = [*stored(home), *held(service, memory)]
    assert [] == [name for name, _ in places if WORD in name]
    return [name for name, content in places if any(canary in content for canary in CANARIES)]


def ask(service: Service, secret: str, recording: bytes = TONE, **form: str) -> httpx.Response:
    """A request that holds a canary wherever it can."""
    fields = {"model": "slow", "prompt": WORD, "hotwords": WORD, "vad": "false", "language": "en", **form}
    return httpx.post(
        f"{service.url}/v1/audio/transcriptions?{WORD}={WORD}",
        files={"file": (f"{WORD}.wav", recording, f"audio/{WORD}")},
        data=fields,
        headers={
            "authorization": f"Bearer {secret}",
            "user-agent": WORD,
        },
        timeout=120,
    )


def left(service: Service, secret: str, seconds: float = 1.0, **form: str) -> None:
    """A client that leaves so long after it has sent a recording."""
    with suppress(httpx.ReadTimeout), httpx.Client(timeout=httpx.Timeout(60, read=seconds)) as client:
        client.post(
            f"{service.url}/v1/audio/transcriptions",
            files={"file": (f"{WORD}.wav", OTHER)},
            data={"model": "slow", "prompt": WORD, "vad": "false", "language": "en", **form},
            headers={"authorization": f"Bearer {secret}"},
        )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are read from Linux's /proc")
@pytest.mark.parametrize("mode", [["--no-ray"], pytest.param([], marks=pytest.mark.ray)], ids=["alone", "ray"])
def test_nothing_is_kept_and_nothing_leaks(mode: list[str], home: Path, tmp_path: Path) -> None:
    """While a recording is decoded, after its answer, after errors and after clients that left: no canary anywhere."""
    engines = tmp_path / "engines"
    engines.mkdir()
    secret = add_key(tmp_path / "keys.json", "team")
    flags = ["--engine", "tests.support.slow:engine", "--model", f"slow={SECONDS}:{engines}", "--no-page"]
    flags += ["--keys-file", str(tmp_path / "keys.json")]
    folders = {"TMPDIR": str(home), "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    with started(*mode, *flags, environment=folders, cwd=home / "work") as service, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, service, secret, stream="true")
        wait_until(lambda: any(7001 in call for call in calls(engines)))
        assert [] == found(service, home, (*STORE, "/memfd:"))  # in the middle of it, when memory may hold it
        assert expected_text(TONE) in asking.result().text
        for seconds in LEAVING:
            left(service, secret, seconds)
            left(service, secret, seconds, stream="true")
        refused = [
            ask(service, secret, model=WORD),
            ask(service, secret, language=WORD),
            ask(service, secret, **{WORD: WORD}),
            ask(service, secret, WORD.encode() * 100 + TONE[44:]),
            ask(service, WORD),
            service.get(f"/{WORD}"),
        ]
        assert [404, 400, 400, 400, 401, 404] == [answer.status_code for answer in refused]
        for answer in refused:
            told = answer.content + str(answer.headers).encode()
            assert [] == [canary for canary in [*CANARIES, secret.encode()] if canary in told]
        metrics = service.get("/metrics").content
        assert [] == [canary for canary in CANARIES if canary in metrics]
        wait_until(lambda: sum('"status":' in line for line in service.lines) > len(refused) + 2 * len(LEAVING))
        with suppress(AssertionError):
            wait_until(lambda: not found(service, home))  # the engine may be at what nobody waits for any more
        assert [] == found(service, home)
        assert_silent(service, secret)
        assert 0 == service.terminate()
        assert [] == found(service, home)
        assert_silent(service, secret)


def assert_silent(service: Service, secret: str) -> None:
    """The log holds none of it."""
    log = service.log.read_bytes()
    assert [] == [canary for canary in [*CANARIES, secret.encode()] if canary in log]
