"""Recordings for tests, made on the spot: every format Tickertape accepts, and every way we know of to break one.

Nothing here needs a file or a program: PyAV encodes, `struct` forges. All of it is deterministic.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@cache
def speech(seconds: float, rate: int = 16_000, seed: int = 0) -> Floats:
    """Something like a voice, shape [n]: a gliding pitch with harmonics, syllables and a little breath."""
    count = round(seconds * rate)
    time = np.arange(count) / rate
    pitch = 2 * np.pi * np.cumsum(130 + 25 * np.sin(2 * np.pi * 0.7 * time + seed)) / rate
    voice = sum(np.sin(k * pitch) / k for k in range(1, 9))
    syllables = 0.15 + 0.85 * np.clip(np.sin(2 * np.pi * 3.1 * time), 0, 1)
    breath = np.random.default_rng(seed).standard_normal(count) * 0.02
    samples = (0.25 * voice * syllables + breath).astype(np.float32)
    samples.flags.writeable = False  # shared by all callers
    return samples


def music(seconds: float, rate: int = 16_000) -> Floats:
    """Something like an organ, shape [n]: four chords in turn, each note with three overtones."""
    time = np.arange(round(seconds * rate)) / rate
    roots = np.array([220.0, 174.6, 261.6, 196.0])[(time * 2).astype(int) % 4]
    phase = 2 * np.pi * np.cumsum(roots) / rate
    notes = (np.sin(phase * ratio * k) / k for ratio in (1.0, 1.25, 1.5, 2.0) for k in range(1, 5))
    return (0.08 * sum(notes, np.zeros_like(time))).astype(np.float32)


def wav(
    samples: NDArray[Any],
    rate: int = 16_000,
    *,
    tag: int | None = None,
    bits: int | None = None,
    channels: int | None = None,
    data_size: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """A wav of samples [n] or [n, channels], in the type they have; every field of its header can lie."""
    samples = np.asarray(samples)
    body = np.ascontiguousarray(samples).tobytes()
    bits = samples.dtype.itemsize * 8 if bits is None else bits
    tag = (3 if samples.dtype.kind == "f" else 1) if tag is None else tag
    channels = (samples.shape[1] if samples.ndim > 1 else 1) if channels is None else channels
    align = channels * max(bits, 8) // 8
    form = struct.pack("<HHIIHH", tag, channels & 0xFFFF, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    size = len(body) if data_size is None else data_size
    rest = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + body + tail
    return b"RIFF" + struct.pack("<I", (len(rest) + 4) & 0xFFFFFFFF) + b"WAVE" + rest


def pcm16(samples: Floats) -> NDArray[np.int16]:
    """Floats to 16-bit integers."""
    return (np.clip(samples, -1, 1) * 32_767).astype("<i2")


def pcm24(samples: Floats) -> bytes:
    """Floats to packed 24-bit integers."""
    return (np.clip(samples, -1, 1) * 8_388_607).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()


def encode(
    samples: Floats,
    container: str,
    codec: str,
    *,
    rate: int = 16_000,
    source_rate: int = 16_000,
    options: dict[str, str] | None = None,
    bit_rate: int | None = None,
    tracks: int = 1,
    video: bool = False,
    gaps: dict[float, float] | None = None,
) -> bytes:
    """Samples [n] or [channels, n] at `source_rate`, encoded at `rate`, perhaps beside a video.

    Of several `tracks` each is half as loud as the one before, so that they can be told apart. `gaps` maps a second of
    the samples to the seconds that the timestamps jump there.
    """
    samples = np.atleast_2d(samples)
    layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options or {}) as output:
        picture = _add_video(output) if video else None
        streams = [_add_audio(output, codec, rate, layout, bit_rate) for _ in range(tracks)]
        if picture is not None:
            _write_video(output, picture, samples.shape[1] / source_rate)
        for number, stream in enumerate(streams):
            _write_audio(output, stream, samples / 2**number, source_rate, layout, gaps or {})
    return buffer.getvalue()


def _add_audio(output: Any, codec: str, rate: int, layout: str, bit_rate: int | None) -> Any:
    options = {"strict": "experimental"} if codec == "vorbis" else {}
    stream = output.add_stream(codec, rate=rate, layout=layout, options=options)
    if bit_rate:
        stream.bit_rate = bit_rate
    return stream


def _write_audio(
    output: Any, stream: Any, samples: Floats, source_rate: int, layout: str, gaps: dict[float, float]
) -> None:
    context = stream.codec_context
    if not context.is_open:
        context.open()
    form = context.format.name
    resampler = av.AudioResampler(form, layout, context.sample_rate, frame_size=context.frame_size or 1024)
    step, clock = source_rate, 0  # a second at a time

    def write(piece: Any) -> None:
        nonlocal clock
        jumps = sum(seconds for at, seconds in gaps.items() if clock >= at * context.sample_rate)
        piece.pts, piece.time_base = clock + round(jumps * context.sample_rate), Fraction(1, context.sample_rate)
        clock += piece.samples
        output.mux(stream.encode(piece))

    for start in range(0, samples.shape[1], step):
        block = np.ascontiguousarray(samples[:, start : start + step], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, "fltp", layout)
        frame.sample_rate = source_rate
        for piece in resampler.resample(frame):
            write(piece)
    for piece in resampler.resample(None):
        write(piece)
    output.mux(stream.encode(None))


def _add_video(output: Any) -> Any:
    stream = output.add_stream("mpeg4", rate=5)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    return stream


def _write_video(output: Any, stream: Any, seconds: float) -> None:
    for index in range(max(1, round(seconds * 5))):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        frame.pts = index
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def video_only(seconds: float = 1.0) -> bytes:
    """An mp4 without sound."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        _write_video(output, _add_video(output), seconds)
    return buffer.getvalue()


