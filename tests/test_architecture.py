"""The house: floors, owners of heavy libraries, and the laws of size, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tickertape"

# From the ground up. A module imports only from lower floors and from modules named before it on its own.
FLOORS = (
    ("errors", "types", "languages"),
    ("machine", "windows", "assemble", "cues", "formats", "features", "words", "telemetry", "settings"),
    ("headers", "audio", "vad", "weights", "convert", "encoder", "sources", "checkpoints", "tokens", "engine"),
    ("pipeline", "local"),
    ("failures", "frame", "keys", "admission", "readiness", "replays", "events", "forms", "orders", "contract",
     "objects", "visits", "api", "transcriber", "gate", "ui"),
    ("lines", "roster", "replicas", "remote", "ingress", "doorman", "alone", "agent", "node", "serving", "builders",
     "launch"),
    ("recordings", "outputs", "progress", "run", "inventory", "flags", "tools", "cli", "manual",
     "__init__", "__main__"),
)  # fmt: skip
ORDER = {name: place for place, name in enumerate(name for floor in FLOORS for name in floor)}

# Libraries that cost time or memory, and the rooms that may import them.
OWNERS = {
    "av": {"audio"},
    "ctranslate2": {"engine", "convert", "cli"},
    "fastapi": {"api", "ui"},  # the page is mounted into the application
    "gradio": {"ui"},
    "huggingface_hub": {"sources"},
    "openvino": {"encoder", "vad"},
    "ray": {"node", "serving", "remote", "replicas", "ingress"},
    "safetensors": set[str](),
    "scipy": {"features"},
    "tokenizers": {"tokens", "checkpoints", "sources"},
    "torch": set[str](),
    "transformers": set[str](),
    "typer": {"cli", "flags"},
}
# Modules that may be imported in `--help`, and so import no heavy library at their top.
MAX_FUNCTION_LINES = 100
P90_FUNCTION_LINES = 30


def modules() -> list[Path]:
    return sorted(PACKAGE.glob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported name of a module, wherever in it the import stands, and its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def own(name: str) -> str | None:
    """The module of this package that an import means."""
    parts = name.split(".")
    if parts[0] != "tickertape":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "__init__"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function's name and length in lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.stem}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_module_has_its_floor() -> None:
    """A new module must be given a place in the house."""
    assert [path.stem for path in modules() if path.stem not in ORDER] == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_imports_go_down(path: Path) -> None:
    """No module imports from a higher floor, or from one after it on its own floor: so there are no circles."""
    upward = [
        f"line {line}: {name}"
        for name, line in imports(path)
        if (target := own(name)) is not None and name != "tickertape.__version__" and ORDER[target] >= ORDER[path.stem]
    ]
    assert upward == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.stem)
def test_heavy_libraries_stay_with_their_owners(path: Path) -> None:
    """Each heavy library is imported in its own rooms only."""
    strangers = [
        f"line {line}: {name}"
        for name, line in imports(path)
        if (root := name.split(".")[0]) in OWNERS and path.stem not in OWNERS[root]
    ]
    assert strangers == []


def test_tools_are_the_command_lines() -> None:
    """Only the command line imports the tools; whatever serves does without them."""
    users = [
        path.stem
        for path in sorted(PACKAGE.glob("*.py"))
        if any(name.startswith("tickertape.tools") for name, _ in imports(path))
    ]
    assert users == ["cli"]


@pytest.mark.parametrize("floor", range(4))
def test_low_floors_read_no_environment(floor: int) -> None:
    """Floors 0 to 3 take arguments: they read neither settings nor the environment."""
    readers = [
        f"{name}: {found}"
        for name in FLOORS[floor]
        if name != "settings" and (PACKAGE / f"{name}.py").exists()
        for found in ("os.environ", "getenv(", "tickertape.settings")
        if found in (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    ]
    assert readers == []


def test_importing_does_nothing() -> None:
    """At module level there are only definitions, constants and imports: no calls as statements."""
    calls = [
        f"{path.stem}: line {node.lineno}"
        for path in modules()
        if path.stem != "__main__"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert calls == []


def test_functions_are_short() -> None:
    """Nine of ten functions have at most 30 lines, and none has 100."""
    lengths = sorted(
        (length, name) for path in [*modules(), *PACKAGE.glob("tools/*.py")] for name, length in functions(path)
    )
    assert [name for length, name in lengths if length >= MAX_FUNCTION_LINES] == []
    assert lengths[int(len(lengths) * 0.9)][0] <= P90_FUNCTION_LINES


def test_nothing_is_left_to_do() -> None:
    """No note of unfinished work stands in the tree."""
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for folder in ("src", "tests", "benchmarks", "recipes", "docs")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml"}
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_tests_state_behaviours() -> None:
    """Every test has a docstring that says what the software does."""
    silent = [
        f"{path.name}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_the_changelog_knows_the_version() -> None:
    """The changelog's top entry is the unreleased one or the package's version."""
    from tickertape import __version__

    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    assert headings[0] == "## [Unreleased]" or __version__ in headings[0]


def test_serving_needs_no_torch() -> None:
    """Neither the dependencies nor the extra `serve` ask for PyTorch."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"].get("serve", [])]
    assert [name for name in wanted if name.startswith(("torch", "transformers"))] == []
