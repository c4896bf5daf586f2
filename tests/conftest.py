"""Fixtures of all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.logs import LOG
from tickertape.checkpoints.source import pull
from tickertape.errors import CheckpointError


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """`tests.support.logs.LOG` keeps what Tickertape logs during the test."""
    logger, LOG.records, LOG.lines = logging.getLogger("tickertape"), [], []
    logger.addHandler(LOG)
    logger.setLevel(logging.INFO)
    yield
    logger.removeHandler(LOG)


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    """The CTranslate2 folder of OpenAI's whisper-base, for tests marked `real`; fetched into the cache if need be."""
    try:
        return pull("openai/whisper-base").folder
    except CheckpointError as error:
        pytest.skip(f"openai/whisper-base cannot be had here: {error.message}")
