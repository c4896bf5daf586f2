"""The page in a real browser: Chromium, headless, with a recording for a microphone."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import Prompter
from tests.chromium import EXAMPLES, PATIENCE, Page
from tests.fakes import wav
from tickertape.local import BATCH

SAVINGS = "Transfer $250 to savings."
LOST = "I lost my debit card in Chicago. The last four digits are 4421."

pytestmark = pytest.mark.filterwarnings("default")  # selenium's own warnings are not ours


def test_a_clip_is_uploaded_and_read_along(page: Page) -> None:
    """A chosen file becomes text with figures; a time plays it from there, and the word that is spoken is marked."""
    page.upload(EXAMPLES / "lost-card.flac")
    assert [LOST] == page.done()
    assert "13 words" in page.at("status").text
    assert re.fullmatch(r"\d+\.\d{2,3}", page.at("factor").text)
    page.all(".tt-text td button")[0].click()
    page.until(lambda: page.run("return document.querySelector('#tt-audio').currentTime") > 1)
    assert page.until(lambda: page.all(".tt-text span.tt-here"))[0].text in LOST
    page.at("play").click()
    page.run("const a = document.querySelector('#tt-audio'); a.pause(); a.currentTime = 2.4")
    page.until(lambda: page.all(".tt-text span.tt-here"))
    assert [] == page.complaints()


def test_what_is_said_into_the_microphone_is_read(page: Page, prompter: Prompter) -> None:
    """Record, speak, press again: the sound arrives, its text appears, and it can be heard again from any place."""
    prompter.loudness.clear()
    page.at("record").click()
    page.until(lambda: page.at("record").text.endswith("0:02"))
    page.until(lambda: page.at("record").text.endswith("0:03"))
    page.at("record").click()
    assert page.done()[0] in [text for _, text in prompter.lines]
    assert prompter.loudness[0] > 0.005
    assert "Record" == page.at("record").text
    page.until(lambda: page.run("return document.querySelector('#tt-audio').duration") < 60)
    page.run("const s = document.querySelector('#tt-seek'); s.value = 1.5; s.dispatchEvent(new Event('input'))")
    assert 1.5 == pytest.approx(page.run("return document.querySelector('#tt-audio').currentTime"), abs=0.1)


def test_a_bad_file_gets_a_sentence(page: Page, tmp_path: Path) -> None:
    """What is not a recording is refused in words, without a trace, and the next file works."""
    bad = tmp_path / "minutes of the meeting.wav"
    bad.write_text("These are only words.\n" * 20)
    page.upload(bad)
    error = page.until(lambda: page.at("error").text)
    assert re.fullmatch(r"[A-Z].+\.", error)
    assert "Traceback" not in page.driver.page_source
    assert bad.name not in error
    assert not page.at("play").is_enabled()
    (tmp_path / "empty.wav").touch()
    page.upload(tmp_path / "empty.wav")
    page.until(lambda: page.at("error").text == "The file is empty.")
    page.upload(EXAMPLES / "transfer-to-savings.wav")
    assert [SAVINGS] == page.done()
    assert "" == page.at("error").text


def test_the_text_can_be_taken_along(page: Page) -> None:
    """The four files hold the transcript in their formats, under the recording's name; the button copies the text."""
    page.run(
        """window.taken = {}; window.copied = "";
        HTMLAnchorElement.prototype.click = function () {
          fetch(this.href).catch(() => 0); const name = this.download; const blob = blobs.get(this.href);
          blob.text().then((text) => (taken[name] = text));
        };
        window.blobs = new Map(); const make = URL.createObjectURL;
        URL.createObjectURL = (blob) => { const url = make(blob); blobs.set(url, blob); return url; };
        navigator.clipboard.writeText = async (text) => { copied = text; };"""
    )
    page.upload(EXAMPLES / "transfer-to-savings.wav")
    page.done()
    for button in page.all("[data-download]"):
        button.click()
    taken = page.until(lambda: (found := page.run("return taken")) and len(found) == 4 and found)
    name = "transfer-to-savings"
    assert f"{SAVINGS}\n" == taken[f"{name}.txt"]
    assert taken[f"{name}.srt"].startswith("1\n00:00:00,000 --> ")
    assert taken[f"{name}.vtt"].startswith("WEBVTT\n")
    assert SAVINGS == json.loads(taken[f"{name}.json"])["text"].strip()
    page.at("copy").click()
    assert SAVINGS == page.until(lambda: page.run("return copied"))


def test_the_code_makes_the_same_request(page: Page, server: str) -> None:
    """Curl and Python name this server, the file, and what was chosen; they follow every change."""
    page.all(".tt-code summary")[0].click()
    select(page, "model", "calls-en")
    assert "model=calls-en" in page.at("snippet").text
    assert not page.at("task").is_displayed()
    select(page, "model", "banking")
    select(page, "language", "de")
    page.at("tab-python").click()
    code = page.at("snippet").text
    compile(code, "snippet", "exec")
    for part in (f'base_url="{server}/v1"', 'model="banking"', 'language="de"', "recording.wav"):
        assert part in code
    page.run("document.querySelector('input[value=translate]').click()")
    assert "translations.create" in page.at("snippet").text


