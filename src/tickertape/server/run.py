"""Serve from one process, without Ray: uvicorn runs the application, and each engine has a thread.

This suits small machines and development: it starts faster and uses less memory than the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import uvicorn

from tickertape.engine.batching import LocalBackend
from tickertape.errors import OptionError
from tickertape.pipeline import Model
from tickertape.server.http_protocol import HTTPProtocol
from tickertape.server.logs import configure_logging, log_exception
from tickertape.server.models import model_sources, open_detector, open_engine
from tickertape.server.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048  # connections that the kernel queues until they are accepted
CLOSE_SECONDS = 1  # for connections to close after the last response


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Raises `CheckpointError`s, `OptionError` and `EngineError`."""
    configure_logging()
    asyncio.run(_serve(settings.resolve()))
    return 0


async def _serve(settings: Settings) -> None:
    listener = bind(settings)  # before the models load, so that a port in use is reported at once
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.ensure_future(stop.wait())
    loading = asyncio.ensure_future(asyncio.to_thread(open_models, settings))
    from tickertape.server.app import create_app  # takes half a second, while the models load

    await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        _exit()
    app = create_app(loading.result(), settings)
    server = Server(app, settings)
    serving = asyncio.ensure_future(server.serve([listener]))
    page = asyncio.ensure_future(_add_page(app, settings))
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    page.cancel()
    if serving.done():
        await serving  # raises: the server could not start
    drained = await app.state.service.drain()
    log_drain(drained)
    server.should_exit = True
    await serving
    _exit()


def log_drain(drained: bool) -> None:
    """Log whether every accepted request ended within the grace period."""
    if drained:
        logger.info("drained")
    else:
        logger.warning("requests were cancelled at the end of the grace period")


def _exit() -> NoReturn:
    """End the process without waiting for its threads: a call of an engine cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def bind(settings: Settings) -> socket.socket:
    """Bind a socket to the configured address. Raises `OptionError` if the address is in use or not permitted."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise _address_error(settings, error) from error
    return listener


def _address_error(settings: Settings, error: OSError) -> OptionError:
    message = f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another port."
    return OptionError(message, "port", "invalid_settings")


def open_models(settings: Settings) -> dict[str, Model]:
    """Open every model with an engine and a micro-batcher of its own."""
    models: dict[str, Model] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="detector") as aside:
        detector = aside.submit(open_detector, settings)
        for name, source in model_sources(settings).items():
            engine, info = open_engine(name, source, settings)
            models[name] = Model(info, LocalBackend(engine, batch=settings.batch), detector.result())
    return models


async def _add_page(app: Any, settings: Settings) -> None:
    """Load the page, if it is enabled. The API works meanwhile, and also if loading fails."""
    if not settings.page:
        return
    try:
        from tickertape.server.page.app import mount_late

        await mount_late(app)
    except Exception as error:  # noqa: BLE001 - whatever Gradio raises
        log_exception(logger, error)
        logger.error("the page could not be loaded; the API works without it")  # noqa: TRY400 - no traceback
    else:
        logger.info("the page is ready")


class Server(uvicorn.Server):
    """uvicorn that logs when its port listens.

    It installs no signal handlers: uvicorn's would reject new clients while old requests finish.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            http=HTTPProtocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.keep_alive,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        super().__init__(config)
        self._settings = settings
        self.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then log it. Raises `OptionError` if another process has taken the port in the meantime."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise _address_error(self._settings, error) from error
        for listener in sockets or ():
            address = {"host": self._settings.host, "port": listener.getsockname()[1]}
            logger.info("listening", extra={"fields": address})
