"""Serve a model within 4 GiB and 2 processors, to 8 clients at once. Started by build.sh.

    python3 -m tests.image.load ROOT DESCRIPTION RESULT MODEL

MODEL is a prepared checkpoint; random weights do, and are the harder case: they write to the last token. Each client
sends a window of noise, twice, with a temperature, which spares the repetitions that such texts would bring otherwise.
Prints one JSON object; fails if a request is not answered, or a process is ended for want of memory.
"""

# ruff: noqa: T201 - it prints what it finds
from __future__ import annotations

import io
import json
import os
import random
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.image.sandbox import MIB, Group, Sandbox, arguments, memory, transcribe, wait_until_ready

MEMORY, CPUS, CLIENTS, ROUNDS = 4 * 2**30, 2, 8, 2
SECONDS, RATE = 28, 16_000  # of noise in a recording: one window
RESPONSE_TIMEOUT = 1800  # seconds for one answer, on a busy machine
LOOK = 0.5  # seconds between looks at the memory


def main(image_root: str, description: str, result: str, model: str) -> None:
    """Start, ask from 8 sides, look at the memory all the while."""
    sandbox = Sandbox(image_root, description, model=model, memory=MEMORY, cpus=CPUS)
    group = sandbox.group
    assert group is not None
    sandbox.environment["TICKERTAPE_REQUEST_TIMEOUT"] = str(RESPONSE_TIMEOUT)
    server = sandbox.serve()
    try:
        wait_until_ready(server)
        with Watch(group) as watch:
            idle = group.used()
            began = time.monotonic()
            with ThreadPoolExecutor(CLIENTS) as clients:
                answers = list(clients.map(ask, range(CLIENTS * ROUNDS)))
        found: dict[str, Any] = {
            "limit_mib": MEMORY // MIB, "cpus": CPUS, "clients": CLIENTS, "requests": len(answers),
            "answered": sum(status == 200 for status in answers), "seconds": round(time.monotonic() - began),
            "idle_mib": idle, "peak_mib": watch.peak, "peak_with_file_cache_mib": group.peak(),
            "pss_after_mib": memory(), "killed_for_memory": group.killed(), "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip
    finally:
        server.kill()
        server.wait()
        group.remove()
    Path(result).write_text(json.dumps(found) + "\n")
    print(json.dumps(found))
    assert found["answered"] == found["requests"], answers
    assert not found["killed_for_memory"]


def ask(number: int) -> int:
    """Transcribe a window of noise; the status."""
    return transcribe(noise(number), timeout=RESPONSE_TIMEOUT, vad="false", language="en", temperature="0.2")[0]


class Watch:
    """The most memory in use while the block runs, without the cache of files, which the kernel takes back at will."""

    def __init__(self, group: Group) -> None:
        self.peak = 0
        self._group = group
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            self.peak = max(self.peak, self._group.used())

    def __enter__(self) -> Watch:
        self._looking = self._pool.submit(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        self._looking.result()  # raises what ended it before its time


def noise(seed: int) -> bytes:
    """A WAV file."""
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE)
            sound.writeframes(random.Random(seed).randbytes(2 * SECONDS * RATE))
        return file.getvalue()


if __name__ == "__main__":
    main(*arguments(__doc__, "model"))
