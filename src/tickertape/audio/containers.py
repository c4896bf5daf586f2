"""What a recording's headers claim, read from its first and last bytes before FFmpeg opens it.

FFmpeg trusts some wrong headers (a wav whose data size is too small). It does not report some damage (an Ogg file
without its last page, an mp3 shorter than its Xing header says). `read_claim` reads those headers and returns an empty
claim for other formats. It raises no exception for any bytes.

Sources: RIFF/WAVE (Microsoft, 1991), the Xing/LAME and VBRI header descriptions, RFC 3533 (Ogg), Apple's Core Audio
Format specification, ISO/IEC 14496-12 (MP4), the ASF specification.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tickertape.audio.fields import DamagedDataError, ReadAt, number, unpack
from tickertape.audio.matroska import is_cut

HEAD_BYTES = 65_536  # enough for every header read here; an Ogg page is at most 65,307 bytes
MAX_INDEX_BYTES = 64 * 2**20  # an MP4 index above this is refused
MAX_INDEX_ENTRIES = 3_000_000  # FFmpeg takes 35 bytes for each; four hours of AAC at 96 kHz have 1,350,000
STREAMING_SIZE = 0x7FF00000  # recorders that cannot seek back write sizes from here upwards, or 0

_PCM_TAGS = {1, 3, 6, 7, 0xFFFE}  # integer, float, A-law, mu-law, extensible: byte rate follows from the other fields
_ENCRYPTED = "The recording is encrypted (DRM) and cannot be decoded. Export it without protection."
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROTECTION = (
    bytes.fromhex("fbb31122 23bdd211 b4b700a0 c955fc6e"),  # content encryption object
    bytes.fromhex("14e68a29 2226174c b935dae0 7ee9289c"),  # extended content encryption object
    bytes.fromhex("33850543 8169e649 9b74ad12 cb86d58c"),  # advanced content encryption object
)

_PLAIN = {  # demuxers of containers whose headers FFmpeg reads well, and how these start
    "flac": b"fLaC",
    "flv": b"FLV\x01",
    "mpegts": b"G.{187}G|....G.{191}G",  # packets of 188 bytes, on discs after 4 bytes of time
    "ac3,eac3": b"\x0b\x77",
    "dts": b"\x7f\xfe\x80\x01",
}
_ID3 = re.compile(rb"ID3[\x02-\x04][^\xff].[\x00-\x7f]{4}", re.DOTALL)  # FFmpeg's ff_id3v2_match, for known versions


@dataclass(frozen=True, slots=True)
class Claim:
    """What the file claims. `seconds` is None where it claims nothing or FFmpeg reads the claim itself.

    `demuxers` are FFmpeg's demuxers allowed for this container: FFmpeg's own detection must agree with the header.
    """

    demuxers: str = "mp3,aac,amr,w64,aiff,au"
    seconds: float | None = None
    rate: int | None = None  # Hz
    channels: int | None = None
    ignore_size: bool = False  # wav: the data size is wrong, the audio runs to the end of the file
    size_is_wrong: bool = False  # as above, and not merely the placeholder of a streaming recorder
    cut: bool = False  # the container's end is missing
    is_fragmented: bool = False  # an mp4 that may be a piece of a live stream
    error: str | None = None  # why the recording must not be decoded


def read_claim(read: ReadAt, size: int) -> Claim:
    """Read what the `size` bytes behind `read` claim to be. Unknown or damaged headers give an empty claim."""
    head = read(0, HEAD_BYTES)
    readers: list[tuple[int, bytes, Callable[[bytes, ReadAt, int], Claim]]] = [
        (8, b"WAVE", _wav),
        (8, b"AVI ", _avi),
        (0, b"OggS", _ogg),
        *((4, name, _mp4) for name in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")),
        (0, b"\x1a\x45\xdf\xa3", lambda *file: Claim("matroska", cut=is_cut(*file))),
        (0, b"caff", _caf),
        (0, _ASF_HEADER, _asf),
        (0, b"\xff", _mp3),
    ]
    try:
        return next(reader(head, read, size) for at, magic, reader in readers if head.startswith(magic, at))
    except StopIteration:
        return next((Claim(name) for name, start in _PLAIN.items() if re.match(start, head, re.DOTALL)), Claim())
    except DamagedDataError:
        return Claim()


def _wav(_head: bytes, read: ReadAt, size: int) -> Claim:
    channels = rate = byte_rate = 0
    for name, start, length in _chunks(read, 12, "<4sI"):
        if name == b"fmt ":
            tag, channels, rate, byte_rate, _, bits = unpack("<HHIIHH", read(start, 16))
            if tag in _PCM_TAGS:
                byte_rate = rate * channels * (bits // 8)
        elif name == b"data":
            present = size - start
            too_small = length < present and not _chunk_follows(read, start + length, size)
            placeholder = length >= STREAMING_SIZE and length > present
            believed = present if too_small or placeholder else length
            seconds = believed / byte_rate if byte_rate else None
            return Claim("wav", seconds, rate, channels, too_small, size_is_wrong=too_small and length > 0)
    return Claim("wav", None, rate or None, channels or None)


def _avi(head: bytes, _read: ReadAt, size: int) -> Claim:
    (length,) = unpack("<I", head, 4)
    return Claim("avi", cut=size - 8 < length < STREAMING_SIZE)


def _chunks(read: ReadAt, at: int, layout: str, padded_to: int = 2) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stated length of the first 64 chunks, whose headers have this `struct` layout."""
    width = struct.calcsize(layout)
    for _ in range(64):
        header = read(at, width)
        if len(header) < width:
            return
        name, length = struct.unpack(layout, header)
        if length < 0:  # caf: the rest of the file
            return
        yield name, at + width, length
        at += width + length + length % padded_to


