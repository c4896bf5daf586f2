"""Bytes or a path to float32 samples at 16 kHz, within limits, by PyAV (FFmpeg).

Everything here assumes that the bytes come from a stranger:

- FFmpeg sees bytes through a nameless reader, with a list of allowed demuxers, no protocols, and a list of allowed
  decoders, so that a playlist or a session description disguised as a recording opens no file and no socket.
- Packets are read and decoded one at a time, each on its own: a damaged frame costs itself, not the rest of the call.
  What is lost is replaced by silence, so that later words keep their times, and is reported.
- Durations are limited as declared, as counted ahead of decoding, and as decoded. A small file cannot fill memory.

What was odd about a recording that could be used is reported as notices:

    corrupt_frames            damaged or missing frames; silence stands in for them
    audio_truncated           less audio than the file declares, or its end is missing
    header_size_ignored       a wav header gave the wrong length; the whole file was read
    invalid_samples_replaced  NaN or infinity became 0, or values were far out of range
    anti_phase_channels       channels cancel each other; the louder one was used there
    several_audio_tracks      only one of several tracks was used
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from tickertape.errors import (
    AudioTooLong,
    AudioTooShort,
    EmptyAudio,
    EmptyFile,
    FileTooLarge,
    InvalidAudio,
    InvalidSamples,
    NoAudioStream,
    OptionError,
    UnsupportedChannels,
    UnsupportedRate,
)
from tickertape.headers import Claim, id3_end, id3_tags, matroska_blocks, read_claim
from tickertape.types import SAMPLE_RATE, Audio, Notice, Samples

Source: TypeAlias = "bytes | bytearray | memoryview | str | Path | BinaryIO"
Allocate: TypeAlias = "Callable[[tuple[int, int]], Samples]"

# Which of FFmpeg's demuxers may open a file of which claim: its own probing must find the same as ours.
DEMUXERS = {
    "wav": "wav",
    "ogg": "ogg",
    "flac": "flac",
    "mp4": "mov",
    "matroska": "matroska",
    "caf": "caf",
    "asf": "asf",
    "mp3": "mp3,aac",
    "": "mp3,aac,amr,w64,aiff,au",
}
DECODERS = frozenset(
    {"aac", "alac", "flac", "opus", "libopus", "vorbis", "speex", "wmav1", "wmav2"}
    | {"mp1", "mp2", "mp3", "mp1float", "mp2float", "mp3float"}
    | {"amrnb", "amrwb", "gsm", "gsm_ms", "g722", "g726", "g726le", "pcm_alaw", "pcm_mulaw"}  # telephones
    | {"adpcm_ima_wav", "adpcm_ms", "adpcm_yamaha", "pcm_u8", "pcm_s8"}
    | {f"pcm_{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")}
)
# FFmpeg's own AMR decoders refuse the comfort-noise frames that every mobile call contains.
PREFERRED_DECODERS = {"amrnb": ("libopencore_amrnb", 8000), "amrwb": ("libopencore_amrwb", 16_000)}
RAW_FORMATS = frozenset({"mulaw", "alaw", "gsm", "g722", "u8", "s8"}) | {
    f"{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")
}
FIXED_RATES = {"gsm": 8000, "g722": 16_000}  # Hz; both have one channel, so their names say everything

LOOK_AHEAD_SECONDS = 300  # a recording that turns out longer is measured before the rest of it is decoded
MAX_GAP_SECONDS = 10  # a longer jump of the timestamps is taken for a fault, not for lost audio
MAX_DRIFT_SECONDS = 0.5  # how far timestamps may run behind the audio
MIN_GAP_SECONDS = 0.015  # under one frame of any telephone codec; containers round to milliseconds
KEPT_SHARE = 0.98  # less than this of the declared duration is always reported
CODEC_DELAY_SECONDS = 0.02  # containers count what decoders drop at the start: Opus 6.5 ms, for example
MAX_SALVAGE_BYTES = 64 * 2**20  # a damaged Matroska file above this is not searched
MAX_READ_ERRORS = 64  # in a row: the demuxer makes no progress
HINT = "If it is headerless telephone audio, say what it is, for example audio_format=mulaw;rate=8000."

_OPTIONS = {
    "protocol_whitelist": "none",
    "max_streams": "32",
    "max_probe_packets": "1",  # otherwise FFmpeg searches wav samples for hidden DTS: slow, and another decoder exposed
    "max_size": "16384",  # bytes per wav packet; the default of 4,096 costs four times the calls
}
_DECLARING = ("mov", "matroska", "w64", "caf", "aiff", "au", "asf")  # durations of other demuxers are estimates
_BROKEN = (av.FFmpegError, ValueError, EOFError, OSError)  # what PyAV raises for damaged data


@dataclass(frozen=True, slots=True)
class Limits:
    """What `decode` accepts. The defaults suit a library on its user's own files; a service sets its own."""

    max_bytes: int = 2 * 2**30
    max_seconds: float = 4 * 3600
    min_seconds: float = 0.1
    max_channels: int = 8
    min_rate: int = 4000  # Hz; half of telephone quality
    max_rate: int = 192_000  # Hz


