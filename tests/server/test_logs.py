"""Log lines are JSON on standard output."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from tests.support.logs import LOG
from tickertape.server.logs import LIBRARIES, OWN, JsonFormatter, configure_logging, log_exception, restore_logging


@pytest.fixture
def clean_loggers() -> Iterator[None]:
    """Remove the handlers of all loggers, and restore them after the test."""
    loggers = [logging.getLogger(name) for name in (OWN, *LIBRARIES)]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("clean_loggers")
def test_a_handler_that_a_library_adds_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text handler that Ray Serve adds later is replaced; a record is one line of JSON, without a traceback."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    logger = logging.getLogger("ray.serve")
    configure_logging()
    logger.addHandler(logging.StreamHandler(output))
    restore_logging()
    ours = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]  # pytest has some too
    assert [JsonFormatter] == [type(handler.formatter) for handler in ours]
    logger.warning("slow\nsecond line")
    expected = {"severity": "WARNING", "message": "slow", "logger": "ray.serve"}
    assert [expected] == [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.mark.usefixtures("clean_loggers")
def test_own_lines_carry_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of Tickertape from INFO upwards has severity, message and fields, and does not propagate."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    configure_logging()
    logger = logging.getLogger("tickertape.server.run")
    logger.debug("hidden")
    logger.info("listening", extra={"fields": {"port": 8080}})
    assert [{"severity": "INFO", "message": "listening", "port": 8080}] == [
        json.loads(line) for line in output.getvalue().splitlines()
    ]
    assert not logging.getLogger("tickertape").propagate


def test_an_exception_is_logged_without_its_message() -> None:
    """The line contains the type and location of an exception, not its message, which may quote a client."""
    with pytest.raises(ValueError, match="marmalade") as raised:
        int("marmalade")
    log_exception(logging.getLogger("tickertape.test"), raised.value, request_id="req_1")
    [text] = LOG.lines
    line = json.loads(text)
    assert ("ERROR", "unexpected ValueError", "req_1") == (line["severity"], line["message"], line["request_id"])
    assert line["where"][-1].startswith("test_logs.py:")
    assert "marmalade" not in text
