"""Whisper's log-mel spectrogram in numpy, for any length.

Whisper clamps a window to 8 decades (in log10 of power) below its loudest cell, so padding and joining must happen
on samples before the spectrogram is taken. Source of the definition: openai/whisper, audio.py.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
N_FFT = 400  # 25 ms
HOP = 160  # 10 ms
N_MELS = 80
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
MAX_FRAMES = 30 * FRAMES_PER_SECOND
Frames = npt.NDArray[np.float32]


def log_mel(samples: npt.NDArray[np.float32]) -> Frames:
    """Samples at 16 kHz as [frames, 80]; one frame per 10 ms."""
    padded = np.pad(samples.astype(np.float32), N_FFT // 2, mode="reflect" if len(samples) > N_FFT else "constant")
    count = len(samples) // HOP
    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:count]
    spectrum = np.fft.rfft(windows * _hann(), axis=1).astype(np.complex64)
    power = np.square(np.abs(spectrum)) @ filters().T
    decades = np.log10(np.maximum(power, 1e-10))
    decades = np.maximum(decades, decades.max() - 8.0)
    return np.asarray((decades + 4.0) / 4.0, dtype=np.float32)


def silence_value(frames: npt.NDArray[np.floating]) -> float:
    """What a frame of zero samples reads in a window whose other frames are these: the clamp's floor."""
    return max(float(frames.max()) - 2.0, -1.5)


def pad(frames: npt.NDArray[np.floating], length: int) -> npt.NDArray[np.floating]:
    """The window followed by digital silence, `length` frames in all."""
    if len(frames) >= length:
        return frames[:length]
    return np.pad(frames, ((0, length - len(frames)), (0, 0)), constant_values=silence_value(frames))


@functools.cache
def _hann() -> npt.NDArray[np.float32]:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT), dtype=np.float32)


@functools.cache
def filters() -> npt.NDArray[np.float32]:
    """Slaney's mel filters, [80, 201], area-normalised, as librosa and Whisper have them."""
    edges = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(SAMPLE_RATE / 2), N_MELS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None], dtype=np.float32)


_KNEE_HERTZ, _KNEE_MEL, _STEP = 1000.0, 15.0, np.log(6.4) / 27.0  # linear below 1 kHz, logarithmic above


def _hertz_to_mel(hertz: float) -> float:
    return hertz * 3.0 / 200.0 if hertz < _KNEE_HERTZ else _KNEE_MEL + float(np.log(hertz / _KNEE_HERTZ)) / float(_STEP)


def _mel_to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel < _KNEE_MEL, mel * 200.0 / 3.0, _KNEE_HERTZ * np.exp(_STEP * (mel - _KNEE_MEL)))
