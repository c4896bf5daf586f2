"""OpenAI's own client, sync and async, against a real server: what it sends is taken, what it gets it understands.

The expectations that vLLM and speaches publish for the same contract are here in our own words: a whole text in the
last event, numbers that are numbers, granularities that are honoured, translations in every format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest

from tests.support.fakes import TEXT, FakeEngine, Serving, model, wav
from tests.support.service import wave_file
from tickertape.audio.vad import SpeechDetector
from tickertape.errors import DecodeError
from tickertape.server.app import create_app
from tickertape.server.auth import add_key
from tickertape.server.settings import Settings
from tickertape.types import SAMPLE_RATE, Decoded, Options, Segment, Window

SOUND = ("speech.wav", wav(1.0))
SILENCE = ("silence.wav", wave_file(bytes(2 * 45 * SAMPLE_RATE)))  # 45 s, as vLLM asks for
LONG = ("long.wav", wav(100.0))  # four windows
COUNTED = " ".join(str(second) for second in range(100))


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


class CountingEngine(FakeEngine):
    """Hears the number of every second of a recording, in whichever windows hold it."""

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        return [_counted(window) for window in windows]


def _counted(window: Window) -> Decoded:
    seconds = range(window.length // SAMPLE_RATE)
    first = window.start // SAMPLE_RATE
    return Decoded(tuple(Segment(n * SAMPLE_RATE, (n + 1) * SAMPLE_RATE, f" {first + n}") for n in seconds))


@pytest.fixture(scope="module")
def base_url(engine: FakeEngine) -> Iterator[str]:
    models = {
        "demo": model("demo", engine),
        "counting": model("counting", CountingEngine()),
        "detecting": model("detecting", engine, detect=SpeechDetector().detect),
    }
    app = create_app(models, Settings())
    with Serving(app) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as made:
        yield made


def test_json(client: openai.OpenAI) -> None:
    """The default call returns a transcription with its usage in seconds."""
    answer = client.audio.transcriptions.create(model="whisper-1", file=SOUND)
    assert (TEXT, "duration", 1.0) == (answer.text, answer.usage.type, answer.usage.seconds)


def test_verbose_json(client: openai.OpenAI) -> None:
    """Segments and words parse; durations and probabilities are numbers."""
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=SOUND, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (TEXT, "english", 1.0) == (answer.text, answer.language, answer.duration)
    assert [(0.0, 0.5), (0.5, 1.0)] == [(segment.start, segment.end) for segment in answer.segments]
    assert {-0.25} == {segment.avg_logprob for segment in answer.segments}
    assert TEXT.split() == [word.word for word in answer.words]


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_plain_formats(client: openai.OpenAI, form: Any) -> None:
    """Plain formats arrive as a string."""
    answer: Any = client.audio.transcriptions.create(model="whisper-1", file=SOUND, response_format=form)
    assert isinstance(answer, str)
    assert "this is a test." in answer
    assert (form == "vtt") == answer.startswith("WEBVTT")


def test_logprobs(client: openai.OpenAI) -> None:
    """include=["logprobs"] gives one entry per token."""
    answer = client.audio.transcriptions.create(model="whisper-1", file=SOUND, include=["logprobs"])
    assert [-0.125] * 6 == [entry.logprob for entry in answer.logprobs]
    assert TEXT == "".join(entry.token for entry in answer.logprobs).strip()


def test_every_field(client: openai.OpenAI, engine: FakeEngine) -> None:
    """All that the client can send, other than speakers, is understood; extensions travel in extra_body."""
    answer = client.audio.transcriptions.create(
        model="demo",
        file=SOUND,
        language="de",
        prompt="Prompt.",
        temperature=0.25,
        keywords=["Alpha", "Beta"],
        languages=["de"],
        chunking_strategy="auto",
        extra_body={"vad": True, "beam_size": 2, "priority": "batch"},
    )
    assert TEXT == answer.text
    options = engine.asked[-1]
    assert ("de", "Prompt.", "Alpha, Beta") == (options.language, options.prompt, options.hotwords)
    assert ((0.25,), 2, "batch") == (options.temperatures, options.beam_size, options.priority)


def test_chunking_object(client: openai.OpenAI) -> None:
    """The client sends a chunking object in its own way; it is taken, with a warning that our thresholds hold."""
    strategy: Any = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 200}
    answer = client.audio.transcriptions.create(model="demo", file=SOUND, chunking_strategy=strategy)
    assert ["chunking_defaults"] == [warning["code"] for warning in answer.warnings]  # type: ignore[attr-defined]


def test_stream(client: openai.OpenAI) -> None:
    """Deltas add up to the text of the done event, which is whole."""
    stream = client.audio.transcriptions.create(model="whisper-1", file=SOUND, stream=True)
    *deltas, done = list(stream)
    assert ["transcript.text.delta"] * 2 == [event.type for event in deltas]
    assert (TEXT, TEXT) == (done.text, "".join(event.delta for event in deltas))


async def test_async_client(base_url: str) -> None:
    """The asynchronous client gets the same, whole and streamed."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        answer = await client.audio.transcriptions.create(model="whisper-1", file=SOUND)
        stream = await client.audio.transcriptions.create(model="whisper-1", file=SOUND, stream=True)
        events = [event async for event in stream]
    assert (TEXT, TEXT) == (answer.text, events[-1].text)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # OpenAI wants to drop the endpoint; we do not
@pytest.mark.parametrize("form", ["json", "verbose_json", "text", "srt", "vtt"])
def test_translations(client: openai.OpenAI, form: Any) -> None:
    """Translations come in every format."""
    answer: Any = client.audio.translations.create(model="whisper-1", file=SOUND, response_format=form)
    assert "this is a test." in (answer if isinstance(answer, str) else answer.text)


