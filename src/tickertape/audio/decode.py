"""A recording to float32 samples at 16 kHz, within limits, by PyAV (FFmpeg).

The bytes are untrusted:

- FFmpeg sees only allowed demuxers and decoders, and no protocols (`demux`).
- Packets are read and decoded one at a time. A damaged frame does not lose the rest of the call: silence replaces it,
  and a notice reports it. Every frame keeps its time on the container's clock (`packet_decoder`).
- The duration is checked as declared, as summed over the packets, and as decoded. A small file cannot fill memory.

Notices about a recording that could be decoded:

    corrupt_frames            frames are damaged or missing; silence replaces them
    audio_truncated           less audio than the file declares, or its end is missing
    header_size_ignored       a wav header states a wrong length; the whole file was read
    invalid_samples_replaced  NaN or infinity became 0, or values were far out of range
    anti_phase_channels       channels cancel each other; the louder one was used there
    several_audio_tracks      only one of several tracks was used
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from tickertape.audio.containers import Claim, id3_end, id3_tags, read_claim
from tickertape.audio.demux import (
    HEADERLESS_HINT,
    PYAV_ERRORS,
    MediaInput,
    declared_seconds,
    last_seconds,
    measure_seconds,
    open_demuxer,
    parse_raw_format,
    read_packets,
    salvage_packets,
    select_stream,
    start_seconds,
)
from tickertape.audio.limits import Limits
from tickertape.audio.packet_decoder import PacketDecoder
from tickertape.audio.reader import AudioSource, SourceReader, open_source
from tickertape.audio.samples import Allocate, SampleCollector, allocate_samples
from tickertape.errors import (
    AudioTooShortError,
    EmptyAudioError,
    InvalidAudioError,
    InvalidSamplesError,
    OptionError,
)
from tickertape.types import SAMPLE_RATE, Audio, Notice, Samples

LOOK_AHEAD_SECONDS = 300  # a longer recording is measured before the rest of it is decoded
MIN_DECODED_SHARE = 0.98  # of the declared duration; less is always reported
DEFAULT_LIMITS = Limits()
CODEC_DELAY_SECONDS = 0.02  # containers count samples that decoders drop at the start: Opus 6.5 ms, for example


def decode(
    source: AudioSource,
    *,
    channels: Literal["mix", "split"] = "mix",
    limits: Limits = DEFAULT_LIMITS,
    track: int | None = None,
    audio_format: str | None = None,
    allocate: Allocate = allocate_samples,
) -> Audio:
    """Decode a recording to float32 samples of shape [channels, n] at 16 kHz, finite and within [-1, 1].

    `channels` "mix" gives the mean of the channels, raised to the level of the loudest; "split" keeps each. `track`
    selects an audio track, counted from 0. `audio_format` describes headerless data: "mulaw;rate=8000;channels=2" (see
    `demux.RAW_FORMATS`). A file object is read from its current position and stays open. `allocate` returns memory of
    a given shape, with any content; the samples are the first columns of one such array.

    Raises an `AudioError` for a recording that cannot be used and `OptionError` for a wrong option.
    """
    if channels not in {"mix", "split"}:
        raise OptionError('channels must be "mix" or "split".', "channels", "invalid_channels")
    raw = () if audio_format is None else parse_raw_format(audio_format)
    with open_source(source, limits.max_bytes) as reader:
        claim = Claim() if raw else _read_header(reader)
        _check_claim(claim, limits)
        run = partial(_decode_once, MediaInput(reader, claim, *raw), limits, track, channels == "split", allocate)
        try:
            result = run()
            decoder = result.decoder
            if claim.demuxers == "matroska" and (decoder.damaged or decoder.end_offset < 0.9 * reader.size):
                salvaged = run(salvage=True)
                if salvaged.decoder.seconds > decoder.seconds:
                    salvaged.decoder.damaged = max(1, salvaged.decoder.damaged)
                    result = salvaged
        except PYAV_ERRORS as error:
            raise InvalidAudioError(f"The recording is damaged and cannot be decoded. {HEADERLESS_HINT}") from error
    _check_result(result, limits)
    return Audio(result.samples, (*result.notices, *_notices(result, claim)))


def _read_header(reader: SourceReader) -> Claim:
    """The claim of the file's header. ID3 tags are skipped or masked.

    FFmpeg decompresses every frame of an ID3 tag: a tag of 400 KB took 1.1 GB and two minutes.
    """
    reader.skip(id3_end(reader.at, reader.size))
    claim = read_claim(reader.at, reader.size)
    if claim.demuxers not in {"mp3,aac", "flac", "ogg", "matroska"}:  # there FFmpeg reads tags at the start only
        reader.masked = id3_tags(reader.at, reader.size)
    return claim


def _check_claim(claim: Claim, limits: Limits) -> None:
    if claim.error:
        raise InvalidAudioError(claim.error)
    if claim.rate is not None:
        limits.check_rate(claim.rate)
    if claim.channels is not None:
        limits.check_channels(claim.channels)


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    samples: Samples
    notices: list[Notice]
    declared: float | None  # seconds
    collector: SampleCollector
    decoder: PacketDecoder

    @property
    def seconds(self) -> float:
        """The recording's seconds, without the silence inserted for lost audio."""
        return float(self.samples.shape[1] - self.collector.silence_samples) / SAMPLE_RATE


