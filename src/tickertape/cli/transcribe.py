"""The command `transcribe`: recordings through one model, reported as text or as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tickertape.cli.inputs import InvalidInput, Recording, find_recordings
from tickertape.cli.outputs import plan_files, render, write_files
from tickertape.cli.progress import Bar, figures
from tickertape.errors import CallerError, OptionError, TickertapeError
from tickertape.transcriber import Event, Started, Transcriber
from tickertape.transcripts.formats import speaker, verbose_object
from tickertape.transcripts.languages import language_code, separator
from tickertape.types import SAMPLE_RATE, Options, Reading, Segment, Transcript

EXIT_OK, EXIT_ERROR, EXIT_USAGE = 0, 1, 2  # exit codes; an internal error overrides an invalid input

Reporter: TypeAlias = "TextReporter | JsonReporter"  # reports events of recordings, which are numbered in a run


def transcribe_files(  # noqa: PLR0917 - as the command line names them
    names: Sequence[str], folder: Path | None, formats: Sequence[str], load: Callable[..., Transcriber],
    options: Options, reading: Reading, *, as_json: bool = False, quiet: bool = False, skip_existing: bool = False,
) -> int:  # fmt: skip
    """Transcribe recordings and return the exit code. Raises `OptionError` for conflicting options."""
    if options.language is not None:
        language_code(options.language)  # validate before the model loads
    found = find_recordings(names)
    recordings = [item for item in found if isinstance(item, Recording)]
    if not folder and not as_json and (len(formats) > 1 or (len(recordings) > 1 and formats[0] != "txt")):
        message = "Several formats, or several files in a format other than txt, need --output-dir."
        raise OptionError(message, "output_dir", "invalid_output_dir")
    files = plan_files(folder, formats, recordings) if folder else [{} for _ in recordings]
    left = [
        number
        for number, paths in enumerate(files)
        if not (skip_existing and paths and all(path.is_file() for path in paths.values()))
    ]
    skipped = len(recordings) - len(left)
    recordings, files = [recordings[number] for number in left], [files[number] for number in left]
    shown = [recording.shown for recording in recordings]
    with Bar(shown=not quiet and not as_json and sys.stderr.isatty()) as bar:
        reporter = JsonReporter(shown) if as_json else TextReporter(shown, None if folder else formats[0], bar, quiet)
        run = Run(recordings, files, reporter, bar, skipped)
        for item in found:
            if isinstance(item, InvalidInput):
                run.fail(item.shown, OptionError(item.reason, "file", "invalid_file"))
        if recordings:
            with load(progress=bar.loading) as model:
                run.transcribe(model, options, reading)
    reporter.finished(run)
    return run.code


@dataclass(slots=True)
class Run:
    """A run over recordings, with its counts and totals."""

    recordings: Sequence[Recording]
    files: Sequence[Mapping[str, Path]]
    reporter: Reporter
    bar: Bar
    skipped: int = 0
    done: int = 0
    failed: int = 0
    code: int = EXIT_OK
    seconds: float = 0.0  # of audio that were transcribed
    began: float = field(default_factory=time.perf_counter)
    _begun: dict[int, float] = field(default_factory=dict)

    def transcribe(self, model: Transcriber, options: Options, reading: Reading) -> None:
        """Transcribe all recordings."""
        self.reporter.opened(model)
        self.began = time.perf_counter()
        sources = (recording.source for recording in self.recordings)
        with contextlib.closing(model.transcribe_many(sources, options, reading)) as events:
            for number, event in events:
                try:
                    self._handle(number, event)
                except TickertapeError as error:  # noqa: PERF203 - a bad recording does not stop the others
                    self.fail(self.recordings[number].shown, error, number)

    def _handle(self, number: int, event: Event) -> None:
        """Report an event and write the files of a finished recording. Raises the error of a recording."""
        if isinstance(event, TickertapeError):
            raise event
        if isinstance(event, Started):
            self._begun[number] = time.perf_counter()
            self.bar.move(number, 0, event.length * event.channels)
            self.reporter.begun(number, event)
            return
        self.bar.move(number, event.done, event.total)
        if event.segments:
            self.reporter.segments(number, event.segments)
        if event.transcript is not None:
            paths = self.files[number]
            write_files(paths, event.transcript)
            work = time.perf_counter() - self._begun[number]
            self.reporter.finish(number, event.transcript, [str(path) for path in paths.values()], work)
            self.done += 1
            self.seconds += event.transcript.samples / SAMPLE_RATE

    def fail(self, shown: str, error: TickertapeError, number: int | None = None) -> None:
        """Count and report an error."""
        self.failed += 1
        self.code = EXIT_ERROR if self.code == EXIT_ERROR or not isinstance(error, CallerError) else EXIT_USAGE
        self.reporter.failed(shown, error, number)

    @property
    def work(self) -> float:
        """Seconds since the run began to transcribe."""
        return time.perf_counter() - self.began

    @property
    def counts(self) -> dict[str, int]:
        """The number of recordings by outcome."""
        return {"transcribed": self.done, "skipped": self.skipped, "failed": self.failed}


class TextReporter:
    """Prints results to standard output, text as it is decoded, and everything else to standard error.

    `style` is the format of the results, None if they go to files. Recordings are transcribed in parallel; their
    results are printed in order, with headings if there are several.
    """

    def __init__(self, names: Sequence[str], style: str | None, bar: Bar, quiet: bool = False) -> None:
        self._names = names
        self._style, self._bar, self._quiet = style, bar, quiet
        self._streams: dict[int, TextStream] = {}
        self._held: dict[int, str] = {}  # results of recordings whose turn has not come
        self._over: set[int] = set()
        self._turn = 0

    def opened(self, model: Transcriber) -> None:
        """Print the choices made for this machine on a terminal."""
        if sys.stderr.isatty() and not self._quiet:
            self._say(f"{model.model.info.name}; {'; '.join(model.reasons)}")

    def begun(self, number: int, begun: Started) -> None:
        """Begin a recording."""
        self._streams[number] = TextStream(split=begun.channels > 1)

    def segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print text, or hold it back until earlier recordings are finished."""
        if self._style == "txt":
            self._print(number, self._streams[number].continued(segments))

    def finish(self, number: int, transcript: Transcript, files: Sequence[str], work: float) -> None:  # noqa: ARG002 - for JSON
        """Print the rest of the result, then the notices."""
        self._over.add(number)
        if self._style == "txt":
            self._print(number, self._streams[number].ended())
        else:
            self._print(number, render(transcript, self._style) if self._style else "")
        if not self._quiet:
            for notice in transcript.notices:
                self._say(f"{self._names[number]}: {notice.message} ({notice.code})")

    def failed(self, shown: str, error: TickertapeError, number: int | None = None) -> None:
        """Print one line with the error and its remedy."""
        if number is not None:
            self._over.add(number)
            begun = self._style == "txt" and number in self._streams and self._streams[number].last is not None
            self._print(number, "\n" if begun else "")
        self._say(f"{shown}: {describe(error)}")

    def finished(self, run: Run) -> None:
        """Print a summary of several recordings."""
        if not self._quiet and sum(run.counts.values()) > 1:
            text = ", ".join(f"{count} {what}" for what, count in run.counts.items() if count or what == "transcribed")
            self._say(f"{text}; {figures(run.seconds, run.seconds, run.work)}")

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

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def opened(self, model: Transcriber) -> None:
        """Print the choices made for this machine."""
        emit({"event": "model", "name": model.model.info.name, "reasons": model.reasons})

    def begun(self, number: int, begun: Started) -> None:
        """Print the duration of a recording."""
        self._put("begun", number, duration=round(begun.length / SAMPLE_RATE, 3), channels=begun.channels)

    def segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print a line for each segment, times in seconds."""
        for segment in segments:
            times = {"start": round(segment.start, 3), "end": round(segment.end, 3)}
            self._put("segment", number, **times, channel=segment.channel, text=segment.text.strip())

    def finish(self, number: int, transcript: Transcript, files: Sequence[str], work: float) -> None:
        """Print the transcript as `verbose_json`."""
        self._put("done", number, files=files, work_seconds=round(work, 3), **verbose_object(transcript))

    def failed(self, shown: str, error: TickertapeError, number: int | None = None) -> None:  # noqa: ARG002 - for text
        """Print the error's code and message."""
        emit({"event": "error", "file": shown, "code": error.code, "message": error.message})

    def finished(self, run: Run) -> None:
        """Print counts and totals."""
        totals = {"duration": round(run.seconds, 3), "work_seconds": round(run.work, 3)}
        emit({"event": "finished", **run.counts, "exit_code": run.code, **totals})

    def _put(self, event: str, number: int, **body: Any) -> None:
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
