"""Tickertape puts a tuned Whisper checkpoint to work.

`tickertape.load().transcribe("call.wav")` is the whole Python API for most uses. Importing the package is
cheap: modules that need numpy are imported on first use. `tickertape.testing` has a fake engine for tests of
applications.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tickertape import errors
from tickertape.errors import *  # noqa: F403 - every error, by errors.__all__

if TYPE_CHECKING:
    from tickertape.pipeline import Update
    from tickertape.transcriber import Started, Transcriber, load
    from tickertape.types import Notice, Options, Reading, Segment, Transcript, Word

__version__ = "0.1.0"
__all__ = ["Notice", "Options", "Reading", "Segment", "Started", "Transcriber", "Transcript", "Update", "Word",
           "__version__", "load"]  # fmt: skip
__all__ += errors.__all__


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used (PEP 562)."""
    for module in ("types", "pipeline", "transcriber") if name in __all__ else ():
        if hasattr(found := import_module(f"tickertape.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
