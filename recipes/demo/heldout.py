"""Make the held-out sets: short recordings outside the training data, with manifests.

    python -m recipes.demo.heldout

known: new sentences in training voices; unseen: new sentences in new voices; telephone: the 8 kHz
band through G.711; digits: card, account and code numbers; pauses: several sentences with silence between. A line
of a manifest is JSON: audio, text, duration, voice, and segments [start s, end s, text]; espeak-ng's clips have
words [start s, word] too, where the word is said as it is written. call.opus is a conversation of three minutes,
agent left and customer right, with its turns in call.json; quiet.opus a minute of silence, noise and tones.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from . import augment, call, voices
from .sentences import Sentence, held_out_sentences
from .voices import SAMPLE_RATE, Samples, Spoken, Voice

FOLDER = Path(__file__).parent / "heldout"
EXAMPLES = Path(__file__).parents[2] / "examples" / "audio"
SEED = 20_266
COUNTS = {"known": 150, "unseen": 100, "telephone": 100, "digits": 60, "pauses": 30}
QUIET_SECONDS = 60


@dataclass
class Recording:
    """Samples with their text and times."""

    samples: Samples
    text: str
    voice: str
    segments: list[tuple[float, float, str]]
    words: list[tuple[float, str]] = field(default_factory=list)

    @property
    def duration(self) -> float:
        return round(len(self.samples) / SAMPLE_RATE, 3)


def make(name: str) -> Iterator[Recording]:
    """The recordings of a set; deterministic."""
    rng, chance = random.Random(f"{SEED}:{name}"), np.random.default_rng((SEED, *name.encode()))
    items = held_out_sentences(rng)
    if name == "digits":
        items = (item for item in items if _has_long_number(item))
    for index in range(COUNTS[name]):
        voice = voices.UNSEEN[index % len(voices.UNSEEN)] if name == "unseen" else voices.known_voice(rng)
        count = rng.choice((2, 3, 4)) if name == "pauses" else 1
        yield _record(list(islice(items, count)), voice, rng, chance, telephone=name == "telephone")


def _has_long_number(item: Sentence) -> bool:
    """Card, account and code numbers: four digits or more that are no amount, date or year."""
    numbers = re.findall(r"(?<![$£€\d,.])\d[\d -]{2,}\d(?![\d,]|\.\d)", item.written)
    named = re.search(r"card|account|code|number|digits|ends in|it's \d|^\d", item.written, re.IGNORECASE)
    return bool(numbers and named) and not re.search(r"[$£€%:]|shares|20\d\d\b|19\d\d\b", item.written)


def _record(
    items: list[Sentence], voice: Voice, rng: random.Random, chance: np.random.Generator, telephone: bool
) -> Recording:
    """Sentences in a row by one voice, a little silence around them, a level; perhaps a telephone line."""
    how = voices.manner(rng)
    parts = [np.zeros(int(rng.uniform(0.1, 0.6) * SAMPLE_RATE), np.float32)]
    segments: list[tuple[float, float, str]] = []
    words: list[tuple[float, str]] = []
    for item in items:
        if segments:
            parts.append(np.zeros(int(rng.uniform(0.6, 2.0) * SAMPLE_RATE), np.float32))
        start = sum(map(len, parts)) / SAMPLE_RATE
        spoken = voices.say(item.spoken, voice, how)
        parts.append(spoken.samples)
        segments.append((round(start, 3), round(start + len(spoken.samples) / SAMPLE_RATE, 3), item.written))
        words += [(round(start + at, 3), word) for at, word in word_times(item, spoken)]
    parts.append(np.zeros(int(rng.uniform(0.1, 0.6) * SAMPLE_RATE), np.float32))
    samples = np.concatenate(parts)
    if telephone:
        samples = augment.add_noise(samples, augment.noise(len(samples), chance), rng.uniform(18, 35))
        samples = augment.telephone_line(samples, chance)
    samples = augment.level(samples, chance)
    return Recording(samples, " ".join(item.written for item in items), voice.label, segments, words)


def word_times(item: Sentence, spoken: Spoken) -> list[tuple[float, str]]:
    """When each word begins, in seconds, for the words that are said as they are written."""
    starts: dict[int, int] = {}
    for at, place in spoken.words:
        if place >= 0 and place >= max(starts, default=0):  # espeak-ng repeats its last event at a clause's end
            starts.setdefault(place, at)
    said = [(match.start(), match[0].lower()) for match in re.finditer(r"[A-Za-z']+", item.spoken)]
    written = re.findall(r"[A-Za-z'$£€\d.,:%-]+", item.written)
    plain = [word.strip(".,?:").lower() for word in written]
    matcher = difflib.SequenceMatcher(None, [word for _, word in said], plain, autojunk=False)
    times = []
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            place = said[block.a + offset][0]
            if place in starts:
                times.append((starts[place] / 1000, plain[block.b + offset]))
    return times


def make_call() -> tuple[Samples, list[dict[str, Any]]]:
    """The conversation: [samples, 2] and its turns in order of their start."""
    speakers = (Voice("flite", "slt"), Voice("espeak", "en-us", "m3"))
    chance = np.random.default_rng(SEED)
    turns: list[dict[str, Any]] = []
    pieces: list[tuple[int, int, Samples]] = []
    at = 0
    for speaker, pause, pattern in call.LINES:
        written, spoken = _filled(pattern, 0), _filled(pattern, 1)
        samples = voices.say(spoken, speakers[speaker], voices.Manner(rate=160, stretch=1.05)).samples
        start = max(0, at + int(pause * SAMPLE_RATE))
        at = start + len(samples)
        pieces.append((speaker, start, samples / np.abs(samples).max() * np.float32(0.5)))
        ends = (round(start / SAMPLE_RATE, 3), round(at / SAMPLE_RATE, 3))
        turns.append(
            {
                "channel": speaker,
                "speaker": ("agent", "customer")[speaker],
                "start": ends[0],
                "end": ends[1],
                "text": written,
            }
        )
    sound = np.zeros((at + SAMPLE_RATE // 2, 2), np.float32)
    for speaker, start, samples in pieces:
        sound[start : start + len(samples), speaker] += samples
    for channel in range(2):
        sound[:, channel] = augment.add_noise(sound[:, channel], augment.noise(len(sound), chance), 38)
    return sound, turns


def _filled(pattern: str, which: int) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: call.VALUES[match[1]][which], pattern)


def make_quiet() -> Samples:
    """A minute without speech: digital silence, then noises and tones of five seconds each."""
    chance = np.random.default_rng(SEED + 1)
    parts = [np.zeros(5 * SAMPLE_RATE, np.float32)]
    parts += [augment.quiet(5 * SAMPLE_RATE, chance) for _ in range(QUIET_SECONDS // 5 - 1)]
    return np.concatenate(parts)


def quiet_windows(count: int = 200) -> Iterator[Samples]:
    """Windows of one to twenty seconds without speech, of other seeds than the training's."""
    chance = np.random.default_rng(SEED + 2)
    for _ in range(count):
        yield augment.quiet(int(chance.triangular(1, 4, 20) * SAMPLE_RATE), chance)


