"""The service on Ray Serve, on one machine or on a cluster.

    application `tickertape`   at /      API (N replicas)  -->  engine of each model (N replicas)
    application `page`         at /page  page (1 replica)  -->  the same engines

Without an address it starts a local Ray: on loopback, protected by a token, in a temporary folder.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tickertape.cluster import local_ray
from tickertape.cluster.api import Ingress
from tickertape.cluster.engine import EngineReplica, max_ongoing
from tickertape.errors import EngineError, OptionError
from tickertape.server.admission import LAST_RESPONSES
from tickertape.server.deployments import (
    API,
    BODY_LIMIT_VARIABLE,
    ENVIRONMENT,
    HEALTH_CHECKS,
    INGRESS_REQUESTS,
    PAGE,
    PAGE_PREFIX,
)
from tickertape.server.logs import configure_logging
from tickertape.server.models import absolute_source, model_sources, prepare_models
from tickertape.server.run import bind, log_drain
from tickertape.server.settings import Settings

logger = logging.getLogger(__name__)

DRAINED_SECONDS = LAST_RESPONSES + 0.5  # after the grace period every replica should have reported
# One attempt of 22 s to reach a cluster, in place of twenty of 41 s.
JOIN_ENVIRONMENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "10"}
LEAVING = 3.0  # seconds after the grace period until the process exits at the latest


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises `CheckpointError`s, `OptionError` and `EngineError`."""
    configure_logging()
    settings = _with_absolute_paths(settings.resolve())
    prepare_models(settings)
    if not settings.address:
        listener = bind(settings)  # fails early if the port is taken; 0 becomes a free port
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        listener.close()
    with suppress(KeyboardInterrupt), ray_session(settings):
        try:
            deploy(settings)
            logger.info("listening", extra={"fields": {"host": settings.host, "port": settings.port}})
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            _drain(settings)
    return 0


def _with_absolute_paths(settings: Settings) -> Settings:
    """Settings with absolute paths, since replicas may start in another folder."""
    keys = settings.keys_file and settings.keys_file.absolute()
    return settings.model_copy(update={"base": absolute_source(settings.base), "keys_file": keys})


@contextmanager
def ray_session(settings: Settings) -> Iterator[None]:
    """Join or start Ray for the length of the block, in which SIGTERM and SIGINT raise `KeyboardInterrupt`."""
    _set_environment(settings)
    import ray

    folder = tempfile.mkdtemp(prefix=f"tickertape-{os.getpid()}-")
    try:
        _handle_signals(signal.default_int_handler)
        if settings.address:
            _join(settings.address)
        else:
            local_ray.start(settings, len(model_sources(settings)), folder)
        _handle_signals(signal.default_int_handler)  # Ray has replaced the handlers
        yield
    finally:
        _handle_signals(signal.SIG_IGN)
        if settings.address and ray.is_initialized():
            _delete_applications()
        ray.shutdown()
        _remove_folder(Path(folder))


def _join(address: str) -> None:
    """Join a cluster. Raises `OptionError` where there is none."""
    import ray

    try:
        ray.init(address=address, namespace=API, configure_logging=False)
    except ConnectionError as error:
        raise OptionError("There is no Ray cluster at that address; start one with ray start.", "address") from error


def _delete_applications() -> None:
    """Delete the applications from a cluster that was joined."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    with suppress(RayServeException):  # the start may have failed before there was a controller
        for name in (PAGE, API):
            serve.delete(name)


def _remove_folder(folder: Path) -> None:
    """Remove Ray's folder; processes that are exiting may still write to it."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def deploy(settings: Settings) -> None:
    """Run both applications; return when they are ready. Raises `EngineError` if an engine cannot start."""
    from ray import serve
    from ray.serve.schema import LoggingConfig

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    configure_logging()
    serve.start(
        proxy_location="EveryNode" if settings.address else "HeadOnly",
        http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": settings.keep_alive},
        logging_config=quiet,
    )
    configure_logging()
    targets = [serve.RunTarget(_api(settings), API, "/", quiet)]
    if settings.page:
        targets.append(serve.RunTarget(_page(settings), PAGE, PAGE_PREFIX, quiet))
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        raise EngineError("The service could not start; see the log lines above.") from error


