"""Find recordings: files, folders with their subfolders, and standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO, TypeAlias

STDIN = "-"
# Used to search folders only. A file given by name is tried whatever its extension.
EXTENSIONS = frozenset(
    {".wav", ".wave", ".w64", ".mp3", ".mp2", ".flac", ".ogg", ".oga", ".opus", ".spx", ".aac", ".amr", ".awb", ".mka"}
    | {".mkv", ".webm", ".mov", ".mp4", ".m4a", ".m4b", ".m4v", ".3gp", ".3g2", ".caf", ".aif", ".aiff", ".aifc"}
    | {".au", ".snd", ".wma", ".asf", ".wmv", ".g722"}
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. `shown` is its name for the user, `place` the path of its results below the output folder."""

    shown: str
    source: Path | BinaryIO
    place: PurePath


@dataclass(frozen=True, slots=True)
class InvalidInput:
    """An argument that names no recording, and the reason."""

    shown: str
    reason: str


Found: TypeAlias = "Recording | InvalidInput"


def find_recordings(names: Sequence[str]) -> list[Found]:
    """The recordings of the arguments, in order and without duplicates; those of a folder are sorted by name."""
    seen: set[str] = set()
    found: list[Found] = []
    for name in names:
        for item in _resolved(name):
            identity = name if name == STDIN or isinstance(item, InvalidInput) else os.path.realpath(item.shown)
            if identity not in seen:
                seen.add(identity)
                found.append(item)
    return found


def _resolved(name: str) -> Iterator[Found]:
    path = Path(name)
    if name == STDIN:
        yield _standard_input()
    elif path.is_dir():
        inside = sorted(_below(path))
        if not inside:
            yield InvalidInput(
                name, "The folder has no files with a known extension; give the files by name to try them."
            )
        for file in inside:
            yield Recording(str(file), file, file.relative_to(path))
    elif path.exists():
        yield Recording(name, path, PurePath(path.name))
    else:
        yield InvalidInput(name, "There is no such file or folder.")


def _standard_input() -> Found:
    if sys.stdin is None or sys.stdin.isatty():
        return InvalidInput(
            STDIN, "Standard input is a terminal; redirect a recording into it: tickertape transcribe - < FILE"
        )
    return Recording(STDIN, sys.stdin.buffer, PurePath("stdin"))


def _below(folder: Path) -> Iterator[Path]:
    """Files with a known extension, without hidden ones and links to folders."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and PurePath(name).suffix.lower() in EXTENSIONS:
                yield Path(root, name)