def empty(shape: tuple[int, int]) -> Samples:
    """Memory for samples."""
    return np.empty(shape, np.float32)


def decode(
    source: Source,
    *,
    channels: Literal["mix", "split"] = "mix",
    limits: Limits = Limits(),
    track: int | None = None,
    audio_format: str | None = None,
    allocate: Allocate = empty,
) -> Audio:
    """Decode a recording to float32 samples of shape [channels, n] at 16 kHz, finite and within [-1, 1].

    `channels` "mix" gives one channel, the mean, as loud as the loudest of them; "split" keeps each. `track` chooses
    an audio track by number, from 0. `audio_format` describes headerless data: "mulaw;rate=8000;channels=2" (see
    `RAW_FORMATS`). A file object is read from where it stands, and is not closed. `allocate` gives the memory for the
    samples, whatever that holds: the first columns of one of its arrays are the samples.

    Raises an `AudioError` for what is wrong with the recording and `OptionError` for a wrong option.
    """
    if channels not in {"mix", "split"}:
        raise OptionError('channels must be "mix" or "split".', "channels", "invalid_channels")
    raw = _raw_format(audio_format)
    with _opened(source, limits) as file:
        claim = Claim() if raw else _read_claim(file)
        _check_claim(claim, limits)
        job = _Job(file, claim, raw, limits, track, channels == "split", allocate)
        try:
            result = _run(job)
            if claim.kind == "matroska" and (result.damaged or result.reach < 0.9 * file.size):
                salvaged = _run(job, salvage=True)
                if salvaged.heard > result.heard:
                    result = replace(salvaged, damaged=max(1, salvaged.damaged))
        except _BROKEN as error:
            raise InvalidAudio(f"The recording is damaged and cannot be decoded. {HINT}") from error
    return Audio(result.samples, (*result.notices, *_verdict(result, claim, limits)))


def _read_claim(file: _File) -> Claim:
    """What the file claims to be, once its ID3 tags are out of FFmpeg's sight.

    FFmpeg unpacks every compressed frame of a tag: 400 KB of them took 1.1 GB and two minutes. We need none of it.
    """
    file.skip(id3_end(file.at, file.size))
    claim = read_claim(file.at, file.size)
    if claim.kind not in {"mp3", "flac", "ogg", "matroska"}:  # where FFmpeg reads tags at the start only
        file.blanks = id3_tags(file.at, file.size)
    return claim


@dataclass(frozen=True, slots=True)
class _Job:
    file: _File
    claim: Claim
    raw: _Raw | None
    limits: Limits
    track: int | None
    split: bool
    allocate: Allocate


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    samples: Samples
    notices: list[Notice]
    declared: float | None  # seconds
    heard: float  # seconds, without the silence that stands for lost audio
    damaged: int  # packets, and gaps between them
    decoded: int  # packets
    reach: int  # bytes of the file up to the end of the last packet
    replaced: int  # samples
    nothing_finite: bool
    cancelled: bool


