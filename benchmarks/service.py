"""Cost of the service around its engine: time until ready, idle memory, throughput over HTTP against the bare engine,
and the wait of a short clip behind long uploads.

    python -m benchmarks.service CHECKPOINT [--rounds 2] [--windows 96] [--modes alone ray]
                                            [--only start throughput wait]

16 clients send recordings of one window each. Over HTTP and bare, the engine decodes a fixed number of tokens a window
without fallback, so that random weights give valid figures. Exit code 1 if a goal is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.support.service import Service, descendants, pss, sound, started
from tickertape.engine.loading import LoadOptions, load_engine
from tickertape.errors import DecodeError
from tickertape.server.settings import Settings
from tickertape.types import SAMPLE_RATE, Decoded, Engine, Options, Window

CLIENTS = 16
TOKENS = 50  # a window, as in benchmarks.engine
SECONDS = 28.0  # of audio in each recording: one window
MODES = {"alone": ["--no-ray"], "ray": []}
UPLOADS, UPLOAD_SECONDS, CLIP_SECONDS = 8, 120.0, 1.0
CLIP_SENT = 3 / 4  # of the uploads' audio is left when the clip is sent
WAIT = 1 / 4  # goal for the clip: of the time that the uploads take
READY, IDLE, RATIO = {"alone": 4.0, "ray": 12.0}, {"alone": 450, "ray": 1434}, 0.9  # goals: s, MiB, of the bare engine


class Fixed:
    """The real engine with the same number of decoding steps for every window."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        same = {"temperatures": (0.0,), "compression_ratio_threshold": None, "logprob_threshold": None,
                "no_speech_threshold": None, "max_new_tokens": TOKENS}  # fmt: skip
        return self._engine.decode(windows, [replace(each, **same) for each in options])


def engine(source: str, settings: Settings) -> Fixed:
    """The factory for `--engine`."""
    return Fixed(load_engine(source, LoadOptions(threads=settings.threads)))


def start_figures(mode: str, checkpoint: str, rounds: int) -> dict[str, Any]:
    """Seconds until `/readyz` succeeds, and MiB of all processes 5 s later."""
    seconds, mebibytes = [], []
    for _ in range(rounds):
        begun = time.monotonic()
        with started(*MODES[mode], "--model", f"bench={checkpoint}") as service:
            seconds.append(round(time.monotonic() - begun, 1))
            time.sleep(5)
            processes = (service.process.pid, *descendants(service.process.pid))
            mebibytes.append(round(sum(map(pss, processes))))
    met = min(seconds) <= READY[mode] and min(mebibytes) <= IDLE[mode]
    return {"ready_s": min(seconds), "ready_s_all": seconds, "idle_mib": min(mebibytes), "idle_mib_all": mebibytes,
            "passed": met}  # fmt: skip