def _decode_once(
    recording: MediaInput, limits: Limits, track: int | None, split: bool, allocate: Allocate, *, salvage: bool = False
) -> _Result:
    """Decode the packets that FFmpeg's demuxer gives, or with `salvage` those found without it."""
    with open_demuxer(recording) as container:
        stream, notices = select_stream(container, track)
        declared = declared_seconds(container, stream, recording.claim)
        if declared is not None:
            limits.check_duration(declared)
        collector = SampleCollector(limits, split=split, expected=declared, allocate=allocate)
        find_end = partial(last_seconds, recording, stream.index)
        decoder = PacketDecoder(stream, collector, start_seconds(container, recording.claim), declared, find_end)
        if salvage:
            packets = salvage_packets(recording, container, stream)
        else:
            packets = read_packets(container, on_error=decoder.count_loss)
        measured = False
        for packet in chain(packets, [None]):
            decoder.decode(packet)
            if not measured and decoder.seconds > LOOK_AHEAD_SECONDS:
                collector.expect(measure_seconds(recording, stream.index, limits, (decoder.decoded, decoder.seconds)))
                measured = True
    return _Result(collector.finish(), notices, declared, collector, decoder)


def _is_short(result: _Result) -> bool:
    """Whether clearly less than the declared duration was decoded."""
    declared = result.declared
    return declared is not None and result.seconds < min(MIN_DECODED_SHARE * declared, declared - CODEC_DELAY_SECONDS)


def _check_result(result: _Result, limits: Limits) -> None:
    """Raise the error of a recording that cannot be used."""
    too_short = result.seconds < limits.min_seconds
    if result.decoder.damaged > result.decoder.decoded or (_is_short(result) and too_short):
        raise InvalidAudioError(f"The recording is damaged: most of it could not be decoded. {HEADERLESS_HINT}")
    if result.seconds <= 0.0:
        raise EmptyAudioError("The recording holds no audio.")
    if 0 < result.collector.replaced == result.collector.seen:
        raise InvalidSamplesError("The recording holds only NaN or infinite values.")
    if too_short:
        raise AudioTooShortError(f"The recording is shorter than {limits.min_seconds:g} seconds.")


def _notices(result: _Result, claim: Claim) -> list[Notice]:
    collector, damaged = result.collector, result.decoder.damaged
    total = "" if result.declared is None else f" of {result.declared:.2f}"
    notices = {
        "corrupt_frames": (damaged, f"{damaged} damaged or missing frames."),
        "audio_truncated": (
            _is_short(result) or claim.cut,
            f"The file is incomplete: {result.seconds:.2f}{total} seconds could be decoded.",
        ),
        "header_size_ignored": (claim.size_is_wrong, "The header gives a wrong length; the whole file was read."),
        "invalid_samples_replaced": (
            collector.replaced,
            f"{collector.replaced} samples were not finite or out of range.",
        ),
        "anti_phase_channels": (collector.anti_phase, "The channels cancel each other; the louder one was used there."),
    }
    return [Notice(code, text) for code, (applies, text) in notices.items() if applies]
