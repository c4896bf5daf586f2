"""The bill of materials: packages, the libraries in their wheels, and nothing that the image leaves out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-sbom/bin/python"  # the tool has an environment of its own
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason="make .venv-sbom/.done")]


def install(site: Path, name: str, files: list[str]) -> None:
    """What an installer leaves of a wheel: its files, and the record of them."""
    about = f"{name.replace('-', '_')}-1.5.dist-info"
    for file in files:
        path = site / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    (site / about).mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nLicense-Expression: MIT\n"
    (site / about / "METADATA").write_text(metadata)
    (site / about / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, f"{about}/METADATA"]))


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bill of an installation of two packages."""
    tmp_path = tmp_path_factory.mktemp("bill")
    venv.create(tmp_path / "venv")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    install(site, "Some.codec", ["codec/core.cpython-311-x86_64-linux-gnu.so", "codec/fast.abi3.so", "codec/core.py",
                                 "codec.libs/libavcodec-5e6b81c2.so.62.28", "codec/lib/libplain.so"])  # fmt: skip
    install(site, "openvino", ["openvino/libs/libopenvino.so.2641", "openvino/libs/libopenvino_intel_gpu_plugin.so",
                               "openvino/libs/libopenvino_ir_frontend.so.2641", "openvino/include/libheaders.so",
                               "openvino/libs/libopenvino_paddle_frontend.so.2641"])  # fmt: skip
    command = [PYTHON, ROOT / "deploy/sbom.py", tmp_path / "venv/bin/python"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(printed)
    return found


def libraries(bill: dict[str, Any], package: str) -> list[str]:
    (component,) = (each for each in bill["components"] if each["name"] == package)
    return [each["name"] for each in component.get("components", [])]


def complaint(bill: dict[str, Any]) -> str:
    """What CycloneDX's own validator has against a bill."""
    code = """if True:
        import json, sys
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from cyclonedx.validation import make_schemabased_validator
        text = sys.stdin.read()
        version = SchemaVersion.from_version(json.loads(text)["specVersion"])
        print(make_schemabased_validator(OutputFormat.JSON, version).validate_str(text))
    """
    done = subprocess.run([PYTHON, "-c", code], input=json.dumps(bill), check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_tool_stays_out_of_rays_way() -> None:
    """What comes with the tool slows each of Ray's processes; it is in the tool's environment and in no other."""
    assert importlib.util.find_spec("rfc3987_syntax") is None


def test_packages_and_their_libraries_are_listed(bill: dict[str, Any]) -> None:
    """Each package has a version and a licence, and below it the libraries it bundles, but not its own modules."""
    assert "CycloneDX" == bill["bomFormat"]
    assert [("Some.codec", "1.5"), ("openvino", "1.5")] == [
        (each["name"], each["version"]) for each in bill["components"]
    ]
    assert "pkg:pypi/openvino@1.5" == bill["components"][1]["purl"]
    assert "MIT" in json.dumps(bill["components"][0]["licenses"])
    assert ["codec.libs/libavcodec-5e6b81c2.so.62.28", "codec/lib/libplain.so"] == libraries(bill, "Some.codec")


def test_libraries_have_their_hash(bill: dict[str, Any]) -> None:
    """A library can be told from another by its hash, and has a reference of its own."""
    file = "codec/lib/libplain.so"
    (found,) = (each for each in bill["components"][0]["components"] if each["name"] == file)
    expected = {"alg": "SHA-256", "content": hashlib.sha256(file.encode()).hexdigest()}
    assert ([expected], f"Some.codec/{file}") == (found["hashes"], found["bom-ref"])


def test_what_the_image_leaves_out_is_not_listed(bill: dict[str, Any]) -> None:
    """The patterns of left-out.txt mean the same here as in the Dockerfile: files, folders, and all but some."""
    expected = ["openvino/libs/libopenvino.so.2641", "openvino/libs/libopenvino_ir_frontend.so.2641"]
    assert expected == libraries(bill, "openvino")


def test_the_bill_is_valid(bill: dict[str, Any]) -> None:
    """The bill, with what we add, keeps to CycloneDX's schema."""
    assert "None" == complaint(bill)


def test_a_wrong_bill_is_not_valid(bill: dict[str, Any]) -> None:
    """The comparison with the schema fails for a field that it does not know."""
    assert "None" != complaint({**bill, "packages": []})
