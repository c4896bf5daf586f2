"""Tickertape puts a tuned Whisper checkpoint to work.

`tickertape.load("checkpoint").transcribe("call.wav")` is the whole Python API for most uses.
"""

from __future__ import annotations

__version__ = "0.1.0"
