"""A Ray of our own on this machine: one node, for us alone, with only the processes that serving needs.

Ray starts three more, each of which imports all of it: a dashboard's server, on which starting waits and which without
a dashboard reports usage only; an autoscaler, which has nothing to scale on one machine; and a dashboard's agent, which
exports Ray's own metrics. There is no setting against them, so what starts them stands aside meanwhile. Nor is there
one for how long Ray waits for its node, which is 30 s: on a machine that is busy with other things it gets `PATIENCE`.
A raylet gives its agents 15 s, whatever one says, so starting can still fail; then it is tried again, at last in Ray's
own way. Where a later Ray is built otherwise, it starts in its own way too; `tests/test_serving.py` tells.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tickertape import agent
from tickertape.errors import EngineFailed
from tickertape.frame import event_line, to_stdout

LEFT_OUT = ("start_api_server", "start_monitor")  # methods of Ray's node
AGENT = "--dashboard_agent_command="  # how the raylet is told to start its agent
ATTEMPTS = (True, True, False)  # whether each is lean; the last is Ray's own way
PATIENCE = 120  # seconds for each step of Ray's start; a quiet machine takes one or two
LOOK = 0.05  # seconds between looks whether the node is there; Ray itself asks without a pause
ENVIRONMENT = {  # of the node's processes
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as on these systems: every port on loopback, whatever the system
    "AUTOSCALER_METRIC_PORT": "0",  # free ones, so that two services can run on one machine
    "DASHBOARD_METRIC_PORT": "0",
    "RAY_local_fs_capacity_threshold": "1.0",  # a disk that fills up is not our business: nothing is spilled to it
    "RAY_gcs_server_port_wait_time_s": str(PATIENCE),
    "RAY_agent_register_timeout_ms": str(1000 * PATIENCE),
    "RAY_worker_register_timeout_seconds": str(PATIENCE),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # else a proxy that needs 5 s to start is started again
}


def start(*, namespace: str, cpus: float, gpus: float, store: int, folder: str) -> None:
    """Start Ray with so many cores, GPUs and bytes of object store, its files in `folder`. Raises `EngineFailed`."""
    import ray

    wanted: dict[str, Any] = {
        "address": "local",
        "namespace": namespace,
        "num_cpus": max(1, round(cpus + 0.499)),
        "num_gpus": round(gpus + 0.499) if gpus else None,
        "object_store_memory": store,
        "include_dashboard": False,
        "configure_logging": False,
        "log_to_driver": True,
        "_temp_dir": folder,
        "_system_config": {"automatic_object_spilling_enabled": False},  # audio must not reach a disk
    }
    for lean in ATTEMPTS:
        try:
            with _eased(lean):
                ray.init(**wanted)
        except Exception as error:  # noqa: BLE001, PERF203 - Ray's own word, of no special class
            ray.shutdown()
            failure = error
            to_stdout(event_line("WARNING", "Ray did not start", error=type(error).__name__, lean=lean))
        else:
            return
    raise EngineFailed("Ray did not start; is the machine too busy? --no-ray does without.") from failure


@contextmanager
def _eased(lean: bool) -> Iterator[None]:
    """For the length of the block, Ray waits for its nodes with patience, and starts what is wanted only if `lean`."""
    from ray._private import node, services

    raylets: list[Any] = []
    begin, ask = (getattr(services, name, _nothing) for name in ("start_ray_process", "get_node"))
    wrapped = {"start_ray_process": _beginning(begin, raylets, lean), "get_node": _asking(ask, raylets)}
    left_out = dict.fromkeys(LEFT_OUT, _nothing) if lean else {}
    with _replaced(services, wrapped), _replaced(node.Node, left_out):
        yield


@contextmanager
def _replaced(owner: Any, others: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Put others in the place of the owner's attributes, where it has them, for the length of the block."""
    kept = {name: getattr(owner, name) for name in others if hasattr(owner, name)}
    try:
        for name in kept:
            setattr(owner, name, others[name])
        yield
    finally:
        for name, original in kept.items():
            setattr(owner, name, original)


def _nothing(*_: Any, **__: Any) -> None:
    """What is started instead."""


def _beginning(begin: Callable[..., Any], raylets: list[Any], lean: bool) -> Callable[..., Any]:
    """The same start of a process; a raylet is noted, and given our agent in the place of Ray's if `lean`."""

    def beginning(command: list[str], *arguments: Any, **options: Any) -> Any:
        told = dict(word.split("=", 1) for word in command if word.startswith(("--session_dir=", "--node_id=")))
        raylet = len(told) == 2 and any(word.startswith(AGENT) for word in command)
        if raylet and lean:
            ours = [sys.executable, "-I", "-S", agent.__file__, told["--session_dir"], told["--node_id"]]
            command = [AGENT + subprocess.list2cmdline(ours) if word.startswith(AGENT) else word for word in command]
        begun = begin(command, *arguments, **options)
        if raylet:
            raylets.append(begun.process)
        return begun

    return beginning


def _asking(ask: Callable[..., Any], raylets: list[Any]) -> Callable[..., Any]:
    """The same question, asked until there is an answer, the raylet has died or patience ends; then it raises."""

    def asking(*arguments: Any, **options: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments, **options)
            except RuntimeError:  # noqa: PERF203 - the node has not registered yet
                time.sleep(LOOK)
                if time.monotonic() > until or any(process.poll() is not None for process in raylets):
                    raise

    return asking
