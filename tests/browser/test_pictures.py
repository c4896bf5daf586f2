"""The pictures of the documentation, taken of the real thing: `pytest tests/browser --screenshots docs/images`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import EXAMPLES, Page
from tests.support.fakes import Serving
from tickertape.server.app import create_app
from tickertape.server.page import app
from tickertape.server.run import open_models
from tickertape.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # selenium's own warnings are not ours
]


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """The address of the page over the synthetic-voice model."""
    settings = Settings(models=(str(ROOT / "tests" / "checkpoint"),), threads=1).resolve()

    async def build() -> Any:
        models = await asyncio.to_thread(open_models, settings)
        return app.mount(create_app(models, settings))

    with Serving(asyncio.run(build())) as url:
        yield url


def test_the_demo_model_hears_the_microphone(driver: Any, real: str, request: pytest.FixtureRequest) -> None:
    """The model turns what the microphone hears into text; pictures are taken on the way if asked for."""
    wanted = request.config.getoption("--screenshots", default=None)
    page = Page(driver, real)
    page.resize(1280, 900)
    page.open()
    page.at("record").click()
    page.until(lambda: page.recorded() >= 2)
    _take(page, wanted, "recording")
    page.until(lambda: page.recorded() >= 5)
    page.at("record").click()
    assert " ".join(page.done()).strip()  # what words they are is the model's affair: see its card
    page.upload(EXAMPLES / "lost-card.flac")
    page.until(lambda: "0:05" in page.at("status").text and page.at("take").is_displayed())
    page.until(lambda: "lost" in page.at("output").text)
    page.run("document.querySelector('#tt-audio').currentTime = 2.2")
    page.until(lambda: page.all(".tt-text tr.tt-here"))
    _take(page, wanted, "page")
    page.at("theme").click()
    _take(page, wanted, "page-dark")
    page.at("theme").click()
    page.resize(390, 844, phone=True)
    page.run("document.querySelector('#tt-output').scrollIntoView()")
    _take(page, wanted, "telephone")


def test_a_bad_file_is_pictured(driver: Any, real: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What a visitor sees who drops something that is no recording."""
    page = Page(driver, real)
    page.resize(1280, 900)
    page.open()
    bad = tmp_path / "minutes.txt"
    bad.write_text("These are only words.\n" * 20)
    page.upload(bad)
    assert page.until(lambda: page.at("error").text)
    _take(page, request.config.getoption("--screenshots", default=None), "bad-file")


def _take(page: Page, folder: str | None, name: str) -> None:
    if folder is None:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    page.run("document.activeElement?.blur(); return document.fonts.ready.then(() => 0)")
    assert page.driver.save_screenshot(str(Path(folder) / f"{name}.png"))
