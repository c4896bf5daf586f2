"""Bytes, a path or a file object as one seekable reader without a name."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tickertape.errors import EmptyFileError, FileTooLargeError, InvalidAudioError

AudioSource: TypeAlias = "bytes | bytearray | memoryview | str | Path | BinaryIO"


class SourceReader:
    """A seekable view of a file from an offset on. It has no name, because FFmpeg takes file names into account."""

    def __init__(self, file: BinaryIO, start: int, size: int, masked: Sequence[int] = ()) -> None:
        self._file, self._start, self._position = file, start, 0
        self.size = size
        self.masked = masked  # offsets in ascending order; `read` replaces the three bytes at each by zeros

    def clone(self) -> SourceReader:
        """A reader of the same bytes with a position of its own."""
        return SourceReader(self._file, self._start, self.size, self.masked)

    def skip(self, count: int) -> None:
        """Make the view start `count` bytes later."""
        self._start, self.size = self._start + count, self.size - count

    def at(self, offset: int, count: int) -> bytes:
        """At most `count` bytes at an offset, not masked; none beyond the end, because no file seeks to any offset."""
        if offset >= self.size:
            return b""
        self._file.seek(self._start + offset)
        return self._file.read(count)

    def read(self, count: int) -> bytes:
        """At most `count` bytes from the position on, masked."""
        start, data = self._position, self.at(self._position, count)
        self._position += len(data)
        first, last = bisect_left(self.masked, start - 2), bisect_left(self.masked, self._position)
        if first == last:
            return data
        content = bytearray(data)
        for offset in self.masked[first:last]:
            begin, end = max(offset - start, 0), min(offset + 3 - start, len(data))
            content[begin:end] = bytes(end - begin)
        return bytes(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position and return it."""
        position = offset + (0, self._position, self.size)[whence]
        if position < 0:
            raise ValueError("before the start")
        self._position = position
        return position

    def tell(self) -> int:
        """The position."""
        return self._position


@contextmanager
def open_source(source: AudioSource, max_bytes: int) -> Iterator[SourceReader]:
    """A reader of the source. A file object is read from its current position and stays open.

    Raises `InvalidAudioError` for a path that cannot be opened, `FileTooLargeError` and `EmptyFileError`.
    """
    with ExitStack() as opened:
        if isinstance(source, (str, Path)):
            file = opened.enter_context(_open_path(source))
        else:
            file = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
        if not file.seekable():
            file = io.BytesIO(_read_pipe(file, max_bytes + 1))
        start = file.tell()
        size = file.seek(0, io.SEEK_END) - start
        if size > max_bytes:
            raise FileTooLargeError(f"The file is larger than the limit of {max_bytes:,} bytes.")
        if size <= 0:
            raise EmptyFileError("The file is empty.")
        yield SourceReader(file, start, size)


def _open_path(path: str | Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InvalidAudioError(f"The file cannot be opened: {reason}.") from error


def _read_pipe(pipe: BinaryIO, max_bytes: int) -> bytes:
    """Everything from a pipe, up to a limit. One call of `read` may return less than a pipe still has."""
    chunks: list[bytes] = []
    while max_bytes > 0 and (chunk := pipe.read(min(max_bytes, 2**20))):
        chunks.append(chunk)
        max_bytes -= len(chunk)
    return b"".join(chunks)
