"""Speech synthesis with espeak-ng and flite: a sentence in, 16 kHz samples out.

Both are called through their C libraries, because starting a program takes longer than speaking a short sentence.
espeak-ng reports the start of each word; evaluation uses these times as reference for word times.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

SAMPLE_RATE = 16_000
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """A synthesiser's voice: `engine` is espeak or flite; `variant` is espeak's timbre, empty for flite."""

    engine: str
    name: str
    variant: str = ""

    @property
    def label(self) -> str:
        """The voice in one word, for manifests."""
        return f"{self.engine}:{self.name}" + (f"+{self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Manner:
    """How a sentence is said: words per minute, pitch and its range (espeak 0-100), a stretch of time for flite."""

    rate: int = 165
    pitch: int = 50
    swing: int = 50
    stretch: float = 1.0


@dataclass(frozen=True)
class Spoken:
    """Speech at 16 kHz and, from espeak, each spoken word's start in milliseconds beside its place in the text."""

    samples: Samples
    words: tuple[tuple[int, int], ...] = ()


ACCENTS = ("en-us", "en-us", "en-us", "en", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc")
VARIANTS = (
    "", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f5", "Alex", "Alicia", "Andrea", "Andy", "Annie",
    "adam", "antonio", "benjamin", "boris", "caleb", "david", "edward", "Gene", "Hugo", "iven", "Jacky", "john", "Lee",
    "linda", "Michael", "Mike", "Nguyen", "pablo", "quincy", "rob", "robert", "steph", "steph3", "travis", "victor",
    "anika", "Diogo", "Denis", "Marco", "norbert", "sandro", "klatt", "klatt4",
)  # fmt: skip
FLITE_KNOWN = ("slt", "rms", "kal16")
# Held out: never synthesised for training. Accents, timbres, and a flite speaker that training never hears.
UNSEEN = (
    Voice("espeak", "en-gb-x-gbclan", "m5"),
    Voice("espeak", "en-gb-x-gbcwmd", "f4"),
    Voice("espeak", "en-us", "belinda"),
    Voice("espeak", "en", "zac"),
    Voice("espeak", "en-us", "steph2"),
    Voice("espeak", "en", "max"),
    Voice("flite", "awb"),
)
FLITE_SHARE = 0.22  # flite is slow, but its recorded speakers add more variety than their number


def known_voice(rng: random.Random) -> Voice:
    """A voice of the training set, drawn by `rng`."""
    if rng.random() < FLITE_SHARE:
        return Voice("flite", rng.choice(FLITE_KNOWN))
    return Voice("espeak", rng.choice(ACCENTS), rng.choice(VARIANTS))


def manner(rng: random.Random) -> Manner:
    """A way of speaking: rates and pitches people use, the middle more often than the ends."""
    return Manner(
        rate=int(rng.triangular(130, 215, 165)),
        pitch=int(rng.triangular(20, 80, 50)),
        swing=int(rng.triangular(20, 80, 50)),
        stretch=rng.triangular(0.85, 1.25, 1.0),
    )


def say(text: str, voice: Voice, how: Manner | None = None) -> Spoken:
    """The text as speech at 16 kHz, without the synthesiser's silence around it."""
    how = how or Manner()
    spoken = _espeak().say(text, voice, how) if voice.engine == "espeak" else _flite().say(text, voice, how)
    return _strip(spoken)


def resample(samples: Samples, rate: int, target: int = SAMPLE_RATE) -> Samples:
    """The samples at another rate, through a polyphase filter."""
    if rate == target:
        return samples
    common = np.gcd(rate, target)
    return np.asarray(resample_poly(samples, target // common, rate // common), dtype=np.float32)


def _strip(spoken: Spoken, floor: float = 0.004) -> Spoken:
    """Cut the silence before and after, keep 20 ms, and move the word times along."""
    loud = np.flatnonzero(np.abs(spoken.samples) > floor)
    if not loud.size:
        return spoken
    margin = SAMPLE_RATE // 50
    first, last = max(0, int(loud[0]) - margin), min(len(spoken.samples), int(loud[-1]) + margin)
    shift = first * 1000 // SAMPLE_RATE
    return Spoken(spoken.samples[first:last], tuple((max(0, at - shift), place) for at, place in spoken.words))


class _EspeakEvent(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_uint64),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent))
_SYNCHRONOUS, _UTF8, _WORD, _LIST_TERMINATED = 2, 1, 1, 0
_RATE, _PITCH, _RANGE = 1, 3, 4


class _Espeak:
    """libespeak-ng, one per process: it keeps its state in globals."""

    def __init__(self) -> None:
        self.lib = _library("libespeak-ng.so.1")
        self.rate = int(self.lib.espeak_Initialize(_SYNCHRONOUS, 0, None, 0))
        self.parts: list[npt.NDArray[np.int16]] = []
        self.words: list[tuple[int, int]] = []
        self.callback = _CALLBACK(self._collect)
        self.lib.espeak_SetSynthCallback(self.callback)

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        if wave and count:
            self.parts.append(np.ctypeslib.as_array(wave, shape=(count,)).copy())
        step = 0
        while events[step].type != _LIST_TERMINATED:
            if events[step].type == _WORD:
                self.words.append((events[step].audio_position, events[step].text_position - 1))
            step += 1
        return 0

    def say(self, text: str, voice: Voice, how: Manner) -> Spoken:
        self.parts, self.words = [], []
        name = voice.name + (f"+{voice.variant}" if voice.variant else "")
        if self.lib.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        for parameter, value in ((_RATE, how.rate), (_PITCH, how.pitch), (_RANGE, how.swing)):
            self.lib.espeak_SetParameter(parameter, value, 0)
        raw = text.encode() + b"\0"
        self.lib.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, _UTF8, None, None)
        samples = np.concatenate(self.parts).astype(np.float32) / 32768 if self.parts else np.zeros(0, np.float32)
        return Spoken(resample(samples, self.rate), tuple(self.words))


