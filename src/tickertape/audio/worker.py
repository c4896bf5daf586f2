"""What a process that decodes audio for a service does: recordings in, samples out, until its parent is gone.

Both travel as files in memory (`memfd_create`), of which only the descriptor is passed on. Down the socket comes a line
of JSON, the options of `audio.decode`, with the descriptor of the recording. Up goes a line, too:

    {"ready": true}                                             once
    {"rows": 2, "room": 960, "length": 950, "notices": [[...]]}  with the descriptor of the samples
    {"error": "InvalidAudio", "args": ["..."]}                   what `audio.decode` raised on purpose
    {"unexpected": "KeyError", "where": ["audio.py:7 decode"]}   what it did not

Only text and numbers go up, so that whoever took this process over cannot have its parent run code. `decoders.py` is
the other end. This module is imported by the process before anything else is, so it imports little.
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

from tickertape.audio import Limits
from tickertape.errors import TickertapeError
from tickertape.types import Audio, Samples

DECODE = "tickertape.audio:decode"
LONGEST = 65_536  # bytes of a line
MEMORY = 2**29  # bytes beside recording and samples; the worst recordings known take a fifth of it
POLITENESS = 5  # on the scale of `nice`: who is answered, and windows under way, come before recordings to be decoded
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# As `python -c`: with the parent's path, whatever that has done to it, and one thread for a library that multiplies
# nothing larger than a second of audio here.
BOOT = """\
import os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
sys.path[:] = sys.argv[4:]
from tickertape.decoder import main
main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
"""

Decode = Callable[..., Audio]


def main(descriptor: int, parent: int, target: str) -> None:
    """Serve the socket of that descriptor for the process `parent`, by the function `target`, "module:function"."""
    _settle(parent)
    module, _, name = target.partition(":")
    decode: Decode = getattr(importlib.import_module(module), name)
    with socket.socket(fileno=descriptor) as line, suppress(ConnectionError):
        send(line, {"ready": True})
        while files := (received := receive(line))[1]:
            answer(line, decode, received[0], files[0])


def _settle(parent: int) -> None:
    """Live exactly as long as the parent wants: no signal for all of its group ends us, and its own end does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold somebody's recording
    with suppress(ValueError):  # where it is lower already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(POLITENESS)
    if os.getppid() != parent:  # it died before that
        sys.exit()


def answer(line: socket.socket, decode: Decode, wish: Mapping[str, Any], file: int) -> None:
    """Decode the recording in the file as wished, and send what came of it."""
    rooms = Rooms()
    options = {**wish, "limits": Limits(**wish["limits"]), "allocate": rooms.allocate}
    try:
        with os.fdopen(file, "rb") as recording:
            recording.seek(0)  # another process may have read it before
            heard = decode(recording, **options)
    except TickertapeError as error:
        send(line, {"error": type(error).__name__, "args": error.args})
    except MemoryError:
        os._exit(1)  # the recording's fault, as a crash is
    except Exception as error:  # noqa: BLE001 - the parent says where it came from, and not what it says
        frames = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        send(line, {"unexpected": type(error).__name__, "where": where})
    else:
        descriptor, room = rooms.find(heard.samples)
        rows, length = heard.samples.shape
        notices = [[notice.code, notice.message] for notice in heard.notices]
        send(line, {"rows": rows, "room": room, "length": length, "notices": notices}, [descriptor])


class Rooms:
    """Memory for samples that another process can map too. Each piece is let go with the last array that uses it."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[int, int]] = {}  # by address: descriptor, columns

    def allocate(self, shape: tuple[int, int]) -> Samples:
        """Zeros, of which those that are never touched cost nothing."""
        descriptor = memory_file("samples")
        os.ftruncate(descriptor, 4 * math.prod(shape))
        memory = mmap.mmap(descriptor, 0)
        weakref.finalize(memory, os.close, descriptor)
        samples: Samples = np.frombuffer(memory, np.float32).reshape(shape)
        self._files[_address(samples)] = (descriptor, shape[1])
        return samples

    def find(self, samples: Samples) -> tuple[int, int]:
        """The descriptor and the columns of the piece in whose first columns these samples lie."""
        return self._files[_address(samples)]


def _address(samples: Samples) -> int:
    return int(samples.__array_interface__["data"][0])


def memory_file(name: str) -> int:
    """A file in memory, which no other process sees unless it is given the descriptor. Raises `OSError`."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def send(line: socket.socket, body: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Send a line of JSON, and files with it. Raises `OSError` when nobody is there."""
    data = json.dumps(body).encode() + b"\n"
    sent = socket.send_fds(line, [data], files) if files else 0
    line.sendall(data[sent:])


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next line and the descriptors of the files that came with it, one at most; nothing at the end.

    Raises `OSError`, and `ValueError` or `TypeError` for what is no such line.
    """
    data, files, _, _ = socket.recv_fds(line, LONGEST, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    try:
        while data and not data.endswith(b"\n") and len(data) < LONGEST and (more := line.recv(LONGEST)):
            data += more
        body = dict(json.loads(data)) if data else {}
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return body, list(files)
