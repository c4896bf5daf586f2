"""Processes that decode uploads, so that a recording which crashes the decoder costs only itself.

    decoders = Decoders(2, timeout=90.0)
    audio = await decoders.decode(file, channels="mix", limits=Limits())     # as `audio.decode`
    decoders.close()

Each process decodes one recording at a time. One that dies, or does not come to an end, is replaced; the recording that
it had is tried once more, and then refused. They are started when there is work, and all but one of them end when there
is none for a while. None outlives us, however we end: see `decoder.py`, which is what runs in them.

Samples are not copied: the array that comes back lies in the memory into which they were decoded. Where a system has no
`memfd_create`, recordings are decoded in threads of this process.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from tickertape import audio, errors
from tickertape.audio import Limits
from tickertape.decoder import BOOT, DECODE, memory_file, receive, send
from tickertape.errors import DeadlineExceeded, HarmfulAudio, Overloaded, ShuttingDown, TickertapeError
from tickertape.types import Audio, Notice, Samples

TRIES = 2  # processes that a recording may cost: the first may have died of something else
START = 120.0  # seconds for a process to be ready, on a machine that is busy; a quiet one takes a quarter of a second
IDLE = 60.0  # seconds after which a process that has nothing to do ends, unless it is the last

Tell = Callable[..., object]  # a message, and facts by name


class Decoders:
    """At most `count` processes; each may take `timeout` seconds for a recording.

    `tell` hears of what an operator should know. `target` is the function they decode by, "module:function".
    """

    def __init__(self, count: int, *, timeout: float, tell: Tell | None = None, target: str = DECODE) -> None:
        self._timeout = timeout
        self._tell = tell or (lambda *_, **__: None)
        self._target = target
        self._apart = _can_be_apart()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="audio")  # one waits for each process
        self._lock = threading.Lock()
        self._closed = False
        self._warmed = not self._apart  # or there is nothing to warm
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []  # the one that was used last is used next
        weakref.finalize(self, _end, self._all)

    async def decode(self, file: io.BytesIO, *, limits: Limits, **options: Any) -> Audio:
        """As `audio.decode` with these options, in a process of its own; `file` is closed as soon as that has it.

        Cancelling ends the process. Raises what `audio.decode` raises, `HarmfulAudio`, and where no process can be
        had `Overloaded` or `ShuttingDown`.
        """
        if self._closed:
            raise ShuttingDown("The service is shutting down.")
        loop = asyncio.get_running_loop()
        call = _Call(file, {"limits": limits, **options})
        try:
            return await loop.run_in_executor(self._threads, self._decode, call)
        except asyncio.CancelledError:
            call.abandon()
            raise
        finally:
            loop.call_later(IDLE + 1, self._trim)

    def warm(self) -> None:
        """Have a process ready for the first recording, without waiting for it; once is enough."""
        if not self._warmed and not self._closed:
            self._warmed = True
            self._threads.submit(self._warm)

    def close(self) -> None:
        """End every process; whatever they are at is given up."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = self._all.difference(idle)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in busy:
            process.kill()  # the thread that waits for it does the rest
        for process in idle:
            self._drop(process)

    # ---- in threads of ours ----

    def _decode(self, call: _Call) -> Audio:
        if not self._apart:
            with call.file:
                return audio.decode(call.file, **call.options)
        try:
            with call.in_memory() as recording:
                for _ in range(TRIES):
                    if (heard := self._tried(call, recording)) is not None:
                        return heard
        except OSError as error:
            raise Overloaded("No audio decoder could be started; try again later.") from error
        raise HarmfulAudio("Two audio decoders died of this recording; it is not tried again.")

    def _tried(self, call: _Call, recording: int) -> Audio | None:
        """The recording as some process decodes it; None if that died of it."""
        process = self._take()
        try:
            with call.at(process):
                answer = process.decode(recording, call.options, self._timeout)
        except _DIED as error:
            self._drop(process)
            self._explain(call, process, error)
            return None
        if call.abandoned:  # and so killed, too late
            self._drop(process)
        else:
            self._give(process)
        if isinstance(answer, _Unexpected):
            self._tell("an audio decoder failed", error=str(answer), where=answer.where)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _explain(self, call: _Call, process: _Process, error: Exception) -> None:
        """Why a process died while it had a recording; raises unless the recording may be tried again."""
        if self._closed:
            raise ShuttingDown("The service is shutting down.") from error
        if call.abandoned:
            raise DeadlineExceeded("Nobody waits for this recording any more.") from error
        if isinstance(error, TimeoutError):
            self._tell("an audio decoder came to no end", seconds=self._timeout)
            message = f"Decoding this recording takes more than {self._timeout:g} seconds; it is not tried again."
            raise HarmfulAudio(message) from error
        self._tell("an audio decoder died", status=process.status)

    def _take(self) -> _Process:
        """A process that has nothing to do. Raises `OSError` where none can be had."""
        while True:
            with self._lock:
                if not self._idle:
                    break
                process = self._idle.pop()
            if process.status is None:
                return process
            self._drop(process)  # somebody has killed it meanwhile
        return self._started()

    def _started(self) -> _Process:
        """A new process. Raises `OSError`."""
        process = _Process(self._target)
        try:
            with self._lock:
                if self._closed:
                    raise ConnectionAbortedError("nothing is started any more")
                self._all.add(process)
            process.wait_until_ready()
        except _DIED as error:
            self._drop(process)
            if not self._closed:
                self._tell("an audio decoder did not start", status=process.status)
            raise OSError("an audio decoder did not start") from error
        return process

    def _give(self, process: _Process) -> None:
        """Let others have the process."""
        with self._lock:
            if not self._closed:
                process.idle_since = time.monotonic()
                self._idle.append(process)
                return
        self._drop(process)

    def _drop(self, process: _Process) -> None:
        """End the process."""
        with self._lock:
            self._all.discard(process)
        process.end()

    def _warm(self) -> None:
        with suppress(OSError):
            self._give(self._take())

    def _trim(self) -> None:
        """End the processes that have had nothing to do for long, but keep one."""
        before = time.monotonic() - IDLE
        with self._lock:
            surplus = [process for process in self._idle[:-1] if process.idle_since <= before]
            self._idle = [process for process in self._idle if process not in surplus]
        for process in surplus:
            self._threads.submit(self._drop, process)


