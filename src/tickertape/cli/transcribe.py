"""A run of the command line: many recordings through one model, told to people or to machines."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tickertape import recordings, transcriber
from tickertape.errors import CallerError, OptionError, TickertapeError
from tickertape.formats import speaker, verbose_object
from tickertape.languages import language_code, separator
from tickertape.outputs import Outputs, written
from tickertape.pipeline import Update
from tickertape.progress import Bar, figures
from tickertape.recordings import Recording, Unusable
from tickertape.transcriber import Begun, News, Transcriber
from tickertape.types import SAMPLE_RATE, Segment, Transcript

FINE, OURS, CALLERS = 0, 1, 2  # exit codes; of several errors, ours weighs most

Teller: TypeAlias = "People | Machines"  # who tells the user what happens; recordings go by their number in the run


@dataclass(frozen=True, slots=True)
class Result:
    """A recording's transcript, the files it was written to, and the seconds since it was begun."""

    transcript: Transcript
    files: tuple[str, ...]
    work: float


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    code: int = FINE
    samples: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds of audio that were transcribed."""
        return self.samples / SAMPLE_RATE

    @property
    def work(self) -> float:
        """Seconds since the run began to transcribe."""
        return time.perf_counter() - self.began

    def fail(self, error: TickertapeError) -> None:
        """Count an error."""
        self.failed += 1
        self.code = OURS if self.code == OURS or not isinstance(error, CallerError) else CALLERS


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a command asked for, checked as far as it can be without a model."""

    recordings: tuple[Recording, ...]
    unusable: tuple[Unusable, ...]
    outputs: Outputs | None
    style: str | None  # the format of the results that are printed; None where they only go to files
    settings: Mapping[str, Any]  # of `transcriber.load`
    wanted: Mapping[str, Any]  # of `Transcriber.many`
    as_json: bool = False
    quiet: bool = False
    skipped: int = 0

    @classmethod
    def plan(
        cls, names: Sequence[str], folder: Path | None, formats: Sequence[str], settings: Mapping[str, Any],
        wanted: Mapping[str, Any], *, as_json: bool = False, quiet: bool = False, skip_existing: bool = False,
    ) -> Run:  # fmt: skip
        """Find the recordings and name the outputs. Raises `OptionError` for what cannot go together."""
        if wanted.get("language") is not None:
            language_code(wanted["language"])  # a wrong one is worth knowing before the model loads
        found = recordings.find(names)
        good = [item for item in found if isinstance(item, Recording)]
        bad = tuple(item for item in found if isinstance(item, Unusable))
        outputs = Outputs.plan(folder, formats, good) if folder else None
        if outputs is None and not as_json and (len(formats) > 1 or (len(good) > 1 and formats[0] != "txt")):
            message = "Several formats, or several files in a format other than txt, need --output-dir."
            raise OptionError(message, "output_dir", "invalid_output_dir")
        before = len(good)
        if outputs is not None and skip_existing:
            left = [number for number in range(before) if not outputs.exist(number)]
            outputs, good = outputs.only(left), [good[number] for number in left]
        style = None if outputs else formats[0]
        return cls(tuple(good), bad, outputs, style, settings, wanted, as_json, quiet, before - len(good))

    def go(self) -> int:
        """Transcribe; return the exit code."""
        shown = not self.quiet and not self.as_json and sys.stderr.isatty()
        tally = Tally(skipped=self.skipped)
        with Bar(shown=shown) as bar:
            tell: Teller
            tell = Machines(self.recordings) if self.as_json else People(self.recordings, self.style, bar, self.quiet)
            for item in self.unusable:
                tally.fail(error := OptionError(item.reason, "file", "invalid_file"))
                tell.failed(item.shown, error)
            if self.recordings:
                with transcriber.load(progress=bar.loading, **self.settings) as model:
                    tell.opened(model)
                    tally.began = time.perf_counter()
                    sources = (recording.source for recording in self.recordings)
                    with contextlib.closing(model.many(sources, **self.wanted)) as news:
                        self._follow(news, tell, bar, tally)
        tell.finished(tally)
        return tally.code

    def _follow(self, news: Iterable[tuple[int, News]], tell: Teller, bar: Bar, tally: Tally) -> None:
        """Write and tell what becomes of each recording, until the news end."""
        began: dict[int, float] = {}
        for number, item in news:
            error = item if isinstance(item, TickertapeError) else None
            if isinstance(item, Begun):
                began[number] = time.perf_counter()
                bar.move(number, 0, item.length * item.channels)
                tell.begun(number, item)
            elif isinstance(item, Update):
                bar.move(number, item.done, item.total)
                if item.segments:
                    tell.segments(number, item.segments)
                if item.transcript is not None:
                    error = self._end(number, item.transcript, began[number], tell, tally)
            if error is not None:
                tally.fail(error)
                tell.failed(self.recordings[number].shown, error, number)

    def _end(
        self, number: int, transcript: Transcript, began: float, tell: Teller, tally: Tally
    ) -> TickertapeError | None:
        """A recording is transcribed: write its files. An error if they cannot be."""
        try:
            files = tuple(map(str, self.outputs.write(number, transcript))) if self.outputs else ()
        except OptionError as error:
            return error
        tell.done(number, Result(transcript, files, time.perf_counter() - began))
        tally.done += 1
        tally.samples += transcript.duration
        return None