def _run(job: _Job, salvage: bool = False) -> _Result:
    """Decode the recording once, from FFmpeg's packets or from those that can be found without its demuxer."""
    with _demuxer(job) as container:
        stream, notices = _choose(container, job.track)
        declared = _declared(container, stream, job.claim)
        _check_length(declared, job.limits)
        sink = _Sink(job.limits, split=job.split, expected=declared, allocate=job.allocate)
        pump = _Pump(stream, sink)
        packets = _salvaged(job, container, stream) if salvage else _packets(container, stream, pump.damage)
        pump.run(packets, look_ahead=lambda: sink.expect(_measure(job, stream.index, pump.decoded, sink.seconds)))
    samples = sink.finish()
    heard = (samples.shape[1] - sink.silent) / SAMPLE_RATE
    bad = bool(sink.replaced) and sink.replaced == sink.seen
    return _Result(
        samples, notices, declared, heard, pump.damaged, pump.decoded, pump.reach, sink.replaced, bad, sink.cancelled
    )


# ---- what comes in ----


class _File:
    """A nameless, seekable view of a file from where it stands: FFmpeg must not learn what the client called it."""

    def __init__(self, file: BinaryIO, size: int, base: int = 0, owned: bool = True) -> None:
        self._file, self.size, self._base, self._owned, self._position = file, size, base, owned, 0
        self.blanks: list[int] = []  # where three bytes are read as zeros

    def skip(self, count: int) -> None:
        """Leave out bytes at the start, for good."""
        self._base, self.size = self._base + count, self.size - count

    def __enter__(self) -> _File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self._file.close()

    def reader(self) -> _File:
        """Another view with its own position, so that two demuxers can read the same file in turn."""
        view = _File(self._file, self.size, self._base, owned=False)
        view.blanks = self.blanks
        return view

    def at(self, offset: int, count: int) -> bytes:
        self._file.seek(self._base + offset)
        return self._file.read(count)

    def read(self, count: int) -> bytes:
        start, data = self._position, self.at(self._position, count)
        self._position += len(data)
        if self.blanks and (marks := [mark for mark in self.blanks if start - 3 < mark < self._position]):
            content = bytearray(data)
            for mark in marks:
                for index in range(max(mark - start, 0), min(mark + 3 - start, len(content))):
                    content[index] = 0
            data = bytes(content)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, self.size)[whence]
        if position < 0:
            raise ValueError("before the start")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


def _opened(source: Source, limits: Limits) -> _File:
    if isinstance(source, (str, Path)):
        try:
            file: BinaryIO = Path(source).open("rb")  # noqa: SIM115 - closed by _File
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise InvalidAudio(f"The file cannot be opened: {reason}.") from error
        opened = True
    else:
        opened = isinstance(source, (bytes, bytearray, memoryview))
        file = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
    try:
        return _sized(file, opened, limits)
    except BaseException:
        if opened:
            file.close()
        raise


def _sized(file: BinaryIO, owned: bool, limits: Limits) -> _File:
    if file.seekable():
        base = file.tell()
        size = file.seek(0, io.SEEK_END) - base
    else:  # a pipe: there is no way to know but to read
        data = b"".join(_chunks(file, limits.max_bytes + 1))
        if owned:
            file.close()
        file, base, size, owned = io.BytesIO(data), 0, len(data), True
    if size > limits.max_bytes:
        raise FileTooLarge(f"The file is larger than the limit of {limits.max_bytes:,} bytes.")
    if size <= 0:
        raise EmptyFile("The file is empty.")
    return _File(file, size, base, owned)


def _chunks(file: BinaryIO, most: int) -> Iterator[bytes]:
    """What a pipe gives, up to `most` bytes: it may give less than asked for at a time."""
    while most > 0 and (chunk := file.read(min(most, 2**20))):
        most -= len(chunk)
        yield chunk


