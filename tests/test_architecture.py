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
    ("headers", "audio", "decoder", "vad", "weights", "convert", "encoder", "sources", "checkpoints", "tokens",
     "engine"),
    ("pipeline", "local", "decoders"),
    ("failures", "frame", "keys", "admission", "readiness", "replays", "events", "forms", "orders", "contract",
     "objects", "visits", "api", "transcriber", "gate", "ui"),
    ("lines", "wire", "roster", "replicas", "remote", "ingress", "doorman", "alone", "agent", "node", "serving",
     "builders", "launch"),
    ("recordings", "outputs", "progress", "run", "inventory", "flags",
     "tools", "tools.manifests", "tools.commands", "tools.smoke", "tools.cloudrun", "tools.kuberay", "tools.deploy",
     "tools.observe", "cli", "manual", "__init__", "__main__"),
)  # fmt: skip
ORDER = {name: place for place, name in enumerate(name for floor in FLOORS for name in floor)}

# Libraries that cost time or memory, and the rooms that may import them.
OWNERS = {
    "av": {"audio"},
    "ctranslate2": {"engine", "convert"},
    "fastapi": {"api"},
    "gradio": {"ui"},
    "huggingface_hub": {"sources"},
    "openvino": {"encoder", "vad"},
    "prometheus_client": {"telemetry"},
    "pydantic": {"settings"},
    "pydantic_settings": {"settings"},
    "ray": {"node", "serving", "remote", "replicas", "ingress"},
    "rich": {"progress"},
    "safetensors": set[str](),
    "scipy": {"features"},
    "tokenizers": {"tokens", "sources"},
    "torch": set[str](),
    "transformers": set[str](),
    "typer": {"cli", "flags", "tools.deploy"},
    "uvicorn": {"alone", "wire"},
    "yaml": {"tools.manifests"},
}
MAX_FUNCTION_LINES = 100
P90_FUNCTION_LINES = 30

# What may be called while a module is imported: each makes a value and does nothing else.
HARMLESS = {
    # Python's
    "Path", "Path(__file__).resolve", "TypeVar", "bytes.fromhex", "dataclass", "field", "float", "frozenset",
    "ipaddress.IPv6Network", "re.compile", "str", "str.join", "LANGUAGES.items",
    # Pydantic's and Typer's declarations
    "Field", "PrivateAttr", "SettingsConfigDict", "field_validator", "typer.Argument", "typer.Option", "typer.Typer",
    "app.callback", "app.command", "deploy.added_to",
    # values of our own, and functions that put constants together
    "CallerError", "Detection", "Limits", "Notice", "Options",
    "contract._plain", "contract._refusals", "contract._schema", "tokens._byte_table",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def named(path: Path) -> str:
    """A module's name within the package: `audio`, `tools.deploy`, `tools`."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


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
    candidates = (".".join(parts[1:length]) for length in (3, 2))
    return next((candidate for candidate in candidates if candidate in ORDER), "__init__")


def called(path: Path) -> Iterator[tuple[str, int]]:
    """What is called while a module is imported: its own functions by their full names, and the lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own_functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in run_at_import(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant):
                name = f"{type(node.func.value.value).__name__}.{node.func.attr}"
            yield f"{named(path)}.{name}" if name in own_functions else name, node.lineno


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs while its module is imported: not the bodies of functions, nor their annotations."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}:
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        parts: list[ast.AST] = [*node.args.defaults, *(default for default in node.args.kw_defaults if default)]
        parts += [] if isinstance(node, ast.Lambda) else node.decorator_list
    elif isinstance(node, ast.AnnAssign):
        parts = [node.value] if node.value else []
    else:
        parts = list(ast.iter_child_nodes(node))
    for part in parts:
        yield from run_at_import(part)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function's name and length in lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{named(path)}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_module_has_its_floor() -> None:
    """A new module must be given a place in the house."""
    assert [named(path) for path in modules() if named(path) not in ORDER] == []


@pytest.mark.parametrize("path", modules(), ids=named)
def test_imports_go_down(path: Path) -> None:
    """No module imports from a higher floor, or from one after it on its own floor: so there are no circles."""
    upward = [
        f"line {line}: {name}"
        for name, line in imports(path)
        if name != "tickertape.__version__" and (target := own(name)) and ORDER[target] >= ORDER[named(path)]
    ]
    assert upward == []


@pytest.mark.parametrize("path", modules(), ids=named)
def test_heavy_libraries_stay_with_their_owners(path: Path) -> None:
    """Each heavy library is imported in its own rooms only."""
    strangers = [
        f"line {line}: {name}"
        for name, line in imports(path)
        if (root := name.split(".")[0]) in OWNERS and named(path) not in OWNERS[root]
    ]
    assert strangers == []


def test_tools_are_the_command_lines() -> None:
    """Only the command line imports the tools; whatever serves does without them."""
    users = [
        named(path)
        for path in modules()
        if not named(path).startswith("tools")
        and any((own(name) or "").startswith("tools") for name, _ in imports(path))
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


@pytest.mark.parametrize("path", modules(), ids=named)
def test_importing_does_nothing(path: Path) -> None:
    """At module level and in the bodies of classes nothing is called but what makes a plain value."""
    assert [f"line {line}: {name}" for name, line in called(path) if name not in HARMLESS] == []


def test_functions_are_short() -> None:
    """Nine of ten functions have at most 30 lines, and none has 100."""
    lengths = sorted((length, name) for path in modules() for name, length in functions(path))
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


def test_the_package_says_its_version_once() -> None:
    """What is built takes its version from the package, and the image's label, which cannot, has the same."""
    from tickertape import __version__

    told = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in told
    assert '[tool.hatch.version]\npath = "src/tickertape/__init__.py"\n' in told
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "deploy" / "Dockerfile").read_text()


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
