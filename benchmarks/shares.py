"""Shares of the time for one long recording: file decoding, speech detection, log-mel, encoder, decoder."""

from __future__ import annotations

import io
import json
import statistics
import time
from pathlib import Path

import av
import numpy as np

from benchmarks.systems import RATE
from tickertape.audio import chunking
from tickertape.audio.decode import decode
from tickertape.audio.vad import SpeechDetector
from tickertape.engine.loading import LoadOptions, load_engine
from tickertape.engine.mel import log_mel
from tickertape.engine.whisper import WhisperEngine
from tickertape.types import WINDOW_SAMPLES, Options


def main(checkpoint: str, work: str, tokens: int, rounds: int, threads: int) -> None:
    """Measure each step several times; print medians as one line of JSON."""
    with np.load(Path(work) / "clips.npz") as stored:
        recording = _mp3(np.concatenate([stored[name] for name in stored.files[:8]]))
    engine = load_engine(checkpoint, LoadOptions(threads=threads, cache=Path(work) / "cache"))
    detector = SpeechDetector(threads=1)
    runs = [_run(recording, engine, detector, tokens) for _ in range(rounds + 1)][1:]  # without the warm-up run
    seconds = {step: statistics.median(run[step] for run in runs) for step in runs[0]}
    total = sum(seconds[step] for step in ("file", "speech", "engine"))
    light = seconds["file"] + seconds["speech"] + seconds["mel"]
    percent = {step: round(100 * value / total, 1) for step, value in seconds.items() if step != "windows"}
    percent["file, speech and mel"] = round(100 * light / total, 1)
    print(json.dumps({"audio_seconds": 240.0, "format": "mp3", "seconds": seconds, "percent": percent}))


def _run(recording: bytes, engine: WhisperEngine, detector: SpeechDetector, tokens: int) -> dict[str, float]:
    found: dict[str, float] = {}
    began = time.perf_counter()
    samples = decode(recording).samples[0]
    found["file"] = time.perf_counter() - began
    began = time.perf_counter()
    spans = list(detector.detect(samples))
    found["speech"] = time.perf_counter() - began
    heard = list(chunking.cut(samples, spans)) or list(chunking.plain(samples))
    began = time.perf_counter()
    for window in heard:
        log_mel(window.samples, WINDOW_SAMPLES, 80)
    found["mel"] = time.perf_counter() - began
    options = Options(
        language="en", timestamps=False, temperatures=(0.0,), max_new_tokens=tokens, no_speech_threshold=None
    )
    found |= {"encoder": 0.0, "decoder": 0.0, "engine": 0.0, "windows": len(heard)}
    for first in range(0, len(heard), 8):
        batch = heard[first : first + 8]
        began = time.perf_counter()
        outcomes = engine.decode(batch, [options] * len(batch))
        found["engine"] += time.perf_counter() - began
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            found["encoder"] += outcome.encode_seconds
            found["decoder"] += outcome.decode_seconds
    return found


def _mp3(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