@dataclass(frozen=True, slots=True)
class _Raw:
    name: str
    rate: int
    channels: int


def _raw_format(text: str | None) -> _Raw | None:
    """Read "mulaw;rate=8000;channels=2", strictly: whoever describes headerless data must be right."""
    if text is None:
        return None
    text = f"{text};rate={FIXED_RATES[text]}" if text in FIXED_RATES else text
    match = re.fullmatch(r"([a-z0-9]+);rate=([1-9][0-9]{0,5})(?:;channels=([1-8]))?", text, re.ASCII)
    if match is None or match[1] not in RAW_FORMATS:
        raise _bad_format(f'"NAME;rate=HZ;channels=N" with a name among {", ".join(sorted(RAW_FORMATS))}')
    name, rate, channels = match[1], int(match[2]), int(match[3] or 1)
    if name in FIXED_RATES and (rate, channels) != (FIXED_RATES[name], 1):
        raise _bad_format(f"{name};rate={FIXED_RATES[name]}, one channel")
    return _Raw(name, rate, channels)


def _bad_format(expected: str) -> OptionError:
    return OptionError(f"audio_format must be {expected}.", "audio_format", "invalid_audio_format")


# ---- checks before decoding ----


def _check_claim(claim: Claim, limits: Limits) -> None:
    if claim.protected:
        raise InvalidAudio("The recording is encrypted (DRM) and cannot be decoded. Export it without protection.")
    if claim.rate is not None:
        _check_rate(claim.rate, limits)
    if claim.channels is not None:
        _check_channels(claim.channels, limits)
    if claim.bomb:
        raise InvalidAudio("The mp4's index is larger than any honest recording's. Export it again.")
    if claim.no_index:
        raise InvalidAudio("This is a truncated mp4: its index (moov) is missing. Upload the whole file.")
    _check_length(claim.seconds, limits)


def _check_rate(rate: int, limits: Limits) -> None:
    if not limits.min_rate <= rate <= limits.max_rate:
        raise UnsupportedRate(
            f"Sample rates from {limits.min_rate} to {limits.max_rate} Hz are accepted, not {rate} Hz."
        )


def _check_channels(channels: int, limits: Limits) -> None:
    if not 1 <= channels <= limits.max_channels:
        raise UnsupportedChannels(f"From 1 to {limits.max_channels} channels are accepted, not {channels}.")


def _check_length(seconds: float | None, limits: Limits) -> None:
    if seconds is not None and seconds > limits.max_seconds:
        raise AudioTooLong(
            f"The recording is longer than the limit of {limits.max_seconds:g} seconds. "
            "Split it, or transcribe it as a batch job with a higher limit."
        )


@contextmanager
def _demuxer(job: _Job) -> Iterator[Any]:
    """An open PyAV container over the file, with every door but the allowed ones shut."""
    raw = job.raw
    options = _OPTIONS | {"format_whitelist": raw.name if raw else DEMUXERS[job.claim.kind]}
    if job.claim.ignore_size:
        options["ignore_length"] = "1"
    if raw:
        if raw.name != "g722":
            options["sample_rate"] = str(raw.rate)
        if raw.name not in {"g722", "gsm"}:
            options["ch_layout"] = f"{raw.channels}C" if raw.channels > 2 else ("mono", "stereo")[raw.channels - 1]
    try:
        container = av.open(job.file.reader(), format=raw and raw.name, options=options, metadata_errors="replace")
    except _BROKEN as error:
        raise InvalidAudio(f"This is not a recording in an accepted format, or it is damaged. {HINT}") from error
    with container:
        yield container


