"""How the service holds up against hostile and heavy use. The engine only sleeps, so it is the API that is measured.

    python -m benchmarks.limits [--mutants 2000] [--requests 2000] [--seconds 20]

The server runs in a process of its own, so that its memory can be read. Prints a table and, as the last line, one JSON
object. The scenarios are those of the project's robustness goals: bombs, mutants, overload, cancellation, flat memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

URL = "/v1/audio/transcriptions"
WINDOW_SECONDS = 0.05  # what the sleeping engine takes for a window
CLIP = 10.0  # seconds of audio of a request


def serve(knobs: dict[str, Any]) -> None:
    """The server's process: prints its address, runs until its standard input closes."""
    from tests.fakes import FakeEngine, Serving, model
    from tickertape.api import create_app
    from tickertape.settings import Settings

    class Sleeper(FakeEngine):
        def decode(self, windows: Sequence[Any], options: Sequence[Any]) -> Any:
            time.sleep(WINDOW_SECONDS * len(windows))
            self.asked.clear()
            return super().decode(windows, options)

    app = create_app({"demo": model("demo", Sleeper())}, Settings(**knobs), emit=lambda _: None)
    with Serving(app) as url:
        print(url, flush=True)
        sys.stdin.read()


class Server:
    """The other process and its memory."""

    def __init__(self, **knobs: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.limits", "--serve", json.dumps(knobs)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._process.stdout.readline().strip() if self._process.stdout else ""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # a thread of the decoder is still at it
            self._process.kill()

    def megabytes(self, field: str = "VmRSS") -> float:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        return 0.0

    def files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())

    def forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")


def client(server: Server, connections: int = 100) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=connections))