class _Call:
    """A recording on its way through `Decoders.decode`."""

    def __init__(self, file: io.BytesIO, options: dict[str, Any]) -> None:
        self.file, self.options = file, options
        self.abandoned = False
        self._lock = threading.Lock()
        self._process: _Process | None = None

    @contextmanager
    def in_memory(self) -> Iterator[int]:
        """The recording as a file that can be passed on; ours is closed as soon as it is written. Raises `OSError`."""
        descriptor = memory_file("recording")
        try:
            with self.file, self.file.getbuffer() as data:
                written = 0
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def at(self, process: _Process) -> Iterator[None]:
        """For the length of the block the process has the recording, and ends if that is abandoned."""
        with self._lock:
            self._process = process
            if self.abandoned:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._process = None

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self.abandoned = True
            if self._process is not None:
                self._process.kill()


class _Process:
    """Our end of a process that decodes. Raises one of `_DIED` when that is gone or makes no sense."""

    def __init__(self, target: str) -> None:
        self.idle_since = 0.0
        self._line, theirs = socket.socketpair()
        try:
            with theirs:
                number = theirs.fileno()
                words = [sys.executable, "-I", "-c", BOOT, str(number), str(os.getpid()), target, *sys.path]
                self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[number])  # noqa: S603 - ourselves
        except BaseException:
            self._line.close()
            raise

    @property
    def status(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        return self._process.poll()

    def wait_until_ready(self) -> None:
        """Return when it can begin."""
        self._line.settimeout(START)
        if not receive(self._line)[0]:
            raise ConnectionError("it ended")

    def decode(self, recording: int, options: dict[str, Any], timeout: float) -> Audio | Exception:
        """What comes of the recording in that file: samples, or what was raised."""
        self._line.settimeout(timeout)
        send(self._line, {**options, "limits": asdict(options["limits"])}, [recording])
        body, files = receive(self._line)
        if files:
            try:
                return _adopted(body, files[0])
            finally:
                os.close(files[0])
        return _Unexpected(body) if "unexpected" in body else _error(body)

    def kill(self) -> None:
        """Let it end; whoever waits for it hears of that. Safe from any thread."""
        self._process.kill()

    def end(self) -> None:
        """Let it end, wait until it has, and forget it; nobody else may be waiting for it."""
        self._process.kill()
        self._process.wait()
        self._line.close()


_DIED = (OSError, ValueError, TypeError, KeyError)


class _Unexpected(Exception):
    """What `audio.decode` did not raise on purpose, in another process; where it came from."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(str(body["unexpected"]))
        self.where = [str(place) for place in body["where"]]


def _adopted(body: dict[str, Any], file: int) -> Audio:
    """The audio whose samples lie in the file. They must not go away under our feet: that would end this process."""
    rows, room, length = (int(body[name]) for name in ("rows", "room", "length"))
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    if not 0 < length <= room or os.fstat(file).st_size < 4 * rows * room:
        raise ValueError("fewer samples than announced")
    samples: Samples = np.frombuffer(mmap.mmap(file, 4 * rows * room), np.float32).reshape(rows, room)
    return Audio(samples[:, :length], tuple(Notice(str(code), str(text)) for code, text in body["notices"]))


def _error(body: dict[str, Any]) -> TickertapeError:
    """The error that the process tells of, with all that it holds."""
    situations = {type_.__name__: type_ for type_ in vars(errors).values() if isinstance(type_, type)}
    error = situations[str(body["error"])](*body["args"])
    if not isinstance(error, TickertapeError):
        raise TypeError("no error of ours")
    return error


def _end(processes: set[_Process]) -> None:
    for process in tuple(processes):
        process.end()


def _can_be_apart() -> bool:
    """Whether this system has files in memory."""
    try:
        os.close(memory_file("trial"))
    except (AttributeError, OSError):
        return False
    return True
