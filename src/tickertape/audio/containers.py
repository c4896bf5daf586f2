"""What a recording's headers claim, read from its first and last bytes before FFmpeg opens it.

FFmpeg trusts some wrong headers (a wav whose data size is too small). It does not report some damage (an Ogg file
without its last page, an mp3 shorter than its Xing header says). `read_claim` reads those headers and returns an empty
claim for other formats. It raises no exception for any bytes.

Sources: RIFF/WAVE (Microsoft, 1991), the Xing/LAME and VBRI header descriptions, RFC 3533 (Ogg), RFC 7845 (Opus),
RFC 9639 (FLAC), Apple's Core Audio Format specification, ISO/IEC 14496-12 (MP4), the ASF specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tickertape.audio.fields import DamagedDataError, ReadAt, number, take, unpack
from tickertape.audio.matroska import is_cut

HEAD_BYTES = 65_536  # enough for every header read here; an Ogg page is at most 65,307 bytes
MAX_INDEX_BYTES = 64 * 2**20  # an MP4 index above this is refused
MAX_INDEX_ENTRIES = 3_000_000  # FFmpeg takes 35 bytes for each; four hours of AAC at 96 kHz have 1,350,000
STREAMING_SIZE = 0x7FF00000  # recorders that cannot seek back write sizes from here upwards, or 0

_PCM_TAGS = {1, 3, 6, 7, 0xFFFE}  # integer, float, A-law, mu-law, extensible: byte rate follows from the other fields
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROTECTION = (
    bytes.fromhex("fbb31122 23bdd211 b4b700a0 c955fc6e"),  # content encryption object
    bytes.fromhex("14e68a29 2226174c b935dae0 7ee9289c"),  # extended content encryption object
    bytes.fromhex("33850543 8169e649 9b74ad12 cb86d58c"),  # advanced content encryption object
)

_ID3 = re.compile(rb"ID3[\x02-\x04][^\xff].[\x00-\x7f]{4}", re.DOTALL)  # FFmpeg's ff_id3v2_match, for known versions


@dataclass(frozen=True, slots=True)
class Claim:
    """What the file claims. `seconds` is None where it claims nothing or FFmpeg reads the claim itself."""

    kind: str = ""
    seconds: float | None = None
    rate: int | None = None  # Hz
    channels: int | None = None
    ignore_size: bool = False  # wav: the data size is wrong, the audio runs to the end of the file
    size_is_wrong: bool = False  # as above, and not merely the placeholder of a streaming recorder
    cut: bool = False  # the container's end is missing
    no_index: bool = False  # MP4 without its index: nothing can be decoded
    protected: bool = False  # encrypted
    bomb: bool = False  # an index that would fill memory


def read_claim(read: ReadAt, size: int) -> Claim:
    """Read what the `size` bytes behind `read` claim to be. Unknown or damaged headers give an empty claim."""
    head = read(0, HEAD_BYTES)
    readers: list[tuple[int, bytes, Callable[[bytes, ReadAt, int], Claim]]] = [
        (8, b"WAVE", _wav),
        (0, b"OggS", _ogg),
        (0, b"fLaC", _flac),
        *((4, name, _mp4) for name in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp")),
        (0, b"\x1a\x45\xdf\xa3", _matroska),
        (0, b"caff", _caf),
        (0, _ASF_HEADER, _asf),
        (0, b"\xff", _mp3),
    ]
    try:
        for offset, magic, reader in readers:
            if head.startswith(magic, offset):
                return reader(head, read, size)
    except DamagedDataError:
        return Claim()
    return Claim()


def _wav(head: bytes, read: ReadAt, size: int) -> Claim:
    tag = channels = rate = byte_rate = bits = 0
    for name, offset, length in _riff_chunks(head, read, size):
        if name == b"fmt ":
            tag, channels, rate, byte_rate, _, bits = unpack("<HHIIHH", read(offset, 16))
            if tag in _PCM_TAGS:
                byte_rate = rate * channels * (bits // 8)
        elif name == b"data":
            present = size - offset
            streaming = length == 0 or (length >= STREAMING_SIZE and length > present)
            too_small = length < present and not _chunk_follows(read, offset + length, size)
            ignore = too_small or (streaming and length > present)
            believed = present if ignore else length
            seconds = believed / byte_rate if byte_rate else None
            return Claim(
                "wav", seconds, rate, channels, ignore_size=too_small, size_is_wrong=too_small and not streaming
            )
    return Claim("wav", None, rate or None, channels or None)


def _riff_chunks(head: bytes, read: ReadAt, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, where its body starts, and how long it claims to be; at most the first 64."""
    offset = 12
    for _ in range(64):
        header = head[offset : offset + 8] if offset + 8 <= len(head) else read(offset, 8)
        if len(header) < 8:
            return
        name, length = header[:4], int.from_bytes(header[4:], "little")
        yield name, offset + 8, length
        offset += 8 + length + length % 2
        if offset >= size:
            return


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


def _flac(head: bytes, _read: ReadAt, _size: int) -> Claim:
    packed = number(head, 18, 8)  # 20 bits rate, 3 channels, 5 bits per sample, 36 total samples
    rate, total = packed >> 44, packed & (2**36 - 1)
    if total and not rate:
        raise DamagedDataError
    return Claim("flac", total / rate if total else None)


