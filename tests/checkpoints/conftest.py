"""Small checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkpoint_factory import make_checkpoint


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a small vocabulary, quick to copy and to break. No test changes it."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "small", "custom")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return Path(shutil.copytree(small, tmp_path / "copy"))
