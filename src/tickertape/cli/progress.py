"""The progress bar on standard error: audio seconds done, and the speed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tickertape.types import SAMPLE_RATE


class Bar:
    """Shows the loading of a model and the progress of recordings, if `shown`."""

    def __init__(self, *, shown: bool) -> None:
        self._began = 0.0
        self._samples: dict[int, tuple[int, int]] = {}  # done and in total, by recording
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # results must not pass through the bar
            disable=not shown,
        )
        self._task = self._bar.add_task("opening the model", total=1.0, figures="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def loading(self, fraction: float, what: str) -> None:
        """Show the progress of loading."""
        self._bar.update(self._task, completed=fraction, description=what)

    def move(self, number: int, done: int, total: int) -> None:
        """Show that `done` of `total` samples of a recording are transcribed."""
        self._began = self._began or time.perf_counter()
        self._samples[number] = done, total
        seconds, length = (sum(each) / SAMPLE_RATE for each in zip(*self._samples.values(), strict=True))
        shown = figures(seconds, length, time.perf_counter() - self._began)
        total_seconds = max(length, 1e-9)
        self._bar.update(self._task, description="transcribing", completed=seconds, total=total_seconds, figures=shown)

    @contextlib.contextmanager
    def aside(self, wanted: bool = True) -> Iterator[None]:
        """Hide the bar while text is printed to the terminal."""
        running = wanted and self._bar.live.is_started
        if running:
            self._bar.stop()
        yield
        if running:
            sys.stdout.flush()
            self._bar.start()


def figures(done: float, total: float, work: float) -> str:
    """Audio seconds done and in total, and the real-time factor: seconds of work per second of audio."""
    factor = f"  real-time factor {work / done:.3f} ({done / work:.1f}x)" if done and work > 0 else ""
    return f"{timedelta(seconds=int(done))} of {timedelta(seconds=int(total))}{factor}"
