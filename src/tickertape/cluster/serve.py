"""The service on Ray Serve, on one machine or on a cluster.

    application `tickertape`   at /      API (N replicas)  -->  engine of each model (N replicas)
    application `page`         at /page  page (1 replica)  -->  the same engines

Without an address it starts a Ray of its own: on loopback, behind a token, without dashboard, in a folder that goes
when the service ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tickertape import doorman, node
from tickertape.admission import LAST_ANSWERS
from tickertape.alone import listen
from tickertape.errors import EngineFailed, OptionError
from tickertape.frame import event_line, to_stdout
from tickertape.ingress import API, PAGE, PAGE_PREFIX, Ingress
from tickertape.lines import speak_json
from tickertape.replicas import EngineReplica
from tickertape.roster import placed, prepare
from tickertape.settings import MEBIBYTE, Settings
from tickertape.types import WINDOW_SAMPLES

WINDOW_BYTES = 4 * WINDOW_SAMPLES  # 1.9 MB: a window on its way to an engine
BATCHES = 4  # that an engine replica may hold: one runs, the others keep it busy and let urgent work overtake
STORE_BYTES = 128 * MEBIBYTE  # least size of Ray's object store; only what is used takes memory
REQUESTS = 1000  # that an API replica may hold; what enters is decided by `admission`, long before
HEALTH_PERIOD, HEALTH_TIMEOUT = 2, 30  # seconds between looks at a replica; for one, while its loop may be busy
ANSWERED = LAST_ANSWERS + 0.5  # seconds after the grace by which every replica should have said that it is done
LEAVING = 3.0  # seconds after the grace by which the process is gone, come what may

ENVIRONMENT = {  # of Ray's processes, unless whoever starts us knows better
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # our lines are JSON; a prefix would break them
    "RAY_DEDUP_LOGS": "0",
    "RAY_FLUSH_DRIVER_LOGS": "1",  # else lines wait until 8 KiB have come together
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GRPC_VERBOSITY": "ERROR",
    "RAY_worker_niceness": "0",  # else replicas stand back behind every other process of the machine
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "tickertape.doorman.middlewares",
    "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": "tickertape.lines.speak_json",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a lost proxy is back in 7 s instead of 26 s
}


class Stopped(BaseException):
    """SIGTERM or SIGINT came."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises `CheckpointError`s, `OptionError` and `EngineFailed`."""
    settings = _at_home_anywhere(settings.resolve())
    models = prepare(settings)
    if not settings.address:
        listener = listen(settings)  # a port that is taken shows at once; 0 becomes a free one
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        listener.close()
    try:
        with ray_for(settings, len(models)):
            try:
                deploy(models, settings)
                to_stdout(event_line("INFO", "listening", host=settings.host, port=settings.port))
                while True:
                    time.sleep(3600)
            except Stopped:
                _drain(settings)
    except Stopped:  # before there was anything to drain
        pass
    return 0


def _at_home_anywhere(settings: Settings) -> Settings:
    """The same files by their whole paths: replicas may start in another folder."""
    keys = settings.keys_file and settings.keys_file.absolute()
    return settings.model_copy(update={"base": placed(settings.base), "keys_file": keys})


@contextmanager
def ray_for(settings: Settings, models: int) -> Iterator[None]:
    """Ray, joined or started, for the length of the block."""
    _set_environment(settings)
    import ray

    folder = None
    try:
        _catch_signals()
        if settings.address:
            _join(settings.address)
        else:
            folder = tempfile.mkdtemp(prefix=f"tickertape-{os.getpid()}-")
            _start(settings, models, folder)
        _catch_signals()  # Ray has put its own in their place
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if settings.address:
            _delete()
        ray.shutdown()
        if folder is not None:
            _remove(Path(folder))


