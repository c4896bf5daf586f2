"""How the service holds up against hostile and heavy use. The engine only sleeps, so it is the API that is measured.

    python -m benchmarks.limits --results benchmarks/results                      # everything: about ten minutes
    python -m benchmarks.limits --only bombs media                                # goals 2 and 3 alone
    python -m benchmarks.limits --only mutants --mutants 10000

The server runs in a process of its own, so that its memory can be read. Prints a table, says which of the project's
robustness goals are met, and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.workers import commit, described, machine

URL = "/v1/audio/transcriptions"
WINDOW_SECONDS = 0.05  # what the sleeping engine takes for a window
CLIP = 10.0  # seconds of audio of a request
SCENARIOS = ("declared", "mutants", "overload", "flat", "bombs", "media")


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
    """Not a number, which meets no goal, where there are no values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def measure_bombs() -> dict[str, Any]:
    """Goal 2 and C9: each bomb alone, then 50 at once while /healthz is asked, under a short and a long limit."""
    from tests.audio_factory import BOMBS

    files = {name: make() for name, make in BOMBS.items()}
    figures: dict[str, Any] = {"alone": {}}
    for longest in (600, 7200):
        with Server(max_audio_seconds=longest, body_limit=25 * 2**20) as server:
            async with client(server) as http:
                await post(http, files["wav_1_hz"])
                for name, content in files.items():
                    idle = server.megabytes()
                    server.forget_peak()
                    status, seconds = await post(http, content)
                    figures["alone"][f"{name}, limit {longest} s"] = {
                        "status": status, "seconds": round(seconds, 2), "megabytes": round(len(content) / 1e6, 2),
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
    chosen = [files[i % len(files)] for i in range(50)]
    outcomes = await asyncio.gather(*(post(http, content) for content in chosen))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching  # raises what ended it before its time
    return {
        "statuses": sorted({status for status, _ in outcomes}),
        "seconds": round(max(seconds for _, seconds in outcomes), 2),
        "megabytes": round(sum(map(len, chosen)) / 1e6, 1),
        "rise_mb": round(server.megabytes("VmHWM") - idle, 1),
        "healthz_p99_ms": round(1000 * percentile(waits, 0.99), 1),
    }


async def measure_media(server: Server, folder: Path) -> dict[str, Any]:
    """Goal 3: twelve formats that refer to files and the network, over HTTP, as bytes, by path and by a telling name.

    What Python opens is counted here, the file itself left out; the tests also show that FFmpeg opens nothing.
    """
    from tests.audio_factory import playlists

    seen: list[str] = []
    sys.addaudithook(lambda event, _: seen.append(event) if event == "open" or event.startswith("socket.") else None)
    figures: dict[str, Any] = {}
    async with client(server) as http:
        await post(http, b"noise" * 100)
        _decoded(b"noise" * 100)  # imports open files
        for name, content in playlists(str(folder / "secret.wav")).items():
            path = folder / f"{name}.m3u8"
            path.write_bytes(content)
            named = io.BytesIO(content)
            named.name = str(path)  # type: ignore[attr-defined]
            statuses = await post(http, content)
            slowest, opened = statuses[1], 0
            for source, own in ((content, 0), (path, 1), (named, 0)):
                seen.clear()
                slowest = max(slowest, _decoded(source))
                opened += len(seen) - own
            figures[name] = {"status": statuses[0], "seconds": round(slowest, 3), "opened": opened}
    return figures


def _decoded(source: Any) -> float:
    """Seconds until a source is refused."""
    from tickertape.audio import decode
    from tickertape.errors import InvalidAudio

    begun = time.perf_counter()
    try:
        decode(source)
    except InvalidAudio:
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
    """Every scenario that was asked for."""
    from tests.fakes import wav

    clip = wav(CLIP)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        async def against_one(measure: Callable[[Server], Any]) -> dict[str, Any]:
            with Server() as server:
                return await measure(server)

        scenarios: dict[str, Callable[[], Any]] = {
            "declared": lambda: against_one(measure_declared),
            "mutants": lambda: against_one(
                lambda server: measure_mutants(server, samples(folder, clip), arguments.mutants)
            ),
            "overload": lambda: measure_overload(clip, arguments.seconds),
            "flat": lambda: measure_flat(clip, arguments.requests),
            "bombs": measure_bombs,
            "media": lambda: against_one(lambda server: measure_media(server, folder)),
        }
        for scenario in arguments.only:
            figures[scenario] = await scenarios[scenario]()
            show({scenario: figures[scenario]})
    return figures


def verdicts(figures: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Goal, measured, and whether it was reached."""
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
    if mutants := figures.get("mutants"):
        wrong = sum(count for status, count in mutants["statuses"].items() if status.startswith("5"))
        yield _at_most(f"5: 5xx for {mutants['mutants']} mutants", wrong, 0)
    if overload := figures.get("overload"):
        yield _at_most("8: rejected p99, ms", overload["rejected_p99_ms"], 200)
        yield _at_most("8: accepted p99, s", overload["accepted_p99_s"], 2 * overload["budget_s"])
        share = overload["goodput_share"]
        yield ("8: goodput, at least 90 % of capacity", f"{share:.0%}", share >= 0.9)
    if declared := figures.get("declared"):
        yield _at_most("10: declared gigabyte refused, ms", declared["max_ms"], 50)
    if flat := figures.get("flat"):
        yield _at_most(f"12: growth of memory over {flat['requests']} requests, %", 100 * flat["growth"], 5)


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
    """Print which goals are met and one line for machines; keep both with the machine and the commit."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    found = list(verdicts(figures))
    lines = [f"| {goal} | {value} | {'met' if met else 'NOT MET'} |" for goal, value, met in found]
    print("\n".join(lines))
    document = {
        "date": now,
        "commit": commit(),
        "machine": machine(),
        "load_average": os.getloadavg()[0],
        "window_seconds": WINDOW_SECONDS,
        "goals": [{"goal": goal, "value": value, "met": met} for goal, value, met in found],
        "results": figures,
    }
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        (where / f"limits-{now[:10]}.json").write_text(json.dumps(document, indent=1) + "\n")
        about = f"Commit {document['commit'][:12]}, load average {document['load_average']:.1f}."
        page = [f"# Limits, {now}", "", f"{described(document['machine'])} {about}", ""]
        page += ["| goal | measured | |", "|---|---|---|", *lines, ""]
        (where / f"limits-{now[:10]}.md").write_text("\n".join(page))
    print(json.dumps(document))


def main() -> None:
    """Measure, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS, help="which scenarios")
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--results", type=Path, help="folder for the JSON and the table, such as benchmarks/results")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(json.loads(arguments.serve))
        return
    report(asyncio.run(run(arguments)), arguments.results)


if __name__ == "__main__":
    main()
