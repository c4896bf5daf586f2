"""From the name of a checkpoint to an engine, for the Python API, the server and each replica of a cluster.

engine = load_engine("org/whisper-calls", LoadOptions(threads=4))
outcomes = engine.decode(windows, options)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tickertape.errors import CheckpointNotFoundError, EngineError, OptionError

if TYPE_CHECKING:
    from tickertape.checkpoints.prepare import Prepared, Progress
    from tickertape.engine.whisper import WhisperEngine

DEMO_FOLDER = "checkpoint"
PRECISIONS = ("auto", "f32", "bf16")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where a checkpoint is found, and what it runs on. `tickertape.load` describes the fields."""

    device: str = "auto"
    compute_type: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    base: str | Path | None = None
    cache: Path | None = None
    offline: bool = False
    token: str | None = None


def load_engine(
    model: str | Path, options: LoadOptions | None = None, *, progress: Progress | None = None
) -> WhisperEngine:
    """Prepare a checkpoint unless the cache has it, and load it into an engine.

    Raises `CheckpointError`, `OptionError` if this machine lacks the device or compute type, and `EngineError`.
    """
    from tickertape.engine.whisper import WhisperEngine

    options = options or LoadOptions()
    if options.precision not in PRECISIONS:
        raise OptionError(f"The precision must be {' or '.join(PRECISIONS)}.", "precision", "invalid_precision")
    prepared = prepare_model(model, options, progress=progress)
    try:
        return WhisperEngine.load(
            prepared,
            device=options.device,
            compute_type=options.compute_type,
            precision=options.precision,
            threads=options.threads,
        )
    except ValueError as error:  # CTranslate2 raises it for a compute type that the processor lacks
        raise OptionError(
            f"This machine cannot compute in {options.compute_type}; leave the compute type to auto.",
            "compute_type",
            "invalid_compute_type",
        ) from error
    except RuntimeError as error:
        raise EngineError("The model could not be loaded; `tickertape info` says what this machine has.") from error


def prepare_model(model: str | Path, options: LoadOptions, *, progress: Progress | None = None) -> Prepared:
    """Find, verify and convert a checkpoint for the device: `compute_type` auto is int8 on a CPU, float16 on CUDA.

    Raises `CheckpointError` and `OptionError`.
    """
    from tickertape.checkpoints.prepare import prepare
    from tickertape.engine.whisper import choose_device

    device, _ = choose_device(options.device)
    compute_type = options.compute_type
    if compute_type == "auto":
        compute_type = "float16" if device == "cuda" else "int8"
    return prepare(
        model,
        base=options.base,
        cache=options.cache,
        compute_type=compute_type,
        offline=options.offline,
        token=options.token,
        progress=progress,
    )


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
