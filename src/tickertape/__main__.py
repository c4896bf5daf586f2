"""`python -m tickertape` and the `tickertape` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from tickertape.cli.main import EXIT_INTERRUPTED
    from tickertape.cli.main import main as run

    # OpenVINO does without its converter where that cannot be imported: a third of a second less, and no telemetry.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    code = run()
    if code >= EXIT_INTERRUPTED:  # the engine's thread may be in the middle of a batch: nobody waits for its end
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