def write(path: Path, samples: Samples, bitrate: str = "18k") -> None:
    """Samples [n] or [n, channels] at 16 kHz as the file's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if path.suffix in (".wav", ".flac"):
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        return
    source = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", str(channels), "-i", "-"]
    codec = ["-c:a", "libopus"] if path.suffix == ".opus" else ["-c:a", "libmp3lame"]
    # Bit-exact: a recording made twice is the same file.
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        *source,
        *codec,
        "-b:a",
        bitrate,
        "-bitexact",
        "-map_metadata",
        "-1",
        str(path),
    ]
    subprocess.run(command, input=samples.astype("<f4").tobytes(), check=True)


def write_set(name: str, recordings: Iterable[Recording]) -> None:
    """A set's recordings and its manifest."""
    lines = []
    for index, recording in enumerate(tqdm(recordings, desc=name, total=COUNTS[name])):
        audio = f"{name}/{index:03d}.opus"
        write(FOLDER / audio, recording.samples, "13k" if name == "telephone" else "17k")
        line = {"audio": audio, "text": recording.text, "duration": recording.duration, "voice": recording.voice}
        line |= {"segments": recording.segments} | ({"words": recording.words} if recording.words else {})
        lines.append(json.dumps(line, ensure_ascii=False))
    (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_call_and_quiet() -> None:
    """call.opus with call.json, and quiet.opus with its line."""
    sound, turns = make_call()
    write(FOLDER / "call.opus", sound, "32k")
    text = {side: " ".join(turn["text"] for turn in turns if turn["speaker"] == side) for side in ("agent", "customer")}
    about = {"audio": "call.opus", "duration": round(len(sound) / SAMPLE_RATE, 3), "text": text, "turns": turns}
    (FOLDER / "call.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    quiet = make_quiet()
    write(FOLDER / "quiet.opus", quiet, "24k")
    line = {"audio": "quiet.opus", "text": "", "duration": round(len(quiet) / SAMPLE_RATE, 3)}
    (FOLDER / "quiet.jsonl").write_text(json.dumps(line) + "\n")


def write_examples() -> None:
    """Five short recordings for the page and the README, in common formats."""
    for name, voice, _, spoken in EXAMPLE_LINES:
        samples = voices.say(spoken, voice, voices.Manner(rate=155, stretch=1.05)).samples
        samples = np.pad(samples / np.abs(samples).max() * 0.6, SAMPLE_RATE * 3 // 10).astype(np.float32)
        if "telephone" in name:
            samples = augment.telephone_line(samples, np.random.default_rng(SEED))
        write(EXAMPLES / name, samples, "32k")
    lines = [{"audio": name, "text": written, "voice": voice.label} for name, voice, written, _ in EXAMPLE_LINES]
    (EXAMPLES / "manifest.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


EXAMPLE_LINES = (
    (
        "transfer-to-savings.wav",
        Voice("flite", "slt"),
        "Transfer $250 to savings.",
        "Transfer two hundred and fifty dollars to savings.",
    ),
    (
        "lost-card.flac",
        Voice("espeak", "en-us", "f2"),
        "I lost my debit card in Chicago. The last four digits are 4421.",
        "I lost my debit card in Chicago. The last four digits are four four two one.",
    ),
    (
        "mortgage-rate.mp3",
        Voice("flite", "rms"),
        "What is the rate for a 30-year mortgage?",
        "What is the rate for a thirty-year mortgage?",
    ),
    (
        "buy-order.opus",
        Voice("espeak", "en", "f1"),
        "Buy 200 shares of Northwind at $48.50 or better.",
        "Buy two hundred shares of Northwind at forty-eight dollars and fifty cents or better.",
    ),
    (
        "fraud-telephone.opus",
        Voice("flite", "slt"),
        "There's a charge of $86.20 from a gas station that I didn't make.",
        "There's a charge of eighty-six dollars and twenty cents from a gas station that I didn't make.",
    ),
)


def main() -> None:
    """Write the held-out sets beside the recipe, and the examples."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sets", nargs="*", default=[*COUNTS, "call", "examples"], help="sets to write")
    parser.add_argument("--again", action="store_true", help="overwrite existing sets")
    args = parser.parse_args()
    there = {name: FOLDER / f"{name}.jsonl" for name in COUNTS}
    there |= {"call": FOLDER / "quiet.jsonl", "examples": EXAMPLES / "manifest.jsonl"}
    for name in args.sets:
        if name in there and there[name].exists() and not args.again:
            print(f"kept {there[name]}")
        elif name in COUNTS:
            write_set(name, make(name))
        elif name == "call":
            write_call_and_quiet()
        elif name == "examples":
            write_examples()
        else:
            parser.error(f"no set {name!r}; there are {', '.join([*COUNTS, 'call', 'examples'])}")


if __name__ == "__main__":
    main()
