"""The arguments and options of the command line: names, meanings, help. Nothing here does any work."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tickertape import __version__

FORMATS = ("txt", "json", "verbose_json", "srt", "vtt", "tsv")
TEMPERATURES = "0,0.2,0.4,0.6,0.8,1"  # types.FALLBACK_TEMPERATURES, which would cost `--help` the import of numpy


class Task(str, Enum):
    """What to write."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Channels(str, Enum):
    """What to make of several channels."""

    MIX = "mix"
    SPLIT = "split"


class KeyVerb(str, Enum):
    """What to do with the keys of a file."""

    ADD = "add"
    LIST = "list"
    REMOVE = "remove"


class Device(str, Enum):
    """Where the model runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(str, Enum):
    """The encoder's numbers on a CPU."""

    AUTO = "auto"
    F32 = "f32"
    BF16 = "bf16"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tickertape {__version__}")
        raise typer.Exit


# fmt: off
Version = Annotated[bool, typer.Option(
    "--version", callback=_print_version, is_eager=True, help="Print the version.")]
Files = Annotated[list[str], typer.Argument(
    metavar="FILE...", help="Recordings; folders, with all recordings below them; - for standard input.")]
ModelName = Annotated[str | None, typer.Option(
    "--model", "-m", envvar="TICKERTAPE_MODEL", metavar="CHECKPOINT",
    help="Folder of a Hugging Face, CTranslate2 or LoRA checkpoint, or hub id (org/name@revision). Without: the folder "
    "named checkpoint.")]
ModelArgument = Annotated[str, typer.Argument(
    metavar="CHECKPOINT", help="Folder of a Hugging Face or LoRA checkpoint, or hub id (org/name@revision).")]
OptionalModel = Annotated[str | None, typer.Argument(
    metavar="[CHECKPOINT]", envvar="TICKERTAPE_MODEL",
    help="Model to describe too. Without: the folder named checkpoint, if it is there.")]
Formats = Annotated[list[str] | None, typer.Option(
    "--format", "-f", metavar="NAME,...", help=f"{', '.join(FORMATS)}; several with commas.  [default: txt]")]
OutputDir = Annotated[Path | None, typer.Option(
    "--output-dir", "-o", metavar="FOLDER", help="Write files there. Without: print the result.")]
SkipExisting = Annotated[bool, typer.Option(
    "--skip-existing", help="Leave out recordings that have their files already: carries on an interrupted run.")]
Language = Annotated[str | None, typer.Option(
    "--language", "-l", metavar="NAME", help="Code or English name: de, german. Without: detected.")]
TaskName = Annotated[Task, typer.Option("--task", help="translate writes English, whatever is spoken.")]
WordTimestamps = Annotated[bool, typer.Option(
    "--word-timestamps", "-w", help="Find the time of every word; subtitles break better.")]
ChannelsMode = Annotated[Channels, typer.Option(
    "--channels", help="mix makes one of all; split takes each for a speaker, as in telephone calls.")]
Track = Annotated[int | None, typer.Option(
    "--track", min=0, metavar="N", help="Audio track of a file with several, from 0.")]
AudioFormat = Annotated[str | None, typer.Option(
    "--audio-format", metavar="FORMAT", help='What headerless data is: "mulaw;rate=8000;channels=2".')]
MaxHours = Annotated[float, typer.Option("--max-hours", min=0.0, metavar="H", help="Refuse longer recordings.")]
NoVad = Annotated[bool, typer.Option(
    "--no-vad", help="Hear everything, in windows of 30 s, instead of the speech only.")]
Prompt = Annotated[str | None, typer.Option(
    "--prompt", metavar="TEXT", help="Text that might stand before: names, style, spelling.")]
Hotwords = Annotated[str | None, typer.Option("--hotwords", metavar="WORDS", help="Words to expect.")]
BeamSize = Annotated[int, typer.Option(
    "--beam-size", min=1, max=10, metavar="N", help="Beams; 1 is greedy and fastest.")]
Temperature = Annotated[str, typer.Option(
    "--temperature", metavar="T,...", help="Tried in turn, until the text passes the checks.")]
DeviceName = Annotated[Device, typer.Option("--device", help="Where the model runs; auto takes CUDA if there is any.")]
ComputeType = Annotated[str, typer.Option(
    "--compute-type", metavar="TYPE",
    help="The decoder's numbers: int8, int8_float16, int16, float16, float32; auto: int8 on a CPU, float16 on CUDA.")]
StoredType = Annotated[str, typer.Option(
    "--compute-type", metavar="TYPE",
    help="How the decoder is stored: int8 for a CPU, float16 for CUDA, int8_float16, int16, float32.")]
PrecisionName = Annotated[Precision, typer.Option(
    "--precision", help="The encoder's numbers on a CPU; auto takes bf16 if the processor has it.")]
Threads = Annotated[int | None, typer.Option(
    "--threads", min=1, max=256, metavar="N", help="Without: every core.")]
Batch = Annotated[int, typer.Option("--batch", min=1, max=256, metavar="N", help="Windows decoded at once, at most.")]
Base = Annotated[str | None, typer.Option(
    "--base", metavar="CHECKPOINT", help="Base of a LoRA adapter. Without: the one that it names.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub.")]
AsJson = Annotated[bool, typer.Option(
    "--json", help="For machines: a JSON object on a line for every segment, result and error.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, warnings or summary; errors stay.")]

# of `serve`, which hands them to `Settings`: without a flag, the environment, the file or the default decides
Served = Annotated[list[str] | None, typer.Option(
    "--model", "-m", metavar="[NAME=]CHECKPOINT",
    help="A checkpoint to serve; again for another. The first is the default. Without: the demo checkpoint.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on; without: every one.")]
Port = Annotated[int | None, typer.Option("--port", "-p", help="Port to listen on; without: $PORT, or 8080.")]
Ray = Annotated[bool | None, typer.Option(
    "--ray/--no-ray", help="Replicas on Ray Serve, or everything in one process.", show_default=False)]
Address = Annotated[str | None, typer.Option(
    "--address", help="Ray cluster to join; auto: the one running here. Without: a Ray of its own.")]
Page = Annotated[bool | None, typer.Option("--page/--no-page", help="Serve the web page too.", show_default=False)]
EngineReplicas = Annotated[int | None, typer.Option("--engine-replicas", min=1, help="Engines per model.")]
ApiReplicas = Annotated[int | None, typer.Option(
    "--api-replicas", min=1, help="Processes that take requests and decode audio.")]
CpusPerReplica = Annotated[float | None, typer.Option(
    "--cpus-per-replica", min=0, help="Cores that Ray reserves for each engine.")]
ServeThreads = Annotated[int | None, typer.Option(
    "--threads", min=0, help="Threads of each engine; without: the cores, shared among the engines.")]
KeysFile = Annotated[Path | None, typer.Option("--keys-file", help="File of hashed API keys; without: open to all.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="File of settings, TOML or YAML.")]

# of `keys`
KeyAction = Annotated[KeyVerb, typer.Argument(help="add, list or remove.")]
KeysOf = Annotated[Path, typer.Argument(metavar="FILE", help="The file of hashes; `add` creates it.")]
KeyId = Annotated[str | None, typer.Argument(metavar="ID", help="Name of the key, which logs and metrics show.")]
PerMinute = Annotated[int, typer.Option("--requests-per-minute", min=0, metavar="N", help="0: no limit.")]
AtOnce = Annotated[int, typer.Option("--concurrent-requests", min=0, metavar="N", help="0: no limit.")]
# fmt: on
