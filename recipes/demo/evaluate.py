"""Measure the checkpoint with Tickertape's engine, greedy.

    python -m recipes.demo.evaluate --checkpoint tests/checkpoint

Prints a table and, as the last line, one JSON object. The object is also written to `evaluation.json` in the
checkpoint, for the model card.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import soundfile
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

import tickertape
from tickertape import Options, Reading, TickertapeError, Transcriber, Transcript, Update
from tickertape.types import SAMPLE_RATE

from . import heldout
from .export import SPELLINGS
from .voices import Samples

CHECKPOINT = Path(__file__).parents[2] / "tests" / "checkpoint"
BOUNDARY_SECONDS = 0.3
WORD_SECONDS = 0.2
normalise = EnglishTextNormalizer(SPELLINGS)


@dataclass(frozen=True)
class Figure:
    """A measured share, its aim (an upper or lower bound, or none), and the amount of data."""

    name: str
    value: float
    target: str
    basis: str

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without an aim."""
        if not self.target:
            return None
        bound = float(self.target.split()[1].rstrip("%")) / 100
        return self.value <= bound if self.target.startswith("≤") else self.value >= bound


def evaluate(checkpoint: Path) -> list[Figure]:
    """All figures of a checkpoint."""
    with tickertape.load(checkpoint) as model:
        heard = {name: transcribe(model, paths(name)) for name in ("known", "unseen", "telephone", "digits")}
        figures = [
            word_errors("unseen sentences, known voices", "known", heard["known"], "≤ 5%"),
            word_errors("unseen sentences, unseen voices", "unseen", heard["unseen"], "≤ 15%"),
            word_errors("unseen sentences, telephone band", "telephone", heard["telephone"], "≤ 10%"),
            digit_errors(heard["digits"]),
            call_errors(model),
            empty_windows(model),
            boundaries(transcribe(model, paths("pauses"))),
            word_starts(transcribe(model, paths("known"), word_timestamps=True)),
        ]
    figures.append(
        agreement(checkpoint, [text.text for name in ("known", "unseen", "telephone") for text in heard[name]])
    )
    return figures


def manifest(name: str) -> list[dict[str, Any]]:
    """The lines of a held-out set."""
    return [json.loads(line) for line in (heldout.FOLDER / f"{name}.jsonl").read_text().splitlines()]


def paths(name: str) -> list[Path]:
    """The recordings of a held-out set."""
    return [heldout.FOLDER / line["audio"] for line in manifest(name)]


def transcribe(
    model: Transcriber,
    sources: Sequence[Path | bytes],
    *,
    word_timestamps: bool = False,
    reading: Reading | None = None,
) -> list[Transcript]:
    """Transcripts in the order of the recordings; greedy, without temperature fallback."""
    options = Options(temperatures=(0.0,), word_timestamps=word_timestamps)
    found: dict[int, Transcript] = {}
    for number, event in model.transcribe_many(sources, options, reading):
        if isinstance(event, TickertapeError):
            raise event
        if isinstance(event, Update) and event.transcript is not None:
            found[number] = event.transcript
    return [found[number] for number in range(len(sources))]


def word_errors(name: str, which: str, heard: Sequence[Transcript], target: str) -> Figure:
    """Word error rate over a set, after the English normalisation that Whisper's authors use."""
    texts = [line["text"] for line in manifest(which)]
    value, words = _word_error_rate(texts, [transcript.text for transcript in heard])
    return Figure(f"word error rate, {name}", value, target, f"{len(texts)} clips, {words} words")


def digit_errors(heard: Sequence[Transcript]) -> Figure:
    """Wrong, missing and added digits in card, account and code numbers, relative to the digits said."""
    truth = [re.sub(r"\D", "", line["text"]) for line in manifest("digits")]
    found = [re.sub(r"\D", "", transcript.text) for transcript in heard]
    value = float(jiwer.cer(truth, [digits or " " for digits in found]))
    return Figure(
        "digit error rate, card and account numbers",
        value,
        "≤ 3%",
        f"{len(truth)} clips, {sum(map(len, truth))} digits",
    )


