"""The documentation: its links lead somewhere, its commands are ours, its Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from scripts import references
from tickertape.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")])
BAD_INPUTS = ROOT / "docs" / "reference" / "bad-inputs.md"
ROWS = 77  # of the project's table of bad inputs
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)|!\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in language.split()]


def commands() -> list[tuple[str, str]]:
    """Every `tickertape ...` line of the shell blocks, with its page."""
    return [
        (name(page), line.partition(" #")[0].partition(" > ")[0].strip())
        for page in PAGES
        for block in blocks(page, "sh bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("tickertape ")
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page exists."""
    targets = [target or picture for target, _, picture in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [] == [target for target in local if not (page.parent / target).exists()]


def test_every_page_can_be_reached() -> None:
    """Each page under docs/ is linked from the index."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if (ROOT / "docs") in page.parents]
    assert [] == [page for page in pages if page != "README.md" and f"({page})" not in index]


@pytest.mark.parametrize("file", references.pages())
def test_generated_references_are_current(file: str) -> None:
    """A generated page is what `python -m scripts.references` writes."""
    assert references.pages()[file] == (ROOT / "docs" / "reference" / file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_bad_input_has_its_test() -> None:
    """The table has rows 1 to 77 in order, and pytest collects every test id that the page names."""
    text = BAD_INPUTS.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert list(range(1, ROWS + 1)) == [int(row[0].removeprefix("| ")) for row in rows]
    assert [] == [row[0] for row in rows if len(row) != 4 or "::test_" not in row[3]]
    named = set(re.findall(r"`(tests/[\w/]+\.py::[^`]+)`", text))
    files = sorted({test.partition("::")[0] for test in named})
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100).stdout
    collected = set(output.splitlines())
    collected |= {test.partition("[")[0] for test in collected}  # a test without its parameters is all of them
    assert [] == sorted(named - collected)


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_ours(page: str, line: str) -> None:
    """Every command in the documentation is one that the command line takes, flags included."""
    words = shlex.split(line)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="tickertape")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.get_command(context, words[0]) or pytest.fail(f"{page}: no command {words[0]}")
        words = words[1:]
    command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize(
    "page", [ROOT / each for each in ("README.md", "docs/tutorial.md", "docs/reference/python.md")], ids=name
)
@pytest.mark.real
def test_python_runs(
    page: Path, whisper_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of the README and the tutorial runs as printed, and prints text."""
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "python"):
        if "openai" in block:  # tests/server/test_openai_client.py runs that client against a server
            continue
        exec(compile(block, name(page), "exec"), {})  # noqa: S102 - our own documentation
        assert capsys.readouterr().out.strip()
