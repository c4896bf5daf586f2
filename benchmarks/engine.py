"""Tickertape's engine against faster-whisper, Hugging Face's pipeline and openai-whisper, on this machine.

    python -m benchmarks.engine                         # everything: about an hour on two cores
    python -m benchmarks.engine --only throughput --shape base --rounds 3
    python -m benchmarks.engine --only throughput --shape checkpoint
    python -m benchmarks.engine --only memory --shape small medium turbo large-v3    # memory only: up to 16 GB
    python -m benchmarks.engine --texts                 # word error rates: see benchmarks/texts.py
    python -m benchmarks.engine --real ../shared/speech # real weights and real speech: see benchmarks/real.py

Every system decodes the same clips greedily, with the same number of new tokens per window and the same threads, in a
separate process; runs alternate. Weights are random in Whisper's shapes, and the end token is suppressed. The shape
`checkpoint` is the synthetic-voice model on its held-out clips, each decoded to its end. Finished measurements are kept
in `--work` and reused. The last line of the output is the result as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import real, texts
from benchmarks.systems import RATE, WINDOW
from benchmarks.workers import ROOT, Result, Worker, commit, described, machine

TUNED = "checkpoint"  # the synthetic-voice model, trained
SHAPES = ("tiny", "base", "small", TUNED)
LARGE = {"medium": "float32", "turbo": "float16", "large-v3": "float16"}  # number format of the published weights
EXAMPLE = ROOT / "examples" / "audio" / "transfer-to-savings.wav"
SPOKEN = 64  # held-out clips for it, of about four seconds each

# name in the table: system, batch, share of the clips (less for slow systems)
CONTENDERS = {
    "tickertape, batch 8": ("tickertape", 8, 1.0),
    "faster-whisper batched, batch 8": ("faster-whisper-batched", 8, 1.0),
    "tickertape, one at a time": ("tickertape", 1, 0.25),
    "faster-whisper, one at a time": ("faster-whisper", 1, 0.25),
    "Hugging Face pipeline": ("hugging-face", 1, 0.125),
    "Hugging Face pipeline, one recording": ("hugging-face-whole", 1, 0.25),
    "openai-whisper": ("openai-whisper", 1, 0.125),
}
SLOW = ("Hugging Face", "openai")  # run twice, regardless of `--rounds`


class Bench:
    """Shared by all measurements: clips, checkpoints, finished results, and processes to pause."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.work: Path = given.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.paused = 0.0  # seconds so far
        self.clips = self.work / "clips.npz"
        if not self.clips.exists():
            np.savez(self.clips, *[voice(WINDOW, seed) for seed in range(16)])
        self.short = self.work / "short.npz"
        if not self.short.exists():
            np.savez(self.short, *[voice(3 * RATE, seed) for seed in range(8)])
        self.spoken = self.work / "spoken.npz"
        if not self.spoken.exists():
            np.savez(self.spoken, *texts.held_out("known", SPOKEN)[0])

    def kept(self, name: str, measure: Callable[[], Result]) -> Result:
        """The result of that name, from `--work` or measured now."""
        path = self.work / f"{name}.json"
        if not path.exists() or self.given.fresh:
            result = measure() | {"load_average": os.getloadavg()[0], "commit": commit()}
            path.write_text(json.dumps(result, indent=1))
        kept: Result = json.loads(path.read_text())
        return kept

    def checkpoint(self, shape: str, context: str = "full") -> Path:
        """A checkpoint of random weights with end and timestamp tokens suppressed; or the synthetic-voice model."""
        if shape == TUNED:
            return texts.CHECKPOINT
        folder = self.work / f"{shape}-{context}"
        if not (folder / "generation_config.json").exists():
            from tests.support.checkpoint_factory import make_checkpoint

            make_checkpoint(folder, shape, dtype=LARGE.get(shape, "float32"), config={"audio_context": context})
            path = folder / "generation_config.json"
            settings = json.loads(path.read_text())
            times = range(settings["no_timestamps_token_id"], settings["no_timestamps_token_id"] + 1502)
            settings["suppress_tokens"] = sorted({*settings["suppress_tokens"], settings["eos_token_id"], *times})
            path.write_text(json.dumps(settings))
        return folder

    def worker(self, system: str, checkpoint: Path, *, batch: int, tokens: int | None) -> Worker:
        return Worker(system, checkpoint, self.work, batch=batch, tokens=tokens, threads=self.given.threads)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Stop the processes of `--pause` during a measurement."""
        began = time.perf_counter()
        for pid in self.given.pause if self.paused < self.given.pause_limit else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            self.paused += time.perf_counter() - began
            for pid in self.given.pause:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def voice(length: int, seed: int) -> np.ndarray:
    """Speech-like sound, shape [length]: a gliding pitch with harmonics in syllables and phrases, plus noise."""
    random, time_ = np.random.default_rng(seed), np.arange(length) / RATE
    pitch = 2 * np.pi * np.cumsum(120 + 10 * seed + 25 * np.sin(2 * np.pi * 0.7 * time_ + seed)) / RATE
    sound = sum(np.sin(k * pitch) / k for k in range(1, 9))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time_), 0, 1) * (np.sin(2 * np.pi * time_ / 7 + seed) > -0.7)
    return (0.25 * sound * syllables + random.standard_normal(length) * 0.005).astype(np.float32)


# --- measurements


def throughput(bench: Bench, shape: str, tokens: int | None) -> Result:
    """Audio seconds per second of every system, in alternating runs."""
    checkpoint = bench.checkpoint(shape)
    clips, most = (bench.spoken, SPOKEN) if shape == TUNED else (bench.clips, bench.given.clips)
    workers: dict[str, Worker] = {}
    loads: dict[str, Result] = {}
    skipped: dict[str, str] = {}
    counts = {}
    chosen = {name: entry for name, entry in CONTENDERS.items() if not bench.given.fast or not name.startswith(SLOW)}
    bench.worker("tickertape", checkpoint, batch=1, tokens=tokens).close()  # prepares
    for name, (system, batch, share) in chosen.items():
        worker = bench.worker(system, checkpoint, batch=batch, tokens=tokens)
        try:
            loads[name] = worker.ready()
            worker.run(clips, 1)  # warm
        except RuntimeError as error:
            skipped[name] = str(error)
            continue
        workers[name], counts[name] = worker, max(1, round(most * share))
    runs: dict[str, list[Result]] = {name: [] for name in workers}
    for turn in range(bench.given.rounds):
        for name, worker in workers.items():
            if turn < 2 or not name.startswith(SLOW):
                with bench.quiet():
                    runs[name].append(worker.run(clips, counts[name]))
    for worker in workers.values():
        worker.close()
    systems = {name: summary(runs[name]) | {"load_seconds": loads[name]["load_seconds"]} for name in workers}
    return {"shape": shape, "tokens": tokens, "systems": systems, "skipped": skipped}


def summary(runs: Sequence[Result]) -> Result:
    """Medians of several runs; peak memory is from the last run."""
    seconds = [run["seconds"] for run in runs]
    made = sorted({count for run in runs for count in run["tokens"]})
    return {
        "audio_seconds": runs[0]["audio_seconds"],
        "median_seconds": statistics.median(seconds),
        "best_seconds": min(seconds),
        "all_seconds": [round(value, 3) for value in seconds],
        "runs": len(runs),
        "tokens_made": made,
        "windows": len(runs[0]["tokens"]),
        "speed": runs[0]["audio_seconds"] / statistics.median(seconds),
        "best_speed": runs[0]["audio_seconds"] / min(seconds),
        "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
        "peak_bytes": runs[-1]["peak_bytes"],
    }


def memory(bench: Bench, shape: str) -> Result:
    """Peak resident memory after one batch, each system alone."""
    bench.worker("tickertape", bench.checkpoint(shape), batch=1, tokens=1).close()  # prepares
    asked = {"tickertape": ("tickertape", 8), "tickertape, batch 16": ("tickertape", 16)}
    if shape not in LARGE:
        asked["faster-whisper-batched"] = ("faster-whisper-batched", 8)
    peaks = {}
    for name, (system, batch) in asked.items():
        worker = bench.worker(system, bench.checkpoint(shape), batch=batch, tokens=50)
        loaded = worker.ready()["peak_bytes"]
        peaks[name] = {"loaded_bytes": loaded, "peak_bytes": worker.run(bench.clips, batch)["peak_bytes"]}
        worker.close()
    found: Result = {"shape": shape, "systems": peaks}
    if peer := peaks.get("faster-whisper-batched"):
        found["ratio"] = peaks["tickertape"]["peak_bytes"] / peer["peak_bytes"]
    return found


def trimmed(bench: Bench, shape: str, tokens: int = 12) -> Result:
    """A clip of 3 s and 12 tokens, with 30 s and with 3 s of encoder input."""
    workers = {
        context: bench.worker("tickertape", bench.checkpoint(shape, context), batch=1, tokens=tokens)
        for context in ("full", "trimmed")
    }
    for worker in workers.values():
        worker.ready()
        worker.run(bench.short, 2)
    runs: dict[str, list[Result]] = {context: [] for context in workers}
    for _ in range(2 * bench.given.rounds):
        for context, worker in workers.items():
            with bench.quiet():
                runs[context].append(worker.run(bench.short, 4))
    for worker in workers.values():
        worker.close()
    contexts = {context: summary(own) for context, own in runs.items()}
    ratio = contexts["full"]["median_seconds"] / contexts["trimmed"]["median_seconds"]
    return {"shape": shape, "tokens": tokens, "contexts": contexts, "ratio": ratio}


def shares(bench: Bench, shape: str, tokens: int) -> Result:
    """Shares of the time for a long recording, from a compressed file to text."""
    script = f"from benchmarks.shares import main; main({str(bench.checkpoint(shape))!r}, {str(bench.work)!r}, {tokens}, {bench.given.rounds}, {bench.given.threads})"  # noqa: E501
    with bench.quiet():
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return {"shape": shape, "tokens": tokens, **found}


def start(bench: Bench) -> Result:
    """Seconds from process start to first text, the synthetic-voice model prepared, and to the output of `--help`."""
    program = [sys.executable, "-m", "tickertape"]
    measures: dict[str, Callable[[], float]] = {
        "tickertape transcribe": lambda: _first_line(bench, [*program, "transcribe", str(EXAMPLE), "--quiet"]),
        "engine alone": lambda: _first_answer(bench, "tickertape"),
        "faster-whisper": lambda: _first_answer(bench, "faster-whisper"),
        "tickertape --help": lambda: _first_line(bench, [*program, "--help"]),
        "python": lambda: _first_line(bench, [sys.executable, "-c", "print()"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(max(2, bench.given.rounds) + 1):
        for name, measure in measures.items():
            with bench.quiet():
                seconds[name].append(measure())
    found = {name: {"median_seconds": statistics.median(own[1:]), "all_seconds": own} for name, own in seconds.items()}
    more = found["tickertape --help"]["median_seconds"] - found["python"]["median_seconds"]
    return {"shape": TUNED, "systems": found, "help_more_seconds": more}


def _first_answer(bench: Bench, system: str) -> float:
    """Seconds from process start to the text of a 3 s clip, through `benchmarks.systems`."""
    began = time.perf_counter()
    worker = bench.worker(system, texts.CHECKPOINT, batch=1, tokens=12)
    worker.ready()
    worker.run(bench.short, 1)
    seconds = time.perf_counter() - began
    worker.close()
    return seconds


def _first_line(bench: Bench, command: list[str]) -> float:
    """Seconds from process start to its first line; prepared models are kept in `--work`."""
    environment = os.environ | {"XDG_CACHE_HOME": str(bench.work / "home")}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        line = process.stdout.readline() if process.stdout else ""
        seconds = time.perf_counter() - began
        process.communicate()
    if process.returncode or not line:
        raise SystemExit(f"{command[-1]} did not print a line")
    return seconds


# --- the report


def rows(results: dict[str, Result]) -> Iterator[tuple[str, ...]]:
    """The throughput table: one row for each system and shape."""
    for result in (result for name, result in results.items() if name.startswith("throughput")):
        base = result["systems"].get("tickertape, batch 8")
        asked = (
            f"{result['shape']}, {result['tokens']} tokens" if result["tokens"] else f"{result['shape']}, to the end"
        )
        for name, one in result["systems"].items():
            made = one["tokens_made"]
            yield (
                asked,
                name,
                str(one["runs"]),
                f"{one['windows']}",
                "-".join(str(count) for count in sorted({made[0], made[-1]})) if made else "",
                f"{1000 * one['median_seconds'] / one['windows']:.0f}",
                f"{one['speed']:.1f}",
                f"{base['speed'] / one['speed']:.2f}" if base else "",
                f"{one['peak_bytes'] / 2**20:.0f}",
            )
        for name, reason in result["skipped"].items():
            yield (asked, name, "0", "", "", "skipped", reason[:60], "", "")


HEADINGS = (
    "shape",
    "system",
    "runs",
    "windows",
    "tokens made",
    "ms a window",
    "audio s/s",
    "Tickertape b8 is x times",
    "peak MiB",
)


def report(results: dict[str, Result], where: Path | None, settings: Result) -> None:
    """Print a table and one JSON line; write both to files."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADINGS)
    for row in rows(results):
        table.add_row(*row)
    console = Console(width=150)
    console.print(table)
    others = [line for name, result in results.items() for line in sentences(name, result)]
    others += [
        f"{name}: measured at commit {result['commit'][:12]}, load average {result['load_average']:.1f}."
        for name, result in results.items()
    ]
    console.print("\n".join(others))
    facts = machine()
    document = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": facts,
        "settings": settings,
        "results": results,
    }
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
        stem = where / f"engine-{document['date'][:10]}"
        stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
        lines = [
            f"# Engine benchmark, {document['date']}",
            "",
            described(facts),
            "",
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "---|" * len(HEADINGS),
            *("| " + " | ".join(row) + " |" for row in rows(results)),
            "",
            *(f"- {line}" for line in others),
            "",
        ]
        stem.with_suffix(".md").write_text("\n".join(lines))
    print(json.dumps(document))


