"""What `import tickertape` offers, and what it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import tickertape
from tickertape import errors
from tickertape.transcriber import Keywords
from tickertape.types import Options, Reading

HEAVY = {"numpy", "asyncio", "av", "ctranslate2", "openvino", "scipy", "tokenizers", "huggingface_hub", "ray"}


def test_every_exported_name_can_be_imported_and_is_documented() -> None:
    """Each name of `__all__` exists, has a docstring, is found by `dir` and is in the Python reference."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
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
