"""The one table of knobs: name, default, help; and the values derived from the machine when a knob is left alone.

    settings = Settings.load(file=Path("tickertape.toml"), port=9000)   # flags over environment over file
    settings = settings.resolve()                                       # zeros become figures, each with a reason

Whoever starts the program does this once and passes the result on; nothing else reads the environment. `Settings()`
alone is the defaults, whatever the environment holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from tickertape import machine
from tickertape.errors import OptionError
from tickertape.machine import Detected
from tickertape.types import SAMPLE_RATE

PREFIX = "TICKERTAPE_"
FOREIGN = {  # what Cloud Run and Google's libraries set, and what the other commands read
    "port": "PORT",
    "project": "GOOGLE_CLOUD_PROJECT",
    "models": "TICKERTAPE_MODEL",
}
CLOUD_RUN, CLOUD_RUN_GRACE = "K_SERVICE", 6.0  # there, SIGKILL follows SIGTERM after 10 s; leaving takes up to 3 s
MEBIBYTE = 2**20
AUDIO_BYTES = 4 * SAMPLE_RATE  # 64,000 bytes: a second of decoded audio, one channel of float32
OBJECT_HOST = re.compile(
    r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]|(?=.{1,253}$)([a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{0,62}"
)

LISTS = ("models", "cors_origins", "object_hosts")  # settings of several values
Words = Annotated[tuple[str, ...], NoDecode]  # "a,b" in the environment, a list in a file
LogLevel = Literal["debug", "info", "warning", "error"]


class Settings(BaseSettings):
    """Every knob of the service. Where 0 stands for "derive it", `resolve` puts a figure in its place."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)
    _reasons: dict[str, str] = PrivateAttr(default_factory=dict)

    # where it listens, and what it serves
    host: str = Field("0.0.0.0", description="Address to listen on. `127.0.0.1` keeps the service to this machine.")  # noqa: S104 - a container must answer from outside; the reference says how to narrow it
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models: Words = Field((), description="Checkpoints as `name=path`, the first is the default. Empty: the demo.")
    page: bool = Field(True, description="Serve the web page at `/`.")
    docs: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")
    cors_origins: Words = Field((), description="Origins whose pages may call the API. Empty: none.")

    # where the work is done
    ray: bool = Field(True, description="Schedule with Ray Serve. `false`: everything in one process, without Ray.")
    address: str = Field("", description="Ray cluster to join, `auto` for the one running here. Empty: a local one.")
    engine_replicas: int = Field(1, ge=1, description="Engines per model.")
    engine_replicas_max: int = Field(0, ge=0, description="Engines per model under load, on a cluster. 0: no more.")
    api_replicas: int = Field(1, ge=1, description="Processes that take requests, decode audio and plan windows.")
    cpus_per_replica: float = Field(0, ge=0, description="Cores that Ray reserves for each engine. 0: its threads.")
    gpus_per_replica: float = Field(0, ge=0, description="GPUs that Ray reserves for each engine.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    compute_type: str = Field("auto", description="Arithmetic of the decoder: `int8`, `float16`, ... or `auto`.")
    precision: Literal["auto", "f32", "bf16"] = Field(
        "auto", description="The encoder's numbers on a CPU; `auto`: bf16 if the processor has it, `f32` is exact."
    )
    threads: int = Field(0, ge=0, description="Threads of each engine. 0: cores shared among the engines.")
    batch: int = Field(0, ge=0, description="Windows decoded at once at most. 0: four per thread, 4 to 16.")
    engine: str = Field(
        "", description="Another engine: `module:factory`, called with a checkpoint's path and these settings."
    )
    engine_timeout: float = Field(
        600, gt=0, description="Seconds after which one call of an engine counts as hung, and its process is replaced."
    )
    base: str = Field("", description="Base of LoRA adapters among the models. Empty: the one that each names.")
    offline: bool = Field(False, description="Never ask the hub.")
    beam_size: int = Field(1, ge=1, le=10, description="Beams unless a request asks otherwise; 1 is greedy.")

    # how much one request may ask for
    body_limit: int = Field(0, ge=0, description="Largest upload in bytes. 0: 1/32 of the memory, 25 to 200 MiB.")
    object_hosts: Words = Field(
        (), description="Hosts, and buckets as `gs://name`, whose recordings `file_url` may ask for. Empty: none."
    )
    object_limit: int = Field(
        0, ge=0, description="Largest recording from there in bytes. 0: as `body_limit`, were that left alone."
    )
    object_timeout: float = Field(120, gt=0, description="Seconds within which it must have come.")
    max_audio_seconds: float = Field(
        0, ge=0, description="Longest recording in seconds. 0: what 1/8 of the memory holds, 10 minutes to 2 hours."
    )
    max_channels: int = Field(8, ge=1, le=64, description="Most channels of a recording.")
    max_split_channels: int = Field(
        2, ge=1, le=64, description="Most channels to transcribe one by one; each takes the memory of a recording."
    )
    body_timeout: float = Field(30, gt=0, description="Seconds an upload may stand still.")
    request_timeout: float = Field(900, gt=0, description="Seconds after which a request is given up.")

    # how much all requests together may ask for
    upload_room: int = Field(0, ge=0, description="Bytes of all uploads in memory. 0: 1/8 of it, at least 2 uploads.")
    decode_threads: int = Field(
        0,
        ge=0,
        description="Recordings decoded at once, per API process, each in a process of its own. 0: one per core, "
        "while the longest take no more than 1/4 of the memory.",
    )
    audio_seconds_in_flight: float = Field(
        0,
        ge=0,
        description="Seconds of accepted audio not yet transcribed, per API process; above it requests get a 503. "
        "0: the longest recording and ten minutes per core, at most what 1/4 of the memory holds.",
    )
    heartbeat: float = Field(10, gt=0, description="Seconds of silence in an event stream before a comment is sent.")
    remember_seconds: float = Field(600, ge=0, description="How long answers to an `Idempotency-Key` are kept.")

    # who may ask
    keys_file: Path | None = Field(None, description="File of hashed API keys, reloaded when it changes. None: open.")

    # life and telemetry
    probe_timeout: float = Field(10, gt=0, description="Seconds within which `/readyz` wants an answer of the engine.")
    grace_seconds: float = Field(
        25,
        ge=0,
        description="Seconds that accepted requests get to finish on SIGTERM; those that do not are told so. "
        "The process is gone at most 3 s later. On Cloud Run: 6.",
    )
    keep_alive: float = Field(
        10, gt=0, description="Seconds in which a request's headers must have come; idle connections are closed."
    )
    log_level: LogLevel = Field("info", description="`info` logs requests, `warning` those that failed.")
    project: str = Field("", description="Google Cloud project, to join log lines to traces.")

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A comma separates where only a string can be given."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("object_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(OBJECT_HOST.fullmatch(entry) for entry in value):
            raise ValueError("takes names of hosts and gs://buckets, in small letters, without path or port")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the framework calls with it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the framework calls with it
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the framework calls with it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the framework calls with it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: `load` puts the other sources together, so that tests see no environment."""
        return (init_settings,)

    @classmethod
    def load(cls, file: Path | None = None, **flags: Any) -> Settings:
        """Flags over `TICKERTAPE_*` over `file` (TOML or YAML); flags that are None were not given.

        Raises `OptionError` for names and values that are not allowed, a misspelt variable included.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        return cls.of({**_from_file(file), **_from_environment(), **given})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """These values and the defaults, whatever the environment holds. Raises `OptionError`."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise _explain(error) from error

    def resolve(self, cores: Detected | None = None, memory: Detected | None = None) -> Settings:
        """The same settings with every derived value in place; `reasons` says where each came from.

        `cores` and bytes of `memory` are this machine's, or its container's, unless given.
        """
        found = derive(self, cores or machine.cores(), memory or machine.memory())
        derived = {name: figure for name, figure in found.items() if not getattr(self, name)}
        resolved = self.model_copy(update={name: value for name, (value, _) in derived.items()})
        resolved._reasons = {**self._reasons, **{name: reason for name, (_, reason) in derived.items()}}
        return resolved

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why each derived value is what it is."""
        return self._reasons


def derive(settings: Settings, cores: Detected, memory: Detected) -> dict[str, tuple[float, str]]:
    """Every derived value with its reason, whether or not the knob was set; later values build on earlier ones."""
    values: dict[str, tuple[float, str]] = {}

    def value(name: str) -> float:
        return float(getattr(settings, name) or values[name][0])

    room = f"{memory.value // MEBIBYTE} MiB ({memory.reason})"
    threads = max(1, cores.value // settings.engine_replicas)
    values["threads"] = (threads, f"{cores.reason}, for {settings.engine_replicas} engine(s)")
    values["cpus_per_replica"] = (value("threads"), "as many as the engine has threads")
    values["batch"] = (min(16, max(4, int(4 * value("threads")))), "four windows per thread, within 4 and 16")
    body = min(200 * MEBIBYTE, max(25 * MEBIBYTE, memory.value // 32))
    values["body_limit"] = (body, f"1/32 of {room}, within 25 and 200 MiB")
    values["object_limit"] = (max(body, int(value("body_limit"))), f"1/32 of {room}, or `body_limit` if that is more")
    uploads = max(2 * int(value("body_limit")), memory.value // 8)
    values["upload_room"] = (uploads, f"1/8 of {room}, at least two uploads")
    longest = min(7200, max(600, memory.value // 8 // AUDIO_BYTES))
    values["max_audio_seconds"] = (longest, f"1/8 of {room}, within 10 minutes and 2 hours")
    held = int(memory.value // 4 // (value("max_audio_seconds") * AUDIO_BYTES))
    reason = f"{cores.reason}; as many of the longest recordings as 1/4 of {room} holds"
    values["decode_threads"] = (max(1, min(cores.value, held)), reason)
    flight = min(value("max_audio_seconds") + 600 * cores.value, max(600, memory.value // 4 // AUDIO_BYTES))
    reason = f"the longest recording and ten minutes for each of {cores.value} core(s), at most 1/4 of {room}"
    values["audio_seconds_in_flight"] = (flight, reason)
    return values


def reference() -> str:
    """`docs/reference/settings.md`, which a test compares with the file."""
    rows = []
    for name, field in Settings.model_fields.items():
        variable = f"`{PREFIX}{name.upper()}`" + (f", `{FOREIGN[name]}`" if name in FOREIGN else "")
        rows.append(f"| `{name}` | {variable} | {_shown(field.default)} | {field.description} |")
    return "\n".join([_REFERENCE_HEAD, "| name | variable | default | what it does |", "|---|---|---|---|", *rows, ""])


_REFERENCE_HEAD = f"""# Settings

<!-- Generated by tickertape.settings.reference(); a test fails when it is out of date. -->

Each setting can be given as a flag (`--body-limit 50000000`), as a variable of the environment
(`{PREFIX}BODY_LIMIT=50000000`) or in a TOML or YAML file (`body_limit = 50000000`); a flag wins over the environment,
which wins over the file. Names that do not exist are refused everywhere. Lists are separated by commas; a flag may be
given again for the next. What is `true` or `false` can be said as `--page`, `--no-page`, `--page false` or
`--page=false`. Where the default is 0, the value is derived from the cores and the memory that the process may use
(limits of its container included) and printed with its reason at start.

The service listens on every interface, as a container must. On a shared machine without keys, set `host` to
`127.0.0.1`.
"""


def _from_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    if not file.is_file():
        raise OptionError("the settings file does not exist", "config", "invalid_settings")
    source = TomlConfigSettingsSource if file.suffix == ".toml" else YamlConfigSettingsSource
    try:
        return dict(source(Settings, file)())
    except ValueError as error:
        raise OptionError("the settings file is neither TOML nor YAML", "config", "invalid_settings") from error


def _from_environment() -> dict[str, Any]:
    for variable in os.environ:
        unknown = variable.removeprefix(PREFIX).lower() not in {*Settings.model_fields, "model"}
        if variable.startswith(PREFIX) and unknown:
            raise OptionError(f"{variable} is not a setting", variable, "invalid_settings")
    values = dict(EnvSettingsSource(Settings)())
    for name, variable in FOREIGN.items():
        if os.environ.get(variable):
            values.setdefault(name, os.environ[variable])
    if os.environ.get(CLOUD_RUN):
        values.setdefault("grace_seconds", CLOUD_RUN_GRACE)
    return values


def _explain(error: ValidationError) -> OptionError:
    """The first complaint, without the value: a key in the wrong place must not reach a log."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return OptionError(f"{name} is not a setting", name, "invalid_settings")
    return OptionError(f"{name}: {first['msg'].lower()}", name, "invalid_settings")


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "" if default in (None, "", ()) else f"`{default}`"
