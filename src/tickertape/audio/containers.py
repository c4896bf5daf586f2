"""What a recording says of itself, read from its first and last bytes before any decoder sees them.

FFmpeg believes some headers that lie (a wav whose data size is too small) and hides some truths that matter (an Ogg
file without its last page, an mp3 shorter than its Xing header says). `read_claim` fills that hole for the formats
concerned and returns an empty claim for the rest. It is pure: bytes in, one value out, no exception for any input.

Sources: RIFF/WAVE (Microsoft, 1991), the Xing/LAME and VBRI header descriptions, RFC 3533 (Ogg), RFC 7845 (Opus),
RFC 9639 (FLAC), Apple's Core Audio Format specification, ISO/IEC 14496-12 (MP4), RFC 8794 (EBML), RFC 9559
(Matroska), the ASF specification.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

ReadAt = Callable[[int, int], bytes]  # (offset, count) -> at most count bytes


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
    except (struct.error, IndexError, ZeroDivisionError):
        return Claim()
    return Claim()


def _wav(head: bytes, read: ReadAt, size: int) -> Claim:
    tag = channels = rate = byte_rate = bits = 0
    for name, offset, length in _riff_chunks(head, read, size):
        if name == b"fmt ":
            tag, channels, rate, byte_rate, _, bits = struct.unpack("<HHIIHH", read(offset, 16))
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
    packed = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels, 5 bits per sample, 36 total samples
    rate, total = packed >> 44, packed & (2**36 - 1)
    return Claim("flac", total / rate if total else None)


def _ogg(head: bytes, read: ReadAt, size: int) -> Claim:
    tail = read(max(0, size - 2 * HEAD_BYTES), 2 * HEAD_BYTES)
    serial, rate, skip = _ogg_codec(head)
    if not rate:
        return Claim("ogg")
    last = cut = None
    for page in _ogg_pages(tail):
        granule, page_serial = struct.unpack("<qI", tail[page + 6 : page + 18])
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
        serial = int.from_bytes(head[page + 14 : page + 18], "little")
        body = head[page + 27 + head[page + 26] :]
        if body.startswith(b"OpusHead"):
            return serial, 48_000, int.from_bytes(body[10:12], "little")
        if body.startswith(b"\x01vorbis"):
            return serial, int.from_bytes(body[12:16], "little"), 0
        if body.startswith(b"Speex   "):
            return serial, int.from_bytes(body[36:40], "little"), 0
        if body.startswith(b"\x7fFLAC"):
            return serial, int.from_bytes(body[27:30], "big") >> 4, 0
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
    lsf = not frame[1] & 8  # MPEG-2 and 2.5: half the samples per frame
    rate = (44_100, 48_000, 32_000)[frame[2] >> 2 & 3] >> (0 if frame[1] & 8 else 1 if frame[1] & 16 else 2)
    mono = frame[3] >> 6 == 3
    info = 4 + ((9 if mono else 17) if lsf else (17 if mono else 32))
    frames = skipped = 0
    if frame[info : info + 4] in {b"Xing", b"Info"} and frame[info + 7] & 1:
        frames = int.from_bytes(frame[info + 8 : info + 12], "big")
        if frame[info + 120 : info + 124] in {b"LAME", b"Lavf", b"Lavc"}:
            delays = int.from_bytes(frame[info + 141 : info + 144], "big")  # 12 bits at the start, 12 at the end
            skipped = (delays >> 12) + (delays & 0xFFF)
    elif frame[36:40] == b"VBRI":
        frames = int.from_bytes(frame[50:54], "big")
    samples = frames * (576 if lsf else 1152) - skipped
    return Claim("mp3", max(0, samples) / rate if frames else None)


def _asf(head: bytes, _read: ReadAt, _size: int) -> Claim:
    return Claim("asf", protected=any(mark in head for mark in _ASF_PROTECTION))


def _caf(_head: bytes, read: ReadAt, size: int) -> Claim:
    offset = 8
    for _ in range(64):
        header = read(offset, 12)
        if len(header) < 12 or offset >= size:
            break
        length = int.from_bytes(header[4:], "big", signed=True)
        if length < 0:  # -1 stands for the rest of the file
            break
        offset += 12 + length
    return Claim("caf", cut=offset > size)


def _mp4(_head: bytes, read: ReadAt, size: int) -> Claim:
    index, cut = _mp4_index(read, size)
    boxes = {index[found.end() + 12 : found.end() + 16] for found in re.finditer(b"stsd", index)}
    entries = sum(int.from_bytes(index[found.end() + 8 :][:4], "big") for found in re.finditer(b"stsz|stz2", index))
    entries += sum(int.from_bytes(index[found.end() + 4 :][:4], "big") for found in re.finditer(b"trun", index))
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
        fixed, count = struct.unpack(">II", track[sizes + 8 : sizes + 16])
        lines, _, delta = struct.unpack(">III", track[times + 8 : times + 20])
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
    return Claim("matroska", cut=max(_segment_end(head), _last_cluster_end(read, size)) > size)


def _segment_end(head: bytes) -> int:
    """Where a Matroska file should end; 0 if it does not say."""
    offset = 4
    length, width = _ebml_size(head[offset : offset + 8])
    offset += width + length
    if head[offset : offset + 4] != b"\x18\x53\x80\x67":
        return 0
    length, width = _ebml_size(head[offset + 4 : offset + 12])
    return offset + 4 + width + length if length else 0


def _ebml_size(data: bytes) -> tuple[int, int]:
    """The size an EBML element states (0 if unknown) and the bytes that statement takes."""
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (0 if value == (1 << 7 * width) - 1 else value), width


_CLUSTER = b"\x1f\x43\xb6\x75"
_IN_CLUSTER = {
    0xA3: "SimpleBlock",
    0xA0: "BlockGroup",
    0xE7: "Timestamp",
    0xA7: "Position",
    0xAB: "PrevSize",
    0xEC: "Void",
}
_AFTER_CLUSTERS = (b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67", b"\x11\x4d\x9b\x74")  # Cues, Tags, SeekHead
_CANDIDATE = re.compile(rb"[\xa3\xa0]|\x1f\x43\xb6\x75")
_CHAIN = 4  # elements in a row that make a place believable


def _last_cluster_end(read: ReadAt, size: int) -> int:
    """Where the last element of the last cluster should end; 0 if it cannot be told."""
    start = max(0, size - 2**20)
    tail = read(start, 2**20)
    at = tail.rfind(_CLUSTER)
    while 0 <= at < len(tail):
        if tail.startswith(_AFTER_CLUSTERS, at):
            return 0
        element = _cluster_element(tail, at)
        if element is None:
            return 0
        at = element[2]
    return start + at if at > 0 else 0


def _cluster_element(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Identifier, start and end of the body of a plausible element of a cluster; a cluster's header has no body."""
    try:
        if data.startswith(_CLUSTER, at):
            body = at + 4 + _ebml_size(data[at + 4 : at + 12])[1]
            return 0, body, body
        length, width = _ebml_size(data[at + 1 : at + 9])
    except IndexError:
        return None
    known = data[at] in _IN_CLUSTER and width <= 8 and length < 2**20
    if not known or (data[at] in {0xA3, 0xA0} and length < 5) or (data[at] in {0xE7, 0xA7, 0xAB} and length > 8):
        return None
    return data[at], at + 1 + width, at + 1 + width + length


