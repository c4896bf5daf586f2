"""The models that the settings name, and how to open them.

    --model calls=models/calls --model org/name      two models; the first is the default

A model without a name is named after its folder. By default, OpenAI's whisper-base is served.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickertape.engine.loading import LoadOptions, default_model, load_engine, prepare_model
from tickertape.engine.self_test import kinds, self_test
from tickertape.errors import OptionError
from tickertape.types import Detect, Engine, ModelInfo

if TYPE_CHECKING:
    from tickertape.server.settings import Settings

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # used in URLs, metric labels and log lines


def model_sources(settings: Settings) -> dict[str, str]:
    """Folder or hub id of each model by name, the default first. Raises `OptionError` and `CheckpointNotFoundError`."""
    if not settings.models:
        return {"test": ""} if settings.engine else dict([default_model(load_options(settings))])
    found: dict[str, str] = {}
    for entry in settings.models:
        name, equals, source = entry.partition("=")
        if not equals:
            name, source = Path(entry.partition("@")[0]).name, entry
        if not NAME.fullmatch(name):
            raise OptionError("A model's name has letters, digits, '.', '_' and '-'; use NAME=SOURCE.", "models")
        if name in found:
            raise OptionError(f"Two models are named {name}; use NAME=SOURCE for one of them.", "models")
        found[name] = absolute_source(source)
    return found


def absolute_source(source: str) -> str:
    """A folder as an absolute path, for processes with another working directory; a hub id unchanged."""
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def prepare_models(settings: Settings) -> dict[str, str]:
    """Download and convert every model before replicas open them, so that errors are reported at once.

    Returns `model_sources`. Raises `CheckpointError`s and `OptionError`.
    """
    found = model_sources(settings)
    if not settings.engine:
        for source in found.values():
            prepare_model(source, load_options(settings))
    return found


def open_engine(name: str, source: str, settings: Settings) -> tuple[Engine, ModelInfo]:
    """Open a model in this process; log each choice with its reason.

    Raises `CheckpointError`s, `OptionError` and `EngineError`.
    """
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # Ray sets 1 for replicas with less than two cores
    if settings.engine:
        engine: Engine = _import_factory(settings.engine)(source, settings)
        info = ModelInfo(name)
        reasons: tuple[str, ...] = (f"engine: {settings.engine} (as configured)",)
    else:
        engine = whisper = load_engine(source, load_options(settings))
        info, reasons = replace(whisper.info, name=name), whisper.reasons
        self_test(whisper, *kinds(info))  # before the service is ready
    logger.info("an engine is ready", extra={"fields": {"model": name, "chosen": reasons}})
    return engine, info


def load_options(settings: Settings) -> LoadOptions:
    """How the settings say that models are found and loaded."""
    return LoadOptions(
        settings.device,
        settings.compute_type,
        "f32" if settings.compute_type == "float32" else "auto",
        settings.threads,
        settings.base or None,
        offline=settings.offline,
    )


def open_detector(settings: Settings) -> Detect:
    """The speech detector that all models share."""
    from tickertape.audio.vad import SpeechDetector

    return SpeechDetector(streams=settings.decode_processes).detect


def _import_factory(path: str) -> Any:
    """The object at `module:name`. Raises `OptionError`."""
    try:
        return pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError("`engine` must be MODULE:FACTORY, and importable.", "engine", "invalid_settings") from error
