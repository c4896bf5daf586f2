"""The command `transcribe`: recordings through one model, reported as text or as JSON."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tickertape.cli.inputs import Recording, find_recordings
from tickertape.cli.messages import EXIT_ERROR, EXIT_OK, EXIT_USAGE, describe, emit, say
from tickertape.cli.outputs import plan_files, render, write_files
from tickertape.cli.progress import Bar, figures
from tickertape.errors import CallerError, OptionError, TickertapeError
from tickertape.transcriber import Event, Started, Transcriber
from tickertape.transcripts.formats import speaker, verbose_object
from tickertape.transcripts.languages import separator, spoken_languages
from tickertape.types import SAMPLE_RATE, Options, Reading, Segment, Transcript


def transcribe_files(  # noqa: PLR0917 - as the command line names them
    names: Sequence[str], folder: Path | None, formats: Sequence[str], load: Callable[..., Transcriber],
    options: Options, reading: Reading, *, as_json: bool = False, quiet: bool = False, skip_existing: bool = False,
) -> int:  # fmt: skip
    """Transcribe recordings and return the exit code. Raises `OptionError` for conflicting options."""
    spoken_languages(options.languages)  # validate before the model loads
    recordings, invalid = find_recordings(names)
    if not folder and not as_json and (len(formats) > 1 or (len(recordings) > 1 and formats[0] != "txt")):
        message = "Several formats, or several files in a format other than txt, need --output-dir."
        raise OptionError(message, "output_dir", "invalid_output_dir")
    files = plan_files(folder, formats, recordings) if folder else [{} for _ in recordings]
    pairs = list(zip(recordings, files, strict=True))
    if folder and skip_existing:
        pairs = [pair for pair in pairs if not all(path.is_file() for path in pair[1].values())]
    with Bar(shown=not quiet and not as_json and sys.stderr.isatty()) as bar:
        run = (JsonRun if as_json else Run)(pairs, bar, quiet, None if folder else formats[0])
        run.skipped = len(recordings) - len(pairs)
        for name, error in invalid.items():
            run.fail(name, error)
        if pairs:
            with load(progress=bar.loading) as model:
                run.transcribe(model, options, reading)
    run.report_end()
    return run.code


@dataclass
class Run:
    """A run over recordings and their files. It counts the outcomes and reports them as text.

    Results go to standard output, text as it is decoded, everything else to standard error. Recordings are transcribed
    in parallel; their results are printed in order, with headings if there are several.
    """

    recordings: Sequence[tuple[Recording, Mapping[str, Path]]]
    bar: Bar
    quiet: bool
    style: str | None  # format of the printed results; None: they go to files
    done: int = 0
    skipped: int = 0
    failed: int = 0
    code: int = EXIT_OK
    seconds: float = 0.0  # of audio that were transcribed
    began: float = field(default_factory=time.perf_counter)
    _begun: dict[int, float] = field(default_factory=dict)
    _streams: dict[int, TextStream] = field(default_factory=dict)
    _held: dict[int, str] = field(default_factory=dict)  # results of recordings whose turn has not come
    _over: set[int] = field(default_factory=set)
    _turn: int = 0

    def transcribe(self, model: Transcriber, options: Options, reading: Reading) -> None:
        """Transcribe all recordings."""
        self.report_model(model)
        self.began = time.perf_counter()
        sources = (recording.source for recording, _ in self.recordings)
        with contextlib.closing(model.transcribe_many(sources, options, reading)) as events:
            for number, event in events:
                try:
                    self._handle(number, event)
                except TickertapeError as error:  # noqa: PERF203 - a bad recording does not stop the others
                    self.fail(self.name(number), error, number)

    def _handle(self, number: int, event: Event) -> None:
        """Report an event and write the files of a finished recording. Raises the error of a recording."""
        if isinstance(event, TickertapeError):
            raise event
        if isinstance(event, Started):
            self._begun[number] = time.perf_counter()
            self.bar.move(number, 0, event.length * event.channels)
            self.report_start(number, event)
            return
        self.bar.move(number, event.done, event.total)
        if event.segments:
            self.report_segments(number, event.segments)
        if event.transcript is not None:
            write_files(self.recordings[number][1], event.transcript)
            self.report_result(number, event.transcript)
            self.done += 1
            self.seconds += event.transcript.samples / SAMPLE_RATE

    def fail(self, shown: str, error: TickertapeError, number: int | None = None) -> None:
        """Count and report an error. An internal error overrides an invalid input in the exit code."""
        self.failed += 1
        self.code = EXIT_ERROR if self.code == EXIT_ERROR or not isinstance(error, CallerError) else EXIT_USAGE
        self.report_error(shown, error, number)

    def name(self, number: int) -> str:
        """The name of a recording for the user."""
        return self.recordings[number][0].shown

    def report_model(self, model: Transcriber) -> None:
        """Print the choices made for this machine on a terminal."""
        if sys.stderr.isatty() and not self.quiet:
            self._say(f"{model.model.info.name}; {'; '.join(model.reasons)}")

    def report_start(self, number: int, started: Started) -> None:
        """Begin a recording."""
        self._streams[number] = TextStream(split=started.channels > 1)

    def report_segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print text, or hold it back until earlier recordings are finished."""
        if self.style == "txt":
            self._print(number, self._streams[number].continued(segments))

    def report_result(self, number: int, transcript: Transcript) -> None:
        """Print the rest of the result, then the notices."""
        self._over.add(number)
        if self.style == "txt":
            self._print(number, self._streams[number].ended())
        else:
            self._print(number, render(transcript, self.style) if self.style else "")
        for notice in () if self.quiet else transcript.notices:
            self._say(f"{self.name(number)}: {notice.message} ({notice.code})")

    def report_error(self, shown: str, error: TickertapeError, number: int | None) -> None:
        """Print one line with the error and its remedy."""
        if number is not None:
            self._over.add(number)
            begun = self.style == "txt" and number in self._streams and self._streams[number].last is not None
            self._print(number, "\n" if begun else "")
        self._say(f"{shown}: {describe(error)}")

    def report_end(self) -> None:
        """Print a summary of several recordings."""
        counts = {"transcribed": self.done, "skipped": self.skipped, "failed": self.failed}
        if not self.quiet and sum(counts.values()) > 1:
            text = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "transcribed")
            self._say(f"{text}; {figures(self.seconds, self.seconds, time.perf_counter() - self.began)}")

    def _print(self, number: int, text: str) -> None:
        """Print the held text of the current recording and of finished ones after it."""
        if text and number not in self._held and len(self.recordings) > 1:
            text = f"==> {self.name(number)} <==\n{text}"
        self._held[number] = self._held.get(number, "") + text
        while self._turn < len(self.recordings):
            if due := self._held.get(self._turn):
                self._held[self._turn] = ""
                with self.bar.aside(sys.stdout.isatty()):
                    sys.stdout.write(due)
                    sys.stdout.flush()
            if self._turn not in self._over:
                return
            self._turn += 1

    def _say(self, text: str) -> None:
        with self.bar.aside():
            say(text)