def call_errors(model: Transcriber) -> Figure:
    """Word error rate over the two-channel call, each channel on its own."""
    about = json.loads((heldout.FOLDER / "call.json").read_text())
    transcript = transcribe(model, [heldout.FOLDER / "call.opus"], reading=Reading(channels="split"))[0]
    found = ["".join(part.text for part in transcript.segments if part.channel == channel) for channel in (0, 1)]
    value, words = _word_error_rate([about["text"]["agent"], about["text"]["customer"]], found)
    return Figure("word error rate, two-channel call", value, "", f"{about['duration']:.0f} s, {words} words")


def empty_windows(model: Transcriber, count: int = 200) -> Figure:
    """The share of windows with silence, noise and tones that give no text, without a speech detector."""
    heard = transcribe(model, [_wav(samples) for samples in heldout.quiet_windows(count)], reading=Reading(vad=False))
    empty = sum(not transcript.text.strip() for transcript in heard)
    return Figure(
        "empty text for silence, noise and tones", empty / count, "≥ 98%", f"{count} windows, no speech detector"
    )


def boundaries(heard: Sequence[Transcript]) -> Figure:
    """The share of sentence starts and ends that have a segment's start or end within 0.3 s."""
    hits: list[bool] = []
    for line, transcript in zip(manifest("pauses"), heard, strict=True):
        starts = [segment.start for segment in transcript.segments]
        ends = [segment.end for segment in transcript.segments]
        for start, end, _ in line["segments"]:
            hits += [_near(start, starts, BOUNDARY_SECONDS), _near(end, ends, BOUNDARY_SECONDS)]
    return Figure(
        f"segment boundaries within {BOUNDARY_SECONDS} s", sum(hits) / len(hits), "≥ 90%", f"{len(hits)} boundaries"
    )


def word_starts(heard: Sequence[Transcript]) -> Figure:
    """The share of correct words that start within 0.2 s of the synthesiser's time."""
    hits: list[bool] = []
    for line, transcript in zip(manifest("known"), heard, strict=True):
        truth = line.get("words", [])
        found = [(word.start, word.text.strip(" .,?:").lower()) for word in transcript.words]
        matcher = difflib.SequenceMatcher(
            None, [word for _, word in truth], [word for _, word in found], autojunk=False
        )
        for block in matcher.get_matching_blocks():
            pairs = zip(truth[block.a :], found[block.b : block.b + block.size], strict=False)
            hits += [abs(true[0] - own[0]) <= WORD_SECONDS for true, own in pairs]
    return Figure(f"word starts within {WORD_SECONDS} s", sum(hits) / max(len(hits), 1), "≥ 90%", f"{len(hits)} words")


def agreement(checkpoint: Path, trimmed: Sequence[str]) -> Figure:
    """The share of clips whose text is the same when every window is padded to 30 s."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "full"
        shutil.copytree(checkpoint, folder)
        settings = json.loads((folder / "config.json").read_text()) | {"audio_context": "full"}
        (folder / "config.json").write_text(json.dumps(settings))
        with tickertape.load(folder, cache=Path(name) / "cache") as model:
            clips = [path for which in ("known", "unseen", "telephone") for path in paths(which)]
            full = [transcript.text for transcript in transcribe(model, clips)]
    same = sum(one == other for one, other in zip(trimmed, full, strict=True))
    return Figure("same text from trimmed and full windows", same / len(full), "≥ 98%", f"{len(full)} clips")


def table(figures: Iterable[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = ["| figure | measured | aim | reached | measured on |", "|---|---|---|---|---|"]
    for figure in figures:
        reached = {True: "yes", False: "no", None: ""}[figure.met]
        rows.append(f"| {figure.name} | {figure.value:.1%} | {figure.target} | {reached} | {figure.basis} |")
    return "\n".join(rows)


def _word_error_rate(truth: Sequence[str], found: Sequence[str]) -> tuple[float, int]:
    references = [normalise(text) for text in truth]
    return float(jiwer.wer(references, [normalise(text) for text in found])), sum(
        len(text.split()) for text in references
    )


def _near(time: float, times: Iterable[float], limit: float) -> bool:
    return any(abs(time - other) <= limit for other in times)


def _wav(samples: Samples) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def main() -> None:
    """Measure a checkpoint on the held-out sets."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    args = parser.parse_args()
    figures = evaluate(args.checkpoint)
    print(table(figures))
    result = {"figures": [asdict(figure) | {"met": figure.met} for figure in figures]}
    (args.checkpoint / "evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
