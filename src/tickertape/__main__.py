"""`python -m tickertape` and the `tickertape` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    from tickertape.cli.main import main as run
    from tickertape.cli.messages import EXIT_INTERRUPTED

    # OpenVINO then skips its converter, which costs a third of a second and sends telemetry.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    code = run()
    if code >= EXIT_INTERRUPTED:  # do not wait for the batch that the engine's thread may be decoding
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