def bare(model: Fixed, batch: int, windows: int) -> float:
    """Windows per second of the bare engine."""
    generator = np.random.default_rng(0)
    samples = generator.uniform(-0.1, 0.1, round(SECONDS * SAMPLE_RATE)).astype(np.float32)
    full = [Window(samples)] * batch
    begun = time.perf_counter()
    for _ in range(windows // batch):
        model.decode(full, [Options(language="en")] * batch)
    return windows // batch * batch / (time.perf_counter() - begun)


def over_http(service: Service, windows: int) -> float:
    """Windows per second of 16 clients, counted while all of them are active."""
    recordings = [sound(number, SECONDS) for number in range(CLIENTS)]

    def one(number: int) -> float:
        audio = recordings[number % CLIENTS]
        service.transcribe(audio, vad="false", language="en", timeout=600, post=client.post).raise_for_status()
        return time.perf_counter()

    with httpx.Client() as client, ThreadPoolExecutor(CLIENTS) as pool:  # keep connections, as real clients do
        answered = sorted(pool.map(one, range(windows)))
    return (windows - 2 * CLIENTS) / (answered[-CLIENTS - 1] - answered[CLIENTS - 1])


def throughput_figures(mode: str, checkpoint: str, rounds: int, windows: int) -> dict[str, Any]:
    """Alternate HTTP and bare rounds, so that other load affects both; return medians and their ratio."""
    settings = Settings().resolve()
    model = engine(checkpoint, settings)
    flags = [*MODES[mode], "--no-page", "--engine", "benchmarks.service:engine", "--model", f"bench={checkpoint}"]
    http, alone = [], []
    with started(*flags) as service:
        over_http(service, 2 * CLIENTS + settings.batch)
        bare(model, settings.batch, settings.batch)
        for _ in range(rounds):
            alone.append(bare(model, settings.batch, windows))
            http.append(over_http(service, windows))
    ratios = [round(one / other, 3) for one, other in zip(http, alone, strict=True)]
    return {
        "batch": settings.batch,
        "http_windows_s": round(statistics.median(http), 2),
        "bare_windows_s": round(statistics.median(alone), 2),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "passed": statistics.median(ratios) >= RATIO,
    }


def wait_figures(mode: str, checkpoint: str, rounds: int) -> dict[str, Any]:
    """Seconds for a clip of a second, idle and behind eight uploads of two minutes, and for the uploads."""
    flags = [*MODES[mode], "--no-page", "--engine", "benchmarks.service:engine", "--model", f"bench={checkpoint}"]
    uploads, clip = [sound(number, UPLOAD_SECONDS) for number in range(UPLOADS)], sound(UPLOADS, CLIP_SECONDS)
    clips, lasts = [], []
    with started(*flags) as service, ThreadPoolExecutor(UPLOADS) as pool:

        def seconds(audio: bytes) -> float:
            begun = time.perf_counter()
            service.transcribe(audio, vad="false", language="en", timeout=600).raise_for_status()
            return round(time.perf_counter() - begun, 1)

        def in_flight() -> float:
            lines = [line.split() for line in service.get("/metrics").text.splitlines()]
            return sum(float(line[1]) for line in lines if line[0] == "tickertape_audio_seconds_in_flight")

        seconds(uploads[0])
        idle = seconds(clip)
        for _ in range(rounds):
            running = [pool.submit(seconds, audio) for audio in uploads]
            while in_flight() < 0.8 * UPLOADS * UPLOAD_SECONDS:
                time.sleep(0.1)
            while in_flight() > CLIP_SENT * UPLOADS * UPLOAD_SECONDS:
                time.sleep(0.1)
            clips.append(seconds(clip))
            lasts.append(max(each.result() for each in running))
    shares = [round(one / other, 2) for one, other in zip(clips, lasts, strict=True)]
    return {"clip_idle_s": idle, "clip_s": clips, "uploads_s": lasts, "passed": statistics.median(shares) <= WAIT}


def print_verdict(mode: str, what: str, figures: dict[str, Any]) -> None:
    verdict = "goal met" if figures["passed"] else "GOAL NOT MET"
    print(f"{mode:6} {what:11} {verdict}  {figures}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    measurements = ["start", "throughput", "wait"]
    parser.add_argument("--only", nargs="+", choices=measurements, default=measurements)
    arguments = parser.parse_args()
    checkpoint = str(Path(arguments.checkpoint).absolute())
    found: dict[str, dict[str, Any]] = {}
    for mode in arguments.modes:
        if "start" in arguments.only:
            found[f"{mode}_start"] = start_figures(mode, checkpoint, arguments.rounds)
            print_verdict(mode, "start", found[f"{mode}_start"])
        if "throughput" in arguments.only:
            found[f"{mode}_throughput"] = throughput_figures(mode, checkpoint, arguments.rounds, arguments.windows)
            print_verdict(mode, "throughput", found[f"{mode}_throughput"])
        if "wait" in arguments.only:
            found[f"{mode}_wait"] = wait_figures(mode, checkpoint, arguments.rounds)
            print_verdict(mode, "wait", found[f"{mode}_wait"])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print(json.dumps({"benchmark": "service", **found, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
                      "commit": commit, "tokens": TOKENS, "clients": CLIENTS}))  # fmt: skip
    return 0 if all(figures["passed"] for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
