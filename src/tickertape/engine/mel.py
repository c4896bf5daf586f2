"""Whisper's log-mel features: samples to float32 of shape [n_mels, frames].

The definition is openai/whisper audio.py's and Hugging Face's WhisperFeatureExtractor's: 25 ms Hann windows every
10 ms, a Slaney mel filter bank up to 8 kHz, log10 clamped to 8 below the window's loudest value.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tickertape.types import SAMPLE_RATE, Samples

N_FFT = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms, so 100 frames a second
FLOOR = 1e-10  # power below which the logarithm is cut
DYNAMIC_RANGE = 8.0  # in log10 units: 80 dB

Mel = NDArray[np.float32]


def log_mel(samples: Samples, length: int, n_mels: int) -> Mel:
    """Compute the features of `samples`, shape [n], as if zeros followed up to `length` samples.

    Returns shape [n_mels, length // 160]. Frames of only those zeros are not computed.
    """
    frames = length // HOP
    sounding = min(frames, -(-(len(samples) + N_FFT // 2) // HOP) + 1)
    padded = np.zeros(max((sounding - 1) * HOP + N_FFT, length + N_FFT if sounding == frames else 0), np.float32)
    padded[N_FFT // 2 : N_FFT // 2 + len(samples)] = samples[:length]
    _reflect(padded, length)
    mel = np.full((n_mels, frames), np.log10(np.float32(FLOOR)), np.float32)
    mel[:, :sounding] = np.log10(np.maximum(_mel_power(padded, sounding, n_mels), FLOOR))
    np.maximum(mel, mel.max() - DYNAMIC_RANGE, out=mel)
    mel += 4.0
    mel /= 4.0
    return mel


def _reflect(padded: Samples, length: int) -> None:
    """Mirror half a Fourier window at both ends of the `length` samples, as a centred transform does."""
    half = N_FFT // 2
    padded[:half] = padded[2 * half : half : -1]
    end = half + length
    if end + half <= len(padded):
        padded[end : end + half] = padded[end - 2 : end - 2 - half : -1]


def _mel_power(padded: Samples, frames: int, n_mels: int) -> Mel:
    """Power in each mel band, shape [n_mels, frames]."""
    from scipy import fft

    windows = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP][:frames]
    hann = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic
    spectrum = fft.rfft(windows * hann, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    banded: Mel = filters(n_mels) @ power.T
    return banded


@cache
def filters(n_mels: int) -> Mel:
    """Build the Slaney mel filter bank, shape [n_mels, 201], each filter scaled to constant energy."""
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)  # 8 kHz in mels
    edges = _hertz(np.linspace(0, top, n_mels + 2))
    widths = np.diff(edges)
    slopes = edges[:, None] - bins[None, :]
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    bank = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    single: Mel = bank.astype(np.float32)
    return single


def _hertz(mels: NDArray[Any]) -> NDArray[Any]:
    """Slaney's scale: linear to 1 kHz (15 mels), logarithmic above."""
    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
