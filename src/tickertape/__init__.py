"""Tickertape puts a tuned Whisper checkpoint to work.

`tickertape.load("checkpoint").transcribe("call.wav")` is the whole Python API for most uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tickertape.transcriber import Transcriber

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(model: str | Path | None = None, **settings: Any) -> Transcriber:
    """Open a model for transcription; None takes the demo checkpoint. See `tickertape.transcriber.load`."""
    from tickertape import transcriber

    return transcriber.load(model, **settings)
