"""The command `doctor`: every check of a checkpoint, then a test clip through each kind of request.

The clip is decoded in a child process, `python -m tickertape.cli.doctor FOLDER DEVICE KIND...`, so that a crash in
native code becomes a line of the table. The child prints a JSON object for each kind that it has tried.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tickertape.checkpoints.cache import MANIFEST
from tickertape.checkpoints.checks import examine
from tickertape.checkpoints.prepare import Prepared
from tickertape.checkpoints.source import find, locate
from tickertape.cli.messages import describe, emit
from tickertape.engine.loading import LoadOptions, load_engine, prepare_model
from tickertape.engine.self_test import kinds, self_test
from tickertape.errors import CheckpointError, CheckpointNotFoundError, TickertapeError

OK, ASSUMED, FAILED = "ok", "assumed", "failed"
STYLES = {OK: "green", ASSUMED: "yellow", FAILED: "red"}
TIMEOUT = 600  # seconds for all kinds together; large-v3 on two cores takes about two minutes


class Row(NamedTuple):
    """A line of the table."""

    check: str
    result: str
    detail: str


def rows(model: str, options: LoadOptions) -> Iterator[Row]:
    """Check a checkpoint, then decode with it if it can be prepared. Raises `CheckpointNotFoundError`."""
    try:
        folder = locate(model, cache=options.cache, offline=options.offline, token=options.token).folder
        if not (folder / MANIFEST).is_file():  # of a prepared folder, the manifest tells what was assumed
            source = find(folder, base=options.base, cache=options.cache, offline=options.offline, token=options.token)
            for finding in examine(source).findings:
                result = FAILED if finding.error else ASSUMED if finding.notice else OK
                yield Row(finding.check, result, finding.detail)
        prepared = prepare_model(model, options)
    except CheckpointNotFoundError:
        raise
    except CheckpointError as error:
        yield Row("preparing", FAILED, error.message)
        return
    notices = "; ".join(notice.message for notice in prepared.notices)
    yield Row("preparing", ASSUMED if notices else OK, notices or "converted and verified")
    for kind, problem in _decode(prepared, options.device):
        yield Row(f"decoding: {kind}", FAILED if problem else OK, problem or "one second of sound")


def show(found: Sequence[Row]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "result", "detail")
    for row in found:
        table.add_row(row.check, Text(row.result, STYLES[row.result]), Text(row.detail))
    Console().print(table)


def _decode(prepared: Prepared, device: str) -> Iterator[tuple[str, str]]:
    """Each kind of request and its error, or an empty text. A crash belongs to the kind that was being decoded."""
    waiting = list(kinds(prepared.info))
    while waiting:
        command = [sys.executable, "-m", "tickertape.cli.doctor", str(prepared.folder), device, *waiting]
        try:
            child = subprocess.run(command, stdout=subprocess.PIPE, timeout=TIMEOUT, check=False)  # noqa: S603 - ours
            output, end = child.stdout, _end(child.returncode)
        except subprocess.TimeoutExpired as late:
            output, end = late.stdout or b"", f"no result in {TIMEOUT} s"
        for line in output.splitlines():
            tried = json.loads(line)
            waiting.remove(tried["kind"])
            yield tried["kind"], tried["problem"]
        if waiting:
            yield waiting.pop(0), end


def _end(code: int) -> str:
    """How a process ended that should have gone on."""
    return f"the process died of {signal.Signals(-code).name}" if code < 0 else f"the process ended with code {code}"


def _main(folder: str, device: str, *names: str) -> None:
    """Decode each kind in this process."""
    engine = None
    for name in names:
        problem = ""
        try:
            engine = engine or load_engine(Path(folder), LoadOptions(device))
            self_test(engine, name)
        except TickertapeError as error:
            cause = error.__cause__  # without the advice to run `doctor`
            problem = describe(cause if isinstance(cause, TickertapeError) else error)
        emit({"kind": name, "problem": problem})


if __name__ == "__main__":
    _main(*sys.argv[1:])
