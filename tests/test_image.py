"""The Dockerfile, as far as it can be tried without building: what it installs, for whom, and what it is run as."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
STEPS = re.sub(r"\\\n(\s*#.*\n)*", "", DOCKERFILE)  # a step a line
FINAL = STEPS.rpartition("\nFROM ")[2]


def locked(name: str) -> dict[str, int]:
    """How many hashes each package of a lock has."""
    packages = re.split(r"^(?=\S)", (ROOT / "deploy" / name).read_text(), flags=re.MULTILINE)
    return {text.partition("==")[0]: text.count("--hash=sha256:") for text in packages if text.strip()}


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
    assert set(locked("cuda.lock")) == packages


@pytest.mark.parametrize("name", ["build.lock", "requirements.lock", "cuda.lock"])
def test_every_locked_package_has_a_hash(name: str) -> None:
    """No package of a lock is without a hash, which pip would refuse."""
    assert [] == [package for package, hashes in locked(name).items() if not hashes]


def test_the_lock_holds_what_serving_needs_and_no_torch() -> None:
    """Each dependency of the package and of its service is locked; PyTorch, a gigabyte, is not."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    names = {re.split(r"[\[<>=]", text)[0] for text in wanted}
    assert set() == names - set(locked("requirements.lock"))
    assert set() == {"torch", "transformers", "openai-whisper", "setuptools"} & set(locked("requirements.lock"))


def test_the_image_is_run_by_nobody_in_particular() -> None:
    """A number, so that Kubernetes sees that it is not root; it writes to /tmp, has a health check and a name."""
    lines = set(FINAL.splitlines())
    assert {"USER 65532:65532", "WORKDIR /tmp", "STOPSIGNAL SIGTERM", "EXPOSE 8080"} <= lines
    assert "HOME=/tmp" in FINAL
    assert "apt-get" not in STEPS
    health = next(line for line in FINAL.splitlines() if line.startswith("HEALTHCHECK "))
    assert "/healthz" in health
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in FINAL


def test_what_is_copied_is_not_ignored() -> None:
    """Everything that a step copies from the folder exists and reaches the build; caches and history do not."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copies = [line.split()[1:-1] for line in STEPS.splitlines() if line.startswith("COPY ") and "--from" not in line]
    paths = [path for words in copies for path in words if path != "."]
    assert [] == [path for path in paths if not list(ROOT.glob(path))]
    assert [] == [path for path in [*paths, "checkpoint"] if any(fnmatch(path, pattern) for pattern in ignored)]
    assert {".git", ".venv", "build", "tests"} <= set(ignored)