# name: container, codec, encoder's rate, further arguments of `encode`
CODECS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "mp3": ("mp3", "libmp3lame", 16_000, {"bit_rate": 64_000}),
    "mp3_bare": ("mp3", "libmp3lame", 16_000, {"bit_rate": 64_000, "options": {"write_xing": "0"}}),  # states no length
    "m4a": ("ipod", "aac", 16_000, {"bit_rate": 64_000}),
    "mp4_fragmented": ("mp4", "aac", 16_000, {"options": {"movflags": "frag_keyframe+empty_moov"}}),
    "adts": ("adts", "aac", 16_000, {"bit_rate": 64_000}),
    "alac": ("ipod", "alac", 16_000, {}),
    "flac": ("flac", "flac", 16_000, {}),
    "opus": ("ogg", "libopus", 48_000, {"bit_rate": 24_000, "options": {"page_duration": "200000"}}),
    "vorbis": ("ogg", "vorbis", 44_100, {"options": {"page_duration": "200000"}}),
    "webm": ("webm", "libopus", 48_000, {"bit_rate": 24_000}),
    "webm_live": ("webm", "libopus", 48_000, {"bit_rate": 24_000, "options": {"live": "1"}}),
    "amr": ("amr", "libopencore_amrnb", 8000, {"bit_rate": 12_200}),
    "mulaw": ("wav", "pcm_mulaw", 8000, {}),
    "alaw": ("wav", "pcm_alaw", 8000, {}),
    "g722": ("wav", "g722", 16_000, {}),
    "g726": ("wav", "g726", 8000, {"bit_rate": 32_000}),
    "adpcm_ima": ("wav", "adpcm_ima_wav", 16_000, {}),
    "adpcm_ms": ("wav", "adpcm_ms", 16_000, {}),
    "aiff": ("aiff", "pcm_s16be", 16_000, {}),
    "au": ("au", "pcm_s16be", 16_000, {}),
    "caf": ("caf", "pcm_s16le", 16_000, {}),
    "w64": ("w64", "pcm_s16le", 16_000, {}),
    "wma": ("asf", "wmav2", 16_000, {"bit_rate": 64_000}),
    "mkv_pcm": ("matroska", "pcm_s16le", 16_000, {}),
    "ac3": ("ac3", "ac3", 48_000, {"bit_rate": 96_000}),
    "eac3": ("mp4", "eac3", 48_000, {"bit_rate": 96_000}),
    "mpegts": ("mpegts", "aac", 48_000, {"bit_rate": 64_000}),
    "mpegts_ac3": ("mpegts", "ac3", 48_000, {"bit_rate": 96_000}),
    "flv": ("flv", "libmp3lame", 44_100, {"bit_rate": 64_000}),
    "flv_nellymoser": ("flv", "nellymoser", 8000, {}),
    "avi": ("avi", "libmp3lame", 48_000, {"bit_rate": 64_000}),
    "avi_pcm": ("avi", "pcm_s16le", 16_000, {}),
    "ima4": ("caf", "adpcm_ima_qt", 16_000, {}),
    "3gp": ("3gp", "libopencore_amrnb", 8000, {"bit_rate": 12_200}),
}


