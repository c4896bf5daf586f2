"""An engine whose speed, death and hanging the test decides.

Start it with `--engine tests.support.slow:engine --model slow=0.2:/some/folder`.

The model's "path" is the seconds that a call takes, and a folder in which every engine's process writes a file named
after its id: a line for each call, with the numbers of the windows in it. A recording's first sample says what is to
happen; its length and its sound decide the text.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from tickertape.errors import DecodeError
from tickertape.server.settings import Settings
from tickertape.types import Decoded, Options, Segment, Window

POISON, HANG = 0.75, -0.75  # first samples: kill the process; never return
FOREVER = 3600.0  # seconds


class SlowEngine:
    """Takes its time, whatever the batch."""

    def __init__(self, seconds: float, folder: Path) -> None:
        self._seconds = seconds
        self._log = folder / str(os.getpid())
        self._log.touch()

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """Sleep, die or hang; else answer each window with a text of its own."""
        firsts = [float(window.samples[0]) for window in windows]
        probes = [option.max_new_tokens == 1 for option in options]
        with self._log.open("a") as log:
            log.write(
                " ".join(str(round(first * 32768)) for first, probe in zip(firsts, probes, strict=True) if not probe)
            )
            log.write("\n")
        if POISON in firsts:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANG in firsts:
            time.sleep(FOREVER)
        if not all(probes):
            time.sleep(self._seconds)
        return [
            Decoded((Segment(0, window.length, text(window)),), "en", batch_size=len(windows)) for window in windows
        ]


def text(window: Window) -> str:
    """A word that only this sound gives."""
    return f" {zlib.crc32(window.samples.tobytes()):08x}"


def engine(source: str, settings: Settings) -> SlowEngine:
    """What `--engine` names."""
    seconds, _, folder = source.partition(":")
    return SlowEngine(float(seconds), Path(folder))
