"""A root file system run as in a container, without a container engine. Needs root, and namespaces of its own.

The root is read-only, /tmp and /dev/shm are tmpfs, the user is the image's and has no capability, the first process is
number 1, and the only network is loopback. Memory and processors can be limited, by either version of control groups.
"""

# ruff: noqa: S108, PLW1509 - the paths are the image's; there are no threads when a process begins
from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PORT, USER = 8080, 65532
READY_WITHIN = 600  # seconds, on a busy machine
MIB = 2**20
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, CLONE_NEWPID = 24, 38, 0x20000000
GROUPS = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds, of the processors' quota


class Sandbox:
    """An image's root with its configuration, and what runs in it."""

    def __init__(self, image_root: str, description: str, *, model: str = "", memory: int = 0, cpus: int = 0) -> None:
        """Mount all, on a folder `live` beside the description.

        `description` is a file of what `buildah inspect` says; `model` a prepared folder to serve instead of the
        image's own; `memory` in bytes and `cpus` are limits, 0 for none.
        """
        self.config = json.loads(Path(description).read_text())["Docker"]["config"]
        self.environment = dict(entry.split("=", 1) for entry in self.config["Env"])
        self.environment["K_SERVICE"] = "tickertape"  # as Cloud Run does: a short grace
        self.environment |= {name: value for name, value in os.environ.items() if name.startswith("TICKERTAPE_")}
        loopback_up()
        self.group = Group(memory, cpus) if memory or cpus else None
        self.live = mounted(image_root, Path(description).with_name("live"), model, self.group)
        if model:
            self.environment["TICKERTAPE_MODEL"] = "/mnt"

    def serve(self) -> subprocess.Popen[bytes]:
        """Start what the image starts, as process 1 of a namespace."""
        library, command = ctypes.CDLL(None), [*self.config["Entrypoint"], *self.config["Cmd"]]
        with Path("/proc/self/ns/pid").open() as ours:
            library.unshare(CLONE_NEWPID)  # for the next process, not for this one
            server = self.start(command, first=True)
            library.setns(ours.fileno(), CLONE_NEWPID)  # else no thread could be started here
        return server

    def start(self, command: Sequence[str], *, first: bool = False, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command as the image's user."""
        return subprocess.Popen(command, env=self.environment, preexec_fn=lambda: self._enter(first), **options)

    def output(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
        """What a command prints, errors included; it must succeed."""
        words = ["env", *(f"{name}={value}" for name, value in (variables or {}).items()), *command]
        process = self.start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = process.communicate()[0].decode(errors="replace")
        assert process.returncode == 0, text[-2000:]
        return text

    def _enter(self, first: bool) -> None:
        """Become the image's user inside its root, without any capability or a way to get one."""
        library = ctypes.CDLL(None, use_errno=True)
        if self.group:
            self.group.enter()
        os.chroot(self.live)
        os.chdir("/tmp")
        if first and library.mount(b"proc", b"/proc", b"proc", 0, None):
            raise OSError(ctypes.get_errno(), "cannot mount /proc")
        for capability in range(64):
            library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)


class Group:
    """A control group with limits, version 2 or 1."""

    def __init__(self, memory: int, cpus: int) -> None:
        name = f"tickertape-{os.urandom(4).hex()}"
        self.two = (GROUPS / "cgroup.controllers").exists()
        if self.two:
            (GROUPS / "cgroup.subtree_control").write_text("+memory +cpu")
            self.memory = self.cpu = GROUPS / name
        else:
            self.memory, self.cpu = GROUPS / "memory" / name, GROUPS / "cpu" / name
        for folder in {self.memory, self.cpu}:
            folder.mkdir()
        if memory:
            (self.memory / ("memory.max" if self.two else "memory.limit_in_bytes")).write_text(str(memory))
        if cpus and self.two:
            (self.cpu / "cpu.max").write_text(f"{cpus * PERIOD} {PERIOD}")
        elif cpus:
            (self.cpu / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self.cpu / "cpu.cfs_quota_us").write_text(str(cpus * PERIOD))

    def enter(self) -> None:
        """Move this process in."""
        for folder in {self.memory, self.cpu}:
            (folder / "cgroup.procs").write_text("0")

    def used(self) -> int:
        """MiB that cannot be given back: memory of processes and files in tmpfs, without the cache of files on disk."""
        wanted = {"anon", "shmem"} if self.two else {"total_rss", "total_shmem"}
        pairs = (line.split() for line in (self.memory / "memory.stat").read_text().splitlines())
        return sum(int(value) for name, value in pairs if name in wanted) // MIB

    def peak(self) -> int:
        """MiB at most so far, the cache of files included."""
        return int((self.memory / ("memory.peak" if self.two else "memory.max_usage_in_bytes")).read_text()) // MIB

    def killed(self) -> int:
        """Processes that the kernel ended for want of memory."""
        file = self.memory / ("memory.events" if self.two else "memory.oom_control")
        pairs = dict(line.split() for line in file.read_text().splitlines())
        return int(pairs["oom_kill"])

    def show(self, live: str) -> None:
        """Put the group where a container sees its own limits."""
        target = f"{live}/sys/fs/cgroup"
        if self.two:
            run("mount", "--bind", str(self.memory), target)
            return
        run("mount", "-t", "tmpfs", "tmpfs", target)
        for kind, folder in {"memory": self.memory, "cpu": self.cpu}.items():
            Path(target, kind).mkdir()
            run("mount", "--bind", str(folder), f"{target}/{kind}")

    def remove(self) -> None:
        """Take the group away, once what ran in it has ended."""
        for folder in {self.memory, self.cpu}:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def loopback_up() -> None:
    """A new network namespace begins with everything down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def mounted(image_root: str, folder: Path, model: str, group: Group | None) -> str:
    """The root, read-only, with /dev, /sys and tmpfs where the image may write; /proc comes with the first process."""
    folder.mkdir(exist_ok=True)
    live = str(folder)
    run("mount", "--bind", image_root, live)
    run("mount", "-o", "remount,bind,ro", live)
    run("mount", "--rbind", "/dev", f"{live}/dev")
    run("mount", "--rbind", "/sys", f"{live}/sys")  # how many cores, and in what order
    run("mount", "-t", "tmpfs", "tmpfs", f"{live}/dev/shm")
    run("mount", "-t", "tmpfs", "-o", "size=1g,mode=1777", "tmpfs", f"{live}/tmp")
    if model:
        run("mount", "--bind", model, f"{live}/mnt")
        run("mount", "-o", "remount,bind,ro", f"{live}/mnt")
    if group:
        group.show(live)
    return live


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    """Ask as a startup probe does, with more patience."""
    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until:
        assert server.poll() is None, f"the service ended with {server.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=15):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the service did not become ready")


def metric(name: str) -> float:
    """A gauge of the service."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=15) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"tickertape_{name} "))


def arguments(about: str, *more: str) -> list[str]:
    """What a program of this folder was called with: the image's root, its description, where its findings go."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("root", "description", "result", *more)
    for name in names:
        parser.add_argument(name)
    given = vars(parser.parse_args())
    return [given[name] for name in names]


def transcribe(recording: bytes, *, timeout: float = 300, **fields: str) -> tuple[int, bytes]:
    """Status and body of the answer."""
    border = "image-test"
    head = "".join(
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {"model": "whisper-1", **fields}.items()
    )
    head += f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/audio/transcriptions",
        data=head.encode() + recording + f"\r\n--{border}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={border}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - on loopback
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


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
