"""A real browser, the real page, and an engine that knows the example clips by their length."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import Serving
from tickertape import ui
from tickertape.api import create_app
from tickertape.audio import decode
from tickertape.errors import DecodeError
from tickertape.local import LocalBackend
from tickertape.pipeline import Model
from tickertape.settings import Settings
from tickertape.types import Decoded, Options, Segment, Window, Word

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "audio"
MICROPHONE = EXAMPLES / "transfer-to-savings.wav"
PATIENCE = 30.0  # seconds for whatever a test waits for, on a busy machine
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required", "--force-prefers-reduced-motion",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/browser --screenshots docs/images` renews the pictures of the documentation."""
    parser.addoption("--screenshots", default=None, help="folder to write the pictures of the page to")


@dataclass
class Prompter:
    """An engine that says what is said in the clip whose length is nearest, and that hears how loud it was."""

    lines: list[tuple[int, str]]  # length in samples, text
    loudness: list[float] = field(default_factory=list)
    gate: threading.Event | None = None

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """One segment a window, its words spread evenly."""
        if self.gate is not None:
            self.gate.wait(PATIENCE)
        return [self._say(window, wish) for window, wish in zip(windows, options, strict=True)]

    def _say(self, window: Window, wish: Options) -> Decoded:
        self.loudness.append(float(np.sqrt(np.mean(window.samples**2))))
        text = min(self.lines, key=lambda line: abs(line[0] - window.length))[1]
        parts = text.split()
        step = window.length // len(parts)
        words = tuple(Word(f" {part}", n * step, (n + 1) * step, 0.9) for n, part in enumerate(parts))
        segment = Segment(0, window.length, f" {text}", words=words if wish.word_timestamps else ())
        return Decoded((segment,), wish.language or "en")


@pytest.fixture(scope="session")
def prompter() -> Prompter:
    """The engine behind the page."""
    clips = [json.loads(line) for line in (EXAMPLES / "manifest.jsonl").read_text().splitlines()]
    return Prompter([(decode(EXAMPLES / clip["audio"]).length, clip["text"]) for clip in clips])


@pytest.fixture(scope="session")
def server(prompter: Prompter) -> Iterator[str]:
    """The address of the page."""
    models = {
        "banking": Model("banking", LocalBackend(prompter), languages=("en", "de", "fr", "es")),
        "calls-en": Model("calls-en", LocalBackend(prompter), translates=False),
    }
    settings = Settings(body_limit=25 * 2**20, max_audio_seconds=600)

    async def build() -> Any:
        return ui.mount(create_app(models, settings, emit=lambda _: None), models, settings)

    with Serving(asyncio.run(build())) as url:
        yield url


class Page:
    """The page in a browser, by the names of its elements."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self) -> None:
        """Visit the page anew; the log of the browser's requests begins here."""
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(f"{self.url}/")
        self.until(lambda: self.at("record").is_displayed())

    def at(self, name: str) -> Any:
        """The element `#tt-name`."""
        return self.driver.find_element("id", f"tt-{name}")

    def all(self, selector: str) -> list[Any]:
        """Every element of a CSS selector."""
        return list(self.driver.find_elements("css selector", selector))

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, true: Callable[[], Any]) -> Any:
        """Wait until it is so."""
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.wait import WebDriverWait

        waiting = WebDriverWait(self.driver, PATIENCE, 0.05, ignored_exceptions=[WebDriverException])
        return waiting.until(lambda _: true())

    def upload(self, path: Path) -> None:
        """Choose a file."""
        self.at("file").send_keys(str(path))

    def rows(self) -> list[str]:
        """The text of each row."""
        return [
            str(text)
            for text in self.run(
                "return [...document.querySelectorAll('.tt-text td:last-child')].map(e => e.textContent)"
            )
        ]

    def done(self) -> list[str]:
        """Wait for the end; the text of each row."""
        self.until(lambda: self.at("take").is_displayed())
        return self.rows()

    def requests(self) -> list[str]:
        """The addresses that the browser has asked since the visit began."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [str(entry["request"]["url"]) for entry in sent]

    def complaints(self) -> list[str]:
        """Errors in the browser's console."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """Set the size of the window's inside."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone},
        )


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, hearing a recording through its microphone."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    microphone = f"--use-file-for-fake-audio-capture={MICROPHONE}%noloop"
    profile = f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"
    for flag in (*FLAGS, microphone, profile, "--window-size=1280,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture
def page(driver: Any, server: str) -> Iterator[Page]:
    """The page, freshly visited, on a desk's screen in light colours. It must not have asked anybody else."""
    visited = Page(driver, server)
    visited.resize(1280, 960)
    visited.open()
    yield visited
    elsewhere = [
        url for url in visited.requests() if not url.startswith((f"{server}/", "data:", f"blob:{server}/", "about:"))
    ]
    assert elsewhere == []
