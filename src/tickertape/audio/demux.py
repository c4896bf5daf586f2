"""PyAV's demuxers, restricted to allow-lists: open a recording, select its track, read its packets.

FFmpeg reads bytes only through a `SourceReader`. The protocol list is empty, so a playlist or a session description
that poses as a recording opens no file and no socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import av

from tickertape.audio.containers import Claim
from tickertape.audio.limits import Limits
from tickertape.audio.matroska import matroska_blocks
from tickertape.audio.reader import SourceReader
from tickertape.errors import InvalidAudioError, NoAudioStreamError, OptionError
from tickertape.types import Notice

DECODERS = frozenset(
    {"aac", "alac", "flac", "opus", "libopus", "vorbis", "speex", "wmav1", "wmav2"}
    | {"mp1", "mp2", "mp3", "mp1float", "mp2float", "mp3float"}
    | {"amrnb", "amrwb", "gsm", "gsm_ms", "g722", "g726", "g726le", "pcm_alaw", "pcm_mulaw"}  # telephones
    | {"adpcm_ima_wav", "adpcm_ima_qt", "adpcm_ms", "adpcm_yamaha", "pcm_u8", "pcm_s8", "nellymoser"}
    | {"ac3", "eac3", "dca", "aac_latm"}  # films and broadcasts
    | {f"pcm_{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")}
)
RAW_FORMATS = frozenset({"mulaw", "alaw", "gsm", "g722", "u8", "s8"}) | {
    f"{kind}{end}" for kind in ("s16", "s24", "s32", "f32", "f64") for end in ("le", "be")
}
FIXED_RATES = {"gsm": 8000, "g722": 16_000}  # Hz; both codecs have one channel, so the name alone is enough

MAX_SALVAGE_BYTES = 64 * 2**20  # the salvage of a damaged Matroska file reads the whole file into memory
MAX_READ_ERRORS = 64  # in a row; after that the demuxer makes no progress
HEADERLESS_HINT = "For headerless telephone audio, set audio_format, for example audio_format=mulaw;rate=8000."
PYAV_ERRORS = (av.FFmpegError, ValueError, EOFError, OSError)  # raised by PyAV for damaged data

_DEMUXER_OPTIONS = {
    "codec_whitelist": ",".join(DECODERS),  # FFmpeg decodes the start of every track, pictures too, to describe it
    "protocol_whitelist": "none",
    "max_streams": "32",
    "max_probe_packets": "1",  # otherwise FFmpeg searches wav samples for hidden DTS, which is slow
    "max_size": "16384",  # bytes per wav packet; the default of 4,096 costs four times the calls
}
# Other demuxers only estimate durations.
_DURATION_DEMUXERS = ("mov", "matroska", "ogg", "flac", "w64", "caf", "aiff", "au", "asf", "avi", "flv")


@dataclass(frozen=True, slots=True)
class MediaInput:
    """The bytes of a recording, and what its header or the caller says about them."""

    reader: SourceReader
    claim: Claim
    raw_format: str | None = None  # FFmpeg's demuxer for headerless data
    raw_options: dict[str, str] = field(default_factory=dict)


def parse_raw_format(text: str) -> tuple[str, dict[str, str]]:
    """FFmpeg's demuxer and its options for "mulaw;rate=8000;channels=2". Raises `OptionError` for any other form."""
    text = f"{text};rate={FIXED_RATES[text]}" if text in FIXED_RATES else text
    match = re.fullmatch(r"([a-z0-9]+);rate=([1-9][0-9]{0,5})(?:;channels=([1-8]))?", text, re.ASCII)
    if match is None or match[1] not in RAW_FORMATS:
        raise _format_error(f'"NAME;rate=HZ;channels=N" with a name among {", ".join(sorted(RAW_FORMATS))}')
    name, rate, channels = match[1], int(match[2]), int(match[3] or 1)
    if name not in FIXED_RATES:
        layout = f"{channels}C" if channels > 2 else ("mono", "stereo")[channels - 1]
        return name, {"sample_rate": str(rate), "ch_layout": layout}
    if (rate, channels) != (FIXED_RATES[name], 1):
        raise _format_error(f"{name};rate={FIXED_RATES[name]}, one channel")
    return name, {"sample_rate": str(rate)} if name == "gsm" else {}


def _format_error(expected: str) -> OptionError:
    return OptionError(f"audio_format must be {expected}.", "audio_format", "invalid_audio_format")


@contextmanager
def open_demuxer(recording: MediaInput) -> Iterator[Any]:
    """An open PyAV container. Raises `InvalidAudioError` if no allowed demuxer accepts the bytes."""
    reader, claim, name = recording.reader.clone(), recording.claim, recording.raw_format
    options = _DEMUXER_OPTIONS | recording.raw_options | {"format_whitelist": name or claim.demuxers}
    if claim.demuxers == "mpegts":
        options["max_probe_packets"] = "50"  # its tables do not always name the codec
    if claim.ignore_size:
        options["ignore_length"] = "1"
    try:
        container = av.open(reader, format=name, options=options, metadata_errors="replace")
    except PYAV_ERRORS as error:
        raise InvalidAudioError(
            f"This is not a recording in an accepted format, or it is damaged. {HEADERLESS_HINT}"
        ) from error
    with container:
        yield container


