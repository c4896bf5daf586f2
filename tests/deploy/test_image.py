"""The Dockerfile, as far as it can be tried without building: what it installs and what it copies."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tickertape import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
STEPS = re.sub(r"\\\n(\s*#.*\n)*", "", DOCKERFILE)  # a step a line
FINAL = STEPS.rpartition("\nFROM ")[2]


def installed(tmp_path: Path, variant: str) -> subprocess.CompletedProcess[str]:
    """Run the step that installs, with a pip and a python3 that only say how they were called."""
    (step,) = (line[4:] for line in STEPS.splitlines() if line.startswith("RUN ") and "requirements.lock" in line)
    site = tmp_path / "opt/lib/python3.11/site-packages"
    (site / "nvidia").mkdir(parents=True)
    tools = tmp_path / "build/tools/bin"
    tools.mkdir(parents=True)
    for name in ("pip", "python3"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tools / name).chmod(0o755)
    step = step.replace("/opt/tickertape", f"{tmp_path}/opt").replace("/build/tools", f"{tmp_path}/build/tools")
    path = {"PATH": f"{tools}:/usr/bin:/bin", "VARIANT": variant}
    return subprocess.run(["/bin/sh", "-c", step], env=path, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(("variant", "locks"), [
    ("cpu", ["build.lock", "requirements.lock"]), ("cuda", ["build.lock", "requirements.lock", "cuda.lock"]),
])  # fmt: skip
def test_a_variant_installs_its_locks(tmp_path: Path, variant: str, locks: list[str]) -> None:
    """Every package comes as a wheel with a known hash; CUDA's libraries come only when they are asked for."""
    done = installed(tmp_path, variant)
    calls = [line for line in done.stdout.splitlines() if line.startswith("pip ")]
    assert (0, locks) == (done.returncode, [line.rpartition(" ")[2] for line in calls])
    assert all({"--require-hashes", "--only-binary=:all:"} <= set(line.split()) for line in calls)
    assert (tmp_path / "opt/nvidia").resolve() == tmp_path / "opt/lib/python3.11/site-packages/nvidia"


def test_an_unknown_variant_builds_nothing(tmp_path: Path) -> None:
    """A misspelt variant is told, rather than taken for the one without a GPU."""
    done = installed(tmp_path, "CUDA")
    assert (1, "", "VARIANT is cpu or cuda, not 'CUDA'\n") == (done.returncode, done.stdout, done.stderr)


def test_cuda_libraries_are_looked_for_where_their_wheels_put_them() -> None:
    """Each of CUDA's wheels has a folder of its own below `nvidia`, and the loader knows each."""
    folders = re.findall(r"/opt/tickertape/nvidia/(\w+)/lib", FINAL)
    packages = {f"nvidia-{folder.replace('_', '-')}-cu12" for folder in folders}
    lock = (ROOT / "deploy/cuda.lock").read_text()
    assert set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE)) == packages


def test_the_label_bears_the_version() -> None:
    """The image says which version is inside, unless whoever builds it says otherwise."""
    assert [__version__] == re.findall(r"(?m)^ARG VERSION=(.+)$", FINAL)


def test_what_is_copied_is_not_ignored() -> None:
    """Everything that a step copies from the folder exists and reaches the build; caches and history do not."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copies = [line.split()[1:-1] for line in STEPS.splitlines() if line.startswith("COPY ") and "--from" not in line]
    paths = [path for words in copies for path in words if path != "."]
    assert [] == [path for path in paths if not list(ROOT.glob(path))]
    assert [] == [path for path in [*paths, "my-checkpoint"] if any(fnmatch(path, pattern) for pattern in ignored)]
    assert {".git", ".venv", "build", "tests"} <= set(ignored)
