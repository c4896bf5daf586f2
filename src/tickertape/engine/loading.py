"""From the name of a checkpoint to an engine, for the Python API, the server and each replica of a cluster.

engine = load_engine("org/whisper-calls", LoadOptions(threads=4))
outcomes = engine.decode(windows, options)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tickertape.checkpoints.cache import Progress
from tickertape.checkpoints.prepare import Prepared, prepare
from tickertape.engine.encoder import Encoder
from tickertape.engine.hardware import choose_device, cores, keep_freed_memory
from tickertape.engine.mel import HOP
from tickertape.engine.whisper import WhisperEngine
from tickertape.errors import CheckpointNotFoundError, EngineError, OptionError
from tickertape.types import WINDOW_SAMPLES

DEMO_FOLDER = "checkpoint"
PRECISIONS = ("auto", "f32", "bf16")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a checkpoint is found and loaded; `tickertape.load` describes the fields."""

    device: str = "auto"
    compute_type: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    base: str | Path | None = None
    cache: Path | None = None
    offline: bool = False
    token: str | None = None


def load_engine(
    model: str | Path, options: LoadOptions = LoadOptions(), *, progress: Progress | None = None
) -> WhisperEngine:
    """Prepare a checkpoint unless the cache has it, and load it into an engine.

    Raises `CheckpointError`, `OptionError` if this machine lacks the device or compute type, and `EngineError`.
    """
    if options.precision not in PRECISIONS:
        raise OptionError(f"The precision must be {' or '.join(PRECISIONS)}.", "precision", "invalid_precision")
    prepared = prepare_model(model, options, progress=progress)
    try:
        return open_prepared(prepared, options)
    except ValueError as error:  # CTranslate2 raises it for a compute type that the processor lacks
        message = f"This machine cannot compute in {options.compute_type}; leave the compute type to auto."
        raise OptionError(message, "compute_type", "invalid_compute_type") from error
    except RuntimeError as error:
        raise EngineError("The model could not be loaded; `tickertape info` says what this machine has.") from error


def prepare_model(model: str | Path, options: LoadOptions, *, progress: Progress | None = None) -> Prepared:
    """Find, verify and convert a checkpoint for the device: `compute_type` auto is int8 on a CPU, float16 on CUDA.

    Raises `CheckpointError` and `OptionError`.
    """
    device, _ = choose_device(options.device)
    automatic = "float16" if device == "cuda" else "int8"
    compute_type = automatic if options.compute_type == "auto" else options.compute_type
    return prepare(model, base=options.base, cache=options.cache, compute_type=compute_type,
                   offline=options.offline, token=options.token, progress=progress)  # fmt: skip


def open_prepared(prepared: Prepared, options: LoadOptions = LoadOptions()) -> WhisperEngine:
    """Load a prepared checkpoint."""
    import ctranslate2

    device, why_device = choose_device(options.device)
    compute_type, why_type = options.compute_type, "as asked"
    if compute_type == "auto" and device == "cuda":
        compute_type, why_type = "float16", "fastest on CUDA"
    elif compute_type == "auto" and prepared.compute_type in ctranslate2.get_supported_compute_types("cpu"):
        compute_type, why_type = prepared.compute_type, "as the checkpoint was prepared"
    elif compute_type == "auto":
        compute_type, why_type = "int8", f"this CPU does not compute in {prepared.compute_type}"
    found = cores()
    threads = options.threads or found.value
    keep_freed_memory()
    ctranslate2.set_log_level(logging.ERROR)  # its warnings, about number formats, would stand between our output
    decoder = ctranslate2.models.Whisper(
        str(prepared.folder), device, compute_type=compute_type, intra_threads=threads, inter_threads=1
    )
    encoder = None
    if device == "cpu":
        frames = None if prepared.audio_context == "trimmed" else WINDOW_SAMPLES // HOP
        encoder = Encoder(prepared.encoder, threads=threads, precision=options.precision, frames=frames)
    reasons = (
        f"checkpoint: {prepared.origin}",
        f"device: {device} ({why_device})",
        f"threads: {threads} ({'as asked' if options.threads else found.reason})",
        f"encoder: {encoder.reason if encoder else f'ctranslate2 {compute_type} ({why_type})'}",
        f"decoder: ctranslate2 {compute_type} ({why_type})",
        f"windows: {prepared.audio_context} (declared by the checkpoint)",
        *(f"{notice.code}: {notice.message}" for notice in prepared.notices),
    )
    return WhisperEngine(decoder, encoder, prepared, reasons)


def demo_checkpoint() -> Path:
    """The demo checkpoint: `checkpoint` in the working directory or in the source tree.

    Raises `CheckpointNotFoundError` if neither exists.
    """
    for folder in (Path(DEMO_FOLDER), Path(__file__).resolve().parents[3] / DEMO_FOLDER):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointNotFoundError(
        "There is no folder named checkpoint here; name a model: a folder, or a hub id such as org/name."
    )