def select_stream(container: Any, track: int | None) -> tuple[Any, list[Notice]]:
    """The audio stream with number `track`, or the first one, with a notice if there are several."""
    streams = container.streams.audio
    if not container.streams:
        raise InvalidAudioError(f"The recording is damaged: it lists no tracks. {HEADERLESS_HINT}")
    if not streams:
        raise NoAudioStreamError("The file has no audio track.")
    if track is not None and not 0 <= track < len(streams):
        raise OptionError(f"The file has {len(streams)} audio tracks, numbered from 0.", "track", "invalid_track")
    stream = streams[track or 0]
    context = stream.codec_context
    if context is None or context.name not in DECODERS:
        raise InvalidAudioError(
            "The recording's codec is not accepted. Convert it to wav, flac, mp3, m4a, ogg or webm."
        )
    if track is None and len(streams) > 1:
        text = f"The file has {len(streams)} audio tracks; the first was used. Choose another by its number."
        return stream, [Notice("several_audio_tracks", text)]
    return stream, []


def start_seconds(container: Any, claim: Claim) -> float:
    """The timestamp at which the recording's clock is 0.

    MP4, Matroska and ASF count from 0, except in a piece of a live stream, whose timestamps may start anywhere. There,
    and in other containers, the earliest track starts the clock.
    """
    start = (container.start_time or 0) / av.time_base
    name = container.format.name
    is_piece = claim.is_fragmented if name.startswith("mov") else start >= (container.duration or 0) / av.time_base
    return 0.0 if name.startswith(("mov", "matroska", "asf")) and not is_piece else start


def declared_seconds(container: Any, stream: Any, claim: Claim) -> float | None:
    """The duration that the file declares, from the start of its clock; None if FFmpeg could only estimate it."""
    if claim.seconds is not None:
        return claim.seconds
    if not container.format.name.startswith(_DURATION_DEMUXERS):
        return None
    if stream.duration is not None and stream.time_base:
        end = stream.duration
        if container.format.name.startswith("mov"):  # elsewhere the duration is the last timestamp
            end += stream.start_time or 0
        return float(end * stream.time_base) - start_seconds(container, claim)
    if container.duration is not None and not container.streams.video:
        return float(container.duration / av.time_base)
    return None


def read_packets(container: Any, on_error: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """The packets of all streams that have content. A read error ends PyAV's generator; another one resumes."""
    errors, progress = 0, True
    while progress or errors < MAX_READ_ERRORS:
        progress = False
        try:
            for packet in container.demux():
                if packet.size:
                    progress = True
                    yield packet
        except PYAV_ERRORS:
            on_error()
            errors = 1 if progress else errors + 1
        except IndexError:  # PyAV cannot flush a track that appeared after the start
            return
        else:
            return


def salvage_packets(recording: MediaInput, container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a damaged Matroska file with one track. FFmpeg drops the rest of a damaged cluster, up to 5 s."""
    if len(container.streams) != 1 or recording.reader.size > MAX_SALVAGE_BYTES:
        return
    for milliseconds, content in matroska_blocks(recording.reader.at(0, recording.reader.size)):
        packet = av.Packet(content)
        packet.time_base = stream.time_base
        packet.pts = round(milliseconds / 1000 / stream.time_base)
        yield packet


def measure_seconds(recording: MediaInput, index: int, limits: Limits, decoded: tuple[int, float]) -> float:
    """The stream's duration, summed over its packets without decoding them. Raises `AudioTooLongError`.

    Declared durations can be wrong, and decoding hours of silence to find out takes seconds and gigabytes. Durations
    of packets can be wrong, too. `decoded`, the packets decoded so far and their seconds, corrects them.
    """
    packets, seconds = decoded
    count, stated, scale = 0, 0.0, 1.0
    with open_demuxer(recording) as container:
        stream = container.streams[index]
        tick = float(stream.time_base)
        for packet in read_packets(container):
            if packet.stream_index != index:
                continue
            count += 1
            stated += (packet.duration or 0) * tick
            if count == packets and stated < 0.5 * seconds:
                stated = stated or packets * tick
                scale = seconds / stated
            if stated * scale > limits.max_seconds:
                break
    limits.check_duration(stated * scale)
    return stated * scale


def last_seconds(recording: MediaInput, index: int) -> float:
    """When the stream's last packet starts on the recording's clock."""
    last = 0.0
    with open_demuxer(recording) as container:
        for packet in read_packets(container):
            if packet.stream_index == index and packet.pts is not None:
                last = float(packet.pts * packet.time_base)
        return last - start_seconds(container, recording.claim)
