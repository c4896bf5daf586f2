"""The worker process of `worker_pool`: decodes recordings for its parent until the parent ends.

Recordings and samples are memory files (`memfd_create`), passed as descriptors over a socket that keeps messages apart.
The parent sends the options of `audio.decode` as JSON, with the recording's descriptor. The worker sends:

    {"ready": true}                                             once
    {"rows": 2, "room": 960, "length": 950, "notices": [[...]]}  with the descriptor of the samples
    {"error": "InvalidAudioError", "args": ["..."]}              a `TickertapeError` of `audio.decode`
    {"unexpected": "KeyError", "where": ["audio.py:7 decode"]}   any other exception

Answers are JSON rather than pickles, so that a compromised worker cannot run code in its parent. The process imports
this module first, so it imports little.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tickertape.audio.limits import Limits
from tickertape.errors import TickertapeError
from tickertape.types import Audio, Samples

DECODE = "tickertape.audio.decode:decode"
MAX_MESSAGE_BYTES = 65_536
MAX_HEAP_BYTES = 2**29  # without recording and samples; the worst known recordings take a fifth of it
NICENESS = 5  # HTTP responses and the engine have priority over decoding
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Run by `python -c` with the parent's `sys.path`. One OpenBLAS thread: its matrices hold at most a second of audio.
BOOT = """\
import os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
sys.path[:] = sys.argv[3:]
from tickertape.audio.worker import main
main(int(sys.argv[1]), sys.argv[2])
"""

Decode = Callable[..., Audio]


def main(parent: int, target: str) -> None:
    """Decode what arrives at the socket that is standard input with the function `target`, "module:function"."""
    _settle(parent)
    module, _, name = target.partition(":")
    decode: Decode = getattr(importlib.import_module(module), name)
    with socket.socket(fileno=0) as connection, suppress(ConnectionError):
        send(connection, {"ready": True})
        while files := (received := receive(connection))[1]:
            answer(connection, decode, received[0], files[0])


def _settle(parent: int) -> None:
    """Ignore group signals, exit when the parent exits, and limit memory, cores and priority."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain a recording
    with suppress(ValueError):  # the limit is already lower
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_HEAP_BYTES, MAX_HEAP_BYTES))
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICENESS)
    if os.getppid() != parent:  # the parent ended before prctl
        sys.exit()


def answer(connection: socket.socket, decode: Decode, request: Mapping[str, Any], file: int) -> None:
    """Decode the recording in `file` with the options, and send the result."""
    options = {**request, "limits": Limits(**request["limits"]), "allocate": allocate}
    try:
        with os.fdopen(file, "rb") as recording:
            recording.seek(0)  # an earlier worker may have read it
            decoded = decode(recording, **options)
    except TickertapeError as error:
        send(connection, {"error": type(error).__name__, "args": error.args})
    except MemoryError:
        os._exit(1)  # counts as a crash
    except Exception as error:  # noqa: BLE001 - the parent logs the place without the message
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        send(connection, {"unexpected": type(error).__name__, "where": where})
    else:
        memory, (rows, length) = _memory_of(decoded.samples), decoded.samples.shape
        room = len(memory) // (4 * rows)
        notices = [[notice.code, notice.message] for notice in decoded.notices]
        send(connection, {"rows": rows, "room": room, "length": length, "notices": notices}, [memory.descriptor])


class _Memory(mmap.mmap):
    descriptor: int


def allocate(shape: tuple[int, int]) -> Samples:
    """An array of zeros in a memory file, which is closed with it. Pages that are never written take no memory."""
    descriptor = memory_file("samples")
    os.ftruncate(descriptor, 4 * math.prod(shape))
    memory = _Memory(descriptor, 0)
    memory.descriptor = descriptor
    weakref.finalize(memory, os.close, descriptor)
    return np.frombuffer(memory, np.float32).reshape(shape)


def _memory_of(samples: Samples) -> _Memory:
    """The memory file that `allocate` made for the samples."""
    owner: Any = samples
    while isinstance(owner, np.ndarray):
        owner = owner.base
    memory: _Memory = getattr(owner, "obj", owner)  # NumPy puts a memoryview in between
    return memory


def memory_file(name: str) -> int:
    """A descriptor of an anonymous file in memory. Raises `OSError`."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def send(connection: socket.socket, body: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Send a JSON message with descriptors. Raises `OSError` if the peer has ended."""
    socket.send_fds(connection, [json.dumps(body).encode()], files)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, at most one; both empty at the end.

    Raises `OSError`, and `ValueError` or `TypeError` for an invalid message.
    """
    data, files, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    try:
        return dict(json.loads(data or b"{}")), list(files)
    except BaseException:
        for file in files:
            os.close(file)
        raise
