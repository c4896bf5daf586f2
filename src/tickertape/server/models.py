"""Which models the settings ask for, and how each is opened.

    --model calls=models/calls --model org/name      two models; the first is the default

A model without a name takes its folder's. Without any model, the demo checkpoint is served.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickertape.errors import EngineFailed, OptionError
from tickertape.pipeline import Detect, Model
from tickertape.types import Decoded, Engine, Options, Window

if TYPE_CHECKING:
    from tickertape.settings import Settings

DEMO = "demo"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it becomes part of URLs, labels and log lines


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine, and what its users need to know of it; the model's backend is still to come."""

    engine: Engine
    model: Model
    reasons: tuple[str, ...] = ()


class Nowhere:
    """The backend of a model whose engine is not connected yet."""

    async def decode(self, window: Window, options: Options) -> Decoded:  # noqa: ARG002 - the seam's signature
        """Raise `EngineFailed`."""
        raise EngineFailed("The model has no engine yet.")


def sources(settings: Settings) -> dict[str, str]:
    """The models by name, the default first: folders or hub ids. Raises `OptionError` and `CheckpointMissing`."""
    from tickertape.transcriber import demo_checkpoint

    if not settings.models:
        return {DEMO: "" if settings.engine else str(demo_checkpoint())}
    found: dict[str, str] = {}
    for entry in settings.models:
        name, equals, source = entry.partition("=")
        if not equals:
            name, source = Path(entry.partition("@")[0]).name, entry
        if not NAME.fullmatch(name):
            raise OptionError("Give the model a name of letters, digits, '.', '_' and '-': name=path", "models")
        if name in found:
            raise OptionError(f"Two models are called {name}; name them apart: other=path", "models")
        found[name] = placed(source)
    return found


def prepare(settings: Settings) -> Mapping[str, str]:
    """Prepare every model, so that whoever opens it later finds it ready, and mistakes show at once.

    Returns the models by name. Raises `CheckpointError`s and `OptionError`.
    """
    found = sources(settings)
    if not settings.engine:
        from tickertape.transcriber import prepare_for

        for source in found.values():
            prepare_for(
                settings.device, settings.compute_type, source, base=settings.base or None, offline=settings.offline
            )
    return found


def open_engine(name: str, source: str, settings: Settings) -> Opened:
    """Open one model here. Raises `CheckpointError`s, `OptionError` and `EngineFailed`."""
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # Ray sets 1 for whatever reserves less than two cores
    if settings.engine:
        engine: Engine = _imported(settings.engine)(source, settings)
        return Opened(engine, Model(name, Nowhere()), (f"engine: {settings.engine} (as asked)",))
    from tickertape.transcriber import describe, load_engine

    loaded, prepared = load_engine(
        source,
        device=settings.device,
        compute_type=settings.compute_type,
        precision=settings.precision,
        threads=settings.threads,
        base=settings.base or None,
        offline=settings.offline,
    )
    known = replace(describe(prepared, loaded, Nowhere(), None), name=name)
    return Opened(loaded, known, loaded.reasons)


def placed(source: str) -> str:
    """A folder by its whole path, for processes that start elsewhere; a hub id as it is."""
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def open_detector(settings: Settings) -> Detect:
    """The speech detector that plans windows, shared by all models."""
    from tickertape.vad import SpeechDetector

    return SpeechDetector(streams=settings.decode_threads).stream


def _imported(path: str) -> Any:
    """The object that `module:name` means. Raises `OptionError`."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError("The engine must be an importable module:factory.", "engine", "invalid_settings") from error
