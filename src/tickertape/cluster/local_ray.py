"""A Ray node on this machine, for this service alone, with only the processes that serving needs.

Ray starts three more processes, and each imports the whole of Ray: the dashboard server, the autoscaler and the
dashboard agent. Ray also allows its node 30 s to start, too little on a busy machine. No setting changes either, so
the lean start replaces private functions of Ray. It is used with the minor version of Ray that it was written for;
any other version starts the ordinary way.
"""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tickertape.cluster import stub_agent
from tickertape.cluster.engine import max_ongoing
from tickertape.errors import EngineError
from tickertape.server.deployments import API
from tickertape.server.settings import MEBIBYTE, Settings
from tickertape.types import WINDOW_SAMPLES

logger = logging.getLogger(__name__)

PATCHED_VERSION = "2.60"  # minor version of Ray whose private functions `lean_start` replaces
ATTEMPTS = 3  # the last is always Ray's ordinary start
AGENT_FLAG = "--dashboard_agent_command="  # of the raylet: how to start its dashboard agent
WINDOW_BYTES = 4 * WINDOW_SAMPLES  # 1.9 MB of float32: a window on its way to an engine
MIN_STORE_BYTES = 128 * MEBIBYTE  # of Ray's object store; only what is used takes memory
STEP_TIMEOUT = 120  # seconds for each step of Ray's start; a quiet machine takes one or two
POLL_INTERVAL = 0.05  # seconds; Ray itself polls without a pause
ENVIRONMENT = {  # of the node's processes
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without it, ports bind to all interfaces on those systems
    "AUTOSCALER_METRIC_PORT": "0",  # free ports, so that two services can run on one machine
    "DASHBOARD_METRIC_PORT": "0",
    "RAY_local_fs_capacity_threshold": "1.0",  # nothing is spilled to disk, so a full disk does not matter
    "RAY_gcs_server_port_wait_time_s": str(STEP_TIMEOUT),
    "RAY_agent_register_timeout_ms": str(1000 * STEP_TIMEOUT),
    "RAY_worker_register_timeout_seconds": str(STEP_TIMEOUT),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # a proxy that needs longer is restarted; the default is 5
}


def start(settings: Settings, models: int, folder: str) -> None:
    """Start Ray with the resources of all engines, its files in `folder`. Raises `EngineError`."""
    import ray

    engines = models * settings.engine_replicas
    windows = engines * max_ongoing(settings) * (settings.api_replicas + 1)  # in flight, from the APIs and the page
    options: dict[str, Any] = {
        "address": "local",
        "namespace": API,
        "num_cpus": engines * settings.threads,
        "num_gpus": math.ceil(engines * settings.gpus_per_replica) or None,
        "object_store_memory": max(MIN_STORE_BYTES, 2 * windows * WINDOW_BYTES),  # arguments outlive their calls
        "include_dashboard": False,
        "configure_logging": False,
        "_temp_dir": folder,
        "_system_config": {"automatic_object_spilling_enabled": False},  # audio must not reach a disk
    }
    patched = ray.__version__.startswith(f"{PATCHED_VERSION}.")
    if not patched:
        fields = {"ray": ray.__version__, "lean_with": PATCHED_VERSION}
        logger.info("Ray starts the ordinary way", extra={"fields": fields})
    for attempt in range(1, ATTEMPTS + 1):
        lean = patched and attempt < ATTEMPTS
        try:
            with lean_start() if lean else nullcontext():
                ray.init(**options)
                return
        except Exception as error:  # noqa: BLE001 - Ray raises no class of its own
            ray.shutdown()
            failure = error
            logger.warning("Ray did not start", extra={"fields": {"error": type(error).__name__, "lean": lean}})
    raise EngineError("Ray did not start. The machine may be too busy; --no-ray serves without Ray.") from failure


@contextmanager
def lean_start() -> Iterator[None]:
    """Within the block, Ray starts without dashboard and autoscaler, and allows its node `STEP_TIMEOUT` to start."""
    from ray._private import node, services

    raylets: list[Any] = []
    start_process = _with_stub_agent(services.start_ray_process, raylets)
    get_node = _with_retries(services.get_node, raylets)
    with (
        _replaced(services, start_ray_process=start_process, get_node=get_node),
        _replaced(node.Node, start_api_server=lambda *_, **__: None, start_monitor=lambda *_: None),
    ):
        yield


@contextmanager
def _replaced(owner: Any, **replacements: Callable[..., Any]) -> Iterator[None]:
    """Replace attributes of `owner` within the block."""
    originals = {name: getattr(owner, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(owner, name, replacement)
        yield
    finally:
        for name, original in originals.items():
            setattr(owner, name, original)


def _with_stub_agent(start_process: Callable[..., Any], raylets: list[Any]) -> Callable[..., Any]:
    """`start_process`, with the stub agent in a raylet's command; the raylet is added to `raylets`."""

    def start_with_stub(command: list[str], *arguments: Any, **options: Any) -> Any:
        flags = dict(word.split("=", 1) for word in command if word.startswith(("--session_dir=", "--node_id=")))
        is_raylet = len(flags) == 2 and any(word.startswith(AGENT_FLAG) for word in command)
        if is_raylet:
            stub = [sys.executable, "-I", "-S", stub_agent.__file__, flags["--session_dir"], flags["--node_id"]]
            agent = AGENT_FLAG + subprocess.list2cmdline(stub)
            command = [agent if word.startswith(AGENT_FLAG) else word for word in command]
        started = start_process(command, *arguments, **options)
        if is_raylet:
            raylets.append(started.process)
        return started

    return start_with_stub


def _with_retries(get_node: Callable[..., Any], raylets: list[Any]) -> Callable[..., Any]:
    """`get_node`, retried until the node has registered, its raylet has exited or the time is up."""

    def get_with_retries(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + STEP_TIMEOUT
        while True:
            try:
                return get_node(*arguments, **options)
            except RuntimeError:  # noqa: PERF203 - the node has not registered yet
                time.sleep(POLL_INTERVAL)
                if time.monotonic() > deadline or any(process.poll() is not None for process in raylets):
                    raise

    return get_with_retries
