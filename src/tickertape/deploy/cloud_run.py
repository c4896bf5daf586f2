"""A service on Google Cloud Run: its knobs, the files that describe it, and the commands that bring it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tickertape.errors import OptionError
from tickertape.machine import Detected
from tickertape.settings import Settings
from tickertape.tools.manifests import checked_name, memory_bytes, to_yaml

SERVICE_FILE, BUILD_FILE, DOCKERFILE = "cloudrun.yaml", "cloudbuild.yaml", "deploy/Dockerfile"
SERVICES = ("run.googleapis.com", "cloudbuild.googleapis.com", "artifactregistry.googleapis.com")
PORT = 8080
GIB = 2**30
LARGEST_REQUEST = 32 * 2**20  # bytes that Cloud Run lets through over HTTP/1
LONGEST_START = 240  # seconds that Cloud Run waits for a container
LEAST_MEMORY = {1: 0, 2: 0, 4: 2 * GIB, 6: 4 * GIB, 8: 4 * GIB}  # bytes that Cloud Run wants with so many CPUs
LEAST_WITH_GPU = {"nvidia-l4": (4, 16), "nvidia-rtx-pro-6000": (20, 80)}  # CPUs and GiB
MOST_MEMORY, MOST_CONCURRENCY = 32 * GIB, 1000
MODELS, BUCKET, KEYS = "/srv/models", "/srv/bucket", "/etc/tickertape"  # folders in the container
AFTERTHOUGHT = 30  # seconds after the service's own limit on requests, so that the service answers, not its proxy
BUILD_SECONDS = 3600


@dataclass(frozen=True)
class CloudRun:
    """What the user decides; everything else follows. Raises `OptionError` for what Cloud Run would refuse."""

    project: str
    region: str
    repository: str = "tickertape"
    service: str = "tickertape"
    tag: str = "latest"
    model: str = "checkpoint"  # baked into the image; with a bucket, the folder in the bucket
    cpu: int = 8
    memory: str = "4Gi"
    max_instances: int = 2
    min_instances: int = 0
    gpu: str = ""
    concurrency: int = 0  # 0: derived
    allow_unauthenticated: bool = False
    service_account: str = ""
    keys_secret: str = ""
    bucket: str = ""
    object_hosts: str = ""  # separated by commas
    ray: bool = True

    def __post_init__(self) -> None:
        """Check what belongs together."""
        for option in ("project", "region", "repository", "service"):
            checked_name(getattr(self, option), option)
        _check_resources(self.cpu, memory_bytes(self.memory, "memory"), self.gpu)
        if not 0 <= self.concurrency <= MOST_CONCURRENCY:
            raise OptionError(f"--concurrency goes up to {MOST_CONCURRENCY}.", "concurrency")
        if not 0 <= self.min_instances <= self.max_instances or not self.max_instances:
            raise OptionError("--max-instances is at least 1, and at least --min-instances.", "max_instances")

    @property
    def image(self) -> str:
        """Where the image is kept."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.repository}/{self.service}:{self.tag}"

    @cached_property
    def settings(self) -> Settings:
        """What the service will derive in such a container."""
        cores = Detected(self.cpu, "--cpu")
        wanted = Settings.of({"object_hosts": self.object_hosts})
        return wanted.resolve(cores, Detected(memory_bytes(self.memory, "memory"), "--memory"))

    def files(self) -> dict[str, str]:
        """The service for `gcloud run services replace`, and the build for `gcloud builds submit`."""
        head = "Written by `tickertape deploy cloud-run`"
        return {
            SERVICE_FILE: to_yaml([self.description()], f"{head}; `gcloud run services replace` takes it."),
            BUILD_FILE: to_yaml([build()], f"{head}; `gcloud builds submit --config` takes it."),
        }

    def description(self) -> dict[str, Any]:
        """The service, as Knative's `Service`."""
        revision = {"metadata": {"annotations": self._annotations()}, "spec": self._revision()}
        return {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": self.service, "annotations": {"run.googleapis.com/ingress": "all"}},
            "spec": {"template": revision, "traffic": [{"percent": 100, "latestRevision": True}]},
        }

    def commands(self, folder: str) -> dict[str, tuple[str, ...]]:
        """Every command by what it is for, in order; `folder` holds the files."""
        project, place = f"--project={self.project}", f"--region={self.region}"
        repository = (self.repository, f"--location={self.region}", project)
        model, variant = "" if self.bucket else self.model, "cuda" if self.gpu else "cpu"
        substitutions = f"--substitutions=_IMAGE={self.image},_MODEL={model},_VARIANT={variant}"
        service = (self.service, project, place)
        run, artifacts = ("gcloud", "run", "services"), ("gcloud", "artifacts", "repositories")
        grant = ("--member=allUsers", "--role=roles/run.invoker")
        found = {
            "who is logged in": ("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"),
            "which APIs are enabled": ("gcloud", "services", "list", "--enabled", project,
                                       "--format=value(config.name)"),
            "whether there is a repository": (*artifacts, "describe", *repository, "--format=value(name)"),
            "create the repository": (*artifacts, "create", *repository, "--repository-format=docker"),
            "build the image": ("gcloud", "builds", "submit", ".", f"--config={folder}/{BUILD_FILE}",
                                "--ignore-file=.dockerignore", project, substitutions),
            "deploy": (*run, "replace", f"{folder}/{SERVICE_FILE}", project, place),
            "let everybody in": (*run, "add-iam-policy-binding", *service, *grant),
            "the address": (*run, "describe", *service, "--format=value(status.url)"),
            "a token for the smoke test": ("gcloud", "auth", "print-identity-token"),
            "the logs": (*run, "logs", "read", *service, "--limit=100"),
        }  # fmt: skip
        del found["a token for the smoke test" if self.allow_unauthenticated else "let everybody in"]
        return found

    def _annotations(self) -> dict[str, str]:
        """Of the revision."""
        gpu = {"run.googleapis.com/gpu-zonal-redundancy-disabled": "true"} if self.gpu else {}
        return {
            "autoscaling.knative.dev/minScale": str(self.min_instances),
            "autoscaling.knative.dev/maxScale": str(self.max_instances),
            "run.googleapis.com/execution-environment": "gen2",
            "run.googleapis.com/startup-cpu-boost": "true",
            "run.googleapis.com/sessionAffinity": "true",  # the page keeps its visitors' sessions
            "run.googleapis.com/cpu-throttling": str(not self.gpu).lower(),
            **gpu,
        }

    def _revision(self) -> dict[str, Any]:
        mounts, volumes = self._volumes()
        return {
            "containerConcurrency": self.concurrency or 2 * self.settings.batch,  # a batch that runs, one that waits
            "timeoutSeconds": int(self.settings.request_timeout) + AFTERTHOUGHT,
            **({"serviceAccountName": self.service_account} if self.service_account else {}),
            **({"nodeSelector": {"run.googleapis.com/accelerator": self.gpu}} if self.gpu else {}),
            "containers": [{**self._container(), **({"volumeMounts": mounts} if mounts else {})}],
            **({"volumes": volumes} if volumes else {}),
        }

    def _container(self) -> dict[str, Any]:
        gpu = {"nvidia.com/gpu": "1"} if self.gpu else {}
        return {
            "image": self.image,
            "ports": [{"name": "http1", "containerPort": PORT}],
            "env": [{"name": name, "value": value} for name, value in self._environment().items()],
            "resources": {"limits": {"cpu": str(self.cpu), "memory": self.memory, **gpu}},
            "startupProbe": {
                "httpGet": {"path": "/readyz", "port": PORT},
                "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": LONGEST_START // 2,
            },
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": PORT},
                "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
            },
        }  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """Settings that differ from what the container would derive."""
        largest = min(LARGEST_REQUEST, int(self.settings.body_limit))
        return {
            "GOOGLE_CLOUD_PROJECT": self.project,
            "TICKERTAPE_RAY": str(self.ray).lower(),
            "TICKERTAPE_BODY_LIMIT": str(largest),
            **({"TICKERTAPE_GPUS_PER_REPLICA": "1"} if self.gpu else {}),
            **({"TICKERTAPE_OBJECT_HOSTS": self.object_hosts} if self.object_hosts else {}),
            **({"TICKERTAPE_MODEL": f"{BUCKET}/{self.model}"} if self.bucket else {}),
            **({"TICKERTAPE_KEYS_FILE": f"{KEYS}/keys.json"} if self.keys_secret else {}),
        }

    def _volumes(self) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Mounts and volumes of the keys and of the bucket."""
        mounts: list[Mapping[str, Any]] = []
        volumes: list[Mapping[str, Any]] = []
        if self.keys_secret:
            mounts.append({"name": "keys", "mountPath": KEYS})
            items = [{"key": "latest", "path": "keys.json"}]
            volumes.append({"name": "keys", "secret": {"secretName": self.keys_secret, "items": items}})
        if self.bucket:
            mounts.append({"name": "checkpoints", "mountPath": BUCKET})
            csi = {
                "driver": "gcsfuse.run.googleapis.com",
                "readOnly": True,
                "volumeAttributes": {"bucketName": self.bucket},
            }
            volumes.append({"name": "checkpoints", "csi": csi})
        return mounts, volumes


def build() -> dict[str, Any]:
    """The image's build, as Cloud Build's `Build`. Its values come by substitution, so that it is the same for all."""
    arguments = ("MODEL=${_MODEL}", "VARIANT=${_VARIANT}")
    return {
        "steps": [{
            "name": "gcr.io/cloud-builders/docker",
            "args": [
                "build", "--file", DOCKERFILE, "--tag", "${_IMAGE}",
                *(word for argument in arguments for word in ("--build-arg", argument)), ".",
            ],
        }],
        "images": ["${_IMAGE}"],
        "substitutions": {"_IMAGE": "", "_MODEL": "checkpoint", "_VARIANT": "cpu"},
        "timeout": f"{BUILD_SECONDS}s",
        "options": {"machineType": "E2_HIGHCPU_8", "logging": "CLOUD_LOGGING_ONLY"},
    }  # fmt: skip


def _check_resources(cpu: int, memory: int, gpu: str) -> None:
    """Raises `OptionError` for CPUs and memory that Cloud Run does not give together."""
    if gpu:
        if gpu not in LEAST_WITH_GPU:
            raise OptionError(f"--gpu takes {' or '.join(LEAST_WITH_GPU)}.", "gpu")
        cpus, gib = LEAST_WITH_GPU[gpu]
        if cpu < cpus or memory < gib * GIB:
            raise OptionError(f"{gpu} wants at least --cpu {cpus} --memory {gib}Gi.", "gpu")
        return
    if cpu not in LEAST_MEMORY:
        raise OptionError(f"--cpu takes {', '.join(map(str, LEAST_MEMORY))}.", "cpu")
    if not max(GIB, LEAST_MEMORY[cpu]) <= memory <= MOST_MEMORY:
        least = max(GIB, LEAST_MEMORY[cpu]) // GIB
        raise OptionError(f"With --cpu {cpu}, --memory goes from {least}Gi to {MOST_MEMORY // GIB}Gi.", "memory")
