"""Bad recordings over HTTP, row by row: status, code and warnings of the whole table of bad content.

`tests/audio/test_decode.py` holds the rows and shows what the decoder makes of each; here each goes through the API.
What a model makes of sound without words is shown with the synthetic-voice model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import audio_factory as make
from tests.support.bad_recordings import REFUSED, USED
from tests.support.fakes import TEXT, decoders, model
from tests.support.sounds import NOISES
from tickertape import errors
from tickertape.audio.decode import decode
from tickertape.server.app import create_app
from tickertape.server.settings import Settings
from tickertape.types import SAMPLE_RATE, Samples

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests" / "checkpoint"
URL = "/v1/audio/transcriptions"
FOUR_HOURS = 4 * 3600.0
KINDS = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AudioError)}


def client_of(models: Any, **knobs: Any) -> httpx.AsyncClient:
    """A client of an application around the models."""
    settings = Settings(**{"max_audio_seconds": FOUR_HOURS, **knobs})
    app = create_app(models, settings, decoders=decoders())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=300)


async def sent(client: httpx.AsyncClient, recording: bytes, name: str = "a.wav", **fields: str) -> httpx.Response:
    """The answer to a recording under a name."""
    return await client.post(URL, data={"model": "demo", **fields}, files={"file": (name, recording)})


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of({"demo": model()}) as made:
        yield made


def warnings(body: Any) -> set[str]:
    """The codes of an answer's warnings."""
    return {warning["code"] for warning in body.get("warnings", [])}


