"""A service on a Kubernetes cluster with KubeRay: its knobs, its manifest, and the commands that bring it there.

head pod            Ray's books and the autoscaler; takes no work
ingress pods        the HTTP proxy, API replicas, the page's one replica
engine pods         one engine each; Ray's autoscaler adds and removes them

Requests enter by the ingress pods only. Ray has a proxy on every node that holds a replica, and KubeRay's own Service
sends requests to all of them: an engine's pod would take connections with it when it goes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from tickertape.doorman import LIMIT
from tickertape.errors import OptionError
from tickertape.ingress import API, PAGE, PAGE_PREFIX
from tickertape.machine import Detected
from tickertape.serving import ENVIRONMENT, HEALTH_PERIOD, HEALTH_TIMEOUT, REQUESTS
from tickertape.settings import Settings
from tickertape.tools.manifests import checked_name, dumped, memory_bytes, to_yaml

FILE = "kuberay.yaml"
PORT, DASHBOARD, AGENT, GCS = 8080, 8265, 52365, 6379
USER = 65532  # the user of the image
NAME = 47  # characters at most: KubeRay adds 6 for a cluster's name and 10 for its service's, of 63
INGRESS = "tickertape_ingress"  # Ray's name for a place that only ingress pods have
MODELS, CLAIM, KEYS = "/srv/models", "/srv/claim", "/etc/tickertape"  # folders in the containers
IDLE_SECONDS = 300  # before an engine's pod is given back
PATIENCE = "15m"
INGRESS_CPU, INGRESS_MEMORY = 2, "4Gi"  # recordings are decoded there
HEAD_CPU, HEAD_MEMORY = 1, "4Gi"
RESTRICTED = {  # Kubernetes' "restricted" pod security, and a file system that cannot be written to
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
METADATA = [  # where Google's pods get their tokens, before and behind GKE's own server
    {"ipBlock": {"cidr": "169.254.169.254/32"}}, {"ipBlock": {"cidr": "169.254.169.252/32"}},
]  # fmt: skip
DERIVED = (
    "threads", "cpus_per_replica", "batch", "decode_threads", "body_limit", "object_limit", "upload_room",
    "max_audio_seconds", "audio_seconds_in_flight",
)  # fmt: skip


@dataclass(frozen=True)
class KubeRay:
    """What the user decides; everything else follows. Raises `OptionError`."""

    namespace: str
    image: str
    name: str = "tickertape"
    model: str = f"{MODELS}/demo"  # in the image; with a claim, the folder in the claim
    engines: int = 2
    engines_max: int = 4
    cpu: int = 4
    memory: str = "8Gi"
    ingresses: int = 2
    gpus: int = 0
    claim: str = ""
    keys_secret: str = ""
    object_hosts: str = ""  # separated by commas
    context: str = ""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        checked_name(self.namespace, "namespace")
        checked_name(self.name, "name", NAME)
        memory_bytes(self.memory, "memory")
        if self.claim and self.model.startswith("/"):
            raise OptionError("With --claim, --model names the folder in the claim.", "model")
        if not 1 <= self.engines <= self.engines_max:
            raise OptionError("--engines-max is at least --engines, and --engines at least 1.", "engines_max")

    @cached_property
    def settings(self) -> Settings:
        """In figures, for all pods alike: an engine's from its processors, a request's from an ingress pod's memory."""
        source = f"{CLAIM}/{self.model}" if self.claim else self.model
        wanted = {
            "models": (f"{source.rstrip('/').rpartition('/')[2]}={source}",),
            "engine_replicas": self.engines,
            "engine_replicas_max": self.engines_max,
            "api_replicas": self.ingresses,
            "gpus_per_replica": self.gpus,
            "threads": self.cpu,
            "decode_threads": INGRESS_CPU,
            "keys_file": f"{KEYS}/keys.json" if self.keys_secret else None,
            "object_hosts": self.object_hosts,
        }
        return Settings.of(wanted).resolve(
            Detected(self.cpu, "--cpu"), Detected(memory_bytes(INGRESS_MEMORY, "memory"), "an ingress pod's")
        )

    def files(self) -> dict[str, str]:
        """The manifest for `kubectl apply`."""
        return {FILE: to_yaml(self.documents(), "Written by `tickertape deploy kuberay`; `kubectl apply` takes it.")}

    def commands(self, folder: str) -> dict[str, tuple[str, ...]]:
        """Every command by what it is for, in order; `folder` holds the manifest."""
        kubectl = ("kubectl", *((f"--context={self.context}",) if self.context else ()))
        inside = f"--namespace={self.namespace}"
        ready = "--for=condition=Ready"
        return {
            "whether the cluster has KubeRay": (*kubectl, "get", "crd", "rayservices.ray.io", "--output=name"),
            "deploy": (*kubectl, "apply", f"--filename={folder}/{FILE}"),
            "wait": (*kubectl, "wait", inside, ready, f"rayservice/{self.name}", f"--timeout={PATIENCE}"),
            "reach it": (*kubectl, "port-forward", inside, f"service/{self.name}", f"{PORT}:{PORT}"),
            "the logs": (*kubectl, "logs", inside, f"--selector={_LABEL}={self.name}", "--prefix=false", "--tail=100"),
        }

    def documents(self) -> list[dict[str, Any]]:
        """Namespace, Ray's service, the way in, disruption budgets, network policy."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        budgets = map(self._budget, ("ingress", "engine"))
        return [space, self._ray_service(), self._way_in(), *budgets, self._network_policy()]

    def serve_config(self) -> dict[str, Any]:
        """What Ray Serve is to run: the same applications as `tickertape serve`, ingress kept to its pods."""
        args: dict[str, Any] = {"models": list(self.settings.models)}
        for name in (*DERIVED, "engine_replicas", "engine_replicas_max", "api_replicas", "gpus_per_replica"):
            args[name] = getattr(self.settings, name)
        if self.settings.object_hosts:
            args["object_hosts"] = list(self.settings.object_hosts)
        if self.settings.keys_file:
            args["keys_file"] = str(self.settings.keys_file)
        return {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": PORT, "keep_alive_timeout_s": int(self.settings.keep_alive)},  # noqa: S104 - the policy below says who may come
            "logging_config": {"log_level": "WARNING", "enable_access_log": False},
            "applications": [
                _application(API, "/", "api", args, self.ingresses),
                _application(PAGE, PAGE_PREFIX, "page", args, 1),
            ],
        }

    def _ray_service(self) -> dict[str, Any]:
        scales = self.engines_max > self.engines
        options = {"upscalingMode": "Default", "idleTimeoutSeconds": IDLE_SECONDS, "securityContext": RESTRICTED}
        cluster = {
            "rayVersion": metadata.version("ray"),
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": scales,
            **({"autoscalerOptions": options} if scales else {}),
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - KubeRay's operator asks there
                "template": self._pod("head", str(HEAD_CPU), HEAD_MEMORY),
            },
            "workerGroupSpecs": [
                self._group("ingress", self.ingresses, self.ingresses, str(INGRESS_CPU), INGRESS_MEMORY),
                self._group("engine", self.engines, self.engines_max, str(self.cpu), self.memory),
            ],
        }
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {_LABEL: self.name}},
            "spec": {
                "excludeHeadPodFromServeSvc": True,
                "serveConfigV2": dumped(self.serve_config()),
                "rayClusterConfig": cluster,
            },
        }

    def _way_in(self) -> dict[str, Any]:
        """The Service that callers use. An ingress pod is ready when its proxy has somewhere to send requests."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {_LABEL: self.name}},
            "spec": {
                "selector": {_LABEL: self.name, _PART: "ingress"},
                "ports": [{"name": "http", "port": PORT, "targetPort": PORT}],
            },
        }

    def _group(self, part: str, least: int, most: int, cpu: str, memory: str) -> dict[str, Any]:
        places = json.dumps({INGRESS: REQUESTS})
        start = {"num-cpus": cpu} if part == "engine" else {"num-cpus": "0", "resources": json.dumps(places)}
        return {
            "groupName": part,
            "replicas": least,
            "minReplicas": least,
            "maxReplicas": most,
            "rayStartParams": start,
            "template": self._pod(part, cpu, memory),
        }

    def _pod(self, part: str, cpu: str, memory: str) -> dict[str, Any]:
        gpus = {"nvidia.com/gpu": str(self.gpus)} if self.gpus and part == "engine" else {}
        resources = {"cpu": cpu, "memory": memory, **gpus}
        mounts, volumes = self._volumes()
        container = {
            "name": f"ray-{part}",
            "image": self.image,
            "env": [{"name": name, "value": value} for name, value in self._environment().items()],
            "ports": _PORTS[part],
            "resources": {"requests": resources, "limits": resources},
            "securityContext": RESTRICTED,
            "volumeMounts": mounts,
            **_probes(part),
        }
        spec = {
            "automountServiceAccountToken": part == "head",  # the autoscaler's
            "securityContext": {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER, "runAsNonRoot": True,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 2 * int(self.settings.grace_seconds),
            **({} if part == "head" else {"topologySpreadConstraints": [self._spread(part)]}),
            "containers": [container],
            "volumes": volumes,
        }  # fmt: skip
        return {"metadata": {"labels": {_LABEL: self.name, _PART: part}}, "spec": spec}

    def _environment(self) -> dict[str, str]:
        """Every node's, so that lines are JSON and the proxies know the limit."""
        return {**ENVIRONMENT, LIMIT: str(int(self.settings.body_limit)), "HOME": "/tmp"}  # noqa: S108 - a volume of its own

    def _volumes(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - a volume of its own
        volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}}]
        if self.claim:
            mounts.append({"name": "checkpoints", "mountPath": CLAIM, "readOnly": True})
            volumes.append(
                {"name": "checkpoints", "persistentVolumeClaim": {"claimName": self.claim, "readOnly": True}}
            )
        if self.keys_secret:
            mounts.append({"name": "keys", "mountPath": KEYS, "readOnly": True})
            volumes.append({"name": "keys", "secret": {"secretName": self.keys_secret}})
        return mounts, volumes

    def _spread(self, part: str) -> dict[str, Any]:
        """Not all on one machine, as far as there are several."""
        return {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {_LABEL: self.name, _PART: part}},
        }

    def _budget(self, part: str) -> dict[str, Any]:
        """Whoever empties machines takes one pod of a kind at a time."""
        return {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": f"{self.name}-{part}", "namespace": self.namespace},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {_LABEL: self.name, _PART: part}}},
        }

    def _network_policy(self) -> dict[str, Any]:
        """The API is open to the cluster, the dashboard to KubeRay; out go only names, the Kubernetes API and https."""
        buckets = any(entry.startswith("gs://") for entry in self.settings.object_hosts)
        own = {"podSelector": {"matchLabels": {_LABEL: self.name}}}
        operator = {
            "namespaceSelector": {},
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}},
        }
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "podSelector": {"matchLabels": {_LABEL: self.name}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {"from": [own]},
                    {"from": [operator], "ports": _allowed("TCP", DASHBOARD, PORT)},
                    {"from": [{"namespaceSelector": {}}], "ports": _allowed("TCP", PORT)},
                ],
                "egress": [
                    {"to": [own]},
                    {"ports": [*_allowed("UDP", 53), *_allowed("TCP", 53, 443, 6443)]},
                    *([{"to": METADATA, "ports": _allowed("TCP", 80, 988)}] if buckets else []),
                ],
            },
        }


