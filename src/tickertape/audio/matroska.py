"""Matroska and WebM: whether a file is cut off, and the audio blocks of a damaged one.

Sources: RFC 8794 (EBML), RFC 9559 (Matroska).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tickertape.audio.fields import DamagedDataError, ReadAt, TruncatedDataError, number, unpack

MAX_TIMESTAMP = 2**40  # ms, 35 years; a greater one is damage, and FFmpeg's 64 bits could not hold every multiple

_SEGMENT = b"\x18\x53\x80\x67"
_CLUSTER = b"\x1f\x43\xb6\x75"
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK, _TIMESTAMP, _POSITION, _PREV_SIZE, _VOID = b"\xa3\xa0\xa1\xe7\xa7\xab\xec"
_IN_CLUSTER = {_SIMPLE_BLOCK, _BLOCK_GROUP, _TIMESTAMP, _POSITION, _PREV_SIZE, _VOID}
_AFTER_CLUSTERS = (b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67", b"\x11\x4d\x9b\x74")  # Cues, Tags, SeekHead
_CANDIDATE = re.compile(rb"[\xa3\xa0]|\x1f\x43\xb6\x75")
_CHAIN = 4  # plausible elements in a row at which the search for blocks resumes
_MIN_BLOCK_BYTES = 5  # track number, time (2), flags, one byte of content


def is_cut(head: bytes, read: ReadAt, size: int) -> bool:
    """Whether the segment, or the last element of the last cluster, should end beyond the file."""
    segment = head.find(_SEGMENT)
    start = max(0, size - 2**20)
    tail = read(start, 2**20)
    at = tail.rfind(_CLUSTER)
    try:
        if segment >= 0 and sum(_ebml_size(head, segment + 4)) > size:
            return True
        while 0 <= at < len(tail) and not tail.startswith(_AFTER_CLUSTERS, at):
            at = _cluster_element(tail, at)[2]
    except TruncatedDataError:
        return True
    except DamagedDataError:
        return False
    return at > len(tail)


def matroska_blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every block of a damaged single-track Matroska file that can be found: time in milliseconds, and content.

    After damage the search resumes at the next place where several plausible elements follow each other. Blocks with
    lacing are skipped. A file with compressed blocks, or with ticks other than milliseconds, gives no blocks.
    """
    at = data.find(_CLUSTER)
    header = data[: max(at, 0)]
    compressed, scaled = b"\x6d\x80" in header, b"\x2a\xd7\xb1" in header
    if compressed or (scaled and b"\x2a\xd7\xb1\x83\x0f\x42\x40" not in header):
        return
    base = 0
    while 0 <= at < len(data):
        try:
            name, start, end = _cluster_element(data, at)
            if name == _BLOCK_GROUP:
                start, end = _group_block(data, start, end)
            if end > len(data):
                return
            if name == _TIMESTAMP:
                base = _timestamp(data, start, end)
            if name in {_SIMPLE_BLOCK, _BLOCK_GROUP} and (block := _block(data, start, end)):
                yield base + block[0], block[1]
        except DamagedDataError:
            end = _next_believable(data, at + 1)
        at = end


def _next_believable(data: bytes, start: int) -> int:
    """Where the search for blocks resumes; -1 at the end of the data."""
    places = (match.start() for match in _CANDIDATE.finditer(data, start))
    return next((place for place in places if _is_believable(data, place)), -1)


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """The size that an EBML element states at `at`, 0 if unknown, and where its body starts."""
    width = 9 - number(data, at, 1).bit_length()
    if width > 8:
        raise DamagedDataError
    most = (1 << 7 * width) - 1
    value = number(data, at, width) & most
    return (0 if value == most else value), at + width


def _cluster_element(data: bytes, at: int) -> tuple[int, int, int]:
    """Identifier, start and end of the body of a plausible element of a cluster; a cluster's header has no body."""
    if data.startswith(_CLUSTER, at):
        _, start = _ebml_size(data, at + 4)
        return 0, start, start
    name = number(data, at, 1)
    if name not in _IN_CLUSTER:
        raise DamagedDataError
    length, start = _ebml_size(data, at + 1)
    least = _MIN_BLOCK_BYTES if name in {_SIMPLE_BLOCK, _BLOCK_GROUP} else 0
    most = 8 if name in {_TIMESTAMP, _POSITION, _PREV_SIZE} else 2**20 - 1
    if not least <= length <= most:
        raise DamagedDataError
    return name, start, start + length


def _is_believable(data: bytes, at: int) -> bool:
    try:
        for _ in range(_CHAIN):
            at = _cluster_element(data, at)[2]
            if at >= len(data) or data.startswith(_AFTER_CLUSTERS, at):
                return at <= len(data)
    except DamagedDataError:
        return False
    return True


def _timestamp(data: bytes, start: int, end: int) -> int:
    value = number(data, start, end - start)
    if value > MAX_TIMESTAMP:
        raise DamagedDataError
    return value


def _group_block(data: bytes, at: int, group_end: int) -> tuple[int, int]:
    """Start and end of the block that is the first child of a group."""
    if number(data, at, 1) != _BLOCK:
        raise DamagedDataError
    length, start = _ebml_size(data, at + 1)
    if start + length > group_end:
        raise DamagedDataError
    return start, start + length


def _block(data: bytes, start: int, end: int) -> tuple[int, bytes] | None:
    """Time in milliseconds after the cluster's timestamp, and content; None if the block has lacing."""
    if end - start < _MIN_BLOCK_BYTES:
        raise DamagedDataError
    track, time, flags = unpack(">BhB", data, start)
    return None if flags & 0x06 or not track & 0x80 else (time, data[start + 4 : end])
