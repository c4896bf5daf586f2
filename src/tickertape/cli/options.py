"""The arguments and options of the commands, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tickertape import __version__

FORMATS = ("txt", "json", "verbose_json", "srt", "vtt", "tsv")
TEMPERATURES = "0,0.2,0.4,0.6,0.8,1"  # types.FALLBACK_TEMPERATURES, which would cost `--help` the import of numpy


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tickertape {__version__}")
        raise typer.Exit


# fmt: off
Version = Annotated[bool, typer.Option(
    "--version", callback=_print_version, is_eager=True, help="Print the version.")]
Files = Annotated[list[str], typer.Argument(
    metavar="FILE...", help="Recordings, folders of recordings, or - for standard input.")]
ModelName = Annotated[str | None, typer.Option(
    "--model", "-m", envvar="TICKERTAPE_MODEL", metavar="CHECKPOINT",
    help="Folder of a Hugging Face, CTranslate2 or LoRA checkpoint, name of an installed one, or hub id "
    "(org/name@revision). Default: the folder checkpoint if it exists, else openai/whisper-base.")]
ModelArgument = Annotated[str, typer.Argument(
    metavar="CHECKPOINT", help="Folder of a Hugging Face, CTranslate2 or LoRA checkpoint, name of an installed one, or "
    "hub id (org/name@revision).")]
OptionalModel = Annotated[str | None, typer.Argument(
    metavar="[CHECKPOINT]", envvar="TICKERTAPE_MODEL",
    help="Model to describe. Default: the folder checkpoint or openai/whisper-base, if it is on this machine.")]
Formats = Annotated[list[str] | None, typer.Option(
    "--format", "-f", metavar="NAME,...", help=f"{', '.join(FORMATS)}; separate several with commas.  [default: txt]")]
OutputDir = Annotated[Path | None, typer.Option(
    "--output-dir", "-o", metavar="FOLDER", help="Folder for the result files. Default: print the result.")]
SkipExisting = Annotated[bool, typer.Option(
    "--skip-existing", help="Skip recordings whose result files exist, to continue an interrupted run.")]
Language = Annotated[str | None, typer.Option(
    "--language", "-l", metavar="NAME,...", help="Code or English name: de, deu, german. Several: detected among them. "
    "Default, and auto: detected.")]
Multilingual = Annotated[bool, typer.Option(
    "--multilingual", help="Keep the language of each window; by default a window that is unsure takes that of the "
    "recording.")]
TaskName = Annotated[Literal["transcribe", "translate"], typer.Option(
    help="translate: the text is English, whatever the language of the speech.")]
WordTimestamps = Annotated[bool, typer.Option(
    "--word-timestamps", "-w", help="Compute the time of every word; improves the line breaks of subtitles.")]
ChannelsMode = Annotated[Literal["mix", "split"], typer.Option(
    help="mix: merge all channels. split: one speaker per channel, as in telephone calls.")]
AudioFormat = Annotated[str | None, typer.Option(
    metavar="FORMAT", help='Format of audio without a header: "mulaw;rate=8000;channels=2".')]
NoVad = Annotated[bool, typer.Option("--no-vad", help="Transcribe plain windows of 30 s, not windows around speech.")]
Prompt = Annotated[str | None, typer.Option(metavar="TEXT", help="Earlier text, or names and spellings to expect.")]
Temperature = Annotated[str, typer.Option(metavar="T,...", help="Temperatures to try until a text passes the checks.")]
DeviceName = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device; auto uses CUDA if available.")]
ComputeType = Annotated[str, typer.Option(
    metavar="TYPE", help="Number format of the decoder: int8, int8_float16, int16, float16, float32; auto: int8 on "
    "CPUs, float16 on CUDA.")]
StoredType = Annotated[str, typer.Option(
    metavar="TYPE", help="Number format of the stored decoder: int8 for CPUs, float16 for CUDA, int8_float16, int16, "
    "float32.")]
PrecisionName = Annotated[Literal["auto", "f32", "bf16"], typer.Option(
    help="Number format of the encoder on a CPU; auto uses bf16 if the CPU supports it.")]
Threads = Annotated[int | None, typer.Option(min=1, max=256, metavar="N", help="CPU threads. Default: all cores.")]
Base = Annotated[str | None, typer.Option(
    metavar="CHECKPOINT", help="Base of a LoRA adapter. Default: the base that the adapter names.")]
Offline = Annotated[bool, typer.Option("--offline", help="Do not contact the hub.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object per line for each segment, result, error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file, TOML or YAML.")]
# fmt: on
