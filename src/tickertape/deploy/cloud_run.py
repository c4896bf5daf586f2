"""A service on Google Cloud Run: its options, its files and the commands that deploy it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from tickertape.deploy.manifests import OBJECT_HOSTS, memory_bytes, read_template, render, to_yaml, validate_name
from tickertape.errors import OptionError
from tickertape.server.settings import Settings

SERVICE_FILE, BUILD_FILE = "cloudrun.yaml", "cloudbuild.yaml"
SERVICES = ("run.googleapis.com", "cloudbuild.googleapis.com", "artifactregistry.googleapis.com")
GIB = 2**30
MAX_REQUEST = 32 * 2**20  # bytes of a request over HTTP/1, Cloud Run's limit
MIN_MEMORY = {1: GIB, 2: GIB, 4: 2 * GIB, 6: 4 * GIB, 8: 4 * GIB}  # bytes by number of CPUs; 1 GiB is our minimum
MIN_WITH_GPU = {"nvidia-l4": (4, 16), "nvidia-rtx-pro-6000": (20, 80)}  # CPUs and GiB
MAX_MEMORY, MAX_CONCURRENCY = 32 * GIB, 1000
TIMEOUT_MARGIN = 30  # seconds: the service's own limit must end a request before Cloud Run's proxy does


@dataclass(frozen=True)
class CloudRun:
    """The user's options, from which the files follow. Raises `OptionError` for values that Cloud Run rejects."""

    project: Annotated[str, "Google Cloud project."]
    region: Annotated[str, "Region, such as europe-west1."]
    repository: Annotated[str, "Artifact Registry repository; created if missing."] = "tickertape"
    service: Annotated[str, "Name of the service."] = "tickertape"
    model: Annotated[
        str,
        "Checkpoint to bake into the image: a folder below this one, or a hub id. With --bucket: a prepared folder in "
        "the bucket.",
    ] = "openai/whisper-base"
    cpu: Annotated[int, "CPUs of an instance."] = 8
    memory: Annotated[str, "Memory of an instance. Default: 4Gi; 32Gi with a GPU."] = ""
    max_instances: Annotated[int, "Maximum number of instances."] = 2
    min_instances: Annotated[int, "Minimum number of instances."] = 0
    gpu: Annotated[str, "nvidia-l4 or nvidia-rtx-pro-6000. Default: no GPU."] = ""
    concurrency: Annotated[int, "Concurrent requests per instance. 0: as many as it can batch."] = 0
    allow_unauthenticated: Annotated[bool, "Allow requests from the internet without authentication by Google."] = False
    service_account: Annotated[str, "E-mail of the service's account. Default: the project's account."] = ""
    keys_secret: Annotated[str, "Secret with the file of hashed API keys."] = ""
    bucket: Annotated[str, "Bucket with prepared checkpoints, mounted read-only."] = ""
    object_hosts: Annotated[str, OBJECT_HOSTS] = ""
    ray: Annotated[bool, "Run engines on Ray, or everything in one process."] = True
    tag: Annotated[str, "Tag of the image. Default: the current time."] = ""

    def __post_init__(self) -> None:
        """Check the options against each other."""
        for option in ("project", "region", "repository", "service"):
            validate_name(getattr(self, option), option)
        object.__setattr__(self, "memory", self.memory or ("32Gi" if self.gpu else "4Gi"))  # the class is frozen
        _check_resources(self.cpu, memory_bytes(self.memory, "memory"), self.gpu)
        if not 0 <= self.concurrency <= MAX_CONCURRENCY:
            raise OptionError(f"--concurrency must be at most {MAX_CONCURRENCY}.", "concurrency")
        if not 0 <= self.min_instances <= self.max_instances or not self.max_instances:
            raise OptionError("--max-instances must be at least 1, and at least --min-instances.", "max_instances")

        folder = Path(self.model)
        if not self.bucket and (folder.is_absolute() or ".." in folder.parts):
            message = "--model must be a folder below this one, or a hub id: Cloud Build gets no other."
            raise OptionError(message, "model")

    @property
    def image(self) -> str:
        """The image's address in Artifact Registry."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.repository}/{self.service}:{self.tag}"

    @cached_property
    def settings(self) -> Settings:
        """The settings that the service derives in such a container."""
        return Settings.of({"object_hosts": self.object_hosts}).resolve(self.cpu, memory_bytes(self.memory, "memory"))

    def files(self) -> dict[str, str]:
        """The service for `gcloud run services replace` and the build for `gcloud builds submit`."""
        comment = "Written by `tickertape deploy cloud-run`, for `gcloud run services replace`."
        return {SERVICE_FILE: to_yaml([self.description()], comment), BUILD_FILE: read_template(BUILD_FILE)}

    def description(self) -> dict[str, Any]:
        """The service, as a Knative `Service`."""
        values = {
            **asdict(self),
            "image": self.image,
            "ray": str(self.ray).lower(),
            "cpu": str(self.cpu),
            "min_instances": str(self.min_instances),
            "max_instances": str(self.max_instances),
            "concurrency": self.concurrency or 2 * self.settings.batch,  # a batch that is decoded and one that waits
            "timeout": int(self.settings.request_timeout) + TIMEOUT_MARGIN,
            "body_limit": str(min(MAX_REQUEST, int(self.settings.body_limit))),
            "cpu_throttling": str(not self.gpu).lower(),  # Cloud Run requires an unthrottled CPU with a GPU
            "no_zonal_redundancy": "true" if self.gpu else "",
            "gpus": "1" if self.gpu else "",
        }
        return render(SERVICE_FILE, values)[0]

    def commands(self, folder: str) -> dict[str, tuple[str, ...]]:
        """The commands in order, by purpose; `folder` contains the files."""
        project, region = f"--project={self.project}", f"--region={self.region}"
        repository = (self.repository, f"--location={self.region}", project)
        model, variant = "" if self.bucket else self.model, "cuda" if self.gpu else "cpu"
        substitutions = f"--substitutions=_IMAGE={self.image},_MODEL={model},_VARIANT={variant}"
        service = (self.service, project, region)
        run, artifacts = ("gcloud", "run", "services"), ("gcloud", "artifacts", "repositories")
        grant = ("--member=allUsers", "--role=roles/run.invoker")
        commands = {
            "show the account": ("gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)"),
            "list the enabled APIs": ("gcloud", "services", "list", "--enabled", project,
                                      "--format=value(config.name)"),
            "look for the repository": (*artifacts, "describe", *repository, "--format=value(name)"),
            "create the repository": (*artifacts, "create", *repository, "--repository-format=docker"),
            "build the image": ("gcloud", "builds", "submit", ".", f"--config={folder}/{BUILD_FILE}",
                                "--ignore-file=.dockerignore", project, substitutions),
            "deploy": (*run, "replace", f"{folder}/{SERVICE_FILE}", project, region),
            "allow public access": (*run, "add-iam-policy-binding", *service, *grant),
            "show the address": (*run, "describe", *service, "--format=value(status.url)"),
            "make a token for the smoke test": ("gcloud", "auth", "print-identity-token"),
            "read the log": (*run, "logs", "read", *service, "--limit=100"),
        }  # fmt: skip
        del commands["make a token for the smoke test" if self.allow_unauthenticated else "allow public access"]
        return commands


def _check_resources(cpu: int, memory: int, gpu: str) -> None:
    """Raises `OptionError` for CPUs and memory that Cloud Run does not offer together."""
    if gpu and gpu not in MIN_WITH_GPU:
        raise OptionError(f"--gpu must be {' or '.join(MIN_WITH_GPU)}.", "gpu")
    if gpu:
        cpus, gib = MIN_WITH_GPU[gpu]
        if cpu < cpus or memory < gib * GIB:
            raise OptionError(f"{gpu} needs at least --cpu {cpus} --memory {gib}Gi.", "gpu")
    elif cpu not in MIN_MEMORY:
        raise OptionError(f"Without --gpu, --cpu must be one of {', '.join(map(str, MIN_MEMORY))}.", "cpu")
    elif not MIN_MEMORY[cpu] <= memory <= MAX_MEMORY:
        bounds = f"from {MIN_MEMORY[cpu] // GIB}Gi to {MAX_MEMORY // GIB}Gi"
        raise OptionError(f"With --cpu {cpu}, --memory must be {bounds}.", "memory")
