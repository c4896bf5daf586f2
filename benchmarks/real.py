"""Whole systems on real speech with real weights: word error rates, speed, and where the time goes.

    python -m benchmarks.engine --real ../shared/speech --results benchmarks/results

Every system gets the same samples at 16 kHz and the language, transcribes greedily in two threads, and keeps its own
defaults otherwise: windows, speech detection, fallback, context. Each runs in a process of its own. The speed is that
of the longest recording, in alternating runs of which the median counts; loading is not part of it. A set is a folder
with a `manifest.jsonl` of lines with `audio`, `text`, `language` and `duration`.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.systems import RATE, Clip, openai_model
from benchmarks.workers import ROOT, Result, commit, described, machine

MODEL = "openai/whisper-base"
THREADS = 2
BATCH = 8
LONGEST = "longform_en"  # for the speed
NO_SPEECH = "nonspeech"  # the set in which every word is invented
SLOW = ("openai-whisper", "recipe")  # run once
TOKENS = 40  # width of the classes of windows, by tokens


class System(Protocol):
    """Transcribes a recording of any length."""

    def transcribe(self, samples: Clip, language: str | None) -> str: ...


class Tickertape:
    """Tickertape's Python API."""

    def __init__(self, folder: Path, exported: Path) -> None:  # noqa: ARG002 - as the other systems
        import tickertape

        self._model = tickertape.load(folder, threads=THREADS)
        self.reasons = self._model.reasons
        self.windows: list[dict[str, float]] = []

    def transcribe(self, samples: Clip, language: str | None) -> str:
        text = ""
        for update in self._model.updates(_wave(samples), language=language, max_seconds=len(samples) / RATE + 1):
            if (decoded := update.decoded) is not None:
                tokens = sum(len(segment.tokens) for segment in decoded.segments)
                times = {"encode": decoded.encode_seconds, "decode": decoded.decode_seconds}
                self.windows.append({"tokens": tokens, "batch": decoded.batch_size, **times})
            text = update.transcript.text if update.transcript else text
        return text


class FasterWhisper:
    """faster-whisper in its sequential mode, int8."""

    def __init__(self, folder: Path, exported: Path) -> None:  # noqa: ARG002
        from faster_whisper import WhisperModel

        self._model: Any = WhisperModel(str(folder), "cpu", compute_type="int8", cpu_threads=THREADS)

    def transcribe(self, samples: Clip, language: str | None) -> str:
        segments, _ = self._model.transcribe(samples, language=language, beam_size=1)
        return "".join(segment.text for segment in segments)


class FasterWhisperBatched(FasterWhisper):
    """faster-whisper's batched mode, int8."""

    def transcribe(self, samples: Clip, language: str | None) -> str:
        from faster_whisper import BatchedInferencePipeline

        pipeline = BatchedInferencePipeline(self._model)
        segments, _ = pipeline.transcribe(samples, language=language, beam_size=1, batch_size=BATCH)
        return "".join(segment.text for segment in segments)


class Recipe:
    """The pipeline of the original recipe: Hugging Face, float32, windows of 30 s."""

    def __init__(self, folder: Path, exported: Path) -> None:  # noqa: ARG002
        import torch
        from transformers import pipeline

        torch.set_num_threads(THREADS)
        self._pipe: Any = pipeline("automatic-speech-recognition", model=str(exported), chunk_length_s=30, device="cpu",
                                   dtype=torch.float32)  # fmt: skip

    def transcribe(self, samples: Clip, language: str | None) -> str:
        generate = {"num_beams": 1, "do_sample": False, "task": "transcribe", "language": language}
        return str(self._pipe({"raw": samples, "sampling_rate": RATE}, generate_kwargs=generate)["text"])


class OpenAI:
    """openai-whisper, float32."""

    def __init__(self, folder: Path, exported: Path) -> None:  # noqa: ARG002
        import torch

        torch.set_num_threads(THREADS)
        self._model = openai_model(exported)

    def transcribe(self, samples: Clip, language: str | None) -> str:
        import whisper

        return str(whisper.transcribe(self._model, samples, language=language, fp16=False)["text"])


