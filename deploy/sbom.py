"""A bill of materials of an installation, in CycloneDX: its packages, and the shared libraries inside their wheels.

    python deploy/sbom.py [PYTHON] > sbom.json       PYTHON: whose packages; without, this one's

cyclonedx-py lists the packages. Wheels also bring libraries that no package manager knows (FFmpeg, OpenSSL, oneTBB):
each file is added as a component with its hash, below the package that installed it. What the image leaves out
(left-out.txt) is left out here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePath
from typing import Any

LIBRARY = re.compile(r"\.so(\.\d+)*$")
MODULE = re.compile(r"\.(cpython-\w+-[\w-]+|abi3)\.so$")  # a package's own, which its version tells
LEFT_OUT = Path(__file__).with_name("left-out.txt")


def main() -> None:
    """Print the bill of an installation."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("python", nargs="?", default=sys.executable, help="whose packages; without, this one's")
    python = parser.parse_args().python
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", python]
    bill = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    packages = {_normal(component["name"]): component for component in bill.get("components", [])}
    left_out = _left_out()
    for distribution in distributions(path=_paths(python)):
        libraries = list(_libraries(distribution, left_out))
        if libraries and (package := packages.get(_normal(distribution.name))):
            package.setdefault("components", []).extend(libraries)
    json.dump(bill, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _normal(name: str) -> str:
    """A package's name as PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _paths(python: str) -> list[str]:
    """Where that Python keeps packages."""
    code = "import json, sysconfig; print(json.dumps([sysconfig.get_path(n) for n in ('purelib', 'platlib')]))"
    printed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout  # noqa: S603
    return sorted(set(json.loads(printed)))


def _left_out() -> list[str]:
    """The patterns of left-out.txt."""
    lines = (line.partition("#")[0].strip() for line in LEFT_OUT.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _libraries(distribution: Distribution, left_out: list[str]) -> Iterator[dict[str, Any]]:
    """The shared libraries that a package brought, as components."""
    for file in sorted(distribution.files or [], key=str):
        if not LIBRARY.search(file.name) or MODULE.search(file.name) or _matches(file, left_out):
            continue
        path = Path(str(distribution.locate_file(file)))
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield {
                "type": "file", "name": str(file), "bom-ref": f"{distribution.name}/{file}",
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }  # fmt: skip


def _matches(file: PurePath, patterns: list[str]) -> bool:
    """Whether a pattern means this file or a folder above it."""
    return any(
        PurePath(*file.parts[: len(PurePath(pattern).parts)]).match(pattern)
        for pattern in patterns
        if len(file.parts) >= len(PurePath(pattern).parts)
    )


if __name__ == "__main__":
    main()