_LABEL, _PART = "app.kubernetes.io/instance", "app.kubernetes.io/component"
_PORTS = {
    "head": [{"name": "gcs-server", "containerPort": GCS}, {"name": "dashboard", "containerPort": DASHBOARD},
             {"name": "serve", "containerPort": PORT}],
    "ingress": [{"name": "serve", "containerPort": PORT}],
    "engine": [{"name": "serve", "containerPort": PORT}],
}  # fmt: skip


def _application(name: str, prefix: str, builder: str, args: dict[str, Any], replicas: int) -> dict[str, Any]:
    """An application whose ingress stays on ingress pods; its engines go where processors are."""
    ingress = {
        "name": name,
        "num_replicas": replicas,
        "max_ongoing_requests": REQUESTS,
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_TIMEOUT,
        "ray_actor_options": {"num_cpus": 0, "resources": {INGRESS: 1}},
    }
    return {
        "name": name,
        "route_prefix": prefix,
        "import_path": f"tickertape.builders:{builder}",
        "args": args,
        "deployments": [ingress],
    }


def _probes(part: str) -> dict[str, Any]:
    """Ray's node is alive; on a worker, Serve's proxy lets requests in. KubeRay's own probes want wget."""
    address = f"http://localhost:{AGENT}/api/local_raylet_healthz"
    look = f"import urllib.request; assert b'success' in urllib.request.urlopen('{address}', timeout=4).read()"
    node = {"exec": {"command": ["python", "-c", look]}}
    serves = {"httpGet": {"path": "/-/healthz", "port": PORT}}
    return {
        "startupProbe": {**node, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 60},
        "livenessProbe": {**node, "periodSeconds": 15, "timeoutSeconds": 5, "failureThreshold": 8},
        "readinessProbe": {**(node if part == "head" else serves), "periodSeconds": 5, "timeoutSeconds": 5},
    }


def _allowed(protocol: str, *ports: int) -> list[dict[str, Any]]:
    return [{"protocol": protocol, "port": port} for port in ports]
