"""Fixtures of all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.logs import LOG


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """`tests.support.logs.LOG` keeps what Tickertape logs during the test."""
    logger, LOG.records, LOG.lines = logging.getLogger("tickertape"), [], []
    logger.addHandler(LOG)
    logger.setLevel(logging.INFO)
    yield
    logger.removeHandler(LOG)
