"""Packets to sample frames, one packet at a time, past whatever is damaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av

from tickertape.audio.demux import PYAV_ERRORS
from tickertape.audio.samples import SampleCollector
from tickertape.types import SAMPLE_RATE

# FFmpeg's own AMR decoders reject the comfort-noise frames that every mobile call contains.
PREFERRED_DECODERS = {"amrnb": ("libopencore_amrnb", 8000), "amrwb": ("libopencore_amrwb", 16_000)}

MIN_GAP_SECONDS = 0.015  # under one frame of any telephone codec; containers round to milliseconds
MAX_UNCHECKED_GAP_SECONDS = 10  # after a longer one, the last timestamp is read if no duration is declared
END_TOLERANCE_SECONDS = 1.0  # a timestamp further behind the recording's end is wrong
# More bytes between packets are lost ones. An Ogg page's header takes up to 282 bytes; ASF pads its blocks.
MAX_HEADER_BYTES = {"ogg": 282, "asf": 512, "flv": 17}
OTHER_HEADER_BYTES = 100


class PacketDecoder:
    """Decodes the packets of a stream into a collector, each frame at its time on the container's clock.

    Silence fills the time before the first frame, gaps, and the place of lost packets, which are counted.
    """

    def __init__(
        self, stream: Any, collector: SampleCollector, start: float, end: float | None, find_end: Callable[[], float]
    ) -> None:
        """The clock is 0 at the timestamp `start`; `end` is the declared duration, and `find_end` gives it if None."""
        self._collector = collector
        self._index: int = stream.index
        self._codec: str = stream.codec_context.name
        self._container: str = stream.container.format.name
        self._context = _codec_context(stream)
        self._start, self._end, self._find_end = start, end, find_end
        self._is_in_order = len(stream.container.streams) == 1 or not self._container.startswith("mov")
        self._header_bytes = MAX_HEADER_BYTES.get(self._container, OTHER_HEADER_BYTES)
        self._position: int | None = None  # of the previous packet in the file
        self._previous_is_own = False
        self._lost_packet = False  # since the previous frame; already counted
        self._lost_bytes = False  # before the current packet
        self._filled = 0.0  # seconds of silence
        self.damaged = 0  # packets, and gaps where bytes are missing
        self.decoded = 0  # packets
        self.seconds = 0.0  # decoded, without silence
        self.end_offset = 0  # bytes of the file up to the end of the last packet

    def decode(self, packet: Any) -> None:
        """Decode a packet, if it is of the stream; None flushes the decoder."""
        if packet is not None:
            self._locate(packet)
            if packet.stream_index != self._index or not self._is_sound(packet):
                return
        try:
            frames = self._context.decode(packet)
        except PYAV_ERRORS:
            self.count_loss()
            return
        self.decoded += packet is not None
        for frame in frames:
            self._collector.add(frame, self._gap(frame), is_lost=self._lost_packet or self._lost_bytes)
            self._lost_packet = False
            self.seconds += frame.samples / frame.sample_rate

    def count_loss(self) -> None:
        """Count a lost packet."""
        self.damaged += 1
        self._lost_packet = True

    def _locate(self, packet: Any) -> None:
        """Note whether bytes are missing between the stream's previous packet and this one, of any stream."""
        position = packet.pos
        if position is None or self._container == "mpegts":  # salvaged, or from a broadcast, which has no gaps
            self._lost_bytes = self.seconds > 0.0
        elif position == self._position:  # in the same Ogg page, where timestamps may jump later
            self.end_offset += packet.size
        else:
            is_hole = self._is_in_order and self.end_offset > 0 and abs(position - self.end_offset) > self._header_bytes
            self._lost_bytes = is_hole or (self._lost_bytes and not self._previous_is_own)
            self.end_offset = max(self.end_offset, position + packet.size)
        self._position, self._previous_is_own = position, packet.stream_index == self._index

    def _gap(self, frame: Any) -> float:
        """Seconds of silence that belong before the frame, according to its timestamp."""
        if frame.pts is None or self._container == "amr":  # FFmpeg counts frames there
            return 0.0
        clock = self.seconds + self._filled
        gap: float = round((frame.time - self._start - clock) * SAMPLE_RATE) / SAMPLE_RATE
        if gap <= MIN_GAP_SECONDS:  # negative where timestamps step back: they are wrong
            return 0.0
        if self._end is None and gap > MAX_UNCHECKED_GAP_SECONDS:
            self._end = self._find_end()
        is_wrong = self._end is not None and clock + gap > self._end + END_TOLERANCE_SECONDS
        self.damaged += (is_wrong or self._lost_bytes) and not self._lost_packet
        if is_wrong:
            self._start += gap
            return 0.0
        self._filled += gap
        return gap

    def _is_sound(self, packet: Any) -> bool:
        """Whether to decode the packet. Counts the damage that codecs without checksums do not report."""
        if packet.is_corrupt and not self._codec.startswith("pcm_"):  # in PCM this flag only marks the end of the file
            self.damaged += 1
        if self._codec == "flac" and packet.pts is None and self.decoded:
            self.damaged += 1  # FFmpeg's parser omits the timestamp of a packet found around damage
        if self._codec == "aac" and self._container in {"aac", "mpegts"}:
            head = bytes(memoryview(packet)[3:6]).ljust(3, b"\0")  # the header states the frame's length
            self.damaged += (head[0] & 3) << 11 | head[1] << 3 | head[2] >> 5 != packet.size
        if self._codec in PREFERRED_DECODERS:
            first = bytes(memoryview(packet)[:1])[0]  # RFC 4867 section 5.3: P FT FT FT FT Q P P
            self.damaged += not first & 4  # Q: the frame was damaged before it was stored
            if first & 0x83:
                self.count_loss()
                return False
        return self._codec != "gsm_ms" or packet.size > 1  # sox counts the padding of an odd length as data


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
