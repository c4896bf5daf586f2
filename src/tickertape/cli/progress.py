"""The progress bar on standard error: audio seconds done, and the speed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tickertape.types import SAMPLE_RATE


class Bar:
    """Shows the loading of a model and the progress of recordings, if `shown`."""

    def __init__(self, *, shown: bool, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = 0.0
        self._lengths: dict[int, int] = {}  # samples, by recording
        self._done: dict[int, int] = {}
        self._bar: Any = None
        if shown:
            self._bar = _rich_bar()
            self._task = self._bar.add_task("opening the model", total=1.0, figures="")

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def loading(self, fraction: float, what: str) -> None:
        """Show the progress of loading."""
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, description=what)

    def move(self, number: int, done: int, total: int) -> None:
        """Show that `done` of `total` samples of a recording are transcribed."""
        self._began = self._began or self._clock()
        self._done[number], self._lengths[number] = done, total
        if self._bar is None:
            return
        seconds, all_seconds = (sum(each.values()) / SAMPLE_RATE for each in (self._done, self._lengths))
        self._bar.update(
            self._task,
            description="transcribing",
            completed=seconds,
            total=max(all_seconds, 1e-9),
            figures=figures(seconds, all_seconds, self._clock() - self._began),
        )

    @contextlib.contextmanager
    def aside(self, wanted: bool = True) -> Iterator[None]:
        """Hide the bar while text is printed to the terminal."""
        running = wanted and self._bar is not None and self._bar.live.is_started
        if running:
            self._bar.stop()
        yield
        if running:
            sys.stdout.flush()
            self._bar.start()


def figures(done: float, total: float, work: float) -> str:
    """Audio seconds done and in total, and the real-time factor: seconds of work per second of audio."""
    factor = f"  real-time factor {work / done:.3f} ({done / work:.1f}x)" if done and work > 0 else ""
    return f"{clock(done)} of {clock(total)}{factor}"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # results must not pass through the bar
        redirect_stderr=False,
    )
