"""The engine replica: the only deployment that loads a model.

Windows go through the same micro-batcher as in one process. Errors of a window are returned: Ray would log a raised
exception with its traceback and wrap its class.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tickertape.engine.batching import LocalBackend
from tickertape.errors import DecodeError
from tickertape.server.logs import configure_logging, log_exception
from tickertape.server.models import open_engine
from tickertape.server.settings import Settings
from tickertape.server.tasks import background, race
from tickertape.types import Decoded, ModelInfo, Options, Window

logger = logging.getLogger(__name__)

BATCHES_PER_REPLICA = 4  # one is decoded; the others keep the engine busy and may be overtaken by urgent windows
BEGIN_DELAY = 0.2  # seconds between reporting that a retry begins and beginning it: the report must leave the process


def max_ongoing(settings: Settings) -> int:
    """Maximum number of windows that one engine replica holds."""
    return BATCHES_PER_REPLICA * settings.batch


def bind_grpc_to_node() -> None:
    """Bind the gRPC port of this replica to the node's own address, as Ray's other ports are; locally, to loopback.

    Serve binds it to all interfaces and has no setting for it. If a later Serve renames the function, the port is
    protected by Ray's token alone; tests/cluster/test_serve.py notices.
    """
    import ray
    from ray.serve._private import replica

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    host = f"[{address}]" if ":" in address else address
    if bind := getattr(replica, "add_port_to_grpc_server", None):
        vars(replica)["add_port_to_grpc_server"] = lambda server, where: bind(server, where.replace("[::]", host))


@contextmanager
def exit_after(timeout: float) -> Iterator[None]:
    """End the process if the block takes longer than `timeout` seconds; callers then retry on another replica.

    The timer is a C thread, so it works while the engine holds the interpreter lock.
    """
    faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class EngineReplica:
    """One model, one engine, one micro-batcher."""

    def __init__(self, name: str, source: str, settings: Settings) -> None:
        configure_logging()
        bind_grpc_to_node()
        engine, self._info = open_engine(name, source, settings)
        watch = partial(exit_after, settings.engine_timeout)
        self._backend = LocalBackend(engine, batch=settings.batch, watch=watch)

    async def describe(self) -> ModelInfo:
        """The facts about the checkpoint."""
        return self._info

    async def decode(
        self, window: Window, options: Options, begin: Callable[[], Awaitable[object]] | None = None
    ) -> Decoded | DecodeError:
        """Decode one window, in a batch with others unless there is a `begin`, as in `LocalBackend.decode`."""
        try:
            return await self._backend.decode(window, options, begin=begin)
        except DecodeError as error:
            if error.__cause__ is not None:
                log_exception(logger, error.__cause__)
            return error

    async def decode_alone(
        self, window: Window, options: Options
    ) -> AsyncGenerator[Decoded | DecodeError | None, None]:
        """Decode a window in a batch of its own: yield None when it begins, then its outcome.

        If the process dies after the None, this window was the cause; before it, another window was.
        """
        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()
            await asyncio.sleep(BEGIN_DELAY)

        async with background(self.decode(window, options, begin)) as (decoding,):
            await race(asyncio.shield(decoding), begun.wait())
            if not decoding.done():
                yield None
            yield await decoding