def gapped(name: str, gaps: dict[float, float], *, seconds: float = 3.0, video: bool = False) -> bytes:
    """`speech` in one of `CODECS` with jumps of the timestamps, perhaps beside a video: see `encode`."""
    container, codec, rate, extra = CODECS[name]
    return encode(speech(seconds), container, codec, rate=rate, gaps=gaps, video=video, **extra)


@cache
def recording(name: str, seconds: float = 5.0, channels: int = 1) -> bytes:
    """`speech` of that length in one of `CODECS`, or "wav"."""
    samples = np.stack([speech(seconds, seed=channel) for channel in range(channels)])
    if name == "wav":
        return wav(pcm16(samples.T if channels > 1 else samples[0]))
    if name == "dts":  # a second at 8 kHz, made with FFmpeg's experimental encoder, which PyAV lacks
        return Path(__file__).with_name("speech.dts").read_bytes()
    if name == "m4a_faststart":
        return faststart(recording("m4a", seconds, channels))
    if name == "vorbis" and channels == 1:  # FFmpeg's encoder makes stereo only
        samples = np.concatenate([samples, samples])
    container, codec, rate, extra = CODECS[name]
    return encode(samples, container, codec, rate=rate, **extra)


def faststart(mp4: bytes) -> bytes:
    """The same mp4 with its index before its data, as players on the web like it."""
    boxes, at = {}, 0
    while at < len(mp4):
        size = int.from_bytes(mp4[at : at + 4], "big")
        boxes[mp4[at + 4 : at + 8]] = mp4[at : at + size]
        at += size
    index = bytearray(boxes[b"moov"])
    shift = len(index) - (len(boxes[b"free"]) if b"free" in boxes else 0)
    at = index.find(b"stco") + 8
    count = int.from_bytes(index[at : at + 4], "big")
    for entry in range(at + 4, at + 4 + 4 * count, 4):
        index[entry : entry + 4] = (int.from_bytes(index[entry : entry + 4], "big") + shift).to_bytes(4, "big")
    return boxes[b"ftyp"] + bytes(index) + boxes[b"mdat"]


def with_hole(data: bytes, start: float = 0.5, count: int = 400, seed: int = 1) -> bytes:
    """`count` bytes from the point `start` (a share of the file) overwritten with noise."""
    at = int(len(data) * start)
    noise = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()
    return data[:at] + noise + data[at + count :]


def flipped(data: bytes, share: float = 0.005, seed: int = 1, keep: int = 0) -> bytes:
    """That share of the bytes replaced by others, the first `keep` excepted."""
    generator = np.random.default_rng(seed)
    array = np.frombuffer(data, np.uint8).copy()
    places = generator.integers(keep, len(array), max(1, int(len(array) * share)))
    array[places] ^= generator.integers(1, 256, len(places), dtype=np.uint8)
    return array.tobytes()


def amr_with_dtx(seconds: float = 5.0) -> bytes:
    """AMR-NB in which every other half second is comfort noise: SID frames, and frames without data between them."""
    frames = amr_frames(recording("amr", seconds))
    sid, nothing = b"\x44" + bytes(5), b"\x7c"
    for index in range(len(frames)):
        if index // 25 % 2:
            frames[index] = sid if index % 8 == 0 else nothing
    return b"#!AMR\n" + b"".join(frames)


