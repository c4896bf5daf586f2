"""Word error rates of Tickertape and other systems on the same clips, with the synthetic-voice model.

    python -m benchmarks.engine --texts --results benchmarks/results

The clips are the held-out sets of `recipes/demo`. Every system decodes greedily, without timestamps, speech detection
and fallback, and with the checkpoint's list of suppressed tokens. Texts are compared after Whisper's English
normalisation. The other systems use windows of 30 s, so compare them with Tickertape in full windows. faster-whisper
pads windows with features of value zero, which differ from those of silence. It therefore runs a second time, on clips
padded with silence.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.systems import WINDOW, Clip
from benchmarks.workers import ROOT, Result, Worker, commit, described, machine

CHECKPOINT = ROOT / "tests" / "checkpoint"
HELD_OUT = ROOT / "recipes" / "demo" / "heldout"
GROUP = 10  # clips per call, so that the progress bar moves
GOAL = 0.2  # allowed difference in word error rate, in points, for equal input
SERVED, FULL = "Tickertape", "Tickertape, full windows"
EXACT = "decoder float32, encoder f32"
FULL_WINDOWS = ("--context", "full")


@dataclass(frozen=True)
class Row:
    """A system and its options."""

    system: str
    flags: tuple[str, ...] = ()
    padded: bool = False  # pad clips to 30 s with silence
    alike: bool = True  # gets the same input as Tickertape with full windows


SYSTEMS = {
    SERVED: Row("tickertape", alike=False),
    FULL: Row("tickertape", FULL_WINDOWS),
    "faster-whisper": Row("faster-whisper", alike=False),
    "faster-whisper, padded clips": Row("faster-whisper", padded=True),
    "faster-whisper batched": Row("faster-whisper-batched", alike=False),
    "faster-whisper batched, padded clips": Row("faster-whisper-batched", padded=True),
    "Hugging Face pipeline": Row("hugging-face"),
    "openai-whisper": Row("openai-whisper"),
}
NUMBERS = {
    f"decoder {decoder}, encoder {encoder}": ("--compute-type", decoder, "--precision", encoder)
    for decoder, encoder in (("float32", "f32"), ("int8", "f32"), ("float32", "bf16"), ("int8", "bf16"))
}


def held_out(name: str, count: int | None = None) -> tuple[list[Clip], list[str]]:
    """The first `count` clips of a held-out set (None: all) and their texts."""
    from tickertape.audio.decode import decode

    lines = [json.loads(line) for line in (HELD_OUT / f"{name}.jsonl").read_text().splitlines()][:count]
    return [decode(HELD_OUT / line["audio"]).samples[0] for line in lines], [line["text"] for line in lines]


def digest() -> str:
    """The SHA-256 of the checkpoint's weights."""
    return hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()


def compare(sets: Sequence[str], count: int | None, threads: int, work: Path) -> Result:
    """Transcribe with every system and number format; compare the texts."""
    clips: list[Clip] = []
    truth: list[str] = []
    for name in sets:
        heard, written = held_out(name, count)
        clips, truth = clips + heard, truth + written
    wanted = dict(SYSTEMS)
    wanted |= {f"{name}, trimmed": Row("tickertape", flags) for name, flags in NUMBERS.items()}
    wanted |= {f"{name}, full": Row("tickertape", (*FULL_WINDOWS, *flags)) for name, flags in NUMBERS.items()}
    texts, skipped = _written(wanted, clips, threads, work)
    rates = {name: word_error_rate(truth, found) for name, found in texts.items()}
    systems = {
        name: {
            "word_error_rate": rates[name],
            "served_less_this": rates[SERVED] - rates[name],
            "full_less_this": rates[FULL] - rates[name],
            "served_against_this": word_error_rate(texts[name], texts[SERVED]),
            "full_against_this": word_error_rate(texts[name], texts[FULL]),
            "same_texts_as_full": _same(texts[name], texts[FULL]),
        }
        for name in SYSTEMS
        if name in texts
    }
    return {
        "sets": list(sets),
        "clips": len(clips),
        "words": sum(len(text.split()) for text in _normalised(truth)),
        "commit": commit(),
        "model_sha256": digest(),
        "systems": systems,
        "numbers": {windows: _numbers(windows, rates, texts) for windows in ("trimmed", "full")},
        "skipped": skipped,
        "goal_points": GOAL,
    }


def _numbers(windows: str, rates: dict[str, float], texts: dict[str, list[str]]) -> Result:
    """Word error rate of each number format, and its text against float32's."""
    exact = texts.get(f"{EXACT}, {windows}")
    return {
        name: {
            "word_error_rate": rates[row],
            "more_than_float32": rates[row] - rates[f"{EXACT}, {windows}"],
            "against_float32": word_error_rate(exact, texts[row]),
            "same_texts": _same(exact, texts[row]),
        }
        for name in NUMBERS
        if (row := f"{name}, {windows}") in texts and exact is not None
    }


