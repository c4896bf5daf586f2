"""A service as users start it: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import wave
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import numpy.random  # now: many threads that are the first to ask for it at once fail
from typing_extensions import Self

from tests.support.fakes import wav
from tickertape.types import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0  # for a busy machine; a quiet one takes a tenth
STOP_SECONDS = 60.0
SHORT = wav(1.0)
GIVEN: set[int] = set()  # ports
Post = Callable[..., httpx.Response]


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def lines(self) -> list[str]:
        """What it has printed so far."""
        return [line for line in self.log.read_text().splitlines() if line.strip()]

    def get(self, path: str, **options: object) -> httpx.Response:
        """A request without a body."""
        return httpx.get(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def transcribe(
        self, audio: bytes = SHORT, *, timeout: float = 120, post: Post = httpx.post, **form: str
    ) -> httpx.Response:
        """A recording's text, over a connection of its own unless `post` is the method of a client that keeps some."""
        fields = {"model": "whisper-1", **form}
        url = f"{self.url}/v1/audio/transcriptions"
        return post(url, files={"file": ("a.wav", audio)}, data=fields, timeout=timeout)

    def inside(self) -> int:
        """Requests being answered, by the service's own count."""
        lines = self.get("/metrics").text.splitlines()
        return int(sum(float(line.split()[1]) for line in lines if line.startswith("tickertape_requests_in_flight ")))

    def terminate(self) -> int:
        """Send SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def children(self, name: str = "") -> list[int]:
        """Ids of the processes below it whose command line holds `name`."""
        return [pid for pid in descendants(self.process.pid) if name in command_line(pid)]


class Clients:
    """Threads that each do `_ask(number)`, which asks again and again while `_going`, until the block ends.

    The end of the block raises what ended a client before its time: a load that stopped is no load.
    """

    def __init__(self, count: int) -> None:
        self.outcomes: list[tuple[float, float, str]] = []  # a time, the seconds it took, what came
        self._going = True
        self._count = count
        self._asking: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._count)
        self._asking = [self._pool.submit(self._ask, number) for number in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        self._pool.shutdown()
        for each in self._asking:
            each.result()

    def _ask(self, client: int) -> None:
        raise NotImplementedError


@contextmanager
def started(
    *flags: str,
    port: int | None = None,
    environment: dict[str, str] | None = None,
    ready: bool = True,
    cwd: Path = ROOT,
) -> Iterator[Service]:
    """`tickertape serve` with these flags, on a free port unless one is given, until the block ends."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="service-") as folder:
        log = Path(folder) / "log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TICKERTAPE_"))}
        variables = {**inherited, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **(environment or {})}
        command = [sys.executable, "-m", "tickertape", "serve", "--host", "127.0.0.1", "--port", str(port), *flags]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=variables)
        service = Service(process, f"http://127.0.0.1:{port}", log)
        try:
            if ready:
                wait_until_ready(service)
            yield service
        finally:
            stop(service)


def wait_until_ready(service: Service, seconds: float = START_SECONDS) -> float:
    """Wait for `/readyz`; how long it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if service.process.poll() is not None:
            break
        try:
            if service.get("/readyz").status_code == 200:
                return time.monotonic() - begun
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready:\n" + "\n".join(service.lines[-40:]))


def stop(service: Service) -> None:
    """End the process, and what it has left behind."""
    below = descendants(service.process.pid)
    if service.process.poll() is None:
        service.process.send_signal(signal.SIGTERM)
        try:
            service.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()
    for pid in below:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody listens on, was not given before, and which the system gives to nobody who asks for any."""
    for _ in range(1000):
        port = random.SystemRandom().randrange(20_000, 32_768)
        if port in GIVEN:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            GIVEN.add(port)
            return port
    raise OSError("no free port after 1000 attempts")


def pss(pid: int) -> float:
    """MiB of a process, its share of shared pages included; 0 for one that is gone."""
    try:
        text = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def command_line(pid: int) -> str:
    """How a process was called; Ray names its actors there."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def sound(number: int, seconds: float = 1.0, first: float | None = None) -> bytes:
    """A recording whose first sample is its number, which the slow engine notes down."""
    generator = np.random.default_rng(number)
    samples = (generator.uniform(-0.1, 0.1, round(seconds * SAMPLE_RATE)) * 32768).astype("<i2")
    samples[0] = number if first is None else round(first * 32768)
    return wave_file(samples.tobytes())


def wave_file(data: bytes) -> bytes:
    """A WAV file around samples of 16 bits, mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(data)
    return file.getvalue()


def expected_text(recording: bytes) -> str:
    """What the slow engine makes of a recording of one window."""
    samples = np.frombuffer(recording[44:], "<i2").astype(np.float32) / 32768
    return f"{zlib.crc32(samples.tobytes()):08x}"


def calls(folder: Path) -> list[list[int]]:
    """The numbers of the windows in each call of each slow engine; probes left out."""
    lines: Sequence[str] = [line for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]
    return [[int(number) for number in line.split()] for line in lines if line.strip()]
