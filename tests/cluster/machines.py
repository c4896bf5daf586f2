"""A Ray cluster of several nodes on this machine, each with processes of its own, as KubeRay would make it of pods.

The proxies of the head and of the ingress nodes share a port, as if the cluster's Service stood before them.
"""

from __future__ import annotations

import inspect
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.service import ROOT, descendants, free_port
from tickertape.cluster.local_ray import ENVIRONMENT as LOOPBACK
from tickertape.deploy.kuberay import KubeRay
from tickertape.server.deployments import BODY_LIMIT_VARIABLE, ENVIRONMENT, INGRESS_REQUESTS

if TYPE_CHECKING:
    from ray._private.node import Node

ELSEWHERE = "RAY_SERVE_WORKER_PROXY_HTTP_PORT"  # Ray's own: where a node's proxy listens
PORTS = {  # of a node's agents, and the names under which a node looks for them
    "dashboard_agent_listen_port": "DASHBOARD_AGENT_LISTEN_PORT_NAME",
    "metrics_agent_port": "METRICS_AGENT_PORT_NAME",
    "metrics_export_port": "METRICS_EXPORT_PORT_NAME",
    "runtime_env_agent_port": "RUNTIME_ENV_AGENT_PORT_NAME",
}
INGRESS = "tickertape_ingress"  # the Ray resource of ingress nodes, as in deploy/kuberay.yaml
STORE = 128 * 2**20  # bytes of each node's object store
START_SECONDS = 900.0  # until a node, or the service, answers, on a machine that has other things to do


class Machines:
    """The nodes. `url` is where the service answers, `dashboard` where KubeRay's operator would hand in its config."""

    def __init__(self, wanted: KubeRay, folder: str) -> None:
        from ray.cluster_utils import Cluster  # reads the environment when it is imported

        self._cpus = wanted.cpu
        self._token = os.environ["RAY_AUTH_TOKEN"]
        port, dashboard = free_port(), free_port()
        self.url, self.dashboard = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        self._port = port
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": dashboard, "temp_dir": folder,
                "no_monitor": True, "include_log_monitor": False}  # fmt: skip
        with _patience():
            self._cluster = Cluster(initialize_head=True, head_node_args=_own(head))
        for _ in range(wanted.ingresses):
            self._add(num_cpus=0, resources={INGRESS: INGRESS_REQUESTS})
        self.engines = [self.add_engine() for _ in range(wanted.engines)]

    def add_engine(self) -> Node:
        """One more node for an engine; its proxy listens elsewhere, since the Service leaves such pods out."""
        os.environ[ELSEWHERE] = str(free_port())
        try:
            return self._add(num_cpus=self._cpus)
        finally:
            del os.environ[ELSEWHERE]

    def _add(self, **knobs: Any) -> Node:
        with _patience():
            return self._cluster.add_node(**_own(knobs))

    def deploy(self, config: dict[str, Any]) -> None:
        """Hand in the Serve config as KubeRay's operator does; return when every engine answers."""
        config = {**config, "http_options": {**config["http_options"], "host": "127.0.0.1", "port": self._port}}
        _until(lambda: self._hand_in(config))
        _until(lambda: httpx.get(f"{self.url}/readyz", timeout=60).status_code == 200)

    def _hand_in(self, config: dict[str, Any]) -> bool:
        """Whether the config was taken; the operator, too, tries again where not."""
        headers = {"authorization": f"Bearer {self._token}"}
        url = f"{self.dashboard}/api/serve/applications/"
        return httpx.put(url, json=config, headers=headers, timeout=300).status_code == 200

    def close(self) -> None:
        """End every node."""
        self._cluster.shutdown()


def processes(node: Node) -> list[int]:
    """A node's processes: its raylet, and below it the agents and the replicas."""
    raylet = node.all_processes["raylet"][0].process.pid
    return [raylet, *descendants(raylet)]


def strike(node: Node, number: signal.Signals) -> None:
    """Send a signal to all of a node at once: SIGKILL is a power cut, SIGSTOP a machine that hangs."""
    for pid in processes(node):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def machines(wanted: KubeRay) -> Iterator[Machines]:
    """A cluster for the length of the block, with the environment that the manifest gives to every pod."""
    kept = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("RAY_", "TICKERTAPE_"))]:
        del os.environ[name]
    os.environ.update({**LOOPBACK, **ENVIRONMENT})
    os.environ.update({
        BODY_LIMIT_VARIABLE: str(int(wanted.settings.body_limit)),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(START_SECONDS)),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(int(START_SECONDS)),
    })  # fmt: skip
    made: Machines | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="cl-", ignore_cleanup_errors=True) as folder:  # short, for sockets
            (Path(folder) / "ray").mkdir()
            os.environ["RAY_TMPDIR"] = folder  # where Ray writes down which cluster runs here
            made = Machines(wanted, folder)
            try:
                yield made
            finally:
                made.close()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _until(holds: Callable[[], bool]) -> None:
    """Ask until it holds. Raises `AssertionError` when it took too long."""
    begun = time.monotonic()
    while time.monotonic() - begun < START_SECONDS:
        with suppress(httpx.HTTPError):
            if holds():
                return
        time.sleep(0.5)
    raise AssertionError("The service did not start in time.")


def _own(knobs: dict[str, Any]) -> dict[str, Any]:
    """A node's arguments: ports of its own, since all nodes are one machine here."""
    return {"object_store_memory": STORE, **{name: free_port() for name in PORTS}, **knobs}


@contextmanager
def _patience() -> Iterator[None]:
    """Ray gives a node 30 s to start, and its agents 15 s to say which ports they chose: too little on a busy machine.

    Here it asks for longer, and the agents' ports, which we chose, are written where it looks for them.
    """
    from ray import _raylet
    from ray._private import services

    ask, start = services.get_node, services.start_raylet
    parameters = inspect.signature(start)

    def keep_asking(*arguments: Any) -> Any:
        begun = time.monotonic()
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() - begun > START_SECONDS:
                    raise
            time.sleep(0.2)

    def start_with_ports(*arguments: Any, **options: Any) -> Any:
        given = parameters.bind(*arguments, **options).arguments
        for name, file in PORTS.items():
            _raylet.persist_port(given["session_dir"], given["node_id"], getattr(_raylet, file), given[name])
        return start(*arguments, **options)

    services.get_node, services.start_raylet = keep_asking, start_with_ports
    try:
        yield
    finally:
        services.get_node, services.start_raylet = ask, start


def folder_of_calls() -> Path:
    """Where the engines write what they were asked."""
    return Path(tempfile.mkdtemp(prefix="calls-"))
