"""A Ray that somebody else has started on this machine, with `ray start`, for services that join it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.service import ROOT, START_SECONDS, command_line, descendants, free_port
from tickertape.cluster.local_ray import ENVIRONMENT as LOOPBACK
from tickertape.server.deployments import ENVIRONMENT

STORE = 128 * 2**20  # bytes of its object store
PORTS = ("port", "ray-client-server-port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
         "runtime-env-agent-port", "metrics-export-port")  # fmt: skip
START = """if True:
    from ray.scripts.scripts import cli
    from tickertape.cluster.local_ray import lean_start
    with lean_start():  # else Ray gives up after 30 s, too little for a busy machine
        cli()
"""
APPLICATIONS = """if True:
    import logging, ray
    from ray import serve
    ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    print("applications:", *serve.status().applications)
"""


@dataclass
class Head:
    """The head of a cluster of one node; `environment` is what whoever joins it needs."""

    pids: list[int]
    environment: dict[str, str]

    @property
    def alive(self) -> bool:
        """Whether all of its own processes run."""
        return all(command_line(pid) for pid in self.pids)

    def applications(self) -> list[str]:
        """The names of Serve's applications on it, asked by a driver of its own."""
        done = self._run([sys.executable, "-c", APPLICATIONS])
        (line,) = [line for line in done.splitlines() if line.startswith("applications:")]
        return line.split()[1:]

    def _run(self, command: list[str]) -> str:
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout


@contextmanager
def ray_head(cpus: int) -> Iterator[Head]:
    """A head on loopback, with ports and a token of its own, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="rh-", ignore_cleanup_errors=True) as folder:  # short, for sockets
        environment = {
            **LOOPBACK, **ENVIRONMENT, "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        }  # fmt: skip
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TICKERTAPE_"))}
        knobs = {"node-ip-address": "127.0.0.1", "num-cpus": cpus, "object-store-memory": STORE,
                 "include-dashboard": False, "include-log-monitor": False}  # fmt: skip
        ports = {name: free_port() for name in PORTS}
        flags = [f"--{name}={value}" for name, value in {**knobs, **ports}.items()]
        command = [sys.executable, "-c", START, "start", "--head", "--block", *flags]
        with (Path(folder) / "log").open("wb+") as log:
            process = subprocess.Popen(
                command, env={**inherited, **environment}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                _wait(process, log.name)
                yield Head(descendants(process.pid), environment)
            finally:
                _stop(process)


def _wait(process: subprocess.Popen[bytes], log: str) -> None:
    """Until Ray says that it has started."""
    until = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in Path(log).read_text():
        assert (process.poll(), True) == (None, time.monotonic() < until), Path(log).read_text()
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the head and everything below it, each by its own id."""
    for pid in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
