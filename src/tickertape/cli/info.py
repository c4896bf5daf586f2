"""What this machine has, what Tickertape would make of it, and why: the facts behind `tickertape info`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from tickertape import __version__, checkpoints, machine
from tickertape.engine import choose_device
from tickertape.errors import CheckpointMissing
from tickertape.transcriber import demo_checkpoint, load_engine

LIBRARIES = ("ctranslate2", "openvino", "av", "tokenizers", "numpy")
GIB = 2**30


def machine_facts(device: str = "auto") -> dict[str, Any]:
    """The machine and the installation."""
    cores, memory = machine.cores(), machine.memory()
    chosen, why = choose_device(device)
    return {
        "tickertape": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
        "processor": machine.processor(),
        "instructions": ", ".join(machine.instruction_sets()) or "unknown",
        "cores": f"{cores.value} ({cores.reason})",
        "memory": f"{memory.value / GIB:.1f} GiB ({memory.reason})",
        "device": f"{chosen} ({why})",
        "cache": str(checkpoints.default_cache()),
    }


def default_model() -> str | None:
    """The model that is taken where none is named, if it is there."""
    try:
        return str(demo_checkpoint())
    except CheckpointMissing:
        return None


def model_facts(model: str, **settings: Any) -> dict[str, Any]:
    """A model, opened to see what it runs on; `settings` are `load_engine`'s."""
    engine, prepared = load_engine(model, **settings)
    sizes = prepared.dimensions
    known = engine.languages
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