class JsonRun(Run):
    """A run that reports one JSON object per line: segments as they are decoded, results, errors and the summary."""

    def report_model(self, model: Transcriber) -> None:
        """Print the choices made for this machine."""
        emit({"event": "model", "name": model.model.info.name, "reasons": model.reasons})

    def report_start(self, number: int, started: Started) -> None:
        """Print the duration of a recording."""
        self._put("begun", number, duration=round(started.length / SAMPLE_RATE, 3), channels=started.channels)

    def report_segments(self, number: int, segments: Sequence[Segment]) -> None:
        """Print a line for each segment, times in seconds."""
        for segment in segments:
            times = {"start": round(segment.start, 3), "end": round(segment.end, 3)}
            self._put("segment", number, **times, channel=segment.channel, language=segment.language,
                      text=segment.text.strip())  # fmt: skip

    def report_result(self, number: int, transcript: Transcript) -> None:
        """Print the transcript as `verbose_json`."""
        files = [str(path) for path in self.recordings[number][1].values()]
        work = round(time.perf_counter() - self._begun[number], 3)
        self._put("done", number, files=files, work_seconds=work, **verbose_object(transcript))

    def report_error(self, shown: str, error: TickertapeError, number: int | None) -> None:  # noqa: ARG002 - for text
        """Print the error's code and message."""
        emit({"event": "error", "file": shown, "code": error.code, "message": error.message})

    def report_end(self) -> None:
        """Print counts and totals."""
        counts = {"transcribed": self.done, "skipped": self.skipped, "failed": self.failed, "exit_code": self.code}
        totals = {"duration": round(self.seconds, 3), "work_seconds": round(time.perf_counter() - self.began, 3)}
        emit({"event": "finished", **counts, **totals})

    def _put(self, event: str, number: int, **body: Any) -> None:
        emit({"event": event, "file": self.name(number), **body})


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
