"""Log lines of libraries."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from tickertape.lines import JsonFormatter, keep_json, speak_json


@pytest.fixture
def untouched() -> Iterator[None]:
    """The loggers have no handlers, and are afterwards as they were."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.serve", "ray.data", "uvicorn", "uvicorn.error")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("untouched")
def test_what_a_library_puts_back_is_replaced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text handler that Ray Serve adds later gives way to ours; a line is one JSON object, without the traceback."""
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stdout", heard)
    logger = logging.getLogger("ray.serve")
    speak_json()
    logger.addHandler(logging.StreamHandler(heard))
    keep_json()
    ours = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]  # pytest has some too
    assert [JsonFormatter] == [type(handler.formatter) for handler in ours]
    logger.warning("slow\nsecond line")
    said = {"severity": "WARNING", "message": "slow", "logger": "ray.serve"}
    assert [said] == [json.loads(line) for line in heard.getvalue().splitlines()]
