"""The training corpus: windows of synthesised speech as log-mel shards.

    python -m recipes.demo.corpus --work WORK --shards 40 --workers 2

Every shard has its own seed: 1,400 sentences are drawn, spoken and put into about 2,000 windows (single sentences,
several with pauses, silence). Existing shards are kept, so the command resumes. A shard has two files: NNNN.npy,
float16 [frames, 80], all windows end to end, and NNNN.jsonl, one line per window.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from . import augment, mel, voices
from .sentences import Sentence, training_sentences
from .voices import SAMPLE_RATE, Samples

SENTENCES_PER_SHARD = 1_400
MULTIPLE_SHARE = 0.30  # windows of several sentences, relative to the single ones
QUIET_SHARE = 0.09  # windows without speech, relative to the single ones
TAIL = SAMPLE_RATE // 50  # zeros after each window, so that its last frame is what padding would give


@dataclass(frozen=True)
class Window:
    """A window's label: where its frames lie in the shard, its segments as (start s, end s, text), the words spoken."""

    first: int
    frames: int
    segments: tuple[tuple[float, float, str], ...]
    spoken: str


@dataclass(frozen=True)
class Clip:
    """A spoken sentence before augmentation."""

    sentence: Sentence
    samples: Samples


def make_shard(folder: Path, seed: int, index: int, sentences: int = SENTENCES_PER_SHARD) -> Path:
    """Make shard `index`, which depends only on its seed; keep it if it exists."""
    path = folder / f"{index:04d}.npy"
    if path.exists():
        return path
    rng, chance = random.Random(f"{seed}:{index}"), np.random.default_rng((seed, index))
    frames: list[npt.NDArray[np.float16]] = []
    labels: list[Window] = []
    first = 0
    for samples, segments, spoken in _windows(_clips(rng, sentences), rng, chance):
        block = mel.log_mel(np.pad(samples, (0, TAIL)))[: mel.MAX_FRAMES].astype(np.float16)
        frames.append(block)
        labels.append(Window(first, len(block), segments, spoken))
        first += len(block)
    _write(path, np.concatenate(frames), labels)
    return path


def _clips(rng: random.Random, count: int) -> list[Clip]:
    """Distinct sentences, each said once by a known voice at a random pace."""
    clips: list[Clip] = []
    seen: set[str] = set()
    for item in training_sentences(rng):
        if len(clips) == count:
            return clips
        if item.key in seen:
            continue
        seen.add(item.key)
        voice = voices.known_voice(rng)
        samples = voices.say(item.spoken, voice, voices.manner(rng)).samples
        if rng.random() < (0.7 if voice.engine == "flite" else 0.3):
            samples = augment.hasten(samples, rng.randint(88, 113))
        if 0.1 < len(samples) / SAMPLE_RATE < 24:
            clips.append(Clip(item, samples))
    return clips


def _windows(
    clips: list[Clip], rng: random.Random, chance: np.random.Generator
) -> Iterator[tuple[Samples, tuple[tuple[float, float, str], ...], str]]:
    """Windows of single clips, then of several, then without speech."""
    for clip in clips:
        yield _compose([clip], rng, chance)
    for _ in range(int(MULTIPLE_SHARE * len(clips))):
        wanted = rng.choices((2, 3, 4, 6, 9), weights=(5, 3, 2, 1.2, 0.8))[0]
        yield _compose(rng.sample(clips, wanted), rng, chance)
    for _ in range(int(QUIET_SHARE * len(clips))):
        yield augment.quiet(int(rng.triangular(0.3, 12, 1.5) * SAMPLE_RATE), chance), (), ""


def _compose(
    clips: list[Clip], rng: random.Random, chance: np.random.Generator
) -> tuple[Samples, tuple[tuple[float, float, str], ...], str]:
    """Clips in a row with pauses, silence before and after, one recording chain over all; stops before 30 s."""
    lead = rng.triangular(0, 1.0, 0.15) if rng.random() < 0.9 else rng.uniform(1, 3)
    parts: list[Samples] = [np.zeros(int(lead * SAMPLE_RATE), np.float32)]
    at = len(parts[0])
    segments: list[tuple[float, float, str]] = []
    spoken: list[str] = []
    for clip in clips:
        pause = int(rng.triangular(0.1, 2.5, 0.5) * SAMPLE_RATE) if segments else 0
        if at + pause + len(clip.samples) > 29.6 * SAMPLE_RATE:
            continue
        loudness = 10 ** (rng.uniform(-9, 0) / 20) if len(clips) > 1 else 1.0
        parts += [np.zeros(pause, np.float32), clip.samples * np.float32(loudness)]
        start, at = at + pause, at + pause + len(clip.samples)
        segments.append((round(start / SAMPLE_RATE, 3), round(at / SAMPLE_RATE, 3), clip.sentence.written))
        spoken.append(clip.sentence.key)
    trail = min(int(rng.triangular(0, 1.2, 0.2) * SAMPLE_RATE), 30 * SAMPLE_RATE - at - TAIL)
    parts.append(np.zeros(trail, np.float32))
    return augment.channel(np.concatenate(parts), chance), tuple(segments), " ".join(spoken)


def _write(path: Path, frames: npt.NDArray[np.float16], labels: list[Window]) -> None:
    """Write labels first and frames last, by renaming, so that a visible shard is complete."""
    path.with_suffix(".jsonl").write_text("".join(json.dumps(asdict(label)) + "\n" for label in labels))
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, frames)
    part.replace(path)


def main() -> None:
    """Make the training shards; existing ones are kept."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument("--shards", type=int, default=40, help="how many shards of 1,400 sentences")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = args.work / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(make_shard, folder, args.seed, index) for index in range(args.shards)]
        for job in tqdm(jobs, desc="shards"):
            job.result()


if __name__ == "__main__":
    main()