def _chunk_follows(read: ReadAt, offset: int, size: int) -> bool:
    """Whether the bytes at `offset` are another RIFF chunk, or too few to be one."""
    if size - offset < 9:
        return True
    for start in (offset + offset % 2, offset):  # some writers forget the padding byte
        header = read(start, 8)
        length = int.from_bytes(header[4:], "little")
        if re.fullmatch(rb"[A-Za-z][A-Za-z0-9_ ]{3}", header[:4]) and length <= size - start - 8 + 1:
            return True
    return False


def _ogg(_head: bytes, read: ReadAt, size: int) -> Claim:
    """Cut if the last page is incomplete or not marked as the last (RFC 3533)."""
    tail = read(max(0, size - 2 * HEAD_BYTES), 2 * HEAD_BYTES)
    start = tail.rfind(b"OggS\0")
    if start < 0:
        return Claim("ogg")
    page = tail[start:].ljust(27 + 255, b"\xff")  # an incomplete header states more than there is
    segments = 27 + page[26]
    return Claim("ogg", cut=not page[5] & 4 or segments + sum(page[27:segments]) > len(tail) - start)


def _mp3(head: bytes, _read: ReadAt, _size: int) -> Claim:
    sync = re.search(rb"\xff[\xf2-\xf7\xfa-\xff]..", head, re.DOTALL)  # layers II and III; ADTS has layer bits 00
    if sync is None:
        return Claim()
    frame = head[sync.start() :]
    lsf = not frame[1] & 8  # MPEG-2: half the rate, half the samples per frame
    rate = (44_100, 48_000, 32_000, 0)[frame[2] >> 2 & 3] >> lsf
    if not rate:
        raise DamagedDataError
    info = 4 + ((9, 17) if lsf else (17, 32))[frame[3] >> 6 != 3]  # mode 3 is mono
    frames = skipped = 0
    if frame[info : info + 4] in {b"Xing", b"Info"} and number(frame, info + 7, 1) & 1:
        frames = number(frame, info + 8, 4)
        if frame[info + 120 : info + 124] in {b"LAME", b"Lavf", b"Lavc"}:
            delays = number(frame, info + 141, 3)  # 12 bits at the start, 12 at the end
            skipped = (delays >> 12) + (delays & 0xFFF)
    elif frame[36:40] == b"VBRI":
        frames = number(frame, 50, 4)
    samples = frames * (576 if lsf else 1152) - skipped
    return Claim("mp3,aac", max(0, samples) / rate if frames else None)


