"""The command `transcribe`: recordings through one model, reported as text or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tickertape.checkpoints.prepare import Progress
from tickertape.cli.inputs import InvalidInput, Recording, find_recordings
from tickertape.cli.outputs import Outputs, render
from tickertape.cli.progress import Bar, figures
from tickertape.errors import CallerError, OptionError, TickertapeError
from tickertape.pipeline import Update
from tickertape.transcriber import Event, Started, Transcriber
from tickertape.transcripts.formats import speaker, verbose_object
from tickertape.transcripts.languages import language_code, separator
from tickertape.types import SAMPLE_RATE, Options, Reading, Segment, Transcript

EXIT_OK, EXIT_ERROR, EXIT_USAGE = 0, 1, 2  # exit codes; an internal error overrides an invalid input

Reporter: TypeAlias = "TextReporter | JsonReporter"  # reports events of recordings, which are numbered in a run


@dataclass(frozen=True, slots=True)
class Result:
    """A recording's transcript, the files it was written to, and the seconds since it was begun."""

    transcript: Transcript
    files: tuple[str, ...]
    work: float


@dataclass(slots=True)
class Summary:
    """Counts and totals of a run."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    code: int = EXIT_OK
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
        self.code = EXIT_ERROR if self.code == EXIT_ERROR or not isinstance(error, CallerError) else EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Run:
    """The validated arguments of the command."""

    recordings: tuple[Recording, ...]
    unusable: tuple[InvalidInput, ...]
    outputs: Outputs | None
    style: str | None  # the format of the results that are printed; None where they only go to files
    load: Callable[[Progress], Transcriber]
    options: Options
    reading: Reading
    as_json: bool = False
    quiet: bool = False
    skipped: int = 0

    @classmethod
    def plan(  # noqa: PLR0917 - as the command line names them
        cls, names: Sequence[str], folder: Path | None, formats: Sequence[str], load: Callable[[Progress], Transcriber],
        options: Options, reading: Reading, *, as_json: bool = False, quiet: bool = False, skip_existing: bool = False,
    ) -> Run:  # fmt: skip
        """Find the recordings and name the outputs. Raises `OptionError` for conflicting options."""
        if options.language is not None:
            language_code(options.language)  # validate before the model loads
        found = find_recordings(names)
        good = [item for item in found if isinstance(item, Recording)]
        bad = tuple(item for item in found if isinstance(item, InvalidInput))
        outputs = Outputs.plan(folder, formats, good) if folder else None
        if outputs is None and not as_json and (len(formats) > 1 or (len(good) > 1 and formats[0] != "txt")):
            message = "Several formats, or several files in a format other than txt, need --output-dir."
            raise OptionError(message, "output_dir", "invalid_output_dir")
        before = len(good)
        if outputs is not None and skip_existing:
            left = [number for number in range(before) if not outputs.exist(number)]
            outputs, good = outputs.only(left), [good[number] for number in left]
        style = None if outputs else formats[0]
        return cls(tuple(good), bad, outputs, style, load, options, reading, as_json, quiet, before - len(good))

    def execute(self) -> int:
        """Transcribe all recordings. Returns the exit code."""
        shown = not self.quiet and not self.as_json and sys.stderr.isatty()
        summary = Summary(skipped=self.skipped)
        with Bar(shown=shown) as bar:
            reporter: Reporter
            reporter = (
                JsonReporter(self.recordings)
                if self.as_json
                else TextReporter(self.recordings, self.style, bar, self.quiet)
            )
            for item in self.unusable:
                summary.fail(error := OptionError(item.reason, "file", "invalid_file"))
                reporter.failed(item.shown, error)
            if self.recordings:
                with self.load(bar.loading) as model:
                    reporter.opened(model)
                    summary.began = time.perf_counter()
                    sources = (recording.source for recording in self.recordings)
                    with contextlib.closing(model.transcribe_many(sources, self.options, self.reading)) as events:
                        self._follow(events, reporter, bar, summary)
        reporter.finished(summary)
        return summary.code

    def _follow(self, events: Iterable[tuple[int, Event]], reporter: Reporter, bar: Bar, summary: Summary) -> None:
        """Report events and write the files of finished recordings."""
        began: dict[int, float] = {}
        for number, item in events:
            error = item if isinstance(item, TickertapeError) else None
            if isinstance(item, Started):
                began[number] = time.perf_counter()
                bar.move(number, 0, item.length * item.channels)
                reporter.begun(number, item)
            elif isinstance(item, Update):
                bar.move(number, item.done, item.total)
                if item.segments:
                    reporter.segments(number, item.segments)
                if item.transcript is not None:
                    error = self._end(number, item.transcript, began[number], reporter, summary)
            if error is not None:
                summary.fail(error)
                reporter.failed(self.recordings[number].shown, error, number)

    def _end(
        self, number: int, transcript: Transcript, began: float, reporter: Reporter, summary: Summary
    ) -> TickertapeError | None:
        """Write the files of a recording. Returns the error if that fails."""
        try:
            files = tuple(map(str, self.outputs.write(number, transcript))) if self.outputs else ()
        except OptionError as error:
            return error
        reporter.done(number, Result(transcript, files, time.perf_counter() - began))
        summary.done += 1
        summary.samples += transcript.samples
        return None


class TextReporter:
    """Prints results to standard output, text as it is decoded, and everything else to standard error.

    `style` is the format of the results, None if they go to files. Recordings are transcribed in parallel; their
    results are printed in order, with headings if there are several.
    """

    def __init__(self, recordings: Sequence[Recording], style: str | None, bar: Bar, quiet: bool = False) -> None:
        self._names = [recording.shown for recording in recordings]
        self._style, self._bar, self._quiet = style, bar, quiet
        self._scripts: dict[int, TextStream] = {}
        self._held: dict[int, str] = {}  # results of recordings whose turn has not come
        self._over: set[int] = set()
        self._turn = 0

    def opened(self, model: Transcriber) -> None:
        """Print the choices made for this machine on a terminal."""
        if sys.stderr.isatty() and not self._quiet:
            self._say(f"{model.model.info.name}; {'; '.join(model.reasons)}")

    def begun(self, number: int, begun: Started) -> None:
        """Begin a recording."""
        self._scripts[number] = TextStream(split=begun.channels > 1)

    def segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print text, or hold it back until earlier recordings are finished."""
        if self._style == "txt":
            self._print(number, self._scripts[number].continued(segments))

    def done(self, number: int, result: Result) -> None:
        """Print the rest of the result, then the notices."""
        self._over.add(number)
        if self._style == "txt":
            self._print(number, self._scripts[number].ended())
        else:
            self._print(number, render(result.transcript, self._style) if self._style else "")
        if not self._quiet:
            for notice in result.transcript.notices:
                self._say(f"{self._names[number]}: {notice.message} ({notice.code})")

    def failed(self, shown: str, error: TickertapeError, number: int | None = None) -> None:
        """Print one line with the error and its remedy."""
        if number is not None:
            self._over.add(number)
            begun = self._style == "txt" and number in self._scripts and self._scripts[number].last is not None
            self._print(number, "\n" if begun else "")
        self._say(f"{shown}: {describe(error)}")

    def finished(self, summary: Summary) -> None:
        """Print a summary of several recordings."""
        counts = {"transcribed": summary.done, "skipped": summary.skipped, "failed": summary.failed}
        if not self._quiet and sum(counts.values()) > 1:
            text = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "transcribed")
            self._say(f"{text}; {figures(summary.seconds, summary.seconds, summary.work)}")

    def _print(self, number: int, text: str) -> None:
        """Print the held text of the current recording and of finished ones after it."""
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
class TextStream:
    """The text of one recording in pieces. Joined, they equal `formats.text`."""

    split: bool = False
    last: Segment | None = None

    def continued(self, segments: Sequence[Segment]) -> str:
        """The text that the next segments add."""
        return "".join(map(self._piece, segments))

    def ended(self) -> str:
        """The end of the text."""
        return "" if self.split and self.last is None else "\n"

    def _piece(self, segment: Segment) -> str:
        last, self.last = self.last, segment
        text = " ".join(segment.text.split())
        if self.split and (last is None or last.channel != segment.channel):
            return f"{'' if last is None else chr(10)}{speaker(segment.channel)}: {text}"
        return text if last is None else separator(last.language, segment.language) + text


