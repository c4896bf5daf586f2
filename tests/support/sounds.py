"""Synthetic sounds: a voice, and what telephone lines carry besides speech."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tickertape.types import SAMPLE_RATE, Samples

FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (300, 870, 2240), (570, 840, 2410))  # Hz, vowels


def voice(seconds: float) -> Samples:
    """Sung vowels, five a second: harmonics of a gliding pitch through the resonances of a throat."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    syllable = (time * 5).astype(int)
    vowels = np.random.default_rng(2).integers(0, len(FORMANTS), syllable[-1] + 1)[syllable]
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time) + 10 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sound = np.zeros_like(time)
    for harmonic in range(1, 33):
        frequency = pitch * harmonic
        loudness = np.zeros_like(time)
        for resonance, width, weight in zip(np.transpose(FORMANTS), (60, 90, 120), (1, 0.6, 0.3), strict=True):
            loudness += weight / (1 + ((frequency - resonance[vowels]) / width) ** 2)
        sound += loudness * (frequency < 7_000) * np.sin(harmonic * phase) / np.sqrt(harmonic)
    sound *= np.sqrt(np.sin(np.pi * (time * 5 % 1)))
    return (0.4 * sound / np.abs(sound).max()).astype(np.float32)


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


TIME = np.arange(30 * SAMPLE_RATE) / SAMPLE_RATE


def tones(*hertz: float) -> NDArray[np.float64]:
    """Steady tones together."""
    return 0.3 * sum((np.sin(2 * np.pi * frequency * TIME) for frequency in hertz), np.zeros_like(TIME))


def hum(mains: float, overtones: int) -> NDArray[np.float64]:
    """The mains and its overtones."""
    return 0.2 * sum((np.sin(2 * np.pi * mains * k * TIME) / k for k in range(1, overtones)), np.zeros_like(TIME))


def noise(slope: float = 0) -> NDArray[np.float64]:
    """Noise whose spectrum falls with frequency to the power of `slope`: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(len(TIME)))
    sound = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope, len(TIME))
    return sound / np.abs(sound).max()


def clicks() -> NDArray[np.float64]:
    """Single samples, fifty of them."""
    sound = np.zeros_like(TIME)
    sound[np.random.default_rng(1).integers(0, len(TIME), 50)] = 0.9
    return sound


# What is on telephone lines besides speech, half a minute each.
NOISES: dict[str, Callable[[], NDArray[np.float64]]] = {
    "silence": lambda: np.zeros_like(TIME),
    "offset": lambda: np.full_like(TIME, 0.3),
    "white noise": noise,
    "pink noise": lambda: noise(0.5),
    "brown noise": lambda: noise(1),
    "surging noise": lambda: noise() * (1 + np.sin(2 * np.pi * 4 * TIME)) / 2,
    "hum of 50 Hz": lambda: hum(50, 8),
    "hum of 60 Hz": lambda: hum(60, 20),
    "concert pitch": lambda: tones(440),
    "high tone": lambda: tones(3_000),
    "dial tone": lambda: tones(350, 440),
    "ringing": lambda: tones(440, 480) * (TIME % 6 < 2),
    "busy": lambda: tones(480, 620) * (TIME % 1 < 0.5),
    "keys": lambda: tones(770, 1_336) * (TIME % 1 < 0.2),
    "sweep": lambda: 0.5 * np.sin(2 * np.pi * np.cumsum(100 + 780 * (TIME % 5)) / SAMPLE_RATE),
    "clicks": clicks,
}