def _asf(head: bytes, _read: ReadAt, _size: int) -> Claim:
    return Claim("asf", error=_ENCRYPTED if any(mark in head for mark in _ASF_PROTECTION) else None)


def _caf(_head: bytes, read: ReadAt, size: int) -> Claim:
    return Claim("caf", cut=any(start + length > size for _, start, length in _chunks(read, 8, ">4sq", padded_to=1)))


def _mp4(_head: bytes, read: ReadAt, size: int) -> Claim:
    index, cut = _mp4_index(read, size)
    entries = -_pcm_entries(index)
    for table in re.finditer(b"stsz|stz2|trun", index):
        at = table.end() + (4 if table[0] == b"trun" else 8)
        entries += int.from_bytes(index[at : at + 4], "big")
    error = None
    if re.search(rb"stsd.{12}(enca|drms)", index, re.DOTALL):
        error = _ENCRYPTED
    elif entries > MAX_INDEX_ENTRIES or len(index) >= MAX_INDEX_BYTES or b"cmov" in index:
        error = "The mp4's index is too large for a recording. Export the recording again."
    elif b"moov" not in index:
        error = "This is a truncated mp4: its index (moov) is missing. Upload the whole file."
    return Claim("mov", cut=cut, is_fragmented=b"mvex" in index, error=error)


def _mp4_index(read: ReadAt, size: int) -> tuple[bytes, bool]:
    """Everything but the media data, as far as `MAX_INDEX_BYTES`, and whether the file ends within a box."""
    offset, length, parts, room = 0, 0, [], MAX_INDEX_BYTES
    while offset < size and room > 0:
        header = read(offset, 16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: to the end of the file
            length = size - offset
        if name != b"mdat":
            parts.append(read(offset, min(length, room)))
            room -= len(parts[-1]) + 8  # so that many empty boxes end too
        offset += length
    return b"".join(parts), offset > size


def _pcm_entries(index: bytes) -> int:
    """Entries of tracks of plain PCM, for which FFmpeg keeps one entry a chunk rather than one a sample.

    Only where every track's only time table says one tick a sample: otherwise nothing is allowed for.
    """
    counts = 0
    tracks = index.split(b"trak")[1:]
    for track in tracks:
        times, sizes = track.find(b"stts"), track.find(b"stsz")
        if times < 0 or sizes < 0 or track.count(b"stts") > 1 or track.count(b"stsz") > 1:
            return 0
        fixed, count = unpack(">II", track, sizes + 8)
        lines, _, delta = unpack(">III", track, times + 8)
        if lines == 1 and delta == 1 and fixed > 0:
            counts += count
    return counts if index.count(b"stts") == len(tracks) else 0


def id3_end(read: ReadAt, size: int) -> int:
    """Where the ID3v2 tags at the start of a file end, 0 if there are none."""
    offset = 0
    while offset < size:
        tag = read(offset, 10)
        if not _ID3.match(tag):
            break
        offset += 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])  # sizes of seven bits a byte
        offset += 10 if tag[3] == 4 and tag[5] & 0x10 else 0  # a footer
    return min(offset, size)


def id3_tags(read: ReadAt, size: int) -> list[int]:
    """Every place where FFmpeg might see an ID3v2 tag: such a tag can hold compressed frames of any size."""
    step = 2**20
    return [start + tag.start() for start in range(0, size, step) for tag in _ID3.finditer(read(start, step + 9))]
