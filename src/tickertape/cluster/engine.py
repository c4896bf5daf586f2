"""The engine replica: the one deployment that holds a model.

Windows go through the same micro-batcher as in one process. What went wrong with a window is returned, not raised:
Ray would log an exception's traceback and wrap its class.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from tickertape.errors import DecodeError
from tickertape.frame import event_line, to_stdout, trace_line
from tickertape.lines import speak_json
from tickertape.local import LocalBackend
from tickertape.pipeline import Model
from tickertape.roster import open_engine
from tickertape.settings import Settings
from tickertape.types import Decoded, Engine, Options, Window

WARNED = 0.2  # seconds from telling that a suspect begins until it does: the news is out before the process can die


def stay_home() -> None:
    """Let the gRPC port that Serve opens in each replica listen on the node's own address only, as Ray's others do.

    For a Ray of our own that is the loopback. Serve takes every address and has no setting; where a later Serve names
    the function otherwise the port is as it was, behind Ray's token; `tests/test_serving.py` tells.
    """
    import ray
    from ray.serve._private import replica

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    listen: Callable[[Any, str], int] | None = getattr(replica, "add_port_to_grpc_server", None)
    if listen is not None:
        host = f"[{address}]" if ":" in address else address
        vars(replica)["add_port_to_grpc_server"] = lambda server, where: listen(server, where.replace("[::]", host))


class Watched:
    """An engine whose process ends if a call takes longer than `timeout` seconds.

    The clock is C's: it runs even when the engine holds the interpreter lock. Whoever waited on the process hears that
    it died, and the windows are decoded elsewhere.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """The engine's own `decode`, against the clock."""
        faulthandler.dump_traceback_later(self._timeout, exit=True)
        try:
            return self._engine.decode(windows, options)
        finally:
            faulthandler.cancel_dump_traceback_later()


class EngineReplica:
    """One model, one engine, one micro-batcher."""

    def __init__(self, name: str, source: str, settings: Settings) -> None:
        speak_json()
        stay_home()
        opened = open_engine(name, source, settings)
        self._model = opened.model
        self._backend = LocalBackend(Watched(opened.engine, settings.engine_timeout), batch=settings.batch)
        to_stdout(event_line("INFO", "an engine is ready", model=name, chosen=opened.reasons))

    async def describe(self) -> Model:
        """What users of the model need to know; its backend is theirs to add."""
        return self._model

    async def decode(self, window: Window, options: Options) -> Decoded | DecodeError:
        """Decode one window, in a batch with others."""
        return await _outcome(self._backend, window, options)

    async def decode_alone(
        self, window: Window, options: Options
    ) -> AsyncGenerator[Decoded | DecodeError | None, None]:
        """Decode a window that is suspected of killing engines: yield None when it begins, then its outcome.

        If the process dies after the None, it was this window; if before, another.
        """
        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()
            await asyncio.sleep(WARNED)

        decoding = asyncio.ensure_future(_outcome(self._backend, window, options, begin))
        waiting = asyncio.ensure_future(begun.wait())
        try:
            await asyncio.wait({decoding, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not decoding.done():
                yield None
            yield await decoding
        finally:
            for task in (decoding, waiting):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _outcome(
    backend: LocalBackend, window: Window, options: Options, begin: Callable[[], Awaitable[object]] | None = None
) -> Decoded | DecodeError:
    """The result, or the error as a value; its cause stays here, in the log."""
    try:
        return await backend.decode(window, options, begin=begin)
    except DecodeError as error:
        if error.__cause__ is not None:
            to_stdout(trace_line(error.__cause__, ""))
        return error
