"""Fixtures of the tests with real weights on real speech."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tickertape
from tickertape.transcriber import Transcriber


@pytest.fixture(scope="session")
def base(whisper_base: Path) -> Iterator[Transcriber]:
    """whisper-base as it is served."""
    with tickertape.load(whisper_base, threads=2) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def exact(whisper_base: Path) -> Iterator[Transcriber]:
    """whisper-base in float32, for comparisons with PyTorch."""
    with tickertape.load(whisper_base, threads=2, compute_type="float32", precision="f32") as loaded:
        yield loaded