class JsonReporter:
    """Prints one JSON object per line: segments as they are decoded, results, errors and the summary."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._names = [recording.shown for recording in recordings]

    def opened(self, model: Transcriber) -> None:
        """Print the choices made for this machine."""
        emit({"event": "model", "name": model.model.info.name, "reasons": model.reasons})

    def begun(self, number: int, begun: Started) -> None:
        """Print the duration of a recording."""
        seconds = begun.length / SAMPLE_RATE
        self._put("begun", number, {"duration": round(seconds, 3), "channels": begun.channels})

    def segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print a line for each segment, times in seconds."""
        for segment in segments:
            times = {"start": round(segment.start, 3), "end": round(segment.end, 3)}
            self._put("segment", number, {**times, "channel": segment.channel, "text": segment.text.strip()})

    def done(self, number: int, result: Result) -> None:
        """Print the transcript as `verbose_json`."""
        body = verbose_object(result.transcript)
        self._put("done", number, {"files": result.files, "work_seconds": round(result.work, 3), **body})

    def failed(self, shown: str, error: TickertapeError, number: int | None = None) -> None:  # noqa: ARG002 - names the file
        """Print the error's code and message."""
        emit({"event": "error", "file": shown, "code": error.code, "message": error.message})

    def finished(self, summary: Summary) -> None:
        """Print counts and totals."""
        counts = {
            "transcribed": summary.done,
            "skipped": summary.skipped,
            "failed": summary.failed,
            "exit_code": summary.code,
        }
        emit(
            {
                "event": "finished",
                **counts,
                "duration": round(summary.seconds, 3),
                "work_seconds": round(summary.work, 3),
            }
        )

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


def describe(error: TickertapeError) -> str:
    """The error's message, and the cause of internal errors."""
    cause = error.__cause__
    if isinstance(error, CallerError) or cause is None:
        return error.message
    return f"{error.message} ({type(cause).__name__}: {' '.join(str(cause).split())})"
