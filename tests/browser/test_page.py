"""The page in a real browser: Chromium, headless, with a recording for a microphone."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import ScriptedEngine, blocked_from
from tests.support.chromium import EXAMPLES, Page
from tests.support.fakes import wav
from tests.support.waiting import TIMEOUT
from tickertape.engine.batching import BATCH
from tickertape.types import SAMPLE_RATE

SAVINGS = "Transfer $250 to savings."
LOST = "I lost my debit card in Chicago. The last four digits are 4421."

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # selenium's own warnings are not ours
]


def test_a_clip_is_uploaded_and_read_along(page: Page) -> None:
    """A chosen file becomes text with figures; a time plays it from there, and the word that is spoken is marked."""
    page.upload(EXAMPLES / "lost-card.flac")
    assert [LOST] == page.done()
    assert "13 words" in page.at("status").text
    assert re.fullmatch(r"\d+\.\d{2,3}", page.at("factor").text)
    page.run("document.querySelector('#tt-audio').loop = true")  # or it may end before anybody has looked
    page.all(".tt-text td button")[0].click()
    page.until(lambda: page.run("return document.querySelector('#tt-audio').currentTime") > 1)
    assert page.until(lambda: page.all(".tt-text span.tt-here"))[0].text in LOST
    page.at("play").click()
    page.run("const a = document.querySelector('#tt-audio'); a.pause(); a.currentTime = 2.4")
    page.until(lambda: page.all(".tt-text span.tt-here"))
    assert [] == page.complaints()


def test_what_is_said_into_the_microphone_is_read(page: Page, scripted: ScriptedEngine) -> None:
    """Record, speak, press again: the sound arrives, its text appears, and it can be heard again from any place."""
    scripted.loudness.clear()
    page.at("record").click()
    page.until(lambda: page.recorded() >= 3)
    page.at("record").click()
    assert page.done()[0] in [text for _, text in scripted.lines]
    assert scripted.loudness[0] > 0.005
    assert "Record" == page.at("record").text
    found = "const a = document.querySelector('#tt-audio'); return a.duration < 60 && a.currentTime < 1"
    page.until(lambda: page.run(found))  # its length, and its beginning again
    page.run("const s = document.querySelector('#tt-seek'); s.value = 1.5; s.dispatchEvent(new Event('input'))")
    assert 1.5 == pytest.approx(page.run("return document.querySelector('#tt-audio').currentTime"), abs=0.1)


def test_a_skipped_message_is_made_up_for(page: Page) -> None:
    """If the browser skips a message, the end of the transcription restores the rows, words and times included."""
    page.run("window.news = []; tickertape.addEventListener('update', ({detail}) => news.push(detail))")
    page.upload(EXAMPLES / "lost-card.flac")
    page.done()
    table = "return document.querySelector('#tt-table tbody').innerHTML"
    complete = page.run(table)
    page.run("document.querySelector('#tt-table tbody tr').remove()")
    page.run("tickertape.dispatchEvent(new CustomEvent('update', { detail: news.at(-1) }))")
    assert [LOST] == page.done()
    assert complete == page.run(table)


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
    page.run(
        """window.shown = []; const button = document.querySelector("#tt-copy");
        new MutationObserver(() => shown.push(button.textContent)).observe(button, { childList: true });"""
    )
    for _ in range(2):
        page.at("copy").click()
    assert SAVINGS == page.until(lambda: page.run("return copied"))
    page.until(lambda: page.run("return shown")[-2:] == ["Copied", "Copy text"])


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_the_code_makes_the_same_request(page: Page, scripted: ScriptedEngine, tmp_path: Path, task: str) -> None:
    """Curl and Python, run as they stand on the page, ask the engine for what the page asks, and get the same text."""
    recording = tmp_path / "the client's call; no. 2.wav"
    recording.write_bytes((EXAMPLES / "transfer-to-savings.wav").read_bytes())
    scripted.asked.clear()
    page.all(".tt-code summary")[0].click()
    page.choose("language", "de")
    page.run("document.querySelector(`input[value=${arguments[0]}]`).click()", task)
    page.upload(recording)
    said = " ".join(page.done())
    by_curl = json.loads(ran(["sh", "-c", page.at("snippet").text], tmp_path))
    page.at("tab-python").click()
    by_python = ran([sys.executable, "-c", page.at("snippet").text], tmp_path)
    assert [said, said] == [by_curl["text"].strip(), by_python.strip()]
    assert said.split() == [word["word"].strip() for word in by_curl["words"]]
    first, *others = [replace(options, deadline=None) for options in scripted.asked]
    assert [first, first] == others
    assert ("de", task, True) == (first.language, first.task, first.word_timestamps)


def ran(command: list[str], folder: Path) -> str:
    """What a command prints that ends well."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout


def test_the_code_follows_every_choice(page: Page, server: str) -> None:
    """Model, language, task and words show in the code at once; nothing that was not chosen is asked for."""
    page.all(".tt-code summary")[0].click()
    page.choose("model", "calls-en")
    assert not page.at("task").is_displayed()
    assert all(part in page.at("snippet").text for part in ("model=calls-en", "language=en", f"{server}/v1/audio/"))
    page.choose("model", "banking")
    page.at("words").click()
    assert "model=banking" in page.at("snippet").text
    assert not any(part in page.at("snippet").text for part in ("language", "granularities", "word_timestamps"))


