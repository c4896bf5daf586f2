"""Write transcripts to files, in several formats. A file is complete or absent."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from tickertape.cli.inputs import Recording
from tickertape.errors import OptionError
from tickertape.transcripts.formats import RENDERERS
from tickertape.types import Transcript

# Formats and their file extensions. Both JSON formats can be written side by side.
ENDINGS = {"txt": ".txt", "json": ".json", "verbose_json": ".verbose.json", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv"}


def render(transcript: Transcript, name: str) -> str:
    """A transcript in the format `name`."""
    return RENDERERS["text" if name == "txt" else name](transcript)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that a run will write: a name for each recording below `folder`, without its ending."""

    folder: Path
    formats: tuple[str, ...]
    names: tuple[PurePath, ...]

    @classmethod
    def plan(cls, folder: Path, formats: Sequence[str], recordings: Sequence[Recording]) -> Outputs:
        """Name the files after the recordings, with the extension where two names would collide.

        Raises `OptionError` if two names still collide or the folder cannot be created.
        """
        short = [recording.place.with_suffix("") for recording in recordings]
        count = Counter(map(_folded, short))
        names = [
            brief if count[_folded(brief)] == 1 else recording.place
            for brief, recording in zip(short, recordings, strict=True)
        ]
        if len(set(map(_folded, names))) < len(names):
            raise OptionError(
                "Two recordings have the same name, and one's results would replace the other's; "
                "transcribe the folder above them, or use an output folder for each.",
                "output_dir",
                "invalid_output_dir",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(error) from error
        return cls(folder, tuple(formats), tuple(names))

    def paths(self, number: int) -> tuple[Path, ...]:
        """The files of a recording, one for each format."""
        name = self.names[number]
        return tuple(self.folder / name.with_name(name.name + ENDINGS[each]) for each in self.formats)

    def exist(self, number: int) -> bool:
        """Whether a recording has all its files already."""
        return all(path.is_file() for path in self.paths(number))

    def only(self, numbers: Sequence[int]) -> Outputs:
        """The outputs of some of the recordings, renumbered."""
        return replace(self, names=tuple(self.names[number] for number in numbers))

    def write(self, number: int, transcript: Transcript) -> tuple[Path, ...]:
        """Write a recording's files. Raises `OptionError` if that fails."""
        paths = self.paths(number)
        try:
            for path, name in zip(paths, self.formats, strict=True):
                write_atomically(path, render(transcript, name))
        except OSError as error:
            raise _unwritable(error) from error
        return paths


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
    except BaseException:  # Ctrl-C included
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _folded(path: PurePath) -> str:
    """A name as case-insensitive file systems compare it."""
    return str(path).casefold()


def _unwritable(error: OSError) -> OptionError:
    return OptionError(
        f"The results cannot be written: {error.strerror or type(error).__name__}.", "output_dir", "invalid_output_dir"
    )
