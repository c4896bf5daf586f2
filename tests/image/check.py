"""Run a root file system as its image's service would run, and try it. Started by build.sh in namespaces of its own.

The root is read-only, /tmp and /dev/shm are tmpfs, the user is the image's and has no capability, and the only network
is loopback. Prints its findings; the last line is one JSON object.
"""

# ruff: noqa: T201, S108, PLW1509 - it prints what it finds; the paths are the image's; no threads at that time
from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PORT, USER = 8080, 65532
READY_WITHIN, GONE_WITHIN = 180, 12  # seconds; Cloud Run kills 10 s after SIGTERM
MIB = 2**20
EXAMPLE = Path("examples/audio/lost-card.flac")
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38


def main(image_root: str, description: str, result: str) -> None:
    """Start, wait, ask, stop."""
    config = json.loads(Path(description).read_text())["Docker"]["config"]
    loopback_up()
    found: dict[str, Any] = {"image_mib": size(Path(image_root)), "model_mib": size(Path(image_root, "srv/models"))}
    live = mounted(image_root)
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    environment["K_SERVICE"] = "tickertape"  # as Cloud Run does: a short grace
    began = time.monotonic()
    server = subprocess.Popen(
        [*config["Entrypoint"], *config["Cmd"]], env=environment, preexec_fn=lambda: enter(live),
    )  # fmt: skip
    try:
        wait_until_ready(server)
        found["ready_seconds"] = round(time.monotonic() - began, 1)
        found["idle_pss_mib"] = memory()
        healthy = subprocess.run(
            config["Healthcheck"]["Test"][1:],
            env=environment,
            preexec_fn=lambda: enter(live),
            check=False,
        )
        assert healthy.returncode == 0, "the health check fails"
        status, body = transcribe(EXAMPLE.read_bytes())
        assert status == 200, (status, body)
        found["text"] = json.loads(body)["text"]
        found["busy_pss_mib"] = memory()
        found |= drained(server)
    finally:
        server.kill()
    print(json.dumps(found, indent=2))
    Path(result).write_text(json.dumps(found) + "\n")
    print(json.dumps(found))


def loopback_up() -> None:
    """A new network namespace begins with everything down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def mounted(image_root: str) -> str:
    """The root, read-only, with /proc, /dev and tmpfs where the image may write."""
    live = tempfile.mkdtemp(prefix="tickertape-image-")
    for command in (
        ["mount", "--bind", image_root, live],
        ["mount", "-o", "remount,bind,ro", live],
        ["mount", "-t", "proc", "proc", f"{live}/proc"],
        ["mount", "--rbind", "/dev", f"{live}/dev"],
        ["mount", "--rbind", "/sys", f"{live}/sys"],  # how many cores, and in what order
        ["mount", "-t", "tmpfs", "tmpfs", f"{live}/dev/shm"],
        ["mount", "-t", "tmpfs", "-o", "size=1g,mode=1777", "tmpfs", f"{live}/tmp"],
    ):
        subprocess.run(command, check=True)
    return live


def enter(live: str) -> None:
    """Become the image's user inside its root, without any capability or a way to get one."""
    library = ctypes.CDLL(None)
    os.chroot(live)
    os.chdir("/tmp")
    for capability in range(64):
        library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    """Ask as Cloud Run's startup probe does."""
    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until:
        assert server.poll() is None, f"the service ended with {server.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the service did not become ready")


def transcribe(recording: bytes) -> tuple[int, bytes]:
    """Status and body of the answer."""
    border = "image-test"
    head = (
        f'--{border}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/audio/transcriptions",
        data=head.encode() + recording + f"\r\n--{border}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={border}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - on loopback
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


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


def memory() -> int:
    """MiB of all processes of this namespace but ours, shared pages counted once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name != str(os.getpid()):
            try:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except OSError:  # it ended meanwhile
                continue
    return total // 1024


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