def test_the_page_tells_which_model_answers(page: Page) -> None:
    """The model's name stands above, and changes with the choice."""
    assert "banking" == page.at("model-name").text
    page.choose("model", "calls-en")
    assert "calls-en" == page.at("model-name").text


def test_five_examples_can_be_tried(page: Page, scripted: ScriptedEngine) -> None:
    """Each of the five clips is there to be pressed, and comes back as what is said in it."""
    buttons = page.all("#tt-examples button")
    assert 5 == len(buttons)
    for button, (_, text) in zip(buttons, scripted.lines, strict=True):
        button.click()
        page.until(lambda: [text] == page.rows())  # noqa: B023 - it waits here
        assert [text] == page.done()


def test_a_file_is_dropped(page: Page) -> None:
    """Anywhere on the page: the place for it is marked, the browser does not open the file, its text appears."""
    sound = base64.b64encode((EXAMPLES / "transfer-to-savings.wav").read_bytes()).decode()
    marked = page.run(
        """const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer(); dataTransfer.items.add(new File([bytes], "savings.wav"));
        return ["dragenter", "dragover", "drop"].map((kind) => {
          const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
          return [!document.body.dispatchEvent(event), document.querySelector("#tt-drop").dataset.over];
        });""",
        sound,
    )
    assert [[True, "yes"], [True, "yes"], [True, "no"]] == marked
    assert [SAVINGS] == page.done()
    assert "savings.wav" in page.run("return document.querySelector('#tt-snippet').textContent")


def test_silence_is_told(page: Page, tmp_path: Path) -> None:
    """Where nobody speaks the page says so, shows no empty table, and offers nothing to take along."""
    silence = tmp_path / "silence.wav"
    sound = wav(2)
    silence.write_bytes(sound[:44] + bytes(len(sound) - 44))
    page.upload(silence)
    page.until(lambda: page.at("status").text == "No speech was found in this recording.")
    assert [] == page.rows()
    assert not any(page.at(name).is_displayed() for name in ("take", "table", "error", "stop"))
    assert "No speech was detected in the recording." == page.at("notices").text


def test_text_appears_while_later_windows_wait(page: Page, scripted: ScriptedEngine, tmp_path: Path) -> None:
    """Of a long recording, the first text and the figures are there while the engine has not begun with the rest."""
    recording = tmp_path / "long.wav"
    recording.write_bytes(wav(590, rate=8000))
    with blocked_from(scripted, 40 * SAMPLE_RATE):  # of the windows only two begin before
        page.upload(recording)
        page.until(page.rows)
        shown = len(page.rows())
        assert 0 < float(page.at("bar").get_attribute("aria-valuenow")) < 100
        assert re.fullmatch(r"Transcribing … \d+ %", page.at("status").text)
        assert re.fullmatch(r"\d+\.\d{2,3}", page.at("factor").text)
        assert page.at("stop").is_displayed()
        assert not page.at("take").is_displayed()
    page.until(lambda: page.at("take").is_displayed())
    assert len(page.rows()) > shown
    assert page.at("bar").get_attribute("aria-valuenow") is None
    assert 590 == pytest.approx(page.run("return Number(document.querySelector('#tt-seek').max)"), abs=1)


def test_stop_stops_the_work(page: Page, scripted: ScriptedEngine, server: str, tmp_path: Path) -> None:
    """Goal 9 in the browser: after Stop nothing more is decoded, the server is idle, and the page takes the next."""
    recording = tmp_path / "long.wav"
    recording.write_bytes(wav(590, rate=8000))
    scripted.loudness.clear()
    with blocked_from(scripted):
        page.upload(recording)
        page.until(lambda: page.at("stop").is_displayed() and page.at("length").text)
        page.at("stop").click()
        page.until(lambda: page.at("status").text == "Stopped.")
        assert not page.at("stop").is_displayed()
        page.until(lambda: in_flight(server) == 0)
    page.upload(EXAMPLES / "transfer-to-savings.wav")
    assert [SAVINGS] == page.done()
    assert len(scripted.loudness) <= BATCH + 1  # what the engine had begun, and the second recording
    assert "" == page.at("error").text
    page.at("again").click()
    assert [SAVINGS] == page.done()


def test_a_file_takes_the_place_of_what_is_being_recorded(page: Page, scripted: ScriptedEngine) -> None:
    """Who chooses a file while recording gets that file's text; what the microphone heard is sent to nobody."""
    page.upload(EXAMPLES / "transfer-to-savings.wav")
    assert [SAVINGS] == page.done()
    scripted.loudness.clear()
    page.at("record").click()
    page.until(lambda: page.recorded() >= 1)
    assert not page.at("again").is_displayed()  # there is nothing to transcribe again as yet
    page.upload(EXAMPLES / "lost-card.flac")
    assert [LOST] == page.done()
    assert "Record" == page.at("record").text
    assert 1 == len(scripted.loudness)


def in_flight(server: str) -> float:
    """Requests that the server is answering, by its own count."""
    lines = httpx.get(f"{server}/metrics", timeout=TIMEOUT).text.splitlines()
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
        "Highlight words during playback",
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


def test_colours_follow_the_system(page: Page) -> None:
    """Where the system is dark the page begins dark, and the button leads back to light."""
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        page.open()
        page.until(lambda: page.at("theme").get_attribute("aria-pressed") == "true")
        page.at("theme").click()
        assert "false" == page.at("theme").get_attribute("aria-pressed")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


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