def amr_frames(data: bytes) -> list[bytes]:
    """The frames of an AMR-NB file, each with its first byte."""
    sizes = (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1)
    frames, at = [], 6
    while at < len(data):
        size = sizes[data[at] >> 3 & 15]
        frames.append(data[at : at + size])
        at += size
    return frames


def gsm(seconds: float = 5.0) -> bytes:
    """Raw GSM 06.10: frames of 33 bytes for 20 ms, each beginning with the nibble 13."""
    noise = np.random.default_rng(3).integers(0, 256, (round(seconds * 50), 33), dtype=np.uint8)
    noise[:, 0] = 0xD0 | noise[:, 0] & 0x0F
    return noise.tobytes()


def wav49(seconds: float = 5.0) -> bytes:
    """GSM 06.10 in a wav as sox writes it: blocks of 65 bytes for 40 ms, whose length includes the padding byte."""
    noise = np.random.default_rng(3).integers(0, 256, round(seconds * 25) * 65, dtype=np.uint8).tobytes()
    data = noise + bytes(len(noise) % 2)
    form = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320)
    rest = b"fmt " + struct.pack("<I", 20) + form + b"fact" + struct.pack("<II", 4, round(seconds * 8000))
    rest += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(rest) + 4) + b"WAVE" + rest


def mulaw(samples: Floats) -> bytes:
    """Headerless G.711 mu-law."""
    return encode(samples, "mulaw", "pcm_mulaw", rate=8000)


def with_cover(mp3: bytes, picture: bytes) -> bytes:
    """An ID3v2.3 tag with a picture before an mp3."""
    body = b"\0image/jpeg\0\x03\0" + picture
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    return b"ID3\x03\0\0" + _seven_bits(len(frame)) + frame + mp3


def gzip_bomb(size: int = 50_000_000) -> bytes:
    """A few kilobytes that unpack to a wav of `size` zeros."""
    packer = zlib.compressobj(9, wbits=31)
    head = wav(np.zeros(0, "<i2"), data_size=size)
    return packer.compress(head) + packer.compress(bytes(size)) + packer.flush()


