"""A Ray of our own on this machine: one node, for us alone, with only the processes that serving needs.

Ray starts three more, each of which imports all of it: a dashboard's server, on which starting waits and which without
a dashboard reports usage only; an autoscaler, which has nothing to scale on one machine; and a dashboard's agent, which
exports Ray's own metrics. There is no setting against them, so what starts them stands aside meanwhile. Nor is there
one for how long Ray waits for its node, which is 30 s: on a machine that is busy with other things it gets `PATIENCE`.
Where a later Ray is built otherwise, or does not start this way, it starts its own way; `tests/test_serving.py` tells.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tickertape import agent
from tickertape.errors import EngineFailed

LEFT_OUT = ("start_api_server", "start_monitor")  # methods of Ray's node
AGENT = "--dashboard_agent_command="  # how the raylet is told to start its agent
PATIENCE = 120  # seconds for each step of Ray's start; a quiet machine takes one or two
LOOK = 0.05  # seconds between looks whether the node is there; Ray itself asks without a pause
ENVIRONMENT = {  # of the node's processes
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as on these systems: every port on loopback, whatever the system
    "AUTOSCALER_METRIC_PORT": "0",  # free ones, so that two services can run on one machine
    "DASHBOARD_METRIC_PORT": "0",
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
    with _patient(), suppress(Exception), _lean():  # Ray's own word, of no special class
        ray.init(**wanted)
        return
    ray.shutdown()
    try:
        with _patient():
            ray.init(**wanted)
    except Exception as error:
        raise EngineFailed("Ray did not start; is the machine too busy? --no-ray does without.") from error


@contextmanager
def _lean() -> Iterator[None]:
    """For the length of the block, Ray's nodes start without what is left out, and with our agent."""
    from ray._private import node, services

    with (
        _replaced(node.Node, dict.fromkeys(LEFT_OUT, _nothing)),
        _replaced(services, {"start_ray_process": _with_our_agent(getattr(services, "start_ray_process", _nothing))}),
    ):
        yield


@contextmanager
def _patient() -> Iterator[None]:
    """For the length of the block, Ray waits with patience for its nodes."""
    from ray._private import services

    with _replaced(services, {"get_node": _asked_again(getattr(services, "get_node", _nothing))}):
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


def _with_our_agent(begin: Callable[..., Any]) -> Callable[..., Any]:
    """The same start of a process, but a raylet is given our agent in the place of Ray's."""

    def beginning(command: list[str], *arguments: Any, **options: Any) -> Any:
        told = dict(word.split("=", 1) for word in command if word.startswith(("--session_dir=", "--node_id=")))
        if len(told) == 2:
            ours = [sys.executable, "-I", "-S", agent.__file__, told["--session_dir"], told["--node_id"]]
            command = [AGENT + subprocess.list2cmdline(ours) if word.startswith(AGENT) else word for word in command]
        return begin(command, *arguments, **options)

    return beginning


def _asked_again(ask: Callable[..., Any]) -> Callable[..., Any]:
    """The same question, asked until there is an answer or patience ends. Raises what `ask` raises then."""

    def asking(*arguments: Any, **options: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments, **options)
            except RuntimeError:  # noqa: PERF203 - the node has not registered yet
                if time.monotonic() > until:
                    raise
                time.sleep(LOOK)

    return asking
