"""The wheel: what an installed copy has that is not Python."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "audio"
TEMPLATES = ROOT / "src/tickertape/deploy/templates"
LISTING = """
import json
from tickertape.server.page import app
examples = app.PageHandlers(None).examples
print(json.dumps([app.__file__, {name: [str(path), path.stat().st_size] for name, path in examples.items()}]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this folder, built as pip would build it."""
    building = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    return Path(next(building.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


def test_an_installed_copy_has_the_clips_of_the_page(wheel: Path, tmp_path: Path) -> None:
    """Outside a checkout the page offers the same five recordings, from among its own files."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    listing = subprocess.run(
        [sys.executable, "-c", LISTING], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    module, clips = json.loads(listing.stdout)
    assert tmp_path in Path(module).parents
    lines = (EXAMPLES / "manifest.jsonl").read_text().splitlines()
    names = [json.loads(line)["audio"] for line in lines]
    folder = tmp_path / "tickertape" / "server" / "page" / "static" / "examples"
    assert 5 == len(names)
    assert {name: [str(folder / name), (EXAMPLES / name).stat().st_size] for name in names} == clips


def test_the_wheel_contains_no_other_files(wheel: Path) -> None:
    """Besides Python it contains templates, the page's files, the clips and `py.typed`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith(".py")]
    page = [
        f"tickertape/server/page/static/{path.name}"
        for path in (ROOT / "src/tickertape/server/page/static").iterdir()
        if path.is_file()
    ]
    clips = [f"tickertape/server/page/static/examples/{path.name}" for path in EXAMPLES.iterdir()]
    templates = [f"tickertape/deploy/templates/{path.name}" for path in TEMPLATES.iterdir()]
    others = ["tickertape/py.typed", "tickertape/server/docs.html"]
    assert sorted([*page, *clips, *templates, *others]) == sorted(names)