def zip_bomb(size: int = 50_000_000) -> bytes:
    """The same in a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("call.wav", wav(np.zeros(size // 2, "<i2")))
    return buffer.getvalue()


def fairplay(m4a: bytes) -> bytes:
    """An m4a whose sound is marked as encrypted, as shops for music did."""
    return m4a.replace(b"mp4a", b"drms", 1)


def playlists(victim: str) -> dict[str, bytes]:
    """Texts that make a careless FFmpeg read the file `victim` or call the network."""
    return {
        "m3u8_file": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{victim}\n#EXT-X-ENDLIST\n".encode(),
        "m3u8_http": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "m3u8_key": (
            b'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.1:9/key"\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n'
        ),
        "m3u8_master": b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:9/b.m3u8\n",
        "concat_absolute": f"ffconcat version 1.0\nfile '{victim}'\n".encode(),
        "concat_relative": b"ffconcat version 1.0\nfile secret.wav\n",
        "concat_http": b"ffconcat version 1.0\nfile http://127.0.0.1:9/a.wav\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
        "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet>'
        b"<Representation><BaseURL>http://127.0.0.1:9/a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "smil": b'<smil><body><audio src="http://127.0.0.1:9/a.wav"/></body></smil>',
        "cue": f'FILE "{victim}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n'.encode(),
        "rtsp": b"rtsptext\nrtsp://127.0.0.1:9/live\n",
    }


def vary(data: bytes, seed: int) -> bytes:
    """One mutant of a file: bits, bytes, integers, lengths, order, or several of these."""
    generator = np.random.default_rng(seed)
    for _ in range(int(generator.integers(1, 4))):
        data = _MUTATIONS[int(generator.integers(len(_MUTATIONS)))](data, generator)
    return data


def _flip(data: bytes, generator: np.random.Generator) -> bytes:
    share = float(10 ** generator.uniform(-4, -1.5))
    return flipped(data, share, int(generator.integers(2**31))) if data else data


def _cut(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: int(generator.integers(0, len(data) + 1))]


def _drop(data: bytes, generator: np.random.Generator) -> bytes:
    start = int(generator.integers(0, len(data) + 1))
    return data[:start] + data[start + int(generator.integers(0, 2000)) :]


def _repeat(data: bytes, generator: np.random.Generator) -> bytes:
    start = int(generator.integers(0, len(data) + 1))
    part = data[start : start + int(generator.integers(0, 2000))]
    return data[:start] + part * int(generator.integers(2, 5)) + data[start + len(part) :]


def _overwrite_head(data: bytes, generator: np.random.Generator) -> bytes:
    values = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0")
    at = int(generator.integers(0, min(len(data), 600) + 1))
    value = values[int(generator.integers(len(values)))][: int(generator.integers(1, 5))]
    return data[:at] + value + data[at + len(value) :]


def _hole(data: bytes, generator: np.random.Generator) -> bytes:
    return with_hole(
        data, float(generator.uniform(0, 1)), int(generator.integers(1, 800)), int(generator.integers(2**31))
    )


_MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip,
    _cut,
    _drop,
    _repeat,
    _overwrite_head,
    _hole,
)


@cache
def _long(name: str, seconds: float, step: float = 10.0, bit_rate: int | None = None) -> bytes:
    """Hours of near silence from the packets of `step` seconds, muxed again and again."""
    container, codec, rate, extra = CODECS[name]
    source = encode(
        np.zeros(round(step * 16_000), np.float32),
        container,
        codec,
        rate=rate,
        bit_rate=bit_rate or extra.get("bit_rate"),
    )
    with av.open(io.BytesIO(source)) as given:
        stream = given.streams.audio[0]
        packets = [(bytes(packet), packet.duration) for packet in given.demux(stream) if packet.size][2:-2]
        if name == "adts":  # a sequence of packets without a container around them
            return b"".join(content for content, _ in packets) * math.ceil(seconds / (step - 0.5))
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as output:
            copy = output.add_stream_from_template(stream)
            clock = 0
            while clock * stream.time_base < seconds:
                for content, duration in packets:
                    packet = av.Packet(content)
                    packet.pts = packet.dts = clock
                    packet.duration, packet.time_base, packet.stream = duration, stream.time_base, copy
                    output.mux(packet)
                    clock += duration
    return buffer.getvalue()


def _lying_m4a(seconds: float) -> bytes:
    """An m4a of many hours whose time table says that each frame lasts one tick."""
    data = bytearray(_long("m4a", seconds))
    table = data.find(b"stts")
    entries = int.from_bytes(data[table + 8 : table + 12], "big")
    for entry in range(entries):
        at = table + 16 + 8 * entry
        data[at : at + 4] = (1).to_bytes(4, "big")
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        at = data.find(box) + (24 if box == b"tkhd" else 20)
        data[at : at + 4] = (1000).to_bytes(4, "big")
    return bytes(data)


def _with_box(mp4: bytes, name: bytes, body: bytes) -> bytes:
    """An mp4 with its index first, one of whose sample tables says something else."""
    parents, at = [], 0
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", name):
        while mp4[at + 4 : at + 8] != box:
            at += int.from_bytes(mp4[at : at + 4], "big")
        parents.append(at)
        at += 8
    at = parents.pop()
    size = int.from_bytes(mp4[at : at + 4], "big")
    data = bytearray(mp4)
    for parent in parents:
        grown = int.from_bytes(data[parent : parent + 4], "big") + len(body) + 8 - size
        data[parent : parent + 4] = grown.to_bytes(4, "big")
    data[at : at + size] = struct.pack(">I", len(body) + 8) + name + body
    return bytes(data)


def _mp4_of_samples(count: int) -> bytes:
    """Nine kilobytes that announce `count` frames of ten bytes each."""
    data = _with_box(recording("m4a_faststart", 1.0), b"stsz", struct.pack(">III", 0, 10, count))
    data = _with_box(data, b"stts", struct.pack(">IIII", 0, 1, count, 1024))
    return _with_box(data, b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1))


def _mp4_of_fragments(count: int) -> bytes:
    """A fragment that announces `count` frames and says nothing about any of them."""
    data = bytearray(recording("mp4_fragmented", 1.0))
    at = data.find(b"trun")
    data[at + 4 : at + 12] = struct.pack(">II", 0, count)
    return bytes(data)


def _mp4_compressed(size: int) -> bytes:
    """An index that is compressed, and `size` bytes long once it is not."""
    packed = zlib.compress(struct.pack(">I", size) + b"moov" + bytes(size - 8), 9)
    codec = struct.pack(">I", 12) + b"dcom" + b"zlib"
    content = codec + struct.pack(">I", 12 + len(packed)) + b"cmvd" + struct.pack(">I", size) + packed
    content = struct.pack(">I", 8 + len(content)) + b"cmov" + content
    return recording("m4a", 1.0)[:28] + struct.pack(">I", 8 + len(content)) + b"moov" + content


def _compressed_tag(size: int, frames: int = 4) -> bytes:
    """An ID3v2.4 tag with compressed pictures of `size` bytes each."""
    raw = b"\0image/jpeg\0\x03\0" + bytes(size)
    body = _seven_bits(len(raw)) + zlib.compress(raw, 9)
    content = (b"APIC" + _seven_bits(len(body)) + b"\0\x09" + body) * frames
    return b"ID3\x04\0\0" + _seven_bits(len(content)) + content


def _seven_bits(size: int) -> bytes:
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def _tagged_wav(size: int) -> bytes:
    tag = _compressed_tag(size)
    tag += bytes(len(tag) % 2)
    return wav(np.zeros(7000, "<i2"), 8000, tail=b"id3 " + struct.pack("<I", len(tag)) + tag)


# Files that stand for far more than their size suggests: over four hours of audio, or gigabytes of index and tags.
BOMBS: dict[str, Callable[[], bytes]] = {
    "flac": lambda: _long("flac", 17_000, 60.0),
    "m4a": lambda: _long("m4a", 17_000),
    "m4a_lying": lambda: _lying_m4a(17_000),
    "opus": lambda: _long("opus", 17_000),
    "mp3": lambda: _long("mp3", 17_000, bit_rate=8000),
    "adts": lambda: _long("adts", 17_000),
    "amr": lambda: b"#!AMR\n" + b"\x7c" * 900_000,
    "webm_live": lambda: _long("webm_live", 17_000),
    "webm_gap": lambda: gapped("webm", {1.0: 86_400.0}),
    "webm_live_gap": lambda: gapped("webm_live", {1.0: 86_400.0}),
    "m4a_delay": lambda: gapped("m4a", {0.0: 86_400.0}),
    "m4a_gap": lambda: gapped("m4a", {1.0: 86_400.0}),
    "video_delay": lambda: gapped("mkv_pcm", {0.0: 86_400.0}, video=True),
    "wav_1_hz": lambda: wav(np.zeros(7000, "<i2"), 1),
    "wav_u8": lambda: wav(np.zeros(24_000_000, "u1"), 1500),
    "mp4_index": lambda: _mp4_of_samples(60_000_000),
    "mp4_fragment": lambda: _mp4_of_fragments(30_000_000),
    "mp4_compressed": lambda: _mp4_compressed(300_000_000),
    "zip": lambda: zip_bomb(200_000_000),
    "gzip": lambda: gzip_bomb(200_000_000),
}

# The same, but with usable audio beside what would fill memory.
HARMLESS: dict[str, Callable[[], bytes]] = {
    "mp3_tag": lambda: _compressed_tag(100_000_000) + recording("mp3", 1.0),
    "wav_tag": lambda: _tagged_wav(100_000_000),
}

# Recordings that are merely long.
LONG: dict[str, Callable[[], bytes]] = {"half_hour": lambda: _long("adts", 1800)}