def _choose(container: Any, track: int | None) -> tuple[Any, list[Notice]]:
    """The stream to decode: the one asked for, or the first. Pictures and video are left alone."""
    streams = container.streams.audio
    if not container.streams:
        raise InvalidAudio(f"The recording is damaged: it lists no tracks. {HINT}")
    if not streams:
        raise NoAudioStream("The file has no audio track.")
    if track is not None and not 0 <= track < len(streams):
        raise OptionError(f"The file has {len(streams)} audio tracks, numbered from 0.", "track", "invalid_track")
    stream = streams[track or 0]
    context = stream.codec_context
    if context is None or context.name not in DECODERS:
        raise InvalidAudio("The recording's codec is not accepted. Convert it to wav, flac, mp3, m4a, ogg or webm.")
    if track is None and len(streams) > 1:
        text = f"The file has {len(streams)} audio tracks; the first was used. Choose another by its number."
        return stream, [Notice("several_audio_tracks", text)]
    return stream, []


def _declared(container: Any, stream: Any, claim: Claim) -> float | None:
    """Seconds that the file promises, or None where FFmpeg could only estimate them."""
    if claim.seconds is not None:
        return claim.seconds
    if not container.format.name.startswith(_DECLARING):
        return None
    if stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.video:
        return float(container.duration / av.time_base)
    return None


# ---- decoding ----


class _Pump:
    """Moves packets through the decoder into the sink, past whatever is damaged, and keeps the time meanwhile."""

    def __init__(self, stream: Any, sink: _Sink) -> None:
        self._sink = sink
        self._codec: str = stream.codec_context.name
        self._is_adts = stream.container.format.name == "aac"
        self._decoder = _decoder(stream)
        self._tick = float(stream.time_base)
        self._next: float | None = None  # seconds at which the next packet should start
        self._failing = False  # the packet before was lost, so that a gap is no news
        self.damaged = 0
        self.decoded = 0
        self.reach = 0

    def run(self, packets: Iterator[Any], look_ahead: Callable[[], None]) -> None:
        """Decode them all; `look_ahead` is called once if the recording turns out to be long."""
        looked = False
        for packet in packets:
            self.reach = max(self.reach, (packet.pos or 0) + packet.size)
            self._keep_time(packet)
            if self._is_sound(packet):
                self._decode(packet)
            if not looked and self._sink.seconds > LOOK_AHEAD_SECONDS:
                looked = True
                look_ahead()
        self._decode(None)

    def damage(self) -> None:
        """Note a packet that is lost."""
        self.damaged += 1
        self._failing = True

    def _keep_time(self, packet: Any) -> None:
        """Notice audio that is missing between two packets, and put silence in its place."""
        if packet.pts is None or self._codec in PREFERRED_DECODERS:  # AMR frames have no times but their number
            return
        start = packet.pts * self._tick
        if self._next is None:
            self._next = start
        missing = start - self._next
        if missing > MIN_GAP_SECONDS:
            self.damaged += not self._failing
            if missing <= MAX_GAP_SECONDS:
                self._sink.silence(missing)
        if missing > -MAX_DRIFT_SECONDS:  # a greater step back is a fault of the timestamps: count on without them
            self._next = start

    def _is_sound(self, packet: Any) -> bool:
        """Whether to decode the packet. Codecs without checksums leave other traces of damage, noted here."""
        if packet.is_corrupt and not self._codec.startswith("pcm_"):  # there it is only the end of the file
            self.damaged += 1
        if self._codec == "flac" and packet.pts is None and self._next is not None:
            self.damaged += 1  # FFmpeg's parser gives what it found around damage without a time
        if self._is_adts:
            head = bytes(memoryview(packet)[3:6]).ljust(3, b"\0")  # the header states the frame's length
            self.damaged += (head[0] & 3) << 11 | head[1] << 3 | head[2] >> 5 != packet.size
        if self._codec in PREFERRED_DECODERS:
            first = bytes(memoryview(packet)[:1])[0]  # RFC 4867 section 5.3: P FT FT FT FT Q P P
            self.damaged += not first & 4  # Q: the frame was damaged before it was stored
            if first & 0x83:
                self.damage()
                return False
        return True

    def _decode(self, packet: Any) -> None:
        """Decode a packet; None empties the decoder."""
        try:
            frames = self._decoder.decode(packet)
        except _BROKEN:
            self.damage()
            return
        self._failing = False
        self.decoded += packet is not None
        seconds = 0.0
        for frame in frames:
            self._sink.add(frame)
            seconds += frame.samples / frame.sample_rate
        if packet is not None and self._next is not None:
            length = packet.duration * self._tick if packet.duration else seconds
            self._next = self._next + length if length else None  # a first packet may be there to be skipped