def _ogg(head: bytes, read: ReadAt, size: int) -> Claim:
    tail = read(max(0, size - 2 * HEAD_BYTES), 2 * HEAD_BYTES)
    serial, rate, skip = _ogg_codec(head)
    if not rate:
        return Claim("ogg")
    last = cut = None
    for page in _ogg_pages(tail):
        granule, page_serial = unpack("<qI", tail, page + 6)
        if page_serial == serial:
            cut = not tail[page + 5] & 4  # RFC 3533: bit 3 marks the last page of a logical stream
            last = granule if granule >= 0 else last
    seconds = None if last is None else max(0, last - skip) / rate
    return Claim("ogg", seconds, cut=bool(cut))


def _ogg_codec(head: bytes) -> tuple[int, int, int]:
    """Serial number, granules per second and granules to skip of the first audio stream; rate 0 if there is none."""
    for page in _ogg_pages(head):
        if not head[page + 5] & 2:  # the first pages of all streams come first
            break
        serial = number(head, page + 14, 4, "little")
        body = head[page + 27 + head[page + 26] :]
        if body.startswith(b"OpusHead"):
            return serial, 48_000, number(body, 10, 2, "little")
        if body.startswith(b"\x01vorbis"):
            return serial, number(body, 12, 4, "little"), 0
        if body.startswith(b"Speex   "):
            return serial, number(body, 36, 4, "little"), 0
        if body.startswith(b"\x7fFLAC"):
            return serial, number(body, 27, 3) >> 4, 0
    return 0, 0, 0


def _ogg_pages(data: bytes) -> Iterator[int]:
    """Offsets of complete page headers."""
    page = data.find(b"OggS\0")
    while 0 <= page <= len(data) - 27:
        yield page
        page = data.find(b"OggS\0", page + 27)


def _mp3(head: bytes, _read: ReadAt, _size: int) -> Claim:
    sync = re.search(rb"\xff[\xf2-\xf7\xfa-\xff]", head)  # layers II and III; ADTS has layer bits 00
    if sync is None:
        return Claim()
    frame = head[sync.start() :]
    take(frame, 0, 4)
    lsf = not frame[1] & 8  # MPEG-2 and 2.5: half the samples per frame
    rate = (44_100, 48_000, 32_000, 0)[frame[2] >> 2 & 3] >> (0 if frame[1] & 8 else 1 if frame[1] & 16 else 2)
    if not rate:
        raise DamagedDataError
    mono = frame[3] >> 6 == 3
    info = 4 + ((9 if mono else 17) if lsf else (17 if mono else 32))
    frames = skipped = 0
    if frame[info : info + 4] in {b"Xing", b"Info"} and number(frame, info + 7, 1) & 1:
        frames = number(frame, info + 8, 4)
        if frame[info + 120 : info + 124] in {b"LAME", b"Lavf", b"Lavc"}:
            delays = number(frame, info + 141, 3)  # 12 bits at the start, 12 at the end
            skipped = (delays >> 12) + (delays & 0xFFF)
    elif frame[36:40] == b"VBRI":
        frames = number(frame, 50, 4)
    samples = frames * (576 if lsf else 1152) - skipped
    return Claim("mp3", max(0, samples) / rate if frames else None)


def _asf(head: bytes, _read: ReadAt, _size: int) -> Claim:
    return Claim("asf", protected=any(mark in head for mark in _ASF_PROTECTION))


def _caf(_head: bytes, read: ReadAt, size: int) -> Claim:
    offset = 8
    for _ in range(64):
        header = read(offset, 12) if offset < size else b""
        if len(header) < 12:
            break
        length = int.from_bytes(header[4:], "big", signed=True)
        if length < 0:  # -1 stands for the rest of the file
            break
        offset += 12 + length
    return Claim("caf", cut=offset > size)


def _mp4(_head: bytes, read: ReadAt, size: int) -> Claim:
    index, cut = _mp4_index(read, size)
    boxes = {index[found.end() + 12 : found.end() + 16] for found in re.finditer(b"stsd", index)}
    entries = sum(
        int.from_bytes(index[found.end() + 8 : found.end() + 12], "big") for found in re.finditer(b"stsz|stz2", index)
    )
    entries += sum(
        int.from_bytes(index[found.end() + 4 : found.end() + 8], "big") for found in re.finditer(b"trun", index)
    )
    entries -= _pcm_entries(index)
    bomb = entries > MAX_INDEX_ENTRIES or len(index) >= MAX_INDEX_BYTES or b"cmov" in index
    no_index = b"moov" not in index
    return Claim("mp4", cut=cut, no_index=no_index, bomb=bomb, protected=bool(boxes & {b"enca", b"drms"}))


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
    found, step = [], 2**20
    for start in range(0, size, step):
        found += [start + match.start() for match in _ID3.finditer(read(start, step + 9))]
    return sorted(set(found))


def _matroska(head: bytes, read: ReadAt, size: int) -> Claim:
    return Claim("matroska", cut=is_cut(head, read, size))
