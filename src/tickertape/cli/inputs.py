"""Find recordings: files, folders with their subfolders, and standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from tickertape.errors import OptionError

STDIN = "-"
# Used to search folders only. A file given by name is tried whatever its extension.
EXTENSIONS = frozenset(
    {".wav", ".wave", ".w64", ".mp3", ".mp2", ".flac", ".ogg", ".oga", ".opus", ".spx", ".aac", ".amr", ".awb", ".mka"}
    | {".mkv", ".webm", ".mov", ".mp4", ".m4a", ".m4b", ".m4v", ".3gp", ".3g2", ".caf", ".aif", ".aiff", ".aifc"}
    | {".au", ".snd", ".wma", ".asf", ".wmv", ".g722", ".ac3", ".eac3", ".dts", ".avi", ".flv", ".ts", ".mts", ".m2ts"}
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. `shown` is its name for the user, `place` the path of its results below the output folder."""

    shown: str
    source: Path | BinaryIO
    place: PurePath


def find_recordings(names: Sequence[str]) -> tuple[list[Recording], dict[str, OptionError]]:
    """The recordings of the arguments, in order and without duplicates, and the error of each invalid argument.

    The recordings of a folder are sorted by name.
    """
    found: dict[str, Recording] = {}
    invalid: dict[str, OptionError] = {}
    for name in names:
        try:
            for recording in _resolve(name):
                found.setdefault(name if name == STDIN else os.path.realpath(recording.shown), recording)
        except OptionError as error:  # noqa: PERF203 - an invalid argument does not stop the others
            invalid[name] = error
    return list(found.values()), invalid


def _resolve(name: str) -> list[Recording]:
    """The recordings of one argument. Raises `OptionError`."""
    path = Path(name)
    if name == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise _invalid("Standard input is a terminal; redirect a recording into it: tickertape transcribe - < FILE")
        return [Recording(STDIN, sys.stdin.buffer, PurePath("stdin"))]
    if not path.exists():
        raise _invalid("There is no such file or folder.")
    if not path.is_dir():
        return [Recording(name, path, PurePath(path.name))]
    recordings = [Recording(str(file), file, file.relative_to(path)) for file in sorted(_below(path))]
    if not recordings:
        raise _invalid("The folder has no files with a known extension; give the files by name to try them.")
    return recordings


def _invalid(reason: str) -> OptionError:
    return OptionError(reason, "file", "invalid_file")


def _below(folder: Path) -> Iterator[Path]:
    """Files with a known extension, without hidden ones and links to folders."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and PurePath(name).suffix.lower() in EXTENSIONS:
                yield Path(root, name)