def test_silence_is_empty(client: openai.OpenAI) -> None:
    """Forty-five seconds of silence are no text, no segments and no words, with the seconds counted."""
    answer = client.audio.transcriptions.create(model="detecting", file=SILENCE)
    assert ("", 45.0) == (answer.text, answer.usage.seconds)
    verbose = client.audio.transcriptions.create(
        model="detecting", file=SILENCE, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert ("", [], [], 45.0) == (verbose.text, verbose.segments, verbose.words or [], verbose.duration)


def test_a_stream_of_silence_is_one_event(client: openai.OpenAI) -> None:
    """Nothing is said but that it is done."""
    (done,) = client.audio.transcriptions.create(model="detecting", file=SILENCE, stream=True)
    assert ("transcript.text.done", "") == (done.type, done.text)


@pytest.mark.parametrize("granularities", [[], ["segment"], ["word"], ["word", "segment"]])
def test_granularities(client: openai.OpenAI, granularities: Any) -> None:
    """verbose_json has the lists that were asked for, segments unless told; json takes no words."""
    wanted: dict[str, Any] = {"model": "demo", "file": SOUND, "timestamp_granularities": granularities}
    verbose = client.audio.transcriptions.create(response_format="verbose_json", **wanted)
    assert (granularities != ["word"], "word" in granularities) == (bool(verbose.segments), bool(verbose.words))
    if "word" in granularities:
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(response_format="json", **wanted)
    else:
        assert TEXT == client.audio.transcriptions.create(response_format="json", **wanted).text


def test_a_long_recording_is_whole(client: openai.OpenAI) -> None:
    """Nothing is repeated or lost where windows meet, whole or streamed, and the usage counts every second."""
    wanted: dict[str, Any] = {"model": "counting", "file": LONG, "extra_body": {"vad": False}}
    answer = client.audio.transcriptions.create(**wanted)
    assert (COUNTED, 100.0) == (answer.text, answer.usage.seconds)
    *deltas, done = client.audio.transcriptions.create(stream=True, **wanted)
    assert len(deltas) > 4
    assert (COUNTED, COUNTED) == (done.text, "".join(event.delta for event in deltas))
    assert 100.0 == done.usage.seconds


def test_a_prompt_is_not_repeated(client: openai.OpenAI, engine: FakeEngine) -> None:
    """The prompt reaches the engine and no answer, whatever its format."""
    for form in ("json", "text", "srt", "verbose_json", "vtt"):
        raw = client.audio.transcriptions.with_raw_response.create(
            model="demo", file=SOUND, prompt="Zanzibar", response_format=form
        )
        assert ("Zanzibar", False) == (engine.asked[-1].prompt, "zanzibar" in raw.text.lower())


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_translations_can_be_streamed(client: openai.OpenAI) -> None:
    """`stream` is no field of the client's translations, but of ours."""
    raw = client.audio.translations.with_raw_response.create(model="demo", file=SOUND, extra_body={"stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in raw.text.splitlines() if line.startswith("data: ")]
    assert (TEXT, TEXT) == (events[-1]["text"], "".join(event["delta"] for event in events[:-1]))


def test_other_endpoints_are_not_there(client: openai.OpenAI) -> None:
    """What is asked of a server for text alone is the client's NotFoundError, in our shape."""
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hello?"}])
    assert "not_found" == raised.value.code


def test_models(client: openai.OpenAI) -> None:
    """Models can be listed and retrieved; an unknown one is the client's NotFoundError."""
    assert ["demo", "counting", "detecting"] == [entry.id for entry in client.models.list()]
    assert "demo" == client.models.retrieve("demo").id
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-4")
    assert "model_not_found" == raised.value.code


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"file": ("a.wav", b"no sound")}, openai.BadRequestError, "invalid_audio"),
        ({"model": "gpt-4o-transcribe"}, openai.NotFoundError, "model_not_found"),
        ({"language": "xx"}, openai.BadRequestError, "invalid_language"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "unsupported_response_format"),
        ({"known_speaker_names": ["A"]}, openai.BadRequestError, "unsupported_field"),
        ({"temperature": 3.0}, openai.BadRequestError, "invalid_temperature"),
        ({"timestamp_granularities": ["word"]}, openai.BadRequestError, "invalid_timestamp_granularities"),
        ({"stream": True, "file": ("a.wav", b"")}, openai.BadRequestError, "empty_file"),
    ],
)
def test_errors_are_the_clients_own(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    """A refusal becomes the client's exception, with our code and the request id."""
    with pytest.raises(error) as raised:
        client.audio.transcriptions.create(**{"model": "whisper-1", "file": SOUND, **fields})
    assert code == raised.value.code
    assert raised.value.request_id is not None


def test_keys(tmp_path: Any) -> None:
    """A wrong key is the client's AuthenticationError, the right one works, the limit is its RateLimitError."""
    path = tmp_path / "keys.json"
    secret = add_key(path, "team", requests_per_minute=1)
    app = create_app({"demo": model()}, Settings(keys_file=path))
    with Serving(app) as url:
        wrong = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        right = openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
        with wrong, right:
            with pytest.raises(openai.AuthenticationError):
                wrong.audio.transcriptions.create(model="whisper-1", file=SOUND)
            assert TEXT == right.audio.transcriptions.create(model="whisper-1", file=SOUND).text
            with pytest.raises(openai.RateLimitError):
                right.audio.transcriptions.create(model="whisper-1", file=SOUND)
