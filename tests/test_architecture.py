"""The architecture: which package imports which, who owns a heavy library, and how large each may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "tickertape"
MODULES = {str(path.relative_to(SOURCE).with_suffix("")): path for path in sorted(SOURCE.rglob("*.py"))}

BASE = {"types", "errors"}
ENGINE = BASE | {"transcripts", "checkpoints", "engine"}
PYTHON = ENGINE | {"audio", "pipeline", "transcriber"}
ALLOWED = {
    "errors": set(), "types": {"errors"}, "transcripts": BASE, "audio": BASE, "checkpoints": BASE,
    "engine": BASE | {"checkpoints", "transcripts"}, "pipeline": BASE | {"audio", "transcripts"},
    "transcriber": PYTHON, "__init__": PYTHON, "testing": PYTHON, "server": PYTHON, "cluster": PYTHON | {"server"},
    "deploy": {"errors", "server"}, "cli": PYTHON | {"server", "cluster", "deploy"},
    "__main__": {"cli"},
}  # fmt: skip
OWNERS = {
    "av": "audio", "scipy": "engine", "huggingface_hub": "checkpoints", "fastapi": "server", "uvicorn": "server",
    "pydantic": "server", "pydantic_settings": "server", "prometheus_client": "server", "gradio": "server/page",
    "httpcore": "server", "jinja2": "server", "ray": "cluster", "yaml": "deploy", "typer": "cli", "rich": "cli",
    "openvino": "audio/vad|checkpoints/openvino_export|engine", "ctranslate2": "engine|checkpoints",
    "tokenizers": "engine|checkpoints",
    "torch": "never", "transformers": "never", "safetensors": "never",
}  # fmt: skip
# Lines of Python. A package grows by decision: raise its budget in the commit that needs it; delete elsewhere first.
BUDGET = {
    "transcripts": 721,
    "audio": 1968,
    "checkpoints": 1958,
    "engine": 1297,
    "server": 3870,
    "cluster": 875,
    "deploy": 500,
    "cli": 1385,
    "": 1132,
}


def imports(path: Path) -> Iterator[str]:
    """Every name that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_tables(module: str) -> None:
    """A package imports only what the table allows, and only the owner of a heavy library imports it."""
    package, names = module.split("/", maxsplit=1)[0], list(imports(MODULES[module]))
    used = {name.split(".")[1] for name in names if name.startswith("tickertape.")} - {"__version__"}
    assert used <= ALLOWED[package] | {package}
    heavy = {name.split(".")[0] for name in names} & set(OWNERS)
    assert [name for name in heavy if not re.match(OWNERS[name], module)] == []


def test_packages_keep_their_budget() -> None:
    """No package has more lines than its budget."""
    lines = Counter(dict.fromkeys(BUDGET, 0))
    for module, path in MODULES.items():
        lines[module.rpartition("/")[0].split("/")[0]] += len(path.read_text(encoding="utf-8").splitlines())
    assert {name: count for name, count in lines.items() if count > BUDGET[name]} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """The imports have an order."""
    graph = {module: set[str]() for module in MODULES}
    for module, path in MODULES.items():
        for name in imports(path):
            parts = name.split(".")[1:] if name.startswith("tickertape.") else []
            graph[module] |= {"/".join(parts[:length]) for length in (1, 2, 3)} & set(MODULES) - {module}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(("engine", "audio", "transcripts"))])
def test_the_core_reads_no_environment(module: str) -> None:
    """Engine, audio and transcripts take arguments: they read neither settings nor the environment."""
    assert re.findall(r"os\.environ|getenv\(", MODULES[module].read_text(encoding="utf-8")) == []


def test_importing_does_nothing() -> None:
    """All modules together start no thread, configure no logging, and leave the heaviest libraries alone."""
    names = [f"tickertape.{module.replace('/', '.')}" for module in MODULES if module != "__main__"]
    script = f"import {', '.join(names)}\nimport logging, sys, threading\n"
    script += "print(threading.active_count(), logging.root.handlers, logging.getLogger('tickertape').handlers)\n"
    script += "print({'ray', 'gradio', 'torch', 'openvino', 'ctranslate2', 'huggingface_hub'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "1 [] []\nset()\n" == shown.stdout


def test_tests_stand_alone_and_state_behaviours() -> None:
    """No test imports another: what they share is in `tests/support` or a conftest. Each one has a docstring."""
    for path in TESTS.rglob("*.py"):
        assert [name for name in imports(path) if re.search(r"(^|\.)test_", name)] == [], path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