def api(args: Mapping[str, Any]) -> Any:
    """The API with its engines, for the `import_path` of a Serve config; `args` are settings. Raises `OptionError`.

    `args` must be the same for both applications and include every derived setting: `Settings.resolve` would look at
    the machine that reads the config.
    """
    return _api(Settings.of(args).resolve())


def page(args: Mapping[str, Any]) -> Any:
    """The page, likewise. It calls the engines of the application `tickertape`."""
    return _page(Settings.of({**args, "page": True}).resolve())


def _api(settings: Settings) -> Any:
    engines = {name: _engine(name, source, settings) for name, source in model_sources(settings).items()}
    return _ingress(API, settings.api_replicas).bind(engines, settings)


def _page(settings: Settings) -> Any:
    engines = {name: _engine_name(name) for name in model_sources(settings)}
    return _ingress(PAGE, 1).bind(engines, settings, page=True)


def _ingress(name: str, replicas: int) -> Any:
    """The deployment that takes the requests of an application."""
    from ray import serve

    return serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=INGRESS_REQUESTS,
        ray_actor_options={"num_cpus": 0},  # they use the cores that engines leave idle
        **HEALTH_CHECKS,
    )(serve.ingress()(Ingress))


def _engine(name: str, source: str, settings: Settings) -> Any:
    """The engine deployment of one model."""
    from ray import serve

    replicas: dict[str, Any] = {"num_replicas": settings.engine_replicas}
    if settings.engine_replicas_max > settings.engine_replicas:
        replicas = {"autoscaling_config": {
            "min_replicas": settings.engine_replicas,
            "max_replicas": settings.engine_replicas_max,
            "target_ongoing_requests": 2 * settings.batch,  # one batch that is decoded and one that waits
        }}  # fmt: skip
    engine = serve.deployment(
        name=_engine_name(name),
        max_ongoing_requests=max_ongoing(settings),
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus_per_replica},
        **HEALTH_CHECKS,
        graceful_shutdown_timeout_s=settings.grace_seconds,
        **replicas,
    )(EngineReplica)
    return engine.bind(name, source, settings)


def _engine_name(model: str) -> str:
    """The name of a model's engine deployment."""
    return f"engine-{model}"


def _drain(settings: Settings) -> None:
    """Reject new requests in every replica at once; wait for those that were accepted.

    With a local Ray the process exits at most `LEAVING` seconds after the grace period.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    _handle_signals(signal.SIG_IGN)
    if not settings.address:
        exit_timer = threading.Timer(settings.grace_seconds + LEAVING, os._exit, (0,))
        exit_timer.daemon = True
        exit_timer.start()  # the sender of SIGTERM would kill the process soon after
    names = [API, PAGE] if settings.page else [API]
    deadline = time.monotonic() + settings.grace_seconds + DRAINED_SECONDS
    try:
        responses = [serve.get_app_handle(name).broadcast("drain", settings.grace_seconds) for name in names]
        results = [response.results(timeout_s=max(0.1, deadline - time.monotonic())) for response in responses]
        drained = all(map(all, results))
    except (RayError, RayServeException, TimeoutError):
        drained = False
    log_drain(drained)


def _set_environment(settings: Settings) -> None:
    """Set the environment that Ray's processes inherit. The nodes of a cluster that is joined have their own."""
    for name, value in {**ENVIRONMENT, **(JOIN_ENVIRONMENT if settings.address else local_ray.ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    os.environ[BODY_LIMIT_VARIABLE] = str(settings.body_limit)
    if not settings.address and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _handle_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)
