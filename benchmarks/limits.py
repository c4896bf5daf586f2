"""Cost of hostile uploads to the API. The engine is a fake; hostile uploads never reach it.

    python -m benchmarks.limits --results benchmarks/results      # everything: about three minutes
    python -m benchmarks.limits --only bombs media                # goals 2 and 3 alone

The server runs in a subprocess and decodes recordings in subprocesses of its own. Memory is the proportional set size
of all of them, sampled every 20 ms: shared pages count once, and peaks within a request are included.

Prints a table, which of the project's robustness goals are met, and, as the last line, one JSON object.
`python -m tests.chaos` measures the other goals; `python -m benchmarks.robustness` runs both.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.workers import commit, described, machine
from tests.support.service import descendants, pss

URL = "/v1/audio/transcriptions"
SCENARIOS = ("declared", "bombs", "media")
EVERY = 0.02  # seconds between memory samples


def serve(knobs: dict[str, Any]) -> None:
    """The server subprocess: prints its URL and runs until its standard input closes."""
    from tests.support.fakes import FakeEngine, Serving, model
    from tickertape.server.app import create_app
    from tickertape.server.settings import Settings

    app = create_app({"demo": model("demo", FakeEngine())}, Settings(**knobs))
    with Serving(app) as url:
        print(url, flush=True)
        sys.stdin.read()


class Server:
    """The server subprocess and its memory."""

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
        except subprocess.TimeoutExpired:  # a decoder is still running
            self._process.kill()

    def megabytes(self) -> float:
        """Memory of the server and all its subprocesses now."""
        pid = self._process.pid
        return sum(map(pss, (pid, *descendants(pid)))) * 2**20 / 1e6


class Rise:
    """Peak memory of a server while the block runs: `megabytes` above its start."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look)

    def __enter__(self) -> Rise:
        self.idle = self._peak = self._server.megabytes()
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looking.join()

    @property
    def megabytes(self) -> float:
        return self._peak - self.idle

    def _look(self) -> None:
        while not self._over.wait(EVERY):
            self._peak = max(self._peak, self._server.megabytes())


def client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=100))


async def post(http: httpx.AsyncClient, content: bytes) -> tuple[int, float]:
    """Status and seconds of a request."""
    begun = time.perf_counter()
    answer = await http.post(URL, data={"model": "demo"}, files={"file": ("a", content)})
    if answer.status_code >= 400 and "error" not in answer.json():
        raise SystemExit(f"an answer without the envelope: {answer.status_code}")
    return answer.status_code, time.perf_counter() - begun


