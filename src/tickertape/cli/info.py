"""The command `info`: the hardware, the choices made for it, and the reasons."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from tickertape import __version__
from tickertape.checkpoints.cache import default_cache
from tickertape.checkpoints.source import locate
from tickertape.engine import hardware
from tickertape.engine.loading import DEFAULT_MODEL, LoadOptions, load_engine, own_checkpoint
from tickertape.errors import CheckpointNotFoundError

LIBRARIES = ("ctranslate2", "openvino", "av", "tokenizers", "numpy")
GIB = 2**30


def machine_facts(device: str = "auto") -> dict[str, Any]:
    """The machine and the installation."""
    cores, memory = hardware.cores(), hardware.memory()
    chosen, why = hardware.choose_device(device)
    return {
        "tickertape": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
        "processor": hardware.processor(),
        "instructions": ", ".join(hardware.instruction_sets()) or "unknown",
        "cores": f"{cores.value} ({cores.reason})",
        "memory": f"{memory.value / GIB:.1f} GiB ({memory.reason})",
        "device": f"{chosen} ({why})",
        "cache": str(default_cache()),
    }


def default_model() -> str | None:
    """The default model, if it is on this machine."""
    if own := own_checkpoint():
        return str(own)
    try:
        locate(DEFAULT_MODEL, offline=True)
    except CheckpointNotFoundError:
        return None
    return DEFAULT_MODEL


def model_facts(model: str, options: LoadOptions) -> dict[str, Any]:
    """Load a model and describe what it runs on."""
    engine = load_engine(model, options)
    prepared, sizes = engine.prepared, engine.prepared.dimensions
    known = engine.info.languages
    return {
        "model": prepared.name,
        "prepared": str(prepared.folder),
        "weights": prepared.compute_type,
        "layers": f"{sizes.encoder_layers} encoder, {sizes.decoder_layers} decoder, {sizes.d_model} wide",
        "features": f"{sizes.n_mels} mels",
        "vocabulary": sizes.n_vocab,
        "languages": f"{len(known)}: {', '.join(known)}" if len(known) > 1 else known[0],
        **dict(reason.split(": ", 1) for reason in engine.reasons),
    }
