"""A stub for Ray's dashboard agent, which nothing here uses: `python stub_agent.py SESSION_FOLDER NODE`.

Ray's raylet starts an agent, waits 15 s for the agent's ports, and exits when the agent exits. Ray's own agent imports
the whole dashboard in that time. The stub reports that it has no ports and exits when the raylet exits. It runs without
site-packages, so it imports only the standard library.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
NO_PORT = "-1"  # Ray's value for a port that is not in use
POLL_INTERVAL = 0.2  # seconds


def main(session: str, node: str) -> None:
    """Report that there are no ports; return when the parent has exited."""
    parent = os.getppid()
    for name in PORTS:
        file = Path(session) / f"{name}_{node}"
        draft = file.with_name(f".{file.name}")
        draft.write_text(NO_PORT)
        draft.replace(file)  # atomic: the raylet is polling for the file
    while os.getppid() == parent:
        time.sleep(POLL_INTERVAL)


if __name__ == "__main__":
    main(*sys.argv[1:3])
