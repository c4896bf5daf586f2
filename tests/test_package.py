"""What `import tickertape` offers, and what it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import tickertape
from tickertape import errors
from tickertape.transcriber import Keywords
from tickertape.types import Options, Reading

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"numpy", "asyncio", "av", "ctranslate2", "openvino", "scipy", "tokenizers", "huggingface_hub", "ray"}


def test_every_exported_name_can_be_imported_and_is_documented() -> None:
    """Each name of `__all__` exists, has a docstring, is found by `dir` and is in the Python reference."""
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    for name in tickertape.__all__:
        assert name in dir(tickertape)
        assert name == "__version__" or re.search(rf"\b{name}\b", page)
        assert name == "__version__" or inspect.getdoc(getattr(tickertape, name))
    assert not hasattr(tickertape, "transcribe")


def test_every_error_is_exported() -> None:
    """All classes of errors.py can be imported from the package."""
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined == set(errors.__all__) <= set(tickertape.__all__)


def test_the_import_is_cheap() -> None:
    """`import tickertape` imports no heavy library."""
    code = "import sys, tickertape; print(*(name.partition('.')[0] for name in sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(shown.stdout.split()) == set()


def test_every_parameter_of_load_is_named_and_documented() -> None:
    """`load` has no catch-all parameter, and its docstring describes each one."""
    parameters = inspect.signature(tickertape.load).parameters
    assert {"model", "device", "compute_type", "threads"} <= set(parameters)
    for name, parameter in parameters.items():
        assert parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        assert f"\n    {name}: " in (inspect.getdoc(tickertape.load) or "")


def test_keywords_are_the_fields_of_options_and_reading() -> None:
    """`transcribe(**keywords)` takes each field with its type."""
    declared = {field.name: field.type for kind in (Options, Reading) for field in fields(kind)}
    assert inspect.get_annotations(Keywords).keys() == declared.keys()
    assert {name: hint.__forward_arg__ for name, hint in inspect.get_annotations(Keywords).items()} == declared


def test_the_package_says_its_version_once() -> None:
    """What is built takes its version from the package, and the image's label, which cannot, has the same."""
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project
    assert '[tool.hatch.version]\npath = "src/tickertape/__init__.py"\n' in project
    assert f"\nARG VERSION={tickertape.__version__}\n" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_the_changelog_knows_the_version() -> None:
    """The changelog's top entry is the unreleased one or the package's version."""
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    assert headings[0] == "## [Unreleased]" or tickertape.__version__ in headings[0]


def test_serving_needs_no_torch() -> None:
    """Neither the dependencies nor the extra `serve` ask for PyTorch."""
    tomllib = pytest.importorskip("tomllib")  # came with Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"].get("serve", [])]
    assert [name for name in wanted if name.startswith(("torch", "transformers"))] == []
