"""Subprocesses that run the compared systems, and a description of machine and packages."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("ctranslate2", "openvino", "faster-whisper", "torch", "transformers", "openai-whisper", "numpy")

Result = dict[str, Any]


class Worker:
    """A system of `benchmarks.systems` in a subprocess. `flags` are flags of that program."""

    def __init__(
        self,
        system: str,
        checkpoint: Path,
        work: Path,
        *,
        batch: int,
        threads: int,
        tokens: int | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.systems", system]
        command += ["--checkpoint", str(checkpoint), "--cache", str(work / "cache")]
        command += ["--batch", str(batch), "--tokens", str(tokens or 0), "--threads", str(threads), *flags]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def ready(self) -> Result:
        """Wait until it is loaded. Raises `RuntimeError` with the last line of its stderr."""
        return self._read() | {"start_seconds": time.perf_counter() - self._started}

    def run(self, clips: Path, count: int | None = None) -> Result:
        """Transcribe the first `count` clips of a file; None: all."""
        print(json.dumps({"clips": str(clips), "count": count}), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Result:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line:
            answer: Result = json.loads(line)
            return answer
        self._process.wait()
        self._log.seek(0)
        words = self._log.read().strip().splitlines() or ["no reason given"]
        raise RuntimeError(words[-1])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
        self._log.close()


def commit() -> str:
    """The hash of the checked-out commit."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()


def machine() -> Result:
    """Processor, memory and package versions, on which the figures depend."""
    from tickertape.engine.hardware import cores, instruction_sets, memory, processor

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "processor": processor(),
        "instruction_sets": instruction_sets(),
        "cores": cores().value,
        "memory_bytes": memory().value,
        "python": sys.version.split()[0],
        "versions": versions,
    }


def described(facts: Result) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['processor']}, {facts['cores']} cores ({', '.join(facts['instruction_sets'])}); {versions}."