def select(page: Page, name: str, value: str) -> None:
    """Choose an option as a visitor does."""
    from selenium.webdriver.support.select import Select

    Select(page.at(name)).select_by_value(value)


def test_text_appears_while_later_windows_wait(page: Page, prompter: Prompter, tmp_path: Path) -> None:
    """Of a long recording, the bar and the first text move before the end."""
    recording = tmp_path / "long.wav"
    recording.write_bytes(wav(590, rate=8000))
    prompter.gate = threading.Event()
    page.upload(recording)
    try:
        page.until(lambda: page.at("stop").is_displayed() and page.at("length").text)
        assert [] == page.rows()
    finally:
        prompter.gate.set()
        prompter.gate = None
    page.until(lambda: len(page.rows()) > 1)
    page.until(lambda: page.at("take").is_displayed())
    assert 590 == pytest.approx(page.run("return Number(document.querySelector('#tt-seek').max)"), abs=1)


def test_stop_stops_the_work(page: Page, prompter: Prompter, server: str, tmp_path: Path) -> None:
    """Goal 9 in the browser: after Stop nothing more is decoded, the server is idle, and the page takes the next."""
    recording = tmp_path / "long.wav"
    recording.write_bytes(wav(590, rate=8000))
    prompter.loudness.clear()
    prompter.gate = threading.Event()
    page.upload(recording)
    try:
        page.until(lambda: page.at("stop").is_displayed() and page.at("length").text)
        page.at("stop").click()
        page.until(lambda: page.at("status").text == "Stopped.")
        assert not page.at("stop").is_displayed()
        page.until(lambda: in_flight(server) == 0)
    finally:
        prompter.gate.set()
        prompter.gate = None
    page.upload(EXAMPLES / "transfer-to-savings.wav")
    assert [SAVINGS] == page.done()
    assert len(prompter.loudness) <= BATCH + 1  # what the engine had begun, and the second recording
    assert "" == page.at("error").text
    page.at("again").click()
    assert [SAVINGS] == page.done()


def in_flight(server: str) -> float:
    """Requests that the server is answering, by its own count."""
    lines = httpx.get(f"{server}/metrics", timeout=PATIENCE).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("tickertape_requests_in_flight "))


def test_a_telephone_shows_everything(page: Page) -> None:
    """At 390 pixels nothing is cut off, targets are large enough for a thumb, and the text comes into view."""
    page.resize(390, 844, phone=True)
    page.all("#tt-examples button")[0].click()
    assert [SAVINGS] == page.done()
    page.until(lambda: page.run("return document.querySelector('#tt-table').getBoundingClientRect().bottom") < 844)
    assert 390 == page.run("return document.documentElement.scrollWidth")
    small = page.run(
        """return [...document.querySelectorAll('.tt button, .tt select, .tt-choose')]
        .filter((e) => e.checkVisibility()).map((e) => [e.id || e.textContent, e.getBoundingClientRect()])
        .filter(([, box]) => box.height < 28 || box.width < 28 || box.right > 390.5).map(([name]) => name)"""
    )
    assert [] == small


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    """Tab walks through the controls in the order of the page, each with a name and a visible focus."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.run("document.body.tabIndex = -1; document.body.focus()")
    seen: list[str] = []
    for _ in range(20):
        ActionChains(page.driver, duration=0).send_keys(Keys.TAB).perform()
        active: Any = page.driver.switch_to.active_element
        if seen and active.tag_name == "body":
            break  # once around
        name = active.accessible_name
        assert name, active.get_attribute("outerHTML")
        shown = page.run(
            """const e = document.activeElement; const near = [e, e.closest('.tt-choose, .tt-task label, .tt-wave')];
            return near.some((one) => one && getComputedStyle(one).outlineStyle !== 'none')"""
        )
        assert shown, name
        seen.append(name)
    order = [
        "API reference",
        "Record",
        "Spoken language",
        "Transcribe",
        "Follow along word by word",
        "Transfer to savings",
    ]
    places = [next(n for n, name in enumerate(seen) if wanted in name) for wanted in order]
    assert sorted(places) == places


def test_dark_is_as_legible_as_light(page: Page) -> None:
    """In both colours, text and controls keep a contrast of at least 4.5 to 1 with what lies behind them."""
    page.upload(EXAMPLES / "lost-card.flac")
    page.done()
    ratios = {"light": page.run(CONTRAST)}
    page.at("theme").click()
    ratios["dark"] = page.run(CONTRAST)
    page.run("document.querySelector('#tt-audio').currentTime = 2.4")
    page.until(lambda: page.all(".tt-text span.tt-here"))
    low = {f"{theme}: {name}": ratio for theme, found in ratios.items() for name, ratio in found.items() if ratio < 4.5}
    assert {} == low


CONTRAST = """
const luminance = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
};
const found = {};
for (const e of document.querySelectorAll(".tt *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility({ opacityProperty: true }) || e.closest(".tt-hidden, .tt-skip, option")) continue;
  const [one, two] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => b - a);
  found[`${e.tagName} ${e.id || e.textContent.slice(0, 20)}`] = Math.round(100 * (one + 0.05) / (two + 0.05)) / 100;
}
return found;
"""
