"""A service on a Kubernetes cluster with KubeRay: its options, its manifest and the commands that deploy it.

head pod            Ray's control plane and autoscaler; no replicas
ingress pods        the HTTP proxy, the API replicas and the page replica
engine pods         one engine replica each; Ray's autoscaler adds and removes them

Requests enter through the ingress pods only. KubeRay's own Service would also send requests to the proxies of engine
pods, and a pod that the autoscaler removes would close its connections.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from typing import Annotated, Any

from tickertape.deploy.manifests import OBJECT_HOSTS, dump, memory_bytes, render, to_yaml, validate_name
from tickertape.errors import OptionError
from tickertape.server.deployments import BODY_LIMIT_VARIABLE, ENVIRONMENT, HEALTH_CHECKS, INGRESS_REQUESTS
from tickertape.server.settings import Settings

FILE = "kuberay.yaml"
PORT = 8080
NAME_LENGTH = 47  # KubeRay appends up to 16 characters to the name, of at most 63
MODELS, CLAIM, KEYS = "/srv/models", "/srv/claim", "/etc/tickertape"  # folders in the containers
READY_TIMEOUT = "15m"
INGRESS_CPU, INGRESS_MEMORY = 2, "4Gi"  # audio is decoded there
HEAD_CPU, HEAD_MEMORY = 1, "4Gi"


@dataclass(frozen=True)
class KubeRay:
    """The user's options, from which the manifest follows. Raises `OptionError`."""

    namespace: Annotated[str, "Namespace; created if missing."]
    image: Annotated[str, "Image reference for the cluster's nodes."]
    name: Annotated[str, "Name of the service."] = "tickertape"
    model: Annotated[str, "Prepared model in the image; with --claim, the folder in the claim."] = f"{MODELS}/default"
    engines: Annotated[int, "Number of engines, each in its own pod."] = 2
    engines_max: Annotated[int, "Maximum number of engines under load."] = 4
    cpu: Annotated[int, "CPUs of an engine."] = 4
    memory: Annotated[str, "Memory of an engine's pod."] = "8Gi"
    ingresses: Annotated[int, "Number of pods for requests and audio decoding."] = 2
    gpus: Annotated[int, "GPUs of an engine."] = 0
    claim: Annotated[str, "PersistentVolumeClaim with prepared checkpoints, mounted read-only."] = ""
    keys_secret: Annotated[str, "Secret with the file of hashed API keys."] = ""
    object_hosts: Annotated[str, OBJECT_HOSTS] = ""
    context: Annotated[str, "kubectl's context. Default: the current one."] = ""

    def __post_init__(self) -> None:
        """Check the options against each other."""
        validate_name(self.namespace, "namespace")
        validate_name(self.name, "name", NAME_LENGTH)
        memory_bytes(self.memory, "memory")
        if self.claim and self.model.startswith("/"):
            raise OptionError("With --claim, --model must be a relative path: the folder in the claim.", "model")
        if min(self.cpu, self.ingresses) < 1 or self.gpus < 0:
            raise OptionError("--cpu and --ingresses must be at least 1, --gpus at least 0.", "cpu")
        if not 1 <= self.engines <= self.engines_max:
            raise OptionError("--engines must be at least 1, and --engines-max at least --engines.", "engines_max")

    @cached_property
    def settings(self) -> Settings:
        """Settings of every pod, derived from an engine pod's processors and an ingress pod's memory."""
        source = f"{CLAIM}/{self.model}" if self.claim else self.model
        wanted = {
            "models": (f"{source.rstrip('/').rpartition('/')[2]}={source}",),
            "engine_replicas": self.engines,
            "engine_replicas_max": self.engines_max,
            "api_replicas": self.ingresses,
            "gpus_per_replica": self.gpus,
            "threads": self.cpu,
            "keys_file": f"{KEYS}/keys.json" if self.keys_secret else None,
            "object_hosts": self.object_hosts,
        }
        return Settings.of(wanted).resolve(self.cpu, memory_bytes(INGRESS_MEMORY, "memory"))

    def files(self) -> dict[str, str]:
        """The manifest for `kubectl apply`."""
        return {FILE: to_yaml(self.documents(), "Written by `tickertape deploy kuberay`, for `kubectl apply`.")}

    def commands(self, folder: str) -> dict[str, tuple[str, ...]]:
        """The commands in order, by purpose; `folder` contains the manifest."""
        kubectl = ("kubectl", *((f"--context={self.context}",) if self.context else ()))
        namespace, ready = f"--namespace={self.namespace}", "--for=condition=Ready"
        selector = f"--selector=app.kubernetes.io/instance={self.name}"
        return {
            "look for KubeRay": (*kubectl, "get", "crd", "rayservices.ray.io", "--output=name"),
            "deploy": (*kubectl, "apply", f"--filename={folder}/{FILE}"),
            "wait": (*kubectl, "wait", namespace, ready, f"rayservice/{self.name}", f"--timeout={READY_TIMEOUT}"),
            "forward the port": (*kubectl, "port-forward", namespace, f"service/{self.name}", f"{PORT}:{PORT}"),
            "read the log": (*kubectl, "logs", namespace, selector, "--prefix=false", "--tail=100"),
        }

    def documents(self) -> list[dict[str, Any]]:
        """Namespace, RayService, Service, disruption budgets and network policy."""
        values = {
            **asdict(self),
            "cpu": str(self.cpu),
            "autoscaling": self.engines_max > self.engines,
            "ray_version": metadata.version("ray"),
            "ingress_requests": INGRESS_REQUESTS,
            "serve_config": dump(self.serve_config()),
            "head_pod": self._pod("head", HEAD_CPU, HEAD_MEMORY),
            "ingress_pod": self._pod("ingress", INGRESS_CPU, INGRESS_MEMORY),
            "engine_pod": self._pod("engine", self.cpu, self.memory, self.gpus),
            "buckets": any(host.startswith("gs://") for host in self.settings.object_hosts),
        }
        return render(FILE, values)

    def serve_config(self) -> dict[str, Any]:
        """The applications of `tickertape serve`, with their ingress replicas kept on ingress pods."""
        values = {**HEALTH_CHECKS, **self.settings.model_dump(mode="json")}
        return render("serve.yaml", {**values, "ingress_requests": INGRESS_REQUESTS})[0]

    def _pod(self, component: str, cpu: int, memory: str, gpus: int = 0) -> dict[str, Any]:
        environment = {**ENVIRONMENT, BODY_LIMIT_VARIABLE: str(int(self.settings.body_limit)), "HOME": "/tmp"}  # noqa: S108 - in the pod
        values = {
            **asdict(self),
            "cpu": str(cpu),
            "memory": memory,
            "gpus": str(gpus or ""),
            "component": component,
            "head": component == "head",
            "worker": component != "head",
            "termination_grace": 2 * int(self.settings.grace_seconds),
            "environment": [{"name": name, "value": value} for name, value in environment.items()],
        }
        return render("pod.yaml", values)[0]