SYSTEMS: dict[str, type[Any]] = {
    "tickertape": Tickertape,
    "faster-whisper": FasterWhisper,
    "faster-whisper batched": FasterWhisperBatched,
    "recipe": Recipe,
    "openai-whisper": OpenAI,
}


class Process:
    """A system in a process of its own."""

    def __init__(self, name: str, folder: Path, exported: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.real", name, str(folder), str(exported)]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "false"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment)

    def transcribe(self, clips: Path, languages: Sequence[str | None]) -> Result:
        """The texts of the clips in a file, the seconds it took, and the facts about Tickertape's windows."""
        print(json.dumps([str(clips), languages]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the system ended with {self._process.wait()}")
        answer: Result = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def _serve(name: str, folder: Path, exported: Path) -> None:
    """The process of a system: a line of clips and languages in, a line of texts out."""
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # libraries print to it
    system = SYSTEMS[name](folder, exported)
    for line in sys.stdin:
        path, languages = json.loads(line)
        with np.load(path) as stored:
            clips = [stored[each] for each in stored.files]
        getattr(system, "windows", []).clear()
        began = time.perf_counter()
        texts = [system.transcribe(clip, language) for clip, language in zip(clips, languages, strict=True)]
        seconds = time.perf_counter() - began
        facts = {"windows": getattr(system, "windows", []), "reasons": list(getattr(system, "reasons", ()))}
        print(json.dumps({"texts": texts, "seconds": seconds, **facts}), file=answers, flush=True)


def _wave(samples: Clip) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def run(speech: Path, where: Path | None, *, systems: Sequence[str], sets: Sequence[str], rounds: int) -> None:
    """Measure and report. Finished sets are kept in the folder of temporary files, so that a run can resume."""
    from tickertape.checkpoints.source import pull

    folder = pull(MODEL).folder
    work = Path(tempfile.gettempdir()) / "tickertape-real"
    work.mkdir(exist_ok=True)
    exported = work / "exported"
    if not exported.exists():
        from tickertape.checkpoints.export import export

        export(folder, exported)
    names = sets or sorted(path.parent.name for path in speech.glob("*/manifest.jsonl"))
    prepared = {name: _prepare(speech / name, work) for name in {*names, LONGEST}}
    words: dict[str, Result] = {}
    for system in systems:
        process = Process(system, folder, exported)
        for name in names:
            kept = work / f"{system}-{name}-{commit()[:12] if system == 'tickertape' else ''}.json"
            if not kept.exists():
                clips, rows = prepared[name]
                answer = process.transcribe(clips, [_language(row) for row in rows])
                kept.write_text(json.dumps(answer["texts"]))
            words.setdefault(name, {})[system] = _scored(name, prepared[name][1], json.loads(kept.read_text()))
            print(name, system, words[name][system], file=sys.stderr, flush=True)
        process.close()
    report(words, _speed(systems, prepared[LONGEST], folder, exported, rounds) if rounds else {}, where)


def _prepare(folder: Path, work: Path) -> tuple[Path, list[Result]]:
    """The samples of a set in one file, and the lines of its manifest."""
    from tickertape.audio.decode import decode

    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    path = work / f"{folder.name}.npz"
    if not path.exists():
        names = [folder / row["audio"] for row in rows]
        formats = ["gsm" if name.suffix == ".gsm" else None for name in names]
        decoded = [decode(name, audio_format=kind).samples[0] for name, kind in zip(names, formats, strict=True)]
        np.savez(path, *decoded)
    return path, rows


def _language(row: Result) -> str | None:
    return None if row["language"] == "zxx" else str(row["language"])


def _scored(name: str, rows: Sequence[Result], texts: Sequence[str]) -> Result:
    """Wrong words and words of the references."""
    from tests.support.real_speech import Clip, errors

    if name == NO_SPEECH:
        return {"wrong": sum(len(text.split()) for text in texts), "words": 0}
    clips = [Clip(Path(row["audio"]), row["text"], row["language"], row["duration"]) for row in rows]
    wrong, total = errors(clips, texts)
    return {"wrong": wrong, "words": total}


def _speed(systems: Sequence[str], prepared: tuple[Path, list[Result]], folder: Path, exported: Path, rounds: int
) -> Result:  # fmt: skip
    """Audio seconds per second of each system, in alternating runs; and Tickertape's windows."""
    clips, rows = prepared
    with np.load(clips) as stored:
        duration = sum(len(stored[each]) for each in stored.files) / RATE
    processes = {name: Process(name, folder, exported) for name in systems}
    runs: dict[str, list[float]] = {name: [] for name in systems}
    windows: list[Result] = []
    reasons: list[str] = []
    for round_ in range(rounds + 1):  # the first warms up
        for name, process in processes.items():
            if name in SLOW and round_ != 1:
                continue
            answer = process.transcribe(clips, [_language(row) for row in rows])
            if round_:
                runs[name].append(duration / answer["seconds"])
                windows += answer["windows"]
                reasons = answer["reasons"] or reasons
            print(f"round {round_}", name, f"{duration / answer['seconds']:.1f}", file=sys.stderr, flush=True)
    for process in processes.values():
        process.close()
    medians = {name: statistics.median(each) for name, each in runs.items() if each}
    return {"seconds": duration, "runs": runs, "median": medians, "shares": _shares(windows), "reasons": reasons}


def _shares(windows: Sequence[Result]) -> list[Result]:
    """Milliseconds of encoder and decoder for windows of so many tokens, each its share of its batch."""
    classes: dict[int, list[Result]] = {}
    for window in windows:
        classes.setdefault(int(window["tokens"]) // TOKENS, []).append(window)
    return [
        {"tokens": f"{number * TOKENS} to {(number + 1) * TOKENS - 1}", "windows": len(found),
         **{f"{what}_ms": 1000 * statistics.mean(each[what] for each in found) for what in ("encode", "decode")}}
        for number, found in sorted(classes.items())
    ]  # fmt: skip


def _tables(words: dict[str, Result], speed: Result) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    systems = list(next(iter(words.values()), speed.get("median", {})))
    if words:
        rows = [("set", "words", *systems)]
        for name, found in sorted(words.items()):
            total = found[systems[0]]["words"]
            shown = (
                f"{each['wrong']} words" if name == NO_SPEECH else f"{100 * each['wrong'] / each['words']:.2f}"
                for each in found.values()
            )
            rows.append((name, str(total or ""), *shown))
        yield "Word error rate in percent", rows
    if speed:
        own = speed["median"].get("tickertape")
        rows = [("system", "audio seconds per second", "runs", "Tickertape is so many times as fast")]
        rows += [
            (name, f"{median:.1f}", str(len(speed["runs"][name])), f"{own / median:.2f}" if own else "")
            for name, median in speed["median"].items()
        ]
        yield f"Speed on {speed['seconds']:.0f} s of continuous speech", rows
        rows = [("tokens of the window", "windows", "encoder, ms", "decoder, ms", "encoder's share")]
        for each in speed["shares"]:
            share = each["encode_ms"] / (each["encode_ms"] + each["decode_ms"])
            milliseconds = (f"{each[key]:.0f}" for key in ("encode_ms", "decode_ms"))
            rows.append((each["tokens"], str(each["windows"]), *milliseconds, f"{share:.0%}"))
        yield "Where Tickertape's time goes, by the length of a window's text", rows


def report(words: dict[str, Result], speed: Result, where: Path | None) -> None:
    """Print tables and one line of JSON; write both to files."""
    from rich.console import Console
    from rich.table import Table

    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    facts = machine() | {"load_average": os.getloadavg()[0]}
    page = [f"# Real speech, {MODEL}, {now}", "", described(facts), f"Commit {commit()[:12]}.", ""]
    console = Console(width=150)
    for title, (headings, *rows) in _tables(words, speed):
        table = Table(*headings, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        page += [f"## {title}", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
        page += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    document = {"date": now, "machine": facts, "commit": commit(), "model": MODEL, "words": words, "speed": speed}
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        (where / f"real-{now[:10]}.md").write_text("\n".join(page))
        (where / f"real-{now[:10]}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The process of one system; see benchmarks.engine --real.")
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("exported", type=Path)
    given = parser.parse_args()
    _serve(given.system, given.folder, given.exported)
