"""Chromium without a screen, and the page in it by the names of its elements."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import TIMEOUT

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "audio"
MICROPHONE = EXAMPLES / "transfer-to-savings.wav"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required", "--force-prefers-reduced-motion",
)  # fmt: skip


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

        waiting = WebDriverWait(self.driver, TIMEOUT, 0.05, ignored_exceptions=[WebDriverException])
        return waiting.until(lambda _: true())

    def upload(self, path: Path) -> None:
        """Choose a file."""
        self.at("file").send_keys(str(path))

    def choose(self, name: str, value: str) -> None:
        """Choose an option as a visitor does."""
        from selenium.webdriver.support.select import Select

        Select(self.at(name)).select_by_value(value)

    def recorded(self) -> int:
        """Seconds that the record button shows; 0 while nothing is recorded."""
        minutes, _, seconds = self.at("record").text.rpartition(" ")[2].partition(":")
        return 60 * int(minutes) + int(seconds) if seconds else 0

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
