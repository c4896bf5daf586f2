"""The architecture: which package imports which, who owns a heavy library, and how large each may grow."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tickertape"

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
    "transcripts": 730,
    "audio": 2101,
    "checkpoints": 1129,
    "engine": 1162,
    "server": 4180,
    "cluster": 873,
    "deploy": 489,
    "cli": 1292,
    "": 1020,
}
MAX_FUNCTION_LINES = 100
P90_FUNCTION_LINES = 30

# What may be called while a module is imported: each makes a value and does nothing else.
HARMLESS = {
    # Python's
    "Path", "Path(__file__).resolve", "TypeVar", "bytes.fromhex", "dataclass", "field", "float", "frozenset",
    "ipaddress.IPv6Network", "re.compile", "str", "str.join", "logging.getLogger", "LANGUAGES.items",
    # Pydantic's and Typer's declarations
    "BeforeValidator", "ConfigDict", "Field", "PrivateAttr", "SettingsConfigDict", "Strict", "WithJsonSchema",
    "field_validator", "typer.Argument", "typer.Option", "typer.Typer",
    "app.callback", "app.command", "deploy.added_to",
    # values of our own, and functions that put constants together
    "CallerError", "Detection", "Limits", "LoadOptions", "Notice", "Options",
    "engine/tokenizer._byte_table",
}  # fmt: skip


def modules() -> list[str]:
    """Every module as a path below the package, `audio/decode`."""
    return sorted(str(path.relative_to(SOURCE).with_suffix("")) for path in SOURCE.rglob("*.py"))


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Every name that a module imports, wherever in it the import stands."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", modules())
def test_imports_follow_the_table(module: str) -> None:
    """A package imports only what the table allows."""
    package = module.split("/", maxsplit=1)[0]
    used = {name.split(".")[1] for name in imports(module) if name.startswith("tickertape.")} - {"__version__"}
    assert used <= ALLOWED[package] | {package}


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_stay_with_their_owners(module: str) -> None:
    """Only the owner of a heavy library imports it."""
    heavy = {name.split(".")[0] for name in imports(module)} & set(OWNERS)
    assert [name for name in heavy if not re.match(OWNERS[name], module)] == []


def test_packages_keep_their_budget() -> None:
    """No package has more lines than its budget."""
    lines = dict.fromkeys(BUDGET, 0)
    for path in SOURCE.rglob("*.py"):
        lines[path.relative_to(SOURCE).parts[0] if path.parent != SOURCE else ""] += len(path.read_text().splitlines())
    assert {name: count for name, count in lines.items() if count > BUDGET[name]} == {}


def test_no_circles_within_a_package() -> None:
    """Modules of one package never import each other in a circle."""
    known = set(modules())
    graph = {
        module: {target for name in imports(module) for target in targets(name, known) if target != module}
        for module in known
    }
    while leaves := [module for module, used in graph.items() if not used & set(graph)]:
        for module in leaves:
            del graph[module]
    assert {module: sorted(used & set(graph)) for module, used in graph.items()} == {}


def targets(name: str, known: set[str]) -> set[str]:
    """The modules that an import of `tickertape.audio.decode.decode` may mean."""
    parts = name.split(".")[1:] if name.startswith("tickertape.") else []
    return {"/".join(parts[:length]) for length in (1, 2, 3)} & known


@pytest.mark.parametrize(
    "module", [name for name in modules() if name.split("/")[0] in {"engine", "audio", "transcripts"}]
)
def test_the_core_reads_no_environment(module: str) -> None:
    """Engine, audio and transcripts take arguments: they read neither settings nor the environment."""
    assert re.findall(r"os\.environ|getenv\(", (SOURCE / f"{module}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", modules())
def test_importing_does_nothing(module: str) -> None:
    """At module level and in the bodies of classes nothing is called but what makes a plain value."""
    assert [name for name in called(module) if name not in HARMLESS] == []


def called(module: str) -> Iterator[str]:
    """What is called while a module is imported: its own functions as `module.name`."""
    body = tree(module)
    own = {node.name for node in body.body if isinstance(node, ast.FunctionDef)}
    for node in run_at_import(body):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant):
                name = f"{type(node.func.value.value).__name__}.{node.func.attr}"
            yield f"{module}.{name}" if name in own else name


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


def test_functions_are_short() -> None:
    """Nine of ten functions have at most 30 lines, and none has 100."""
    lengths = sorted(
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{module}.{node.name}")
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
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


def test_no_test_imports_another() -> None:
    """What tests share is in `tests/support` or a conftest."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) (tests\.)?([a-z_]+\.)*test_", line)
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