async def post(http: httpx.AsyncClient, content: bytes, **fields: str) -> tuple[int, float]:
    """Status and seconds of a request."""
    begun = time.perf_counter()
    answer = await http.post(URL, data={"model": "demo", **fields}, files={"file": ("a", content)})
    if answer.status_code >= 400 and "error" not in answer.json():
        raise SystemExit(f"an answer without the envelope: {answer.status_code}")
    return answer.status_code, time.perf_counter() - begun


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-loglevel", "error", *arguments], check=True)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def bombs(folder: Path) -> dict[str, bytes]:
    """Small files that would fill memory: four hours of silence, and headers that lie."""
    from tests.fakes import wav

    made = {
        "1 Hz wav": wav(2.0).replace((16_000).to_bytes(4, "little"), (1).to_bytes(4, "little"), 1),
        "2^31 Hz wav": wav(2.0).replace((16_000).to_bytes(4, "little"), (2**31 - 1).to_bytes(4, "little"), 1),
    }
    silence = ["-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "14400"]
    m4a, aac, flac = folder / "s.m4a", folder / "s.aac", folder / "s.flac"
    ffmpeg(*silence, "-b:a", "8k", m4a)
    ffmpeg("-i", m4a, "-c", "copy", aac)  # no container: nothing declares how long it is
    ffmpeg(*silence, flac)
    made |= {f"4 h {path.suffix[1:]}": path.read_bytes() for path in (m4a, aac, flac)}
    return made


async def measure_bombs(files: dict[str, bytes]) -> dict[str, Any]:
    """Goal 2 and C9: each alone, then 50 at once while /healthz is asked."""
    figures: dict[str, Any] = {"alone": {}}
    for longest in (600, 7200):
        with Server(max_audio_seconds=longest, body_limit=25 * 2**20) as server:
            async with client(server) as http:
                await post(http, files["1 Hz wav"])
                for name, content in files.items():
                    idle = server.megabytes()
                    server.forget_peak()
                    status, seconds = await post(http, content)
                    figures["alone"][f"{name}, limit {longest} s"] = {
                        "status": status, "seconds": round(seconds, 2), "megabytes": len(content) / 1e6,
                        "rise_mb": round(server.megabytes("VmHWM") - idle, 1),
                    }  # fmt: skip
                idle = server.megabytes()
                server.forget_peak()
                figures[f"fifty at once, limit {longest} s"] = await _fifty(http, list(files.values()), server, idle)
    return figures


async def _fifty(http: httpx.AsyncClient, files: list[bytes], server: Server, idle: float) -> dict[str, Any]:
    waits: list[float] = []

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await http.get("/healthz")
            waits.append(time.perf_counter() - begun)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    outcomes = await asyncio.gather(*(post(http, files[i % len(files)]) for i in range(50)))
    watching.cancel()
    return {
        "statuses": sorted({status for status, _ in outcomes}),
        "seconds": round(max(seconds for _, seconds in outcomes), 2),
        "rise_mb": round(server.megabytes("VmHWM") - idle, 1),
        "healthz_p99_ms": round(1000 * percentile(waits, 0.99), 1),
    }


async def measure_declared(server: Server) -> dict[str, Any]:
    """Goal 10: a declared gigabyte, from the last byte of the head to the first of the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    times = []
    for _ in range(50):
        reader, writer = await asyncio.open_connection(host, int(port))
        kind = "Content-Type: multipart/form-data; boundary=X"
        head = f"POST {URL} HTTP/1.1\r\nHost: t\r\n{kind}\r\nContent-Length: {10**9}"
        begun = time.perf_counter()
        writer.write(head.encode() + b"\r\n\r\n")
        if b" 413 " not in await reader.readline():
            raise SystemExit("a declared gigabyte was not refused")
        times.append(time.perf_counter() - begun)
        writer.close()
    return {"p50_ms": round(1000 * statistics.median(times), 1), "max_ms": round(1000 * max(times), 1)}


async def measure_mutants(server: Server, samples: dict[str, bytes], count: int) -> dict[str, Any]:
    """Goal 5: damaged recordings and damaged forms; nothing may be a 5xx."""
    random_ = random.Random(1)
    seen: dict[int, int] = {}
    async with client(server, 8) as http:

        async def one(number: int) -> None:
            content = bytearray(samples[random_.choice(sorted(samples))])
            for _ in range(random_.choice((1, 4, 64, 400))):
                content[random_.randrange(min(len(content), random_.choice((64, 1024, 2**20))))] = random_.randrange(
                    256
                )
            status, _ = await post(
                http, bytes(content[: random_.randrange(1, len(content) + 1)]) if number % 3 else bytes(content)
            )
            seen[status] = seen.get(status, 0) + 1

        for first in range(0, count, 8):
            await asyncio.gather(*(one(number) for number in range(first, min(first + 8, count))))
        figures = {"mutants": count, "statuses": {str(status): seen[status] for status in sorted(seen)}}
        return {**figures, "ready_after": (await http.get("/readyz")).status_code}


async def measure_overload(clip: bytes, seconds: float) -> dict[str, Any]:
    """Goal 8: first what the service can do, then ten times as many clients."""
    budget = 4.0  # seconds that an accepted request may take: so much audio is let in
    room = budget / WINDOW_SECONDS * CLIP
    with Server(audio_seconds_in_flight=room) as server:
        async with client(server, 400) as http:
            alone = await _flood(http, clip, 8, seconds / 2)
            crowd = await _flood(http, clip, 400, seconds)
            begun = time.perf_counter()
            while (await post(http, clip))[0] != 200:  # noqa: ASYNC110 - as a client would
                await asyncio.sleep(0.05)
            recovered = time.perf_counter() - begun
    return {
        "capacity_per_s": round(alone["goodput_per_s"], 1),
        "goodput_per_s": round(crowd["goodput_per_s"], 1),
        "goodput_share": round(crowd["goodput_per_s"] / alone["goodput_per_s"], 3),
        "budget_s": budget,
        "accepted_p99_s": round(crowd["accepted_p99_s"], 2),
        "rejected": crowd["rejected"],
        "rejected_p99_ms": round(1000 * crowd["rejected_p99_s"], 1),
        "recovered_s": round(recovered, 2),
    }


async def _flood(http: httpx.AsyncClient, clip: bytes, clients: int, seconds: float) -> dict[str, Any]:
    end = time.perf_counter() + seconds
    outcomes: list[tuple[int, float]] = []

    async def one() -> None:
        while time.perf_counter() < end:
            status, took = await post(http, clip, language="en", vad="false")
            outcomes.append((status, took))
            if status == 503:
                await asyncio.sleep(1)  # less than Retry-After asks for

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    elapsed = time.perf_counter() - begun
    accepted = [took for status, took in outcomes if status == 200]
    rejected = [took for status, took in outcomes if status == 503]
    if len(accepted) + len(rejected) < len(outcomes):
        raise SystemExit("an answer was neither 200 nor 503")
    return {
        "goodput_per_s": len(accepted) / elapsed,
        "accepted_p99_s": percentile(accepted, 0.99),
        "rejected": len(rejected),
        "rejected_p99_s": percentile(rejected, 0.99),
    }


async def measure_flat(clip: bytes, requests: int) -> dict[str, Any]:
    """Goal 12: memory and descriptors after a fifth of mixed requests, and after all."""
    with Server() as server:
        async with client(server, 4) as http:
            kinds: list[Callable[[], Any]] = [
                lambda: post(http, clip[:32_044]),
                lambda: post(http, b"noise" * 100),
                lambda: post(http, clip[:32_044], stream="true"),
                lambda: post(http, clip[:32_044], response_format="verbose_json"),
                lambda: post(http, clip[:32_044], temperature="nan"),
            ]
            early, files = 0.0, 0
            for number in range(requests):
                if number == requests // 5:
                    early, files = server.megabytes(), server.files()
                await kinds[number % len(kinds)]()
            late = server.megabytes()
            return {
                "requests": requests, "early_mb": round(early, 1), "late_mb": round(late, 1),
                "growth": round(late / early - 1, 4), "files": [files, server.files()],
            }  # fmt: skip


def samples(folder: Path, clip: bytes) -> dict[str, bytes]:
    """The clip in the formats that people send."""
    source = folder / "clip.wav"
    source.write_bytes(clip)
    made = {"wav": clip}
    for name in ("mp3", "m4a", "ogg", "webm", "flac", "aac"):
        path = folder / f"clip.{name}"
        ffmpeg("-i", source, "-t", "3", path)
        made[name] = path.read_bytes()
    return made


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from tests.fakes import wav

    clip = wav(CLIP)
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "window_seconds": WINDOW_SECONDS}
    with tempfile.TemporaryDirectory() as folder:
        damaged = samples(Path(folder), clip)

        async def against_one(measure: Callable[[Server], Any]) -> dict[str, Any]:
            with Server() as server:
                return await measure(server)

        for name, measure in {
            "declared gigabyte": lambda: against_one(measure_declared),
            "mutants": lambda: against_one(lambda server: measure_mutants(server, damaged, arguments.mutants)),
            "overload": lambda: measure_overload(clip, arguments.seconds),
            "flat memory": lambda: measure_flat(clip, arguments.requests),
            "bombs": lambda: measure_bombs(bombs(Path(folder))),
        }.items():
            figures[name] = await measure()
            show({name: figures[name]})
    return figures


def show(figures: dict[str, Any], indent: str = "") -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{name}", flush=True)
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:<24} {value}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return
    figures = asyncio.run(run(arguments))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
