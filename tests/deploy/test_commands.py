"""Commands that people start by hand: they explain themselves at once, and take nothing that they do not know."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.service import Clients
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "deploy", "recipes", "scripts", "tests")
START = 'if __name__ == "__main__":'
HEAVY = {"ctranslate2", "gradio", "openvino", "ray", "torch", "transformers"}
ASK = """if True:
    import contextlib, io, runpy, sys
    sys.path.insert(0, "")
    def code(path, flag):
        sys.argv = [path, flag]
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as exit:
            return exit.code
    for path in sys.argv[1:]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            codes = code(path, "--help"), code(path, "--no-such-flag")
        print(path, *codes)
    print(*{name.partition(".")[0] for name in sys.modules})
"""


def programs() -> list[str]:
    """Every file that does something when it is run; a test of this name quotes the line, and is none."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__)]
    return [str(path.relative_to(ROOT)) for path in files if f"\n{START}" in path.read_text()]


@pytest.mark.slow
def test_commands_explain_themselves_at_once() -> None:
    """`--help` is answered and an unknown flag refused before anything heavy is imported, and nothing else is done."""
    light = [path for path in programs() if not path.startswith("recipes/")]
    done = subprocess.run([sys.executable, "-c", ASK, *light], cwd=ROOT, capture_output=True, text=True, check=True)
    *answers, modules = done.stdout.splitlines()
    assert [f"{path} 0 2" for path in light] == answers
    assert HEAVY & set(modules.split()) == set()


def test_the_recipe_parses_its_arguments() -> None:
    """The recipe's steps import PyTorch, which takes seconds; all the same each parses what it is called with."""
    steps = [path for path in programs() if path.startswith("recipes/")]
    assert steps
    assert [path for path in steps if "parser.parse_args()" not in (ROOT / path).read_text()] == []


class Counting(Clients):
    """One client counts; any other dies."""

    def _ask(self, client: int) -> None:
        while self._going:
            if client:
                raise RecursionError("too deep")
            self.outcomes.append((0.0, 0.0, "counted"))
            time.sleep(0.001)


def test_clients_ask_until_the_block_ends() -> None:
    """What the clients saw is there after the block."""
    with Counting(1) as load:
        wait_until(lambda: load.outcomes)
    assert {(0.0, 0.0, "counted")} == set(load.outcomes)


def test_a_client_that_dies_fails_the_run() -> None:
    """A load whose clients are fewer than it says is told, with their reason, however well the others fared."""
    with pytest.raises(RecursionError, match="too deep"), Counting(2) as load:
        wait_until(lambda: load.outcomes)
    assert load.outcomes