def sentences(name: str, result: Result) -> Iterator[str]:
    """Results of the other measurements, as sentences."""
    if name.startswith("memory"):
        ratio = f"; ratio {result['ratio']:.2f}" if "ratio" in result else ""
        peaks = {system: f"{found['peak_bytes'] / 2**20:.0f} MiB" for system, found in result["systems"].items()}
        yield f"Peak memory, {result['shape']} shape, one batch (8 unless stated): {peaks}{ratio}."
    elif name.startswith("trimmed"):
        each = {context: f"{250 * found['median_seconds']:.0f} ms" for context, found in result["contexts"].items()}
        yield f"A 3 s clip, {result['shape']}, {result['tokens']} tokens: {each}: {result['ratio']:.1f} times."
    elif name.startswith("shares"):
        length = f"{result['audio_seconds']:.0f} s of {result['format']}"
        yield f"Percent of the time for {length}, {result['shape']} shape: {result['percent']}."
    elif name.startswith("start"):
        each = {system: f"{one['median_seconds']:.2f} s" for system, one in result["systems"].items()}
        yield f"Process to first text, {result['shape']}, prepared: {each}."
        yield f"The help takes {result['help_more_seconds']:.2f} s more than Python's own start."


def plan(bench: Bench) -> Iterator[tuple[str, Callable[[], Result]]]:
    """Every selected measurement, by name."""
    only, given = set(bench.given.only), bench.given
    for shape in given.shape:
        if "throughput" in only and shape == TUNED:
            yield f"throughput-{shape}-{texts.digest()[:12]}", lambda: throughput(bench, TUNED, None)
        elif "throughput" in only:
            for tokens in given.tokens:
                yield (
                    f"throughput-{shape}-{tokens}",
                    lambda shape=shape, tokens=tokens: throughput(bench, shape, tokens),
                )
        if "trimmed" in only and shape != TUNED:
            yield f"trimmed-{shape}", lambda shape=shape: trimmed(bench, shape)
        if "memory" in only and shape not in {"tiny", TUNED}:
            yield f"memory-{shape}", lambda shape=shape: memory(bench, shape)
        if "shares" in only and shape == "base":
            yield f"shares-{shape}", lambda shape=shape: shares(bench, shape, 100)
    if "start" in only:
        yield f"start-{TUNED}", lambda: start(bench)