def percentile(values: Sequence[float], share: float) -> float:
    """NaN, which meets no goal, if there are no values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


class Probe:
    """Requests /healthz every 20 ms from a subprocess, independent of the process that sends the bombs."""

    def __init__(self, server: Server) -> None:
        command = [sys.executable, "-m", "benchmarks.limits", "--probe", server.url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.waits: list[float] = []

    def __enter__(self) -> Probe:
        if self._process.stdout:
            self._process.stdout.readline()  # it has started
        return self

    def __exit__(self, *_: object) -> None:
        self.waits = json.loads(self._process.communicate("end", timeout=60)[0])


def probe(url: str) -> None:
    """The probe subprocess: prints the seconds of each response after its standard input closes."""
    waits: list[float] = []
    ending = threading.Thread(target=sys.stdin.read, daemon=True)
    with httpx.Client(base_url=url, timeout=60) as http:
        http.get("/healthz").raise_for_status()
        print("begun", flush=True)
        ending.start()
        while ending.is_alive():
            begun = time.perf_counter()
            http.get("/healthz").raise_for_status()
            waits.append(time.perf_counter() - begun)
            time.sleep(0.02)
    print(json.dumps(waits), flush=True)


async def measure_bombs() -> dict[str, Any]:
    """Goal 2 and C9: each bomb alone, then 50 at once while /healthz is probed, under a short and a long limit."""
    from tests.support.audio_factory import BOMBS

    files = {name: make() for name, make in BOMBS.items()}
    figures: dict[str, Any] = {"alone": {}}
    for longest in (600, 7200):
        with Server(max_audio_seconds=longest, body_limit=25 * 2**20) as server:
            async with client(server) as http:
                await post(http, files["wav_1_hz"])  # the first upload starts a decoder
                for name, content in files.items():
                    with Rise(server) as rise:
                        status, seconds = await post(http, content)
                    figures["alone"][f"{name}, limit {longest} s"] = {
                        "status": status, "seconds": round(seconds, 2), "megabytes": round(len(content) / 1e6, 2),
                        "idle_mb": round(rise.idle, 1), "rise_mb": round(rise.megabytes, 1),
                    }  # fmt: skip
                figures[f"fifty at once, limit {longest} s"] = await _fifty(http, list(files.values()), server)
    return figures


async def _fifty(http: httpx.AsyncClient, files: list[bytes], server: Server) -> dict[str, Any]:
    chosen = [files[i % len(files)] for i in range(50)]
    with Rise(server) as rise, Probe(server) as probe:
        outcomes = await asyncio.gather(*(post(http, content) for content in chosen))
    return {
        "statuses": sorted({status for status, _ in outcomes}),
        "seconds": round(max(seconds for _, seconds in outcomes), 2),
        "megabytes": round(sum(map(len, chosen)) / 1e6, 1),
        "idle_mb": round(rise.idle, 1),
        "rise_mb": round(rise.megabytes, 1),
        "healthz_p99_ms": round(1000 * percentile(probe.waits, 0.99), 1),
    }


async def measure_media(server: Server) -> dict[str, Any]:
    """Goal 3: twelve formats that refer to files and the network, over HTTP, as bytes, by path and by a telling name.

    What Python opens is counted here, the file itself left out; the tests also show that FFmpeg opens nothing.
    """
    from tests.support.audio_factory import playlists

    seen: list[str] = []
    sys.addaudithook(lambda event, _: seen.append(event) if event == "open" or event.startswith("socket.") else None)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        async with client(server) as http:
            await post(http, b"noise" * 100)
            _decoded(b"noise" * 100)  # imports open files
            for name, content in playlists(str(folder / "secret.wav")).items():
                path = folder / f"{name}.m3u8"
                path.write_bytes(content)
                named = io.BytesIO(content)
                named.name = str(path)  # type: ignore[attr-defined]
                status, slowest = await post(http, content)
                opened = 0
                for source, own in ((content, 0), (path, 1), (named, 0)):
                    seen.clear()
                    slowest = max(slowest, _decoded(source))
                    opened += len(seen) - own
                figures[name] = {"status": status, "seconds": round(slowest, 3), "opened": opened}
    return figures


def _decoded(source: Any) -> float:
    """Seconds until a source is rejected."""
    from tickertape.audio.decode import decode
    from tickertape.errors import InvalidAudioError

    begun = time.perf_counter()
    try:
        decode(source)
    except InvalidAudioError:
        return time.perf_counter() - begun
    raise SystemExit("what is no recording was decoded")


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


async def run(scenarios: Sequence[str]) -> dict[str, Any]:
    """Run every selected scenario."""
    figures: dict[str, Any] = {}
    for scenario in scenarios:
        if scenario == "bombs":
            figures[scenario] = await measure_bombs()
        else:
            with Server() as server:
                figures[scenario] = await (measure_media if scenario == "media" else measure_declared)(server)
        show({scenario: figures[scenario]})
    return figures


def verdicts(figures: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Goal, measured value, and whether the goal is met."""
    if bombs := figures.get("bombs"):
        alone, fifty = bombs["alone"].values(), [value for name, value in bombs.items() if name != "alone"]
        yield _at_most("2: memory for any bomb, MB", max(one["rise_mb"] for one in alone), 150)
        yield _at_most("2: any bomb refused, s", max(one["seconds"] for one in alone), 2)
        yield _at_most("2: memory for 50 at once, MB", max(one["rise_mb"] for one in fifty), 500)
        yield _at_most("C9: /healthz p99 meanwhile, ms", max(one["healthz_p99_ms"] for one in fifty), 100)
        statuses = {one["status"] for one in alone} | {status for one in fifty for status in one["statuses"]}
        yield ("2: every answer is a 4xx, or 503 for want of room", str(sorted(statuses)), statuses <= {400, 413, 503})
    if media := figures.get("media"):
        yield _at_most("3: slowest of 12 formats x 4 ways, s", max(one["seconds"] for one in media.values()), 0.5)
        yield _at_most("3: files and sockets opened", sum(one["opened"] for one in media.values()), 0)
    if declared := figures.get("declared"):
        yield _at_most("10: declared gigabyte refused, ms", declared["max_ms"], 50)


def _at_most(goal: str, value: float, most: float) -> tuple[str, str, bool]:
    return f"{goal}, at most {most:g}", f"{value:.3g}", value <= most


def show(figures: dict[str, Any], indent: str = "") -> None:
    """Print figures as an indented list."""
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{name}", flush=True)
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:<24} {value}", flush=True)


def report(figures: dict[str, Any], where: Path | None) -> None:
    """Print which goals are met and one JSON line; write both to `where` with machine and commit."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    found = list(verdicts(figures))
    lines = [f"| {goal} | {value} | {'met' if met else 'NOT MET'} |" for goal, value, met in found]
    print("\n".join(lines))
    document = {
        "date": now,
        "commit": commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "goals": [{"goal": goal, "value": value, "met": met} for goal, value, met in found],
        "results": figures,
    }
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        name = "-".join(["limits", *(() if set(figures) == set(SCENARIOS) else sorted(figures)), now[:10]])
        (where / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
        about = f"Commit {document['commit'][:12]}, load average {document['load_average']:.1f}."
        page = [f"# Limits, {now}", "", f"{described(document['machine'])} {about}", ""]
        page += ["| goal | measured | |", "|---|---|---|", *lines, ""]
        (where / f"{name}.md").write_text("\n".join(page))
    print(json.dumps(document))


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS, help="which scenarios")
    parser.add_argument("--results", type=Path, help="folder for JSON and table, such as benchmarks/results")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return
    if arguments.probe:
        probe(arguments.probe)
        return
    report(asyncio.run(run(arguments.only)), arguments.results)


if __name__ == "__main__":
    main()