@pytest.mark.parametrize(("data", "error"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_refused_row_is_a_400_of_its_code(
    client: httpx.AsyncClient, data: Callable[[], bytes], error: type[errors.AudioError]
) -> None:
    """Whatever the file is called, the answer is a 400 in the envelope, with the code of the situation."""
    recording = data()
    codes = KINDS if error is errors.AudioError else {error.code}
    for name in ("a.wav", "a.mp3"):
        answer = await sent(client, recording, name)
        refused = answer.json()["error"]
        assert (400, "file", "invalid_request_error") == (answer.status_code, refused["param"], refused["type"])
        assert refused["code"] in codes


@pytest.mark.parametrize(("data", "least", "expected"), [row[1:] for row in USED], ids=[row[0] for row in USED])
async def test_a_used_row_is_a_200_with_its_warnings(
    client: httpx.AsyncClient, data: Callable[[], bytes], least: float, expected: set[str]
) -> None:
    """What can be used gets its text, the duration that was heard, and a warning for each thing that is odd."""
    answer = await sent(client, data(), response_format="verbose_json")
    body = answer.json()
    assert (200, TEXT, expected) == (answer.status_code, body["text"], warnings(body))
    assert least - 0.001 <= body["duration"] <= least + 0.7


@pytest.mark.parametrize("name", ["mp3", "m4a", "adts", "amr", "opus", "vorbis", "webm", "flac"])
@pytest.mark.slow
async def test_rows_14_15_a_hole_is_warned_of(client: httpx.AsyncClient, name: str) -> None:
    """400 bytes overwritten in a minute: a 200, the whole minute, and a warning."""
    answer = await sent(client, make.with_hole(make.recording(name, 60.0), 0.437), response_format="verbose_json")
    assert 200 == answer.status_code
    assert "corrupt_frames" in warnings(answer.json())
    assert answer.json()["duration"] >= 0.98 * 60


@pytest.mark.parametrize("name", ["mp3", "m4a", "opus", "webm", "flac"])
async def test_row_16_flipped_bytes_are_told(client: httpx.AsyncClient, name: str) -> None:
    """One byte in 200 changed: a 400, or a 200 with a warning; never a 200 that says nothing."""
    answer = await sent(client, make.flipped(make.recording(name)))
    assert answer.status_code == 400 or (answer.status_code == 200 and warnings(answer.json()))


@pytest.mark.parametrize(
    ("data", "text"),
    [(make.gsm, "gsm"), (lambda: make.mulaw(make.speech(5.0)), "mulaw;rate=8000")],
    ids=["28-gsm", "29-mulaw"],
)
async def test_rows_28_29_headerless_audio_is_taken_when_described(
    client: httpx.AsyncClient, data: Callable[[], bytes], text: str
) -> None:
    """What is a 400 by itself, its message naming the field that helps, is a 200 once the field is there."""
    refused = await sent(client, data(), "call.ulaw")
    assert (400, "invalid_audio") == (refused.status_code, refused.json()["error"]["code"])
    assert "audio_format=mulaw;rate=8000" in refused.json()["error"]["message"]
    answer = await sent(client, data(), audio_format=text, response_format="verbose_json")
    assert (200, 5.0) == (answer.status_code, answer.json()["duration"])


async def test_row_35_each_side_of_a_call_can_be_heard_alone(client: httpx.AsyncClient) -> None:
    """A call with a side on each channel: mixed it is one text, split a text of each side."""
    sides = np.stack([make.speech(1.0), 0 * make.speech(1.0)], axis=1)
    call = make.wav(make.pcm16(sides))
    assert TEXT == (await sent(client, call)).json()["text"]
    split = (await sent(client, call, channels="split", response_format="verbose_json")).json()
    assert {0, 1} == {segment["channel"] for segment in split["segments"]}


async def test_row_36_opposite_channels_can_be_heard_alone(client: httpx.AsyncClient) -> None:
    """Channels in anti-phase need no warning where each is heard by itself."""
    call = make.wav(make.pcm16(np.stack([make.speech(1.0), -make.speech(1.0)], axis=1)))
    answer = await sent(client, call, channels="split")
    assert (200, set()) == (answer.status_code, warnings(answer.json()))


async def test_row_38_the_track_can_be_chosen(client: httpx.AsyncClient) -> None:
    """`audio_track` takes a track of a film without a warning; one that is not there is a 400."""
    film = make.encode(make.speech(1.0), "mp4", "aac", tracks=3, video=True)
    chosen = await sent(client, film, audio_track="2")
    assert (200, set()) == (chosen.status_code, warnings(chosen.json()))
    missing = await sent(client, film, audio_track="3")
    assert (400, "invalid_audio_track") == (missing.status_code, missing.json()["error"]["code"])


@pytest.mark.parametrize("name", ["flac", "m4a", "opus", "mp3"])
@pytest.mark.slow
async def test_row_44_hours_of_silence_are_a_413(client: httpx.AsyncClient, name: str) -> None:
    """More than the limit of four hours in a small file is `audio_too_long`."""
    answer = await sent(client, make.BOMBS[name]())
    assert (413, "audio_too_long") == (answer.status_code, answer.json()["error"]["code"])


async def test_row_46_a_long_call_learns_the_cap_and_the_way_out() -> None:
    """An honest recording over the cap: the message says how long one may be, and what to do instead."""
    call = make.wav(np.full(3601 * 4000, 128, "u1"), 4000)
    async with client_of({"demo": model()}, max_audio_seconds=3600) as client:
        answer = await sent(client, call)
    message = answer.json()["error"]["message"]
    assert (413, "audio_too_long") == (answer.status_code, answer.json()["error"]["code"])
    assert "3600 seconds" in message
    assert "Split it" in message
    assert "batch" in message


def test_every_audio_error_has_its_status() -> None:
    """Too long and too large are 413, everything else that is wrong with a recording is 400."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AudioError)]
    large = {errors.AudioTooLongError, errors.FileTooLargeError}
    assert {kind: 413 if kind in large else 400 for kind in kinds} == {kind: kind.status for kind in kinds}


# -- row 47: sound without words, and words badly recorded, with the synthetic-voice model ----------------------

WORDLESS: dict[str, Callable[[], Any]] = {
    "silence": lambda: np.zeros(5 * SAMPLE_RATE),
    "white noise": lambda: NOISES["white noise"]()[: 5 * SAMPLE_RATE],
    "pink noise": lambda: NOISES["pink noise"]()[: 5 * SAMPLE_RATE],
    "quiet noise": lambda: 0.01 * NOISES["white noise"]()[: 5 * SAMPLE_RATE],
    "music": lambda: make.music(10.0),
    "constant offset": lambda: np.full(5 * SAMPLE_RATE, 0.5),
    "clipped noise": lambda: np.sign(NOISES["brown noise"]()[: 5 * SAMPLE_RATE]),
}


def clip() -> Samples:
    """A sentence of the examples."""
    row: Samples = decode(ROOT / "examples" / "audio" / "lost-card.flac").samples[0]
    return row


SPOKEN: dict[str, Callable[[], Any]] = {
    "clipped": lambda: np.clip(4 * clip(), -1, 1),
    "DC offset": lambda: 0.5 * clip() + 0.4,
    "very quiet": lambda: 0.02 * clip(),
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    """The synthetic-voice model, with its speech detector."""
    if not (CHECKPOINT / "model.safetensors").exists():
        pytest.skip("the synthetic-voice model is not in this checkout")
    from tickertape.server.run import open_models

    models = open_models(Settings(models=(f"demo={CHECKPOINT}",)).resolve())
    yield models
    for opened in models.values():
        asyncio.run(opened.backend.close())  # type: ignore[attr-defined]


def pcm(samples: Any) -> bytes:
    return make.wav(make.pcm16(np.asarray(samples, np.float32)))


@pytest.mark.parametrize("vad", ["true", "false"])
@pytest.mark.parametrize("name", WORDLESS)
async def test_row_47_sound_without_words_has_no_text(demo: Any, name: str, vad: str) -> None:
    """Silence, noise and music give an empty text and the warning `no_speech`, speech detection or not."""
    async with client_of(demo) as client:
        answer = await sent(client, pcm(WORDLESS[name]()), vad=vad, response_format="verbose_json")
    body = answer.json()
    assert (200, "", [], {"no_speech"}) == (answer.status_code, body["text"], body["segments"], warnings(body))


@pytest.mark.parametrize("name", SPOKEN)
async def test_row_47_badly_recorded_speech_is_still_heard(demo: Any, name: str) -> None:
    """Speech that is clipped, beside the middle line or faint gives its words, and hardly any others."""
    async with client_of(demo) as client:
        expected = (await sent(client, pcm(clip()))).json()["text"].split()
        answer = await sent(client, pcm(SPOKEN[name]()))
    words = answer.json()["text"].split()
    assert (200, set()) == (answer.status_code, warnings(answer.json()))
    assert len(set(words) & set(expected)) >= 0.6 * len(set(expected))
    assert len(words) <= 1.4 * len(expected)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("🎙️" * 10, set()),
        ("a\u202eb", set()),
        ("a\0b", set()),
        ("<|startoftranscript|><|en|><|transcribe|>", set()),
        ("\n" * 10_000, {"prompt_truncated"}),
        ("word " * 300, {"prompt_truncated"}),
    ],
    ids=["emoji", "bidi", "NUL", "special tokens", "10 000 newlines", "300 words"],
)
@pytest.mark.slow
async def test_row_72_a_real_model_takes_any_prompt(demo: Any, prompt: str, expected: set[str]) -> None:
    """Odd prompts are read as text by a real tokeniser; long ones are cut, with a warning."""
    async with client_of(demo) as client:
        answer = await sent(client, pcm(clip()), prompt=prompt)
    assert (200, expected) == (answer.status_code, warnings(answer.json()))
