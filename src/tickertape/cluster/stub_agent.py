"""What stands in for Ray's dashboard agent, which nobody asks here: `python agent.py SESSION_FOLDER NODE`.

Ray's raylet starts an agent, waits 15 s for the ports on which it can be asked, and ends when it ends. Ray's own
imports the whole dashboard meanwhile. This one says that it has no ports, as the agent of a minimal Ray does, and lives
as long as its raylet. It imports nothing that takes time: it is run without site-packages.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
NONE = "-1"  # Ray's word for a port that is not in use
LOOK = 0.2  # seconds between looks whether the raylet is still there


def main(session: str, node: str) -> None:
    """Say that there are no ports; stay until the parent is gone."""
    parent = os.getppid()
    for name in PORTS:
        file = Path(session) / f"{name}_{node}"
        draft = file.with_name(f".{file.name}")
        draft.write_text(NONE)
        draft.replace(file)  # whole at once: somebody waits for it
    while os.getppid() == parent:
        time.sleep(LOOK)


if __name__ == "__main__":
    main(*sys.argv[1:3])