class _FliteWave(ctypes.Structure):
    """cst_wave of flite's cst_wave.h."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Flite:
    """libflite with its recorded speakers, one per process."""

    def __init__(self) -> None:
        # The voices' libraries look for these symbols globally.
        for name in ("flite", "flite_usenglish", "flite_cmulex"):
            _library(f"lib{name}.so.1", mode=ctypes.RTLD_GLOBAL)
        self.lib = _library("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
        self.lib.flite_init()
        self.lib.flite_text_to_wave.restype = ctypes.POINTER(_FliteWave)
        self.lib.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        self.lib.delete_wave.argtypes = [ctypes.POINTER(_FliteWave)]
        self.lib.flite_feat_set_float.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float]
        self.voices: dict[str, int] = {}

    def say(self, text: str, voice: Voice, how: Manner) -> Spoken:
        speaker = self._speaker(voice.name)
        features = ctypes.cast(speaker, ctypes.POINTER(ctypes.c_void_p))[1]  # cst_voice: name, features, ...
        self.lib.flite_feat_set_float(features, b"duration_stretch", how.stretch)
        wave = self.lib.flite_text_to_wave(text.encode(), speaker)
        samples = np.ctypeslib.as_array(wave.contents.samples, shape=(wave.contents.num_samples,)).astype(np.float32)
        rate = int(wave.contents.sample_rate)
        self.lib.delete_wave(wave)
        return Spoken(resample(samples / 32768, rate))

    def _speaker(self, name: str) -> int:
        if name not in self.voices:
            library = _library(f"libflite_cmu_us_{name}.so.1", mode=ctypes.RTLD_GLOBAL)
            register = getattr(library, f"register_cmu_us_{name}")
            register.restype, register.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
            self.voices[name] = register(None)
        return self.voices[name]


def _library(soname: str, mode: int = ctypes.DEFAULT_MODE) -> Any:
    try:
        return ctypes.CDLL(soname, mode=mode)
    except OSError as missing:
        raise RuntimeError(f"the recipe needs Debian's espeak-ng and flite; {soname} is not installed") from missing


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


@functools.cache
def _flite() -> _Flite:
    return _Flite()
