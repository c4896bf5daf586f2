"""Decode uploads in worker processes, so that a recording that crashes FFmpeg affects no other request.

    decoders = Decoders(2, timeout=90.0)
    audio = await decoders.decode(file, channels="mix", limits=Limits())     # as `audio.decode`
    decoders.close()

A worker decodes one recording at a time. A worker that crashes is replaced, and its recording is retried once, then
rejected. A recording that exceeds the time limit is rejected without a retry. Workers start on demand; idle ones end
after `IDLE` seconds, except the last. `worker` is the code of the worker process.

Samples are not copied: workers decode into shared memory. On systems without `memfd_create`, threads of this process
decode.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import logging
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tickertape import errors
from tickertape.audio import decode as audio
from tickertape.audio.limits import Limits
from tickertape.audio.worker import BOOT, DECODE, memory_file, receive, send
from tickertape.errors import HarmfulAudioError, OverloadedError, ShuttingDownError, TickertapeError
from tickertape.types import Audio, Notice, Samples

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # the first worker may have crashed for another reason
START_TIMEOUT = 120.0  # seconds; a start takes 0.25 s on an idle machine
IDLE = 60.0  # seconds after which an idle worker ends, unless it is the last


class Decoders:
    """A pool of at most `count` worker processes. `timeout` limits the seconds per recording.

    `target` names the decode function, "module:function".
    """

    def __init__(self, count: int, *, timeout: float, target: str = DECODE) -> None:
        self._timeout = timeout
        self._target = target
        self._uses_processes = hasattr(os, "memfd_create")
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="audio")  # one thread waits for each worker
        self._lock = threading.Lock()
        self._closed = False
        self._warmed = not self._uses_processes
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []  # last in, first out

    async def decode(self, file: io.BytesIO, *, limits: Limits, **options: Any) -> Audio:
        """Decode like `audio.decode` in a worker process. Closes `file` once its bytes are copied.

        Cancelling kills the worker. Raises the errors of `audio.decode`, `HarmfulAudioError` for a recording that
        crashes workers or times out, `OverloadedError` if no worker starts, and `ShuttingDownError` after `close`.
        """
        if self._closed:
            raise ShuttingDownError("The service is shutting down.")
        loop = asyncio.get_running_loop()
        call = _Call(file, {"limits": limits, **options})
        try:
            return await loop.run_in_executor(self._threads, self._decode, call)
        except asyncio.CancelledError:
            with self._lock:
                call.abandoned = True
                if call.process is not None:
                    call.process.kill()
            raise
        finally:
            loop.call_later(IDLE + 1, self._trim)

    def warm(self) -> None:
        """Start a worker in the background. Further calls do nothing."""
        if not self._warmed and not self._closed:
            self._warmed = True
            self._threads.submit(lambda: self._release(self._take(), reusable=True))

    def close(self) -> None:
        """Kill every worker. Pending calls raise `ShuttingDownError`."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for process in self._all:
                process.kill()  # the thread of a busy one cleans up
        self._threads.shutdown(wait=False)
        for process in idle:
            self._release(process)

    # ---- runs in the threads of the pool ----

    def _decode(self, call: _Call) -> Audio:
        if not self._uses_processes:
            with call.file:
                return audio.decode(call.file, **call.options)
        try:
            with os.fdopen(memory_file("recording"), "wb") as recording:
                with call.file, call.file.getbuffer() as data:
                    recording.write(data)
                recording.flush()
                for _ in range(MAX_ATTEMPTS):
                    if (decoded := self._attempt(call, recording.fileno())) is not None:
                        return decoded
        except OSError as error:
            raise OverloadedError("No audio decoder could be started; try again later.") from error
        raise HarmfulAudioError("Two audio decoders died of this recording; it is not tried again.")

    def _attempt(self, call: _Call, recording: int) -> Audio | None:
        """The decoded recording; None if the worker crashed and another attempt is allowed."""
        process, answer = self._take(), None
        try:
            self._assign(call, process)
            answer = process.decode(recording, call.options, self._timeout)
        except _DIED as error:
            process.end()
            if self._closed or call.abandoned:  # then nobody receives the error
                raise ShuttingDownError("The service is shutting down.") from error
            if isinstance(error, TimeoutError):
                logger.warning("an audio decoder came to no end", extra={"fields": {"seconds": self._timeout}})
                message = f"Decoding this recording takes more than {self._timeout:g} seconds; it is not tried again."
                raise HarmfulAudioError(message) from error
            logger.warning("an audio decoder died", extra={"fields": {"status": process.status}})
        finally:
            self._assign(call, None)
            self._release(process, reusable=answer is not None and not call.abandoned)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _assign(self, call: _Call, process: _Process | None) -> None:
        """Note which worker decodes the recording of the call; kill it if the caller has left."""
        with self._lock:
            call.process = process
            if call.abandoned and process is not None:
                process.kill()

    def _take(self) -> _Process:
        """An idle worker, or a new one that is ready. Raises `OSError` if none starts."""
        while True:
            with self._lock:
                if self._closed:
                    raise ShuttingDownError("The service is shutting down.")
                if not self._idle:
                    process = _Process(self._target)
                    self._all.add(process)
                    break
                process = self._idle.pop()
            if process.status is None:
                return process
            self._release(process)  # killed from outside while idle
        try:
            process.wait_until_ready()
        except _DIED as error:
            self._release(process)
            if not self._closed:
                logger.warning("an audio decoder did not start", extra={"fields": {"status": process.status}})
            raise OSError("an audio decoder did not start") from error
        return process

    def _release(self, process: _Process, *, reusable: bool = False) -> None:
        """Make the worker idle, or kill and remove it."""
        with self._lock:
            if reusable and not self._closed:
                process.idle_since = time.monotonic()
                self._idle.append(process)
                return
            self._all.discard(process)
        process.end()

    def _trim(self) -> None:
        """End workers that were idle for `IDLE` seconds, but keep one."""
        before = time.monotonic() - IDLE
        with self._lock:
            surplus = [process for process in self._idle[:-1] if process.idle_since <= before]
            self._idle = [process for process in self._idle if process not in surplus]
        for process in surplus:
            self._threads.submit(self._release, process)


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `Decoders.decode`. The pool's lock guards `abandoned` and `process`."""

    file: io.BytesIO
    options: dict[str, Any]
    abandoned: bool = False
    process: _Process | None = None


