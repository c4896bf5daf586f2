"""What a user names on the command line to recordings: files, folders with all below them, and standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO, TypeAlias

STDIN = "-"
# Names that recordings have. Only folders are searched by them: a file that is named is tried whatever its name.
EXTENSIONS = frozenset(
    {".wav", ".wave", ".w64", ".mp3", ".mp2", ".flac", ".ogg", ".oga", ".opus", ".spx", ".aac", ".amr", ".awb", ".mka"}
    | {".mkv", ".webm", ".mov", ".mp4", ".m4a", ".m4b", ".m4v", ".3gp", ".3g2", ".caf", ".aif", ".aiff", ".aifc"}
    | {".au", ".snd", ".wma", ".asf", ".wmv", ".g722"}
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. `shown` is what the user would call it, `place` where its results go below the output folder."""

    shown: str
    source: Path | BinaryIO
    place: PurePath


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something the user named that is no recording, and why."""

    shown: str
    reason: str


Found: TypeAlias = "Recording | Unusable"


def find(names: Sequence[str]) -> list[Found]:
    """Resolve what the user named, in order: folders in the order of their names, nothing twice."""
    seen: set[str] = set()
    found: list[Found] = []
    for name in names:
        for item in _resolved(name):
            identity = name if name == STDIN or isinstance(item, Unusable) else os.path.realpath(item.shown)
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
            yield Unusable(name, "The folder holds no recordings; name the files to try them whatever they are called.")
        for file in inside:
            yield Recording(str(file), file, file.relative_to(path))
    elif path.exists():
        yield Recording(name, path, PurePath(path.name))
    else:
        yield Unusable(name, "There is no such file or folder.")


def _standard_input() -> Found:
    if sys.stdin is None or sys.stdin.isatty():
        return Unusable(STDIN, "Standard input is a terminal; send a recording into it: tickertape transcribe - < FILE")
    return Recording(STDIN, sys.stdin.buffer, PurePath("stdin"))


def _below(folder: Path) -> Iterator[Path]:
    """Files with a recording's extension; nothing hidden, and no links to folders."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and PurePath(name).suffix.lower() in EXTENSIONS:
                yield Path(root, name)
