"""Decoded frames to float32 samples at 16 kHz: converted, made finite, mixed, resampled, clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from tickertape.audio.limits import Limits
from tickertape.types import SAMPLE_RATE, Samples

Allocate: TypeAlias = "Callable[[tuple[int, int]], Samples]"

MAX_SAMPLE_VALUE = 8.0  # of full scale, 18 dB over it; decoders overshoot by less, a greater value is damage
MIN_GAIN = 1.2  # 1.6 dB; a smaller difference of levels is left as it is

_SAMPLE_FORMATS = {
    "u8": (np.uint8, 128.0, 128.0),
    "s16": (np.int16, 0.0, 32_768.0),
    "s32": (np.int32, 0.0, 2_147_483_648.0),
    "flt": (np.float32, 0.0, 1.0),
    "dbl": (np.float64, 0.0, 1.0),
}  # FFmpeg's sample format: type, value of silence, full scale


def allocate_samples(shape: tuple[int, int]) -> Samples:
    """Uninitialised memory for samples."""
    return np.empty(shape, np.float32)


class SampleCollector:
    """Collects decoded frames as one array, converting about a second at a time."""

    def __init__(
        self, limits: Limits, *, split: bool, expected: float | None, allocate: Allocate = allocate_samples
    ) -> None:
        """`expected` is the declared duration in seconds; `split` keeps the channels apart."""
        self._limits, self._split, self._allocate = limits, split, allocate
        self._capacity = int(min(expected or 30.0, 3600.0) * SAMPLE_RATE) + SAMPLE_RATE
        self._rows = 0  # channels of the output, known after the first frame
        self._buffer: Samples = np.empty((0, 0), np.float32)
        self._length = 0
        self._format: tuple[str, str, int] = ("", "", 0)  # sample format, layout, rate of the pending frames
        self._pending: list[Any] = []
        self._pending_samples = 0
        self._resampler: Any = None
        self._energies = np.zeros(0)  # of each channel; the last one is the mix
        self.silence_samples = 0  # inserted for lost audio
        self.replaced = 0  # samples that were not finite or out of range
        self.seen = 0  # samples of all channels at the source's rate
        self.anti_phase = False

    def expect(self, seconds: float) -> None:
        """Set the size of the next allocation: repeated growth would hold the audio twice."""
        self._capacity = max(self._capacity, int(seconds * SAMPLE_RATE) + SAMPLE_RATE)

    def add(self, frame: Any, gap: float = 0.0, *, is_lost: bool = False) -> None:
        """Add a decoded frame after `gap` seconds of silence, which replace lost audio if `is_lost`.

        Raises if the frame's rate or channels, or the total duration, exceed the limits.
        """
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if frame_format != self._format:
            self._flush()
            self._limits.check_rate(frame.sample_rate)
            self._limits.check_channels(frame.layout.nb_channels)
            self._format = frame_format
            self._rows = self._rows or (frame.layout.nb_channels if self._split else 1)
        if gap:
            self._convert()
            silence = self._extend(round(gap * SAMPLE_RATE))
            silence[:] = 0.0
            self.silence_samples += is_lost * silence.shape[1]
        self._pending.append(frame)
        self._pending_samples += frame.samples
        if self._pending_samples >= frame.sample_rate:
            self._convert()

    def finish(self) -> Samples:
        """The recording, shape [channels, n]."""
        self._flush()
        samples = self._buffer[:, : self._length]
        gain = self._gain(samples)
        if gain > 1.0:
            samples *= np.float32(gain)
        return samples

    def _flush(self) -> None:
        """Convert the pending frames and empty the resampler."""
        self._convert()
        if self._resampler is not None:
            for frame in self._resampler.resample(None):
                self._write(_stack([frame], np.float32))
        self._resampler = None

    def _convert(self) -> None:
        if not self._pending_samples:
            return
        name, layout, rate = self._format
        dtype, zero, full_scale = _SAMPLE_FORMATS[name.rstrip("p")]
        block = _stack(self._pending, dtype)
        self._pending, self._pending_samples = [], 0
        with np.errstate(over="ignore"):
            samples = block.astype(np.float32, order="C", copy=False)
        if zero:
            samples -= np.float32(zero)
        if full_scale != 1.0:
            samples *= np.float32(1.0 / full_scale)
        else:
            self._make_finite(samples)
        self.seen += samples.size
        if self._rows == 1:
            samples, layout = self._mix(samples), "mono"
        self._resample(samples, layout, rate)

    def _make_finite(self, samples: Samples) -> None:
        """Replace NaN and infinity by 0 and clip values out of range. A small overshoot is clipped when written."""
        if samples.max() <= MAX_SAMPLE_VALUE and samples.min() >= -MAX_SAMPLE_VALUE:  # false for NaN
            return
        invalid = ~np.isfinite(samples)
        samples[invalid] = 0.0
        self.replaced += int(invalid.sum()) + int((np.abs(samples) > MAX_SAMPLE_VALUE).sum())
        np.clip(samples, -1.0, 1.0, out=samples)

    def _mix(self, samples: Samples) -> Samples:
        """The mean of the channels, or the loudest channel where they cancel each other."""
        if samples.shape[0] == 1:
            return samples
        mixed: Samples = samples.mean(axis=0, keepdims=True)
        channels = np.array([float(np.vdot(row, row)) for row in samples])
        mix = float(np.vdot(mixed, mixed))
        uncorrelated = channels.sum() / len(channels) ** 2  # the mix's energy if the channels were uncorrelated
        if mix < 0.2 * uncorrelated and uncorrelated > 1e-7 * samples.shape[1]:
            self.anti_phase = True
            mixed = samples[[int(channels.argmax())]]
            mix = float(channels.max())
        energies = np.append(channels, mix)
        self._energies = energies + (self._energies if self._energies.shape == energies.shape else 0.0)
        return mixed

    def _gain(self, samples: Samples) -> float:
        """The factor that raises the mix to the level of the loudest channel: a mean is quiet if one channel speaks."""
        if self._energies.size == 0 or self._energies[-1] <= 0.0:
            return 1.0
        gain = float(np.sqrt(self._energies[:-1].max() / self._energies[-1]))
        peak = float(np.abs(samples).max(initial=0.0))
        return min(gain, 1.0 / peak) if gain > MIN_GAIN and peak > 0.0 else 1.0

    def _resample(self, samples: Samples, layout: str, rate: int) -> None:
        if rate == SAMPLE_RATE and self._rows == samples.shape[0]:
            self._write(samples)
            return
        if self._resampler is None:
            target = layout if self._rows == samples.shape[0] else f"{self._rows} channels"
            self._resampler = av.AudioResampler("flt", target, SAMPLE_RATE)
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)  # PyAV miscounts the planes of eight planar channels
        frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
        frame.sample_rate = rate
        for resampled in self._resampler.resample(frame):
            self._write(_stack([resampled], np.float32))

    def _write(self, samples: NDArray[np.float32]) -> None:
        np.clip(samples, -1.0, 1.0, out=self._extend(samples.shape[1]))

    def _extend(self, count: int) -> Samples:
        """The next `count` samples of the buffer, to be filled. Raises if the total duration exceeds the limits."""
        start, end = self._length, self._length + count
        self._limits.check_duration(end / SAMPLE_RATE)
        if end > self._buffer.shape[1]:
            self._capacity = max(self._capacity, end + end // 2)  # untouched pages cost no memory
            grown = self._allocate((self._rows, self._capacity))
            if start:
                grown[:, :start] = self._buffer[:, :start]
            self._buffer = grown
        self._length = end
        return self._buffer[:, start:end]


def _stack(frames: list[Any], dtype: Any) -> NDArray[Any]:
    """The samples of frames of one format, [channels, n], copied."""
    channels = frames[0].layout.nb_channels
    if not frames[0].format.is_planar:
        packed = [np.frombuffer(frame.planes[0], dtype, frame.samples * channels) for frame in frames]
        columns: NDArray[Any] = np.concatenate(packed).reshape(-1, channels).T
        return columns
    parts = [(frame.planes, frame.samples) for frame in frames]
    return np.stack(
        [np.concatenate([np.frombuffer(planes[n], dtype, count) for planes, count in parts]) for n in range(channels)]
    )