class _Process:
    """A worker process and its socket. Methods raise one of `_DIED` if it ended or sent an invalid message."""

    def __init__(self, target: str) -> None:
        self.idle_since = 0.0
        self._connection, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-c", BOOT, str(os.getpid()), target, *sys.path]
        try:
            with theirs:
                self._process = subprocess.Popen(command, stdin=theirs.fileno())  # noqa: S603 - this Python
        except BaseException:
            self._connection.close()
            raise
        self.end = weakref.finalize(self, _end, self._process, self._connection)

    @property
    def status(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait_until_ready(self) -> None:
        """Wait for the message that the worker is ready."""
        self._connection.settimeout(START_TIMEOUT)
        if not receive(self._connection)[0]:
            raise ConnectionError("the worker ended during its start")

    def decode(self, recording: int, options: dict[str, Any], timeout: float) -> Audio | Exception:
        """The decoded audio, or the exception that decoding raised."""
        self._connection.settimeout(timeout)
        send(self._connection, {**options, "limits": asdict(options["limits"])}, [recording])
        body, files = receive(self._connection)
        if files:
            try:
                return _adopted(body, files[0])
            finally:
                os.close(files[0])
        if "unexpected" in body:
            fields = {"error": str(body["unexpected"]), "where": list(map(str, body["where"]))}
            logger.warning("an audio decoder failed", extra={"fields": fields})
            return RuntimeError(str(body["unexpected"]))
        return _error(body)

    def kill(self) -> None:
        """Kill the process. The thread that reads its answer gets a connection error. Thread-safe."""
        self._process.kill()


_DIED = (OSError, ValueError, TypeError, KeyError)


def _adopted(body: dict[str, Any], file: int) -> Audio:
    """The audio in the memory file. The seal prevents shrinking, which would crash reads here."""
    rows, room, length = (int(body[name]) for name in ("rows", "room", "length"))
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    if not 0 < length <= room or os.fstat(file).st_size < 4 * rows * room:
        raise ValueError("the memory file is smaller than stated")
    samples: Samples = np.frombuffer(mmap.mmap(file, 4 * rows * room), np.float32).reshape(rows, room)
    return Audio(samples[:, :length], tuple(Notice(str(code), str(text)) for code, text in body["notices"]))


def _error(body: dict[str, Any]) -> TickertapeError:
    """The worker's `TickertapeError`, rebuilt from its name and arguments."""
    type_ = vars(errors)[str(body["error"])]
    if not (isinstance(type_, type) and issubclass(type_, TickertapeError)):
        raise TypeError("not a TickertapeError")
    return type_(*body["args"])


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Kill the process, wait for its exit and close the socket. No other thread may use it."""
    process.kill()
    process.wait()
    connection.close()
