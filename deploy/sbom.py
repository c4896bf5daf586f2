"""A bill of materials of an installation, in CycloneDX: its packages, and the shared libraries inside their wheels.

    python deploy/sbom.py [PYTHON] > sbom.json       PYTHON: whose packages; without, this one's

cyclonedx-py lists the packages. Wheels also bring libraries that no package manager knows (FFmpeg, OpenSSL, oneTBB):
each file is added as a component with its hash, below the package that installed it.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

LIBRARY = re.compile(r"\.so(\.\d+)*$")
BUNDLED = re.compile(r"(\.libs|/lib|/libs)/[^/]+$")  # where wheels keep what is not a module of their own


def main(python: str = sys.executable) -> None:
    """Print the bill."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", python]
    bill = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    packages = {component["name"].lower(): component for component in bill.get("components", [])}
    for distribution in distributions(path=_paths(python)):
        libraries = _libraries(distribution)
        if libraries and (package := packages.get(distribution.name.lower())):
            package.setdefault("components", []).extend(libraries)
    json.dump(bill, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _paths(python: str) -> list[str]:
    """Where that Python keeps packages."""
    code = "import json, sysconfig; print(json.dumps([sysconfig.get_path(n) for n in ('purelib', 'platlib')]))"
    printed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout  # noqa: S603
    return sorted(set(json.loads(printed)))


def _libraries(distribution: Distribution) -> list[dict[str, Any]]:
    """The shared libraries that a package brought, as components."""
    found = []
    for file in sorted(distribution.files or [], key=str):
        if LIBRARY.search(file.name) and BUNDLED.search(str(file)):
            path = Path(str(distribution.locate_file(file)))
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found.append({
                    "type": "file", "name": str(file), "bom-ref": f"{distribution.name}/{file}",
                    "hashes": [{"alg": "SHA-256", "content": digest}],
                })  # fmt: skip
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
