"""Packets to sample frames, one packet at a time, past whatever is damaged."""

from __future__ import annotations

from typing import Any

import av

from tickertape.audio.demux import PYAV_ERRORS
from tickertape.audio.samples import SampleCollector

# FFmpeg's own AMR decoders reject the comfort-noise frames that every mobile call contains.
PREFERRED_DECODERS = {"amrnb": ("libopencore_amrnb", 8000), "amrwb": ("libopencore_amrwb", 16_000)}

MAX_GAP_SECONDS = 10  # a longer jump of the timestamps is a wrong timestamp rather than lost audio
MAX_DRIFT_SECONDS = 0.5  # how far timestamps may run behind the audio
MIN_GAP_SECONDS = 0.015  # under one frame of any telephone codec; containers round to milliseconds


class PacketDecoder:
    """Decodes the packets of a stream into a collector. Counts lost packets and puts silence in their place."""

    def __init__(self, stream: Any, collector: SampleCollector) -> None:
        self._collector = collector
        self._codec: str = stream.codec_context.name
        self._is_adts = stream.container.format.name == "aac"
        self._context = _codec_context(stream)
        self._tick = float(stream.time_base)
        self._expected: float | None = None  # seconds at which the next packet should start
        self._lost_previous = False  # then a gap before the next packet is already counted
        self.damaged = 0  # packets, and gaps between them
        self.decoded = 0  # packets
        self.end_offset = 0  # bytes of the file up to the end of the last packet

    def decode(self, packet: Any) -> None:
        """Decode a packet; None flushes the decoder."""
        if packet is not None:
            self.end_offset = max(self.end_offset, (packet.pos or 0) + packet.size)
            self._fill_gap(packet)
            if not self._is_sound(packet):
                return
        try:
            frames = self._context.decode(packet)
        except PYAV_ERRORS:
            self.count_loss()
            return
        self._lost_previous = False
        self.decoded += packet is not None
        seconds = 0.0
        for frame in frames:
            self._collector.add(frame)
            seconds += frame.samples / frame.sample_rate
        if packet is not None and self._expected is not None:
            length = packet.duration * self._tick if packet.duration else seconds
            self._expected = self._expected + length if length else None  # decoders may skip the first packet

    def count_loss(self) -> None:
        """Count a lost packet."""
        self.damaged += 1
        self._lost_previous = True

    def _fill_gap(self, packet: Any) -> None:
        """Add silence for the audio that is missing before the packet, according to its timestamp."""
        if packet.pts is None or self._codec in PREFERRED_DECODERS:  # AMR frames have no timestamps
            return
        start = packet.pts * self._tick
        if self._expected is None:
            self._expected = start
        missing = start - self._expected
        if missing > MIN_GAP_SECONDS:
            self.damaged += not self._lost_previous
            if missing <= MAX_GAP_SECONDS:
                self._collector.add_silence(missing)
        if missing > -MAX_DRIFT_SECONDS:  # a greater step back is a wrong timestamp: keep counting durations
            self._expected = start

    def _is_sound(self, packet: Any) -> bool:
        """Whether to decode the packet. Counts the damage that codecs without checksums do not report."""
        if packet.is_corrupt and not self._codec.startswith("pcm_"):  # in PCM this flag only marks the end of the file
            self.damaged += 1
        if self._codec == "flac" and packet.pts is None and self._expected is not None:
            self.damaged += 1  # FFmpeg's parser omits the timestamp of a packet found around damage
        if self._is_adts:
            head = bytes(memoryview(packet)[3:6]).ljust(3, b"\0")  # the header states the frame's length
            self.damaged += (head[0] & 3) << 11 | head[1] << 3 | head[2] >> 5 != packet.size
        if self._codec in PREFERRED_DECODERS:
            first = bytes(memoryview(packet)[:1])[0]  # RFC 4867 section 5.3: P FT FT FT FT Q P P
            self.damaged += not first & 4  # Q: the frame was damaged before it was stored
            if first & 0x83:
                self.count_loss()
                return False
        return True


def _codec_context(stream: Any) -> Any:
    """The stream's codec context, or one of the preferred decoder if PyAV has it."""
    context = stream.codec_context
    name, rate = PREFERRED_DECODERS.get(context.name, ("", 0))
    if name not in av.codecs_available:
        return context
    preferred = av.CodecContext.create(name, "r")
    preferred.sample_rate = rate
    preferred.layout = "mono"
    return preferred