class People:
    """Results on standard output, text as it comes; everything else on standard error.

    `style` is the format of the results, None where they go to files only. Recordings run side by side, but their
    results are printed one after another, under their names where there are several.
    """

    def __init__(self, recordings: Sequence[Recording], style: str | None, bar: Bar, quiet: bool = False) -> None:
        self._names = [recording.shown for recording in recordings]
        self._style, self._bar, self._quiet = style, bar, quiet
        self._scripts: dict[int, Script] = {}
        self._held: dict[int, str] = {}  # results that wait for their turn
        self._over: set[int] = set()
        self._turn = 0

    def opened(self, model: Transcriber) -> None:
        """Say what was chosen for this machine, and why, to those who watch."""
        if sys.stderr.isatty() and not self._quiet:
            self._say(f"{model.model.name}; {'; '.join(model.reasons)}")

    def begun(self, number: int, begun: Begun) -> None:
        """Open the recording's text."""
        self._scripts[number] = Script(split=begun.channels > 1)

    def segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print text, or keep it until the recordings before it are over."""
        if self._style == "txt":
            self._print(number, self._scripts[number].continued(segments))

    def done(self, number: int, result: Result) -> None:
        """Print the rest, then the recording's notices."""
        self._over.add(number)
        if self._style == "txt":
            self._print(number, self._scripts[number].ended())
        else:
            self._print(number, written(result.transcript, self._style) if self._style else "")
        if not self._quiet:
            for notice in result.transcript.notices:
                self._say(f"{self._names[number]}: {notice.message} ({notice.code})")

    def failed(self, shown: str, error: TickertapeError, number: int | None = None) -> None:
        """One line: what, and how to mend it."""
        if number is not None:
            self._over.add(number)
            begun = self._style == "txt" and number in self._scripts and self._scripts[number].last is not None
            self._print(number, "\n" if begun else "")
        self._say(f"{shown}: {explained(error)}")

    def finished(self, tally: Tally) -> None:
        """A summary, where several were wanted."""
        counts = {"transcribed": tally.done, "skipped": tally.skipped, "failed": tally.failed}
        if not self._quiet and sum(counts.values()) > 1:
            told = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "transcribed")
            self._say(f"{told}; {figures(tally.seconds, tally.seconds, tally.work)}")

    def _print(self, number: int, text: str) -> None:
        """Print what is due: of the recording whose turn it is, then of those that are over already."""
        if text and number not in self._held and len(self._names) > 1:
            text = f"==> {self._names[number]} <==\n{text}"
        self._held[number] = self._held.get(number, "") + text
        while self._turn < len(self._names):
            if due := self._held.get(self._turn):
                self._held[self._turn] = ""
                with self._bar.aside(sys.stdout.isatty()):
                    sys.stdout.write(due)
                    sys.stdout.flush()
            if self._turn not in self._over:
                return
            self._turn += 1

    def _say(self, text: str) -> None:
        with self._bar.aside():
            say(text)


@dataclass(slots=True)
class Script:
    """The text of one recording as it grows; all pieces together and a line break are `formats.text`."""

    split: bool = False
    last: Segment | None = None

    def continued(self, segments: Sequence[Segment]) -> str:
        """What the next segments add to the text."""
        return "".join(map(self._piece, segments))

    def ended(self) -> str:
        """What ends the text."""
        return "" if self.split and self.last is None else "\n"

    def _piece(self, segment: Segment) -> str:
        last, self.last = self.last, segment
        text = " ".join(segment.text.split())
        if self.split and (last is None or last.channel != segment.channel):
            return f"{'' if last is None else chr(10)}{speaker(segment.channel)}: {text}"
        return text if last is None else separator(last.language, segment.language) + text


class Machines:
    """A JSON object a line on standard output: segments as they come, the end of each recording, and of the run."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._names = [recording.shown for recording in recordings]

    def opened(self, model: Transcriber) -> None:
        """What was chosen for this machine, and why."""
        emit({"event": "model", "name": model.model.name, "reasons": model.reasons})

    def begun(self, number: int, begun: Begun) -> None:
        """How much there is to do."""
        seconds = begun.length / SAMPLE_RATE
        self._put("begun", number, {"duration": round(seconds, 3), "channels": begun.channels})

    def segments(self, number: int, segments: Sequence[Segment]) -> None:
        """A line for each segment, times in seconds."""
        for segment in segments:
            times = {"start": round(segment.start / SAMPLE_RATE, 3), "end": round(segment.end / SAMPLE_RATE, 3)}
            self._put("segment", number, {**times, "channel": segment.channel, "text": segment.text.strip()})

    def done(self, number: int, result: Result) -> None:
        """The whole transcript, as in `verbose_json`."""
        body = verbose_object(result.transcript)
        self._put("done", number, {"files": result.files, "work_seconds": round(result.work, 3), **body})

    def failed(self, shown: str, error: TickertapeError, number: int | None = None) -> None:  # noqa: ARG002 - names the file
        """The error's code and message."""
        emit({"event": "error", "file": shown, "code": error.code, "message": error.message})

    def finished(self, tally: Tally) -> None:
        """Counts and totals."""
        counts = {"transcribed": tally.done, "skipped": tally.skipped, "failed": tally.failed, "exit_code": tally.code}
        emit({"event": "finished", **counts, "duration": round(tally.seconds, 3), "work_seconds": round(tally.work, 3)})

    def _put(self, event: str, number: int, body: Mapping[str, Any]) -> None:
        emit({"event": event, "file": self._names[number], **body})


def emit(body: Mapping[str, Any]) -> None:
    """One JSON object on a line of standard output."""
    sys.stdout.write(json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"tickertape: {text}\n")
    sys.stderr.flush()


def explained(error: TickertapeError) -> str:
    """The error's message; of those that are not the caller's, what caused them too."""
    cause = error.__cause__
    if isinstance(error, CallerError) or cause is None:
        return error.message
    return f"{error.message} ({type(cause).__name__}: {' '.join(str(cause).split())})"
