"""Recordings that harm the process that decodes them: they begin with a word.

`Decoders(target="tests.support.harmful:decode")` takes it for `audio.decode`.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tickertape.audio import decode as audio
from tickertape.types import Audio

DECODE = "tests.support.harmful:decode"
ABORT, KILL, FAULT, HANG, SPIN, FULL, BUG = (b"ABORT", b"KILL", b"FAULT", b"HANG", b"SPIN", b"FULL", b"BUG")
ONCE = b"ONCE "  # a path to be made and a line break follow: the recording behind them hangs only as long as it is new


def decode(source: BinaryIO, **options: Any) -> Audio:
    """As `audio.decode`, but for recordings that begin with one of these words."""
    begin = source.tell()
    word, _, rest = source.readline().partition(b" ")
    if word == ONCE.strip():
        path = Path(os.fsdecode(rest.strip()))
        if not path.exists():
            path.touch()
            word = HANG
        begin = source.tell()
    if word == ABORT:  # as FFmpeg's own assertions end a process
        os.abort()
    if word in {KILL, FAULT}:
        os.kill(os.getpid(), {KILL: signal.SIGKILL, FAULT: signal.SIGSEGV}[word])
    while word == HANG:
        time.sleep(60)
    while word == SPIN:
        pass
    if word == FULL:
        bytearray(2**34)
    if word == BUG:
        raise KeyError("marmalade")
    source.seek(begin)
    return audio.decode(source, **options)


def holds(pid: int, size: int) -> bool:
    """Whether a process that decodes has a recording of so many bytes."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if "memfd:recording" in str(entry.readlink()) and entry.stat().st_size == size:
                    return True
    return False