def _decoder(stream: Any) -> Any:
    """The stream's own decoder, or a better one of another name."""
    context = stream.codec_context
    name, rate = PREFERRED_DECODERS.get(context.name, ("", 0))
    if name not in av.codecs_available:
        return context
    better = av.CodecContext.create(name, "r")
    better.sample_rate = rate
    better.layout = "mono"
    return better


def _packets(container: Any, stream: Any, damage: Callable[[], None]) -> Iterator[Any]:
    """Packets with content. A read error ends PyAV's generator, not the file: begin another where it stopped."""
    errors, progress = 0, True
    while progress or errors < MAX_READ_ERRORS:
        failed, progress = yield from _packets_until_error(container, stream)
        if not failed:
            return
        damage()
        errors = 1 if progress else errors + 1


def _packets_until_error(container: Any, stream: Any) -> Generator[Any, None, tuple[bool, bool]]:
    """Packets; returns whether reading failed, and whether there was a packet before that."""
    some = False
    try:
        for packet in container.demux(stream):
            if packet.size:
                some = True
                yield packet
    except _BROKEN:
        return True, some
    return False, some


def _salvaged(job: _Job, container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a damaged Matroska file with one track: FFmpeg gives up the rest of a cluster, up to five seconds."""
    if len(container.streams) != 1 or job.file.size > MAX_SALVAGE_BYTES:
        return
    for milliseconds, content in matroska_blocks(job.file.at(0, job.file.size)):
        packet = av.Packet(content)
        packet.time_base = stream.time_base
        packet.pts = round(milliseconds / 1000 / stream.time_base)
        yield packet


def _measure(job: _Job, index: int, packets: int, seconds: float) -> float:
    """Count the recording's seconds without decoding its packets, and refuse it if they come to more than the limit.

    Declared durations can lie, and decoding hours of silence to find out takes seconds and gigabytes. Durations of
    packets can lie as well: what the first `packets` gave when decoded, `seconds`, tells how far to believe them.
    """
    count, stated, scale = 0, 0.0, 1.0
    with _demuxer(job) as container:
        stream = container.streams[index]
        tick = float(stream.time_base)
        for packet in _packets(container, stream, lambda: None):
            count += 1
            stated += (packet.duration or 0) * tick
            if count == packets and stated < 0.5 * seconds:
                stated = stated or packets * tick
                scale = seconds / stated
            if stated * scale > job.limits.max_seconds:
                break
    _check_length(stated * scale, job.limits)
    return stated * scale


_DTYPES = {
    "u8": (np.uint8, 128.0, 128.0),
    "s16": (np.int16, 0.0, 32_768.0),
    "s32": (np.int32, 0.0, 2_147_483_648.0),
    "flt": (np.float32, 0.0, 1.0),
    "dbl": (np.float64, 0.0, 1.0),
}  # sample format: type, value of silence, full scale


class _Sink:
    """Collects decoded frames: to float, made finite, mixed, resampled to 16 kHz about a second at a time."""

    def __init__(self, limits: Limits, *, split: bool, expected: float | None, allocate: Allocate = empty) -> None:
        self._limits, self._split, self._allocate = limits, split, allocate
        self._most = None if expected is None else expected + 1.0  # seconds that silence may fill up to
        self._capacity = int(min(expected or 30.0, 3600.0) * SAMPLE_RATE) + SAMPLE_RATE
        self._rows = 0  # channels of the output, once known
        self._buffer: Samples = np.empty((0, 0), np.float32)
        self._length = 0
        self._form: tuple[str, str, int] = ("", "", 0)  # sample format, layout, rate of the pending frames
        self._pending: list[Any] = []
        self._pending_samples = 0
        self._resampler: Any = None
        self._energies = np.zeros(0)  # of each channel, and of the mix last
        self.silent = 0  # samples put in place of lost audio
        self.replaced = 0  # samples that were not finite, or absurdly loud
        self.seen = 0  # samples, all channels, at the source's rate
        self.cancelled = False

    @property
    def seconds(self) -> float:
        """Written so far."""
        return self._length / SAMPLE_RATE

    def expect(self, seconds: float) -> None:
        """Make room for so many seconds the next time there is none: growing by steps would hold the audio twice."""
        self._capacity = max(self._capacity, int(seconds * SAMPLE_RATE) + SAMPLE_RATE)

    def add(self, frame: Any) -> None:
        """Take a decoded frame."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            self._flush()
            _check_rate(frame.sample_rate, self._limits)
            _check_channels(frame.layout.nb_channels, self._limits)
            self._form = form
            self._rows = self._rows or (frame.layout.nb_channels if self._split else 1)
        self._pending.append(frame)
        self._pending_samples += frame.samples
        if self._pending_samples >= frame.sample_rate:
            self._convert()

    def silence(self, seconds: float) -> None:
        """Stand in for lost audio."""
        count = round(seconds * SAMPLE_RATE)
        room = self._most is None or self.seconds + seconds <= self._most
        if self._rows and count > 0 and room:
            self._convert()
            self._write(np.zeros((self._rows, count), np.float32))
            self.silent += count

    def finish(self) -> Samples:
        """The recording: [channels, n]."""
        self._flush()
        samples = self._buffer[:, : self._length]
        gain = self._gain(samples)
        if gain > 1.0:
            samples *= np.float32(gain)
        return samples

    def _flush(self) -> None:
        """Empty what is pending, and the resampler's delay line."""
        self._convert()
        if self._resampler is not None:
            for frame in self._resampler.resample(None):
                self._write(_block([frame], np.float32))
        self._resampler = None

    def _convert(self) -> None:
        if not self._pending_samples:
            return
        name, layout, rate = self._form
        dtype, zero, full = _DTYPES[name.rstrip("p")]
        block = _block(self._pending, dtype)
        self._pending, self._pending_samples = [], 0
        with np.errstate(over="ignore"):
            samples = block.astype(np.float32, order="C", copy=False)
        if zero:
            samples -= np.float32(zero)
        if full != 1.0:
            samples *= np.float32(1.0 / full)
        else:
            self._make_finite(samples)
        self.seen += samples.size
        if self._rows == 1:
            samples, layout = self._mix(samples), "mono"
        self._resample(samples, layout, rate)

    def _make_finite(self, samples: Samples) -> None:
        """Float files may hold anything. Decoders overshoot full scale a little, which is left for the final clip."""
        if samples.max() <= 8.0 and samples.min() >= -8.0:  # never true of NaN
            return
        wrong = ~np.isfinite(samples)
        samples[wrong] = 0.0
        self.replaced += int(wrong.sum()) + int((np.abs(samples) > 8.0).sum())
        np.clip(samples, -1.0, 1.0, out=samples)

    def _mix(self, samples: Samples) -> Samples:
        """The mean of the channels, or the loudest of them where they cancel."""
        if samples.shape[0] == 1:
            return samples
        mixed: Samples = samples[:1] + samples[1:2]
        for row in samples[2:]:
            mixed += row
        mixed *= np.float32(1 / len(samples))
        each = np.array([float(np.vdot(row, row)) for row in samples])
        mix = float(np.vdot(mixed, mixed))
        independent = each.sum() / len(each) ** 2  # the mix's energy if the channels had nothing in common
        if mix < 0.2 * independent and independent > 1e-7 * samples.shape[1]:
            self.cancelled = True
            mixed = samples[[int(each.argmax())]]
            mix = float(each.max())
        energies = np.append(each, mix)
        self._energies = energies + (self._energies if self._energies.shape == energies.shape else 0.0)
        return mixed

    def _gain(self, samples: Samples) -> float:
        """A mean of channels of which one speaks at a time is too quiet: raise it to the level of the loudest."""
        if self._energies.size == 0 or self._energies[-1] <= 0.0:
            return 1.0
        gain = float(np.sqrt(self._energies[:-1].max() / self._energies[-1]))
        peak = float(np.abs(samples).max(initial=0.0))
        return min(gain, 1.0 / peak) if gain > 1.2 and peak > 0.0 else 1.0  # 1.2: under 1.6 dB is left alone

    def _resample(self, samples: Samples, layout: str, rate: int) -> None:
        if rate == SAMPLE_RATE and (self._rows == samples.shape[0]):
            self._write(samples)
            return
        if self._resampler is None:
            target = layout if self._rows == samples.shape[0] else f"{self._rows} channels"
            self._resampler = av.AudioResampler("flt", target, SAMPLE_RATE)
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)  # PyAV miscounts the planes of eight planar channels
        frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
        frame.sample_rate = rate
        for out in self._resampler.resample(frame):
            self._write(_block([out], np.float32))

    def _write(self, samples: NDArray[np.float32]) -> None:
        count = samples.shape[1]
        if (self._length + count) / SAMPLE_RATE > self._limits.max_seconds:
            _check_length((self._length + count) / SAMPLE_RATE, self._limits)
        end = self._length + count
        if end > self._buffer.shape[1]:
            self._capacity = max(self._capacity, end + end // 2)  # untouched pages cost no memory
            grown = self._allocate((self._rows, self._capacity))
            if self._length:
                grown[:, : self._length] = self._buffer[:, : self._length]
            self._buffer = grown
        np.clip(samples, -1.0, 1.0, out=self._buffer[:, self._length : end])
        self._length = end


def _block(frames: list[Any], dtype: Any) -> NDArray[Any]:
    """The samples of frames of one form, [channels, n], in memory of their own."""
    width = frames[0].layout.nb_channels
    if not frames[0].format.is_planar:
        packed = [np.frombuffer(frame.planes[0], dtype, frame.samples * width) for frame in frames]
        columns: NDArray[Any] = np.concatenate(packed).reshape(-1, width).T
        return columns
    parts = [(frame.planes, frame.samples) for frame in frames]
    return np.stack(
        [np.concatenate([np.frombuffer(planes[row], dtype, count) for planes, count in parts]) for row in range(width)]
    )


# ---- what to say about it ----


def _verdict(result: _Result, claim: Claim, limits: Limits) -> list[Notice]:
    """Notices about a recording that can be used; an error about one that cannot."""
    short = result.declared is not None and result.heard < min(
        KEPT_SHARE * result.declared, result.declared - CODEC_DELAY_SECONDS
    )
    if result.damaged > result.decoded or (short and result.heard < limits.min_seconds):
        raise InvalidAudio(f"The recording is damaged: most of it could not be decoded. {HINT}")
    if result.heard <= 0.0:
        raise EmptyAudio("The recording holds no audio.")
    if result.nothing_finite:
        raise InvalidSamples("The recording holds only NaN or infinite values.")
    if result.heard < limits.min_seconds:
        raise AudioTooShort(f"The recording is shorter than {limits.min_seconds:g} seconds.")
    promised = "" if result.declared is None else f" of {result.declared:.2f}"
    every = {
        "corrupt_frames": (result.damaged, f"{result.damaged} damaged or missing frames."),
        "audio_truncated": (
            short or claim.cut,
            f"The file is incomplete: {result.heard:.2f}{promised} seconds could be decoded.",
        ),
        "header_size_ignored": (claim.size_is_wrong, "The header gives a wrong length; the whole file was read."),
        "invalid_samples_replaced": (result.replaced, f"{result.replaced} samples were not finite or out of range."),
        "anti_phase_channels": (result.cancelled, "The channels cancel each other; the louder one was used there."),
    }
    return [Notice(code, text) for code, (applies, text) in every.items() if applies]
