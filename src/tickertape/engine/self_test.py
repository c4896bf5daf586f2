"""One window of each kind of request, so that a checkpoint that breaks is found before it serves.

self_test(engine, *kinds(engine.info))  # raises EngineError
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tickertape.engine.whisper import WhisperEngine
from tickertape.errors import DecodeError, EngineError
from tickertape.types import SAMPLE_RATE, Decoded, ModelInfo, Options, Window

SECONDS = 1
TOKENS = 4  # to write


def kinds(info: ModelInfo) -> dict[str, Options]:
    """The options of a request of each kind that the checkpoint can serve, by name."""
    text = Options(language=info.languages[0], temperatures=(0.0,), max_new_tokens=TOKENS, no_speech_threshold=None)
    found = {"text": text, "words": replace(text, word_timestamps=True, logprobs=True, prompt="Good morning.")}
    if len(info.languages) > 1:
        found["language"] = replace(text, language=None)
    if info.translates:
        found["translate"] = replace(text, task="translate")
    return found | {"beam": replace(text, beam_size=2)}


def clip() -> Window:
    """A second of rising tones and noise, always the same: not speech, but enough for every step of the engine."""
    time = np.arange(SECONDS * SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(time), dtype=np.float32)
    tones = sum(np.sin(2 * np.pi * (pitch + 40 * time) * time) for pitch in (140.0, 560.0, 1800.0))
    return Window((0.1 * tones + 0.01 * noise).astype(np.float32))


def self_test(engine: WhisperEngine, *names: str) -> None:
    """Decode a window of each named kind. Raises `EngineError` that names the kinds which fail."""
    options = [kinds(engine.info)[name] for name in names]
    outcomes = dict(zip(names, engine.decode([clip()] * len(names), options), strict=True))
    if isinstance(outcomes.get("words"), Decoded):
        outcomes["words"] = engine.align(clip(), " a")  # the sound may have given no text to align
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, DecodeError)}
    for error in failed.values():
        message = f"The checkpoint fails at: {', '.join(failed)}. See why with: tickertape doctor MODEL"
        raise EngineError(message) from error
