"""Everything in one process, without Ray: the same application under uvicorn, its engines in threads.

For the smallest machines, for development, and wherever a second of start-up and a hundred megabytes count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

from tickertape.frame import event_line, to_stdout, trace_line
from tickertape.lines import speak_json
from tickertape.local import LocalBackend
from tickertape.pipeline import Model
from tickertape.roster import open_detector, open_engine, sources
from tickertape.settings import Settings

BACKLOG = 2048  # connections that wait to be accepted
LAST_WORDS = 1  # seconds for connections to close once every request is answered


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, and leave. Raises `CheckpointError`s, `OptionError` and `EngineFailed`."""
    asyncio.run(_serve(settings.resolve()))
    return 0


async def _serve(settings: Settings) -> None:
    listener = listen(settings)  # before the models: a port that is taken shows at once
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    waiting = asyncio.ensure_future(stopping.wait())
    opening = asyncio.ensure_future(asyncio.to_thread(open_models, settings))
    from tickertape.api import create_app  # half a second, meanwhile

    await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        _leave()
    app = create_app(opening.result(), settings)
    server = _server(app, settings)
    serving = asyncio.ensure_future(server.serve([listener]))
    to_stdout(event_line("INFO", "listening", host=settings.host, port=listener.getsockname()[1]))
    page = asyncio.ensure_future(_add_page(app, settings))
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    page.cancel()
    drained = await app.state.service.drain()
    to_stdout(event_line("INFO" if drained else "WARNING", "drained" if drained else "the grace ended first"))
    server.should_exit = True
    await serving
    _leave()


def _leave() -> NoReturn:
    """End the process, whatever its threads do: a call of the engine cannot be interrupted, and exiting awaits it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def listen(settings: Settings) -> socket.socket:
    """A socket on the wanted address. Raises `OptionError` where that is taken or not allowed."""
    from tickertape.errors import OptionError

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        message = f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another port."
        raise OptionError(message, "port", "invalid_settings") from error
    return listener


def open_models(settings: Settings) -> dict[str, Model]:
    """Open every model with an engine and a micro-batcher of its own."""
    models: dict[str, Model] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="detector") as aside:
        detector = aside.submit(open_detector, settings)
        for name, source in sources(settings).items():
            opened = open_engine(name, source, settings)
            to_stdout(event_line("INFO", "an engine is ready", model=name, chosen=opened.reasons))
            backend = LocalBackend(opened.engine, batch=settings.batch)
            models[name] = replace(opened.model, backend=backend, detect=detector.result())
    return models


async def _add_page(app: Any, settings: Settings) -> None:
    """Load the page, if it is wanted; the API answers meanwhile, and also if that fails."""
    if not settings.page:
        return
    try:
        from tickertape.ui import mount_late

        await mount_late(app)
    except Exception as error:  # noqa: BLE001 - whatever Gradio raises
        to_stdout(trace_line(error, ""))
        to_stdout(event_line("ERROR", "the page could not be loaded; the API works without"))
    else:
        to_stdout(event_line("INFO", "the page is there"))


def _server(app: Any, settings: Settings) -> Any:
    """uvicorn, without its signal handlers: it would turn new clients away while old requests finish."""
    import uvicorn

    from tickertape.wire import Wire

    speak_json()
    config = uvicorn.Config(
        app,
        http=Wire,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(settings.keep_alive),
        timeout_graceful_shutdown=LAST_WORDS,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server