def _is_believable(data: bytes, at: int) -> bool:
    for _ in range(_CHAIN):
        element = _cluster_element(data, at)
        if element is None:
            return False
        at = element[2]
        if at >= len(data) or data.startswith(_AFTER_CLUSTERS, at):
            return at <= len(data)
    return True


def matroska_blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Every block of a damaged single-track Matroska file that can be found: time in milliseconds, and content.

    Where the structure breaks off, the search goes on at the next place where several elements follow each other.
    Blocks with lacing are left out, and files whose blocks are compressed or whose ticks are not milliseconds.
    """
    at = data.find(_CLUSTER)
    if (
        at < 0
        or b"\x6d\x80" in data[:at]
        or (b"\x2a\xd7\xb1" in data[:at] and b"\x2a\xd7\xb1\x83\x0f\x42\x40" not in data[:at])
    ):
        return
    base = 0
    while at < len(data):
        element = _cluster_element(data, at)
        if element is None:
            found = next((m.start() for m in _CANDIDATE.finditer(data, at + 1) if _is_believable(data, m.start())), -1)
            if found < 0:
                return
            at = found
            continue
        name, start, at = element
        if name == 0xE7:
            base = int.from_bytes(data[start:at], "big")
        elif name == 0xA3 and at <= len(data) and not data[start + 3] & 0x06 and data[start] & 0x80:
            yield base + struct.unpack(">h", data[start + 1 : start + 3])[0], data[start + 4 : at]
        elif name == 0xA0:
            at = start  # a group's first child is its block
            if data[at] == 0xA1:
                length, width = _ebml_size(data[at + 1 : at + 9])
                start, at = at + 1 + width, at + 1 + width + length
                if at <= len(data) and not data[start + 3] & 0x06:
                    yield base + struct.unpack(">h", data[start + 1 : start + 3])[0], data[start + 4 : at]
