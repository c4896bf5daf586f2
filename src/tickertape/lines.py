"""Log lines of libraries as one-line JSON on standard output, as our own lines are."""

from __future__ import annotations

import logging
import sys

from tickertape.frame import event_line

LIBRARIES = ("ray", "ray.serve", "ray.data", "uvicorn", "uvicorn.error")
SEVERITIES = {"DEBUG": "INFO", "INFO": "INFO", "WARNING": "WARNING", "ERROR": "ERROR", "CRITICAL": "ERROR"}


class JsonFormatter(logging.Formatter):
    """A record as an object with `severity`, `message` and `logger`; of an exception its type and place only."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        facts: dict[str, object] = {"logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            facts["error"] = record.exc_info[0].__name__
        severity = SEVERITIES.get(record.levelname, "WARNING")
        first_line = record.getMessage().partition("\n")[0]
        return event_line(severity, first_line[:500], **facts)  # type: ignore[arg-type]  # the table's values


def speak_json(level: int = logging.WARNING) -> None:
    """From now on the libraries' loggers of this process write JSON to standard output, from `level` upwards."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        for old in [old for old in logger.handlers if type(old) is logging.StreamHandler]:
            logger.removeHandler(old)
        if name in {"ray", "ray.serve", "uvicorn"}:  # the others pass theirs on
            logger.addHandler(handler)
        logger.setLevel(level)
    logging.getLogger("ray.serve").propagate = False


def keep_json() -> None:
    """Speak JSON again if a library has put its own handler back, as Ray Serve does when settings reach a proxy."""
    for handler in logging.getLogger("ray.serve").handlers:
        if type(handler) is logging.StreamHandler and not isinstance(handler.formatter, JsonFormatter):
            speak_json()
            return
