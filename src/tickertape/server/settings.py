"""The settings of the service, and the values derived from the machine.

    settings = Settings.load(file=Path("tickertape.toml"), port=9000)   # flags override the environment and the file
    settings = settings.resolve()                                       # replaces zeros by derived values

The entry point loads the settings once; nothing else reads the environment. `Settings()` has the defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, TomlConfigSettingsSource, YamlConfigSettingsSource

from tickertape.engine import hardware
from tickertape.errors import OptionError
from tickertape.types import SAMPLE_RATE

PREFIX = "TICKERTAPE_"
FOREIGN = {  # variables of Cloud Run, Google's libraries and the other commands
    "port": "PORT",
    "project": "GOOGLE_CLOUD_PROJECT",
    "models": "TICKERTAPE_MODEL",
}
OTHER_VARIABLES = frozenset({"TICKERTAPE_MODEL", "TICKERTAPE_KEY", "TICKERTAPE_PROXY_BODY_LIMIT"})  # not settings
# Kubernetes sets these in every pod for each Service whose name begins with `tickertape`:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
SERVICE_LINK = re.compile(
    r"TICKERTAPE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://.*")
CLOUD_RUN, CLOUD_RUN_GRACE = "K_SERVICE", 6.0  # SIGKILL follows SIGTERM after 10 s; the exit takes up to 3 s
MEBIBYTE = 2**20
AUDIO_BYTES = 4 * SAMPLE_RATE  # 64,000 bytes: a second of decoded audio, one channel of float32
OBJECT_HOST = re.compile(
    r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]|(?=.{1,253}$)([a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{0,62}"
)

LISTS = ("models", "cors_origins", "object_hosts")  # settings of several values
Words: TypeAlias = "tuple[str, ...]"  # "a,b" in the environment, a list in a file
LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseModel):
    """The settings of the service. `resolve` derives those that are 0 by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # what is served, and where
    host: str = Field("0.0.0.0", description="Address to bind. `127.0.0.1`: reachable from this machine only.")  # noqa: S104 - a container must be reachable; the reference says how to restrict it
    port: int = Field(8080, ge=0, le=65535, description="Port to bind. 0: any free port.")
    models: Words = Field(
        (), description="Models, `source` or `name=source`; the first is the default. Empty: whisper-base."
    )
    page: bool = Field(True, description="Serve the web page at `/`.")
    docs: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")
    keep_alive: int = Field(75, ge=1, description="Seconds until an idle connection is closed; exceed your balancer's.")
    cors_origins: Words = Field((), description="Origins whose pages may call the API. Empty: none.")

    # where the work is done
    ray: bool = Field(True, description="Run on Ray Serve. `false`: everything in one process, without Ray.")
    address: str = Field("", description="Ray cluster to join; `auto`: the one on this machine. Empty: a local Ray.")
    engine_replicas: int = Field(1, ge=1, description="Number of engine replicas per model.")
    engine_replicas_max: int = Field(
        0, ge=0, description="Maximum number of engine replicas per model under load, on a cluster. 0: no autoscaling."
    )
    api_replicas: int = Field(1, ge=1, description="Number of processes that handle requests and decode audio.")
    gpus_per_replica: float = Field(0, ge=0, description="GPUs that Ray reserves for each engine replica.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the models.")
    compute_type: str = Field("auto", description="Number format: `int8`, `float16`, `float32` (exact) or `auto`.")
    threads: int = Field(0, ge=0, description="Threads, and cores on Ray, of each engine. 0: cores divided by engines.")
    batch: int = Field(0, ge=0, description="Maximum number of windows in a batch. 0: four per thread, from 4 to 16.")
    engine: str = Field("", description="Factory of another engine, `module:factory`; gets a path and the settings.")
    engine_timeout: float = Field(600, gt=0, description="Seconds after which a hung engine is replaced.")
    base: str = Field("", description="Base of LoRA adapters among the models. Empty: the base that each one names.")
    offline: bool = Field(False, description="Do not contact the hub.")
    beam_size: int = Field(1, ge=1, le=10, description="Default number of beams of a request; 1 is greedy.")

    # limits of one request
    body_limit: int = Field(0, ge=0, description="Maximum bytes of an upload. 0: 1/32 of the memory, 25 to 200 MiB.")
    object_hosts: Words = Field((), description="Hosts and `gs://` buckets that `file_url` may name. Empty: none.")
    max_audio_seconds: float = Field(
        0,
        ge=0,
        description="Maximum duration of a recording in seconds. 0: what fits 1/8 of the memory, from 10 minutes to "
        "2 hours.",
    )
    request_timeout: float = Field(900, gt=0, description="Time limit of a request in seconds.")

    # limits of all requests together
    audio_seconds_in_flight: float = Field(
        0,
        ge=0,
        description="Maximum seconds of accepted, not yet transcribed audio per API process; above it requests get a "
        "503. 0: the longest recording and ten minutes per core, at most what fits 1/4 of the memory.",
    )

    # access
    keys_file: Path | None = Field(None, description="File of hashed API keys, reloaded on change. Empty: none needed.")

    # operation
    grace_seconds: float = Field(
        25,
        ge=0,
        description="Seconds that accepted requests have to finish after SIGTERM. Requests that exceed them get an "
        "error. The process exits at most 3 s later. On Cloud Run: 6.",
    )
    log_level: LogLevel = Field("info", description="`info`: log all requests. `warning`: only those that failed.")
    project: str = Field("", description="Google Cloud project, which links log lines to traces.")

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Split a string at commas."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("object_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(OBJECT_HOST.fullmatch(entry) for entry in value):
            raise ValueError("takes host names and gs://buckets in lower case, without path or port")
        return value

    @classmethod
    def load(cls, file: Path | None = None, **flags: Any) -> Settings:
        """Combine `file` (TOML or YAML), `TICKERTAPE_*` variables and flags; later ones override. None: not given.

        Raises `OptionError` for unknown names and invalid values.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        return cls.of({**_from_file(file), **_from_environment(), **given})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Validate values. Raises `OptionError`."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise _explain(error) from error

    def resolve(self, cores: int | None = None, memory: int | None = None) -> Settings:
        """The settings with derived values in place of zeros.

        `cores` and `memory` (bytes) are by default those of this machine or container.
        """
        cores, memory = cores or hardware.cores().value, memory or hardware.memory().value
        threads = self.threads or max(1, cores // self.engine_replicas)
        longest = self.max_audio_seconds or min(7200, max(600, memory // 8 // AUDIO_BYTES))
        derived = {
            "threads": threads,
            "batch": min(16, max(4, 4 * threads)),
            "body_limit": _largest_upload(memory),
            "max_audio_seconds": longest,
            "audio_seconds_in_flight": min(longest + 600 * cores, max(600, memory // 4 // AUDIO_BYTES)),
        }
        return self.model_copy(update={name: getattr(self, name) or value for name, value in derived.items()})

    @property
    def fetch_limit(self) -> int:
        """Maximum size in bytes of a file fetched from a URL: that of an upload, had nobody lowered `body_limit`."""
        return max(self.body_limit, _largest_upload(hardware.memory().value))

    @property
    def upload_memory(self) -> int:
        """Memory for all uploads in bytes: 1/8 of the memory, at least two uploads."""
        return max(2 * self.body_limit, hardware.memory().value // 8)

    @property
    def decode_processes(self) -> int:
        """Number of decoding processes: one per core, as long as their longest recordings fit 1/4 of the memory."""
        held = int(hardware.memory().value // 4 // (self.max_audio_seconds * AUDIO_BYTES))
        return max(1, min(hardware.cores().value, held))


def _largest_upload(memory: int) -> int:
    return min(200 * MEBIBYTE, max(25 * MEBIBYTE, memory // 32))


def _from_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    if not file.is_file():
        raise OptionError("the settings file does not exist", "config", "invalid_settings")
    source = TomlConfigSettingsSource if file.suffix == ".toml" else YamlConfigSettingsSource
    try:
        return dict(source(BaseSettings, file)())
    except ValueError as error:
        raise OptionError("the settings file is neither TOML nor YAML", "config", "invalid_settings") from error


def _from_environment() -> dict[str, Any]:
    links = {variable for variable, value in os.environ.items() if _is_service_link(variable, value)}
    variables = {PREFIX + name.upper(): name for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in links | OTHER_VARIABLES | set(variables):
            raise OptionError(f"{variable} is not a setting", variable, "invalid_settings")
    foreign = {variable: name for name, variable in FOREIGN.items()}  # ours override them
    sources = {**foreign, **variables}.items()
    values: dict[str, Any] = {
        name: os.environ[each] for each, name in sources if os.environ.get(each) and each not in links
    }
    if os.environ.get(CLOUD_RUN):
        values.setdefault("grace_seconds", CLOUD_RUN_GRACE)
    return values


def _is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes set a variable for a Service; `TICKERTAPE_PORT` is one if it holds a URL."""
    return bool(SERVICE_LINK.fullmatch(variable) or (variable.endswith("_PORT") and SERVICE_URL.fullmatch(value)))


def _explain(error: ValidationError) -> OptionError:
    """The first error without the value, which may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return OptionError(f"{name} is not a setting", name, "invalid_settings")
    return OptionError(f"{name}: {first['msg'].lower()}", name, "invalid_settings")
