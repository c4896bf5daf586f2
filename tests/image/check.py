"""Try an image: start, wait until ready, ask, stop in the middle of a request. Started by build.sh.

    python3 -m tests.image.check ROOT DESCRIPTION RESULT

Prints its findings; the last line is one JSON object.
"""

# ruff: noqa: T201 - it prints what it finds
from __future__ import annotations

import io
import json
import os
import re
import signal
import struct
import subprocess
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.image.sandbox import MIB, Sandbox, arguments, memory, metric, transcribe, wait_until_ready
from tests.support.waiting import wait_until

GONE_WITHIN = 12  # seconds; Cloud Run kills 10 s after SIGTERM
SETTLE = 5  # seconds from ready to a look at the idle memory
EXAMPLES = Path("examples/audio")
TIMES = 100  # that an example is said in a recording which is still being transcribed when the service is to end
GOALS = {"without_checkpoint_mib": 1430, "ready_seconds": 15, "idle_pss_mib": 1536}  # at most; 1.5 GB, 15 s, 1.5 GiB
SERVING = (
    "import tickertape.server.run, tickertape.server.page.app, tickertape.cluster.serve, gradio, ray.serve, openvino"
)
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
        status, body = transcribe((EXAMPLES / "lost-card.flac").read_bytes())
        assert status == 200, (status, body)
        found["text"] = json.loads(body)["text"]
        found["busy_pss_mib"] = memory()
        found["modules_from_bytecode"] = from_bytecode(sandbox)
        found |= drained(server)
    finally:
        server.kill()
    found["load"] = round(os.getloadavg()[0], 1)
    found["goals_met"] = {name: found[name] <= most for name, most in GOALS.items()}
    print(json.dumps(found, indent=2))
    Path(result).write_text(json.dumps(found) + "\n")
    print(json.dumps(found))


def drained(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """SIGTERM while a request is under way: it is answered in full or refused in form, and the service ends."""
    pool = ThreadPoolExecutor(1)
    asked = pool.submit(transcribe, long_recording(), vad="false")
    pool.shutdown(wait=False)
    wait_until(lambda: asked.done() or metric("requests_in_flight"))
    assert not asked.done(), asked.result()
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    code = server.wait(GONE_WITHIN)
    seconds = time.monotonic() - began
    status, body = asked.result()
    content = json.loads(body)
    assert status in {200, 503}, status
    assert ("text" if status == 200 else "error") in content
    assert code == 0, code
    return {"drain_status": status, "drain_seconds": round(seconds, 1)}


def long_recording() -> bytes:
    """An example, said again and again."""
    with io.BytesIO() as file, wave.open(str(EXAMPLES / "transfer-to-savings.wav")) as example:
        with wave.open(file, "wb") as sound:
            sound.setparams(example.getparams())
            sound.writeframes(TIMES * example.readframes(example.getnframes()))
        return file.getvalue()


def compiled(root: Path) -> dict[str, int]:
    """Every module of the image lies there as bytecode that Python will take."""
    modules = 0
    for source in root.glob("**/python3*/**/*.py"):
        inside = "/" + str(source.relative_to(root))
        if source.is_symlink() or not LIBRARY.match(inside) or NEVER_IMPORTED.search(inside):
            continue
        version = inside.partition("/python3.")[2].partition("/")[0]
        cached = source.parent / "__pycache__" / f"{source.stem}.cpython-3{version}.pyc"
        if cached.exists():
            assert taken(cached.read_bytes()[:16], source), f"{inside}: its bytecode is out of date"
            modules += 1
        else:
            assert not parses(source), f"{inside} is not compiled"
    return {"modules_compiled": modules}


def taken(header: bytes, source: Path) -> bool:
    """Whether bytecode with that header is valid: never compared with its source, or with the same time and size."""
    flags, seconds, size = struct.unpack("<4xIII", header)
    about = source.stat()
    return flags == UNCHECKED or (flags == 0 and (seconds, size) == (int(about.st_mtime), about.st_size))


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
    main(*arguments(__doc__))
