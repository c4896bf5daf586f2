"""Try an image: start, wait until ready, ask, stop in the middle of a request. Started by build.sh.

    python3 -m tests.image.check ROOT DESCRIPTION RESULT

Prints its findings; the last line is one JSON object.
"""

# ruff: noqa: T201 - it prints what it finds
from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.image.sandbox import MIB, Sandbox, memory, transcribe, wait_until_ready

GONE_WITHIN = 12  # seconds; Cloud Run kills 10 s after SIGTERM
SETTLE = 5  # seconds from ready to a look at the idle memory
EXAMPLE = Path("examples/audio/lost-card.flac")
SERVING = "import tickertape.alone, tickertape.builders, tickertape.serving, tickertape.ui, gradio, ray.serve, openvino"
LIBRARY = re.compile(r"^/(opt/tickertape|usr/local|usr)/lib/python3[^/]*/")
NEVER_IMPORTED = re.compile(r"/(test|tests|idlelib|lib2to3|dist-packages|config-[^/]*)/")
UNCHECKED = 1  # the flags in a .pyc's header: valid by hash, and never compared with its source (PEP 552)


def main(image_root: str, description: str, result: str) -> None:
    """Do all of it."""
    root = Path(image_root)
    found: dict[str, Any] = {"image_mib": size(root), "model_mib": size(root / "srv/models")}
    found["without_checkpoint_mib"] = found["image_mib"] - found["model_mib"]
    found |= compiled(root)
    sandbox = Sandbox(image_root, description)
    began = time.monotonic()
    server = sandbox.serve()
    try:
        wait_until_ready(server)
        found["ready_seconds"] = round(time.monotonic() - began, 1)
        time.sleep(SETTLE)
        found["idle_pss_mib"] = memory()
        sandbox.output(sandbox.config["Healthcheck"]["Test"][1:])
        status, body = transcribe(EXAMPLE.read_bytes())
        assert status == 200, (status, body)
        found["text"] = json.loads(body)["text"]
        found["busy_pss_mib"] = memory()
        found["modules_from_bytecode"] = from_bytecode(sandbox)
        found |= drained(server)
    finally:
        server.kill()
    found["load"] = round(os.getloadavg()[0], 1)
    print(json.dumps(found, indent=2))
    Path(result).write_text(json.dumps(found) + "\n")
    print(json.dumps(found))


def drained(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """SIGTERM while a request is under way: it is answered in full or refused in form, and the service ends."""
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(transcribe(EXAMPLE.read_bytes())))
    asking.start()
    time.sleep(0.2)  # the request is on its way; whether it has reached the engine makes no difference to the rule
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    code = server.wait(GONE_WITHIN)
    seconds = time.monotonic() - began
    asking.join()
    ((status, body),) = answers
    content = json.loads(body)
    assert status in {200, 503}, status
    assert ("text" if status == 200 else "error") in content
    assert code == 0, code
    return {"drain_status": status, "drain_seconds": round(seconds, 1)}


def compiled(root: Path) -> dict[str, int]:
    """Every module of the image lies there as bytecode that is never checked against its source."""
    modules = 0
    for source in root.glob("**/python3*/**/*.py"):
        inside = "/" + str(source.relative_to(root))
        if not LIBRARY.match(inside) or NEVER_IMPORTED.search(inside):
            continue
        cached = Path(importlib.util.cache_from_source(str(source)))
        version = re.search(r"python3\.(\d+)", inside)
        name = re.sub(r"cpython-\d+", f"cpython-3{version[1]}", cached.name) if version else cached.name
        try:
            flags = int.from_bytes((cached.parent / name).read_bytes()[4:8], "little")
        except OSError:
            assert not parses(source), f"{inside} is not compiled"
            continue
        assert flags == UNCHECKED, f"{inside}: its bytecode is compared with its source at each import"
        modules += 1
    return {"modules_compiled": modules}


def parses(source: Path) -> bool:
    """Whether it is Python at all; some packages ship templates under that name."""
    try:
        compile(source.read_bytes(), source.name, "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def from_bytecode(sandbox: Sandbox) -> int:
    """How many modules the service imports; each comes from bytecode."""
    text = sandbox.output(["python", "-v", "-c", SERVING])
    taken = re.findall(r"^# code object from '([^']+)'$", text, re.MULTILINE)
    sources = [path for path in taken if not path.endswith(".pyc")]
    assert not sources, sources[:10]
    return len(taken)


def size(folder: Path) -> int:
    """MiB of the files below a folder."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            about = path.lstat()
            seen[about.st_dev, about.st_ino] = about.st_size
    return sum(seen.values()) // MIB


if __name__ == "__main__":
    main(*sys.argv[1:])