MEASUREMENTS = ("throughput", "trimmed", "memory", "shares", "start")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, help="which measurements")
    parser.add_argument("--shape", nargs="+", choices=[*SHAPES, *LARGE], default=SHAPES)
    parser.add_argument("--tokens", nargs="+", type=int, default=(50, 100), help="new tokens for each window")
    parser.add_argument("--clips", type=int, default=16, help="30 s windows in one run of the fast systems, at most 16")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each system; the slow ones run at most twice")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="skip the slow systems")
    parser.add_argument("--fresh", action="store_true", help="ignore results in --work and measure again")
    parser.add_argument(
        "--pause", nargs="*", type=int, default=[], metavar="PID", help="processes to stop while timing"
    )
    parser.add_argument("--pause-limit", type=float, default=300, help="total seconds of pausing")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tickertape-bench")
    parser.add_argument("--results", type=Path, help="folder for JSON and table, such as benchmarks/results")
    parser.add_argument("--texts", action="store_true", help="only compare word error rates of the synthetic voices")
    parser.add_argument("--sets", nargs="+", default=["known"], help="held-out sets for --texts, or those for --real")
    parser.add_argument("--first", type=int, help="clips of each set for --texts; default: all")
    parser.add_argument("--real", type=Path, metavar="SPEECH", help="only measure whole systems on real speech there")
    parser.add_argument(
        "--systems", nargs="+", choices=list(real.SYSTEMS), default=list(real.SYSTEMS), help="for --real"
    )
    given = parser.parse_args()
    if given.real:
        sets = [] if given.sets == ["known"] else given.sets
        real.run(given.real, given.results, systems=given.systems, sets=sets, rounds=given.rounds)
        return
    settings: Result = {"threads": given.threads, "greedy": True, "timestamps": False}
    if given.texts:
        given.work.mkdir(parents=True, exist_ok=True)
        texts.report(texts.compare(given.sets, given.first, given.threads, given.work), given.results, settings)
        return
    bench = Bench(given)
    results = {}
    for name, measure in plan(bench):
        print(f"{name} ...", file=sys.stderr)
        results[name] = bench.kept(name, measure)
    report(results, given.results, settings | {"encoder": "auto", "decoder": "int8"})


if __name__ == "__main__":
    main()
