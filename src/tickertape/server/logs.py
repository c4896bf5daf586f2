"""Logging: every record becomes one JSON object on one line of standard output.

Modules log to `logging.getLogger(__name__)` and put more fields of the object into `extra={"fields": {...}}`.
Entry points call `configure_logging`; importing a module configures nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback

OWN = "tickertape"
LIBRARIES = ("ray", "ray.serve", "ray.data", "uvicorn", "uvicorn.error")
WITH_HANDLER = frozenset({OWN, "ray", "ray.serve", "uvicorn"})  # the others propagate to these
MAX_MESSAGE = 500  # characters; libraries put whole tables into their messages
MAX_FRAMES = 12  # of a traceback, the innermost


class JsonFormatter(logging.Formatter):
    """An object with `severity`, `message` and the record's fields; for libraries `logger` and the exception's type."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        first_line = record.getMessage().partition("\n")[0][:MAX_MESSAGE]
        line: dict[str, object] = {"severity": record.levelname, "message": first_line}
        if record.name.partition(".")[0] != OWN:
            line["logger"] = record.name
            if record.exc_info and record.exc_info[0] is not None:
                line["error"] = record.exc_info[0].__name__
        return json.dumps(line | getattr(record, "fields", {}), separators=(",", ":"))


def configure_logging(level: int = logging.WARNING) -> None:
    """Log to standard output in this process: Tickertape from INFO upwards, its libraries from `level`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    for name in (OWN, *LIBRARIES):
        logger = logging.getLogger(name)
        for old in [old for old in logger.handlers if type(old) is logging.StreamHandler]:
            logger.removeHandler(old)
        if name in WITH_HANDLER:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO if name == OWN else level)
    for name in (OWN, "ray.serve"):
        logging.getLogger(name).propagate = False


def restore_logging() -> None:
    """Configure again if Ray Serve has added its own handler, which it does when settings reach a proxy."""
    for handler in logging.getLogger("ray.serve").handlers:
        if type(handler) is logging.StreamHandler and not isinstance(handler.formatter, JsonFormatter):
            configure_logging()
            return


def log_exception(logger: logging.Logger, error: BaseException, **fields: object) -> None:
    """Log the type and the place of an unexpected exception, without its message, which may quote a client."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    where = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
    logger.error("unexpected %s", type(error).__name__, extra={"fields": {**fields, "where": where}})
