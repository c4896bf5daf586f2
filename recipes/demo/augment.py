"""Audio augmentation: rooms, noise, telephone lines, levels.

All functions take 16 kHz float samples and a numpy generator. They keep the length, so that word and sentence times
stay valid; only `hasten` changes it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, fftconvolve, lfilter, resample_poly, sosfilt

from .voices import SAMPLE_RATE, Samples

Generator = np.random.Generator


def channel(samples: Samples, rng: Generator, telephone: float = 0.3) -> Samples:
    """A random recording chain over a whole window: room, colour, noise, sometimes a telephone, then a level."""
    if rng.random() < 0.25:
        samples = reverberate(samples, rng)
    if rng.random() < 0.4:
        samples = colour(samples, rng)
    if rng.random() < 0.5:
        samples = add_noise(samples, noise(len(samples), rng), float(rng.triangular(5, 30, 40)))
    if rng.random() < telephone:
        samples = telephone_line(samples, rng)
    return level(samples, rng)


def level(samples: Samples, rng: Generator) -> Samples:
    """A peak between -26 and -0.5 dBFS."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < 1e-6:
        return samples
    return np.asarray(samples * (10 ** (rng.triangular(-26, -6, -0.5) / 20) / peak), dtype=np.float32)


def hasten(samples: Samples, percent: int) -> Samples:
    """Play at `percent` of the speed, which shifts the pitch too."""
    if percent == 100:
        return samples
    return np.asarray(resample_poly(samples, 100, percent), dtype=np.float32)


def reverberate(samples: Samples, rng: Generator) -> Samples:
    """A small synthetic room: exponentially dying noise after the direct sound."""
    seconds = rng.uniform(0.08, 0.45)
    length = int(seconds * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= rng.uniform(0.05, 0.35) / np.sqrt(np.square(tail).sum())
    tail[0] += 1.0
    return np.asarray(fftconvolve(samples, tail)[: len(samples)], dtype=np.float32)


def colour(samples: Samples, rng: Generator) -> Samples:
    """A microphone's tilt: a first-order shelf, brighter or duller."""
    tilt = rng.uniform(-0.6, 0.6)
    return np.asarray(lfilter([1.0, tilt], [1.0], samples), dtype=np.float32)


def noise(count: int, rng: Generator) -> Samples:
    """Noise of a random kind, unit power: white, pink, brown, hum, or a rumble that comes and goes."""
    kind = rng.choice(5, p=(0.25, 0.3, 0.2, 0.1, 0.15))
    if kind == 3:
        return hum(count, rng)
    slope = (0.0, 0.5, 1.0, 0.0, 0.7)[kind]
    size = next_fast_len(count, real=True)
    spectrum = rfft(rng.standard_normal(size, dtype=np.float32))
    spectrum /= np.maximum(np.arange(len(spectrum), dtype=np.float32), 8) ** np.float32(slope)
    sound = irfft(spectrum, size)[:count]
    if kind == 4:
        sound *= 1.1 + np.sin(2 * np.pi * rng.uniform(0.1, 2) * np.arange(count) / SAMPLE_RATE + rng.uniform(0, 6))
    return _unit(sound)


def hum(count: int, rng: Generator) -> Samples:
    """Mains hum with its harmonics."""
    time = np.arange(count) / SAMPLE_RATE
    base = rng.choice((50.0, 60.0))
    return _unit(
        sum(rng.uniform(0.1, 1) / n * np.sin(2 * np.pi * base * n * time + rng.uniform(0, 6)) for n in range(1, 7))
    )


def tones(count: int, rng: Generator) -> Samples:
    """Telephone tones and beeps: one to three sines, steady or in bursts."""
    time = np.arange(count) / SAMPLE_RATE
    frequencies = rng.choice(
        (350, 440, 480, 620, 697, 770, 852, 941, 1209, 1336, 1477, 1000, 2000, 425), size=rng.integers(1, 4)
    )
    sound = sum(np.sin(2 * np.pi * frequency * rng.uniform(0.97, 1.03) * time) for frequency in frequencies)
    if rng.random() < 0.6:
        sound = sound * ((time % rng.uniform(0.3, 4.0)) < rng.uniform(0.1, 2.0))
    return _unit(sound)


def quiet(count: int, rng: Generator) -> Samples:
    """A window without speech: digital silence, noise at any level, tones, clicks."""
    kind = rng.random()
    if kind < 0.15:
        return np.zeros(count, np.float32)
    if kind < 0.3:
        sound = tones(count, rng) + noise(count, rng) * rng.choice((0.0, 0.03, 0.3))
    elif kind < 0.38:
        sound = np.zeros(count) + (rng.random(count) < rng.uniform(1e-5, 4e-4)) * rng.standard_normal(count) * 8
    else:
        sound = noise(count, rng) + rng.choice((0.0, 0.5)) * noise(count, rng)
    if rng.random() < 0.3:
        sound = telephone_line(np.asarray(sound / np.abs(sound).max(initial=1e-6) * 0.3, np.float32), rng)
    peak = 10 ** (rng.uniform(-60, -3) / 20)
    return np.asarray(sound / max(float(np.abs(sound).max()), 1e-6) * peak, dtype=np.float32)


def add_noise(samples: Samples, sound: Samples, decibels: float) -> Samples:
    """The sound under the speech, at a signal-to-noise ratio taken over the parts that are not silent."""
    loud = np.abs(samples) > 1e-3
    power = float(np.square(samples[loud]).mean()) if loud.any() else 1e-4
    return np.asarray(samples + sound * np.sqrt(power / 10 ** (decibels / 10)), dtype=np.float32)


def telephone_line(samples: Samples, rng: Generator) -> Samples:
    """The 8 kHz band from about 300 to 3400 Hz, through G.711."""
    narrow = resample_poly(samples, 1, 2)
    band = butter(3, (rng.uniform(180, 340), rng.uniform(3200, 3650)), btype="band", fs=SAMPLE_RATE // 2, output="sos")
    narrow = sosfilt(band, narrow)
    narrow = narrow / max(float(np.abs(narrow).max()), 1e-6) * rng.uniform(0.1, 0.9) if np.any(narrow) else narrow
    coded = mu_law(narrow) if rng.random() < 0.5 else a_law(narrow)
    return np.asarray(resample_poly(coded, 2, 1)[: len(samples)], dtype=np.float32)


def mu_law(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """G.711's North American companding to 8 bits and back, by its continuous law."""
    pressed = np.sign(samples) * np.log1p(255 * np.abs(np.clip(samples, -1, 1))) / np.log(256)
    steps = np.round(pressed * 127) / 127
    return np.asarray(np.sign(steps) * (256 ** np.abs(steps) - 1) / 255)


def a_law(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """G.711's European companding to 8 bits and back, by its continuous law."""
    size, scale = np.abs(np.clip(samples, -1, 1)), 1 + np.log(87.6)
    pressed = np.where(size < 1 / 87.6, 87.6 * size, 1 + np.log(np.maximum(87.6 * size, 1e-9))) / scale
    steps = np.round(pressed * 127) / 127
    opened = np.where(steps < 1 / scale, steps * scale / 87.6, np.exp(steps * scale - 1) / 87.6)
    return np.asarray(np.sign(samples) * opened)


def _unit(sound: npt.NDArray[np.floating]) -> Samples:
    return np.asarray(sound / max(float(np.sqrt(np.square(sound).mean())), 1e-9), dtype=np.float32)