def _written(
    wanted: dict[str, Row], clips: list[Clip], threads: int, work: Path
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The texts of each row, and for skipped rows the reason."""
    from rich.console import Console
    from rich.progress import Progress

    texts: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(file=sys.stderr)) as progress:
        plain, padded = _stored(clips, Path(folder))
        bar = progress.add_task("texts", total=len(wanted) * len(clips))
        for number, (name, row) in enumerate(wanted.items(), 1):
            progress.update(bar, description=name)
            with _worker(row, threads, work) as worker:
                try:
                    worker.ready()
                    texts[name] = []
                    for group in padded if row.padded else plain:
                        texts[name] += worker.run(group)["texts"]
                        progress.advance(bar, min(GROUP, len(clips)))
                except RuntimeError as error:
                    texts.pop(name, None)
                    skipped[name] = str(error)
            progress.update(bar, completed=number * len(clips))
    return texts, skipped


@contextlib.contextmanager
def _worker(row: Row, threads: int, work: Path) -> Iterator[Worker]:
    worker = Worker(row.system, CHECKPOINT, work, batch=8, threads=threads, flags=row.flags)
    try:
        yield worker
    finally:
        worker.close()


def _stored(clips: list[Clip], folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the clips to files, one per group: unchanged, and padded to 30 s."""
    plain, padded = [], []
    for first in range(0, len(clips), GROUP):
        group = clips[first : first + GROUP]
        for files, name, own in (
            (plain, "plain", group),
            (padded, "padded", [np.pad(clip[:WINDOW], (0, max(0, WINDOW - len(clip)))) for clip in group]),
        ):
            files.append(folder / f"{name}-{first}.npz")
            np.savez(files[-1], *own)
    return plain, padded


def word_error_rate(truth: Sequence[str], found: Sequence[str]) -> float:
    """Wrong, missing and added words relative to the words of `truth`, both normalised."""
    import jiwer

    return float(jiwer.wer(_normalised(truth), _normalised(found)))


def _normalised(texts: Sequence[str]) -> list[str]:
    from recipes.demo.evaluate import normalise

    return [normalise(text) for text in texts]


def _same(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(_normalised(one), _normalised(other), strict=True))


# --- the report

SYSTEM_HEADINGS = (
    "system",
    "word error rate",
    "Tickertape less this, full windows",
    "trimmed",
    "Tickertape's text against this text, full windows",
    "trimmed",
    "clips with the same text",
)
NUMBER_HEADINGS = ("windows", "numbers", "word error rate", "more than float32", "against float32's text", "same text")


def _system_rows(result: Result) -> Iterator[tuple[str, ...]]:
    for name, one in result["systems"].items():
        yield (
            name,
            f"{one['word_error_rate']:.2%}",
            _points(one["full_less_this"]),
            _points(one["served_less_this"]),
            f"{one['full_against_this']:.2%}",
            f"{one['served_against_this']:.2%}",
            f"{one['same_texts_as_full']} of {result['clips']}",
        )
    for name in result["skipped"].keys() & SYSTEMS.keys():
        yield (name, "skipped", result["skipped"][name][:60], "", "", "", "")


def _number_rows(result: Result) -> Iterator[tuple[str, ...]]:
    for windows, rows in result["numbers"].items():
        for name, one in rows.items():
            yield (
                windows,
                name,
                f"{one['word_error_rate']:.2%}",
                _points(one["more_than_float32"]),
                f"{one['against_float32']:.2%}",
                f"{one['same_texts']} of {result['clips']}",
            )


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f} points"


def _verdicts(result: Result) -> Iterator[str]:
    """The goal for each system that gets the same input: the clip, padded to 30 s with silence."""
    yield (
        f"{result['clips']} clips ({', '.join(result['sets'])}), {result['words']} words after normalisation: one word "
        f"is {100 / result['words']:.2f} points. Commit {result['commit'][:12]}, weights {result['model_sha256'][:12]}."
    )
    for name, one in result["systems"].items():
        if name != FULL and SYSTEMS[name].alike:
            met = "met" if abs(100 * one["full_less_this"]) <= GOAL else "not met"
            yield f"Within {GOAL} points of {name}, full windows: {met} ({_points(one['full_less_this'])})."
    for name, reason in result["skipped"].items():
        yield f"Skipped: {name}: {reason}"


def report(result: Result, where: Path | None, settings: Result) -> None:
    """Print two tables and one JSON line; write both to files."""
    from rich.console import Console
    from rich.table import Table

    tables = ((SYSTEM_HEADINGS, list(_system_rows(result))), (NUMBER_HEADINGS, list(_number_rows(result))))
    console = Console(width=150)
    for headings, rows in tables:
        table = Table(*headings)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    lines = list(_verdicts(result))
    console.print("\n".join(lines))
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    facts = machine()
    document = {"date": now, "machine": facts, "settings": settings, "results": {"texts": result}}
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        page = [f"# Texts of Tickertape and other systems, {now}", "", described(facts), ""]
        for headings, rows in tables:
            page += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
            page += ["| " + " | ".join(row) + " |" for row in rows] + [""]
        page += [*(f"- {line}" for line in lines), ""]
        (where / f"texts-{now[:10]}.md").write_text("\n".join(page))
        (where / f"texts-{now[:10]}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))