def _remove(folder: Path) -> None:
    """Remove Ray's folder, into which processes that are about to end may write once more."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _join(address: str) -> None:
    """Join a cluster. Raises `OptionError` where there is none."""
    import ray

    try:
        ray.init(address=address, namespace=API, log_to_driver=True, configure_logging=False)
    except ConnectionError as error:
        raise OptionError("There is no Ray cluster at that address; see ray start.", "address") from error


def _start(settings: Settings, models: int, folder: str) -> None:
    """Start Ray on this machine, for us alone. Raises `EngineFailed`."""
    wanted = models * settings.engine_replicas
    node.start(
        namespace=API,
        cpus=wanted * settings.cpus_per_replica,
        gpus=wanted * settings.gpus_per_replica,
        store=store_bytes(settings, models),
        folder=folder,
    )


def deploy(models: Mapping[str, str], settings: Settings) -> None:
    """Run both applications; return when they are up. Raises `EngineFailed` when an engine cannot start."""
    from ray import serve
    from ray.serve.schema import LoggingConfig

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    speak_json()
    serve.start(
        proxy_location="EveryNode" if settings.address else "HeadOnly",
        http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": int(settings.keep_alive)},
        logging_config=quiet,
    )
    speak_json()
    try:
        serve.run_many(
            [serve.RunTarget(target, name, prefix, quiet) for name, prefix, target in applications(models, settings)]
        )
    except RuntimeError as error:
        raise EngineFailed("The service could not start; the lines above say why.") from error


def applications(models: Mapping[str, str], settings: Settings) -> list[tuple[str, str, Any]]:
    """Each application's name, route prefix and bound deployments."""
    from ray import serve

    places = ongoing(settings) * (settings.engine_replicas_max or settings.engine_replicas)
    engines = {name: _engine(name, source, settings) for name, source in models.items()}
    ingress = serve.ingress()(Ingress)
    api = serve.deployment(name=API, **_ingress_options(settings.api_replicas))(ingress)
    found = [(API, "/", api.bind(engines, settings, places))]
    if settings.page:
        names = {name: deployment_of(name) for name in models}
        page = serve.deployment(name=PAGE, **_ingress_options(1))(ingress)
        found.append((PAGE, PAGE_PREFIX, page.bind(names, settings, places, page=True)))
    return found


def ongoing(settings: Settings) -> int:
    """Windows that one engine replica holds at most."""
    return BATCHES * settings.batch


def store_bytes(settings: Settings, models: int) -> int:
    """Room for every window that can be on its way to an engine, twice: arguments outlive their calls by a little."""
    windows = ongoing(settings) * settings.engine_replicas * models * (settings.api_replicas + 1)
    return max(STORE_BYTES, 2 * windows * WINDOW_BYTES)


def _engine(name: str, source: str, settings: Settings) -> Any:
    """The deployment of one model's engines."""
    from ray import serve

    most = settings.engine_replicas_max
    replicas: dict[str, Any] = {"num_replicas": settings.engine_replicas}
    if most > settings.engine_replicas:
        target = 2 * settings.batch  # a batch that runs and one that waits: the engine never idles
        replicas = {"autoscaling_config": {
            "min_replicas": settings.engine_replicas, "max_replicas": most, "target_ongoing_requests": target,
        }}  # fmt: skip
    engine = serve.deployment(
        name=deployment_of(name),
        max_ongoing_requests=ongoing(settings),
        ray_actor_options={"num_cpus": settings.cpus_per_replica, "num_gpus": settings.gpus_per_replica},
        health_check_period_s=HEALTH_PERIOD,
        health_check_timeout_s=HEALTH_TIMEOUT,
        graceful_shutdown_timeout_s=settings.grace_seconds,
        **replicas,
    )(EngineReplica)
    return engine.bind(name, source, settings)


def deployment_of(model: str) -> str:
    """The name of a model's engine deployment."""
    return f"engine-{model}"


def _ingress_options(replicas: int) -> dict[str, Any]:
    return {
        "num_replicas": replicas,
        "max_ongoing_requests": REQUESTS,
        "ray_actor_options": {"num_cpus": 0},  # they share what the engines leave
        "health_check_period_s": HEALTH_PERIOD,
        "health_check_timeout_s": HEALTH_TIMEOUT,
    }


def _drain(settings: Settings) -> None:
    """Turn readiness red and refuse new work everywhere at once; wait for what was accepted.

    With a Ray of our own the process is gone `LEAVING` seconds after the grace, and Ray's processes with it.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if not settings.address:
        _leave_after(settings.grace_seconds + LEAVING)
    names = [API, PAGE] if settings.page else [API]
    until = time.monotonic() + settings.grace_seconds + ANSWERED
    drained = True
    try:
        answers = [serve.get_app_handle(name).broadcast("drain", settings.grace_seconds) for name in names]
        for answer in answers:
            drained &= all(answer.results(timeout_s=max(0.1, until - time.monotonic())))
    except (RayError, RayServeException, TimeoutError):
        drained = False
    to_stdout(event_line("INFO" if drained else "WARNING", "drained" if drained else "the grace ended first"))


def _leave_after(seconds: float) -> None:
    """End the process then, unless it has ended by itself; whoever sent SIGTERM would kill it soon after."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _delete() -> None:
    """Take our applications off a cluster that others use too."""
    from ray import serve

    for name in (PAGE, API):
        serve.delete(name)


def _set_environment(settings: Settings) -> None:
    """What Ray's processes inherit. On a cluster that is joined, its nodes have an environment of their own."""
    for name, value in {**ENVIRONMENT, **({} if settings.address else node.ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    os.environ[doorman.LIMIT] = str(settings.body_limit)
    if not settings.address and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _catch_signals() -> None:
    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of handlers
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
