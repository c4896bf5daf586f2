"""What Tickertape logs during a test."""

from __future__ import annotations

import logging

from tickertape.server.logs import JsonFormatter


class LogLines(logging.Handler):
    """Keeps the log as records and as lines of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.lines: list[str] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.records.append(record)
        self.lines.append(self.format(record))


LOG = LogLines()  # `tests/conftest.py` empties it before each test
