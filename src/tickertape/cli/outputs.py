"""Write transcripts to files, in several formats. A file is complete or absent."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tickertape.cli.inputs import Recording
from tickertape.errors import OptionError
from tickertape.transcripts.formats import RENDERERS
from tickertape.types import Transcript

# Formats and their file extensions. Both JSON formats can be written side by side.
ENDINGS = {"txt": ".txt", "json": ".json", "verbose_json": ".verbose.json", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv"}


def plan_files(folder: Path, formats: Sequence[str], recordings: Sequence[Recording]) -> list[dict[str, Path]]:
    """The files of each recording by format, named after it, with the extension where two names would collide.

    Raises `OptionError` if two names still collide or the folder cannot be created.
    """
    short = [str(recording.place.with_suffix("")) for recording in recordings]
    count = Counter(map(str.casefold, short))  # as case-insensitive file systems compare names
    names = [
        brief if count[brief.casefold()] == 1 else str(recording.place)
        for brief, recording in zip(short, recordings, strict=True)
    ]
    if len(set(map(str.casefold, names))) < len(names):
        raise OptionError(
            "Two recordings have the same name, and one's results would replace the other's; "
            "transcribe the folder above them, or use an output folder for each.",
            "output_dir",
            "invalid_output_dir",
        )
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
    return [{each: folder / f"{name}{ENDINGS[each]}" for each in formats} for name in names]


def write_files(files: Mapping[str, Path], transcript: Transcript) -> None:
    """Write a recording's files. Raises `OptionError` if that fails."""
    with _writing():
        for name, path in files.items():
            write_atomically(path, render(transcript, name))


def render(transcript: Transcript, name: str) -> str:
    """A transcript in the format `name`."""
    return RENDERERS["text" if name == "txt" else name](transcript)


def write_atomically(path: Path, text: str) -> None:
    """Write a temporary file in the same folder and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[-100:]}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:  # also after Ctrl-C
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OptionError(f"The results cannot be written: {reason}.", "output_dir", "invalid_output_dir") from error
