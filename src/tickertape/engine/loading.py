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
from tickertape.checkpoints.source import ignore, pull
from tickertape.engine.encoder import Encoder
from tickertape.engine.hardware import choose_device, cores, keep_freed_memory
from tickertape.engine.mel import HOP
from tickertape.engine.whisper import WhisperEngine
from tickertape.errors import CheckpointNotFoundError, EngineError, OptionError
from tickertape.types import WINDOW_SAMPLES

logger = logging.getLogger(__name__)

OWN_FOLDER = "checkpoint"  # in the working directory, where training scripts commonly leave it
DEFAULT_MODEL = "openai/whisper-base"
SMALL_MODEL = Path(__file__).resolve().parents[3] / "tests" / "checkpoint"  # only in a source checkout
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


def default_model(options: LoadOptions = LoadOptions(), *, progress: Progress = ignore) -> tuple[str, str]:
    """Name and source of the model that is used when none is named.

    This is the folder `checkpoint` in the working directory, else OpenAI's whisper-base, which is fetched unless it is
    here. Where it cannot be had, a source checkout falls back to the small model of its tests, with a warning.
    Elsewhere raises `CheckpointNotFoundError`.
    """
    if own := own_checkpoint():
        return OWN_FOLDER, str(own)
    try:
        pull(DEFAULT_MODEL, cache=options.cache, offline=options.offline, token=options.token, progress=progress)
    except CheckpointNotFoundError as error:
        if not SMALL_MODEL.is_dir():
            raise CheckpointNotFoundError(
                f"the default model {DEFAULT_MODEL} is not on this machine: {error.message}; name another model, or "
                f"run tickertape pull {DEFAULT_MODEL} where there is a network"
            ) from error
        logger.warning(
            "%s cannot be fetched, so a small model of synthetic voices is used, which understands no person.",
            DEFAULT_MODEL,
        )
        return "synthetic-voices", str(SMALL_MODEL)
    return DEFAULT_MODEL.rpartition("/")[2], DEFAULT_MODEL


def own_checkpoint() -> Path | None:
    """The folder `checkpoint` in the working directory, if it holds a model or an adapter."""
    folder = Path(OWN_FOLDER).absolute()
    return folder if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")) else None
