"""What commands print: results as JSON on standard output, messages and errors on standard error; and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from tickertape.errors import CallerError, TickertapeError

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130  # 130 is 128 + SIGINT, as in shells


def emit(body: Mapping[str, Any]) -> None:
    """Print one JSON object on a line."""
    sys.stdout.write(json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"tickertape: {text}\n")
    sys.stderr.flush()


def describe(error: TickertapeError) -> str:
    """The error's message, and the cause of internal errors."""
    cause = error.__cause__
    if isinstance(error, CallerError) or cause is None:
        return error.message
    return f"{error.message} ({type(cause).__name__}: {' '.join(str(cause).split())})"
