"""The API through ASGI: what good requests get, and the matrix of bad ones.

Numbers in the parameters' names are rows of the project's table of bad inputs (50 to 77: requests).
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from tests.support.asgi import END, MODEL, SOUND, URL, ApiClient, api_client, part, refusal, small
from tests.support.fakes import TEXT, FakeEngine, Serving, decoders, model, wav
from tests.support.logs import LOG
from tests.support.waiting import wait_until, wait_until_async
from tickertape.audio.limits import Limits
from tickertape.errors import DecodeError, EngineError
from tickertape.server import health, sse, transcription
from tickertape.server.app import create_app
from tickertape.server.auth import CONCURRENT, PER_MINUTE, add_key, remove_key
from tickertape.server.multipart import IGNORED_FIELDS
from tickertape.server.params import CODES, form_schema
from tickertape.types import FALLBACK_TEMPERATURES, Detect, Samples, Span

# -- what a good request gets --------------------------------------------------------------------------------------


async def test_json_is_the_default_format(api: ApiClient) -> None:
    """Without a format the answer is the text and the usage."""
    response = await api.ask()
    assert (200, "application/json") == (response.status_code, response.headers["content-type"])
    assert {"text": TEXT, "usage": {"type": "duration", "seconds": 1}} == response.json()


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
async def test_plain_formats_are_plain_text(api: ApiClient, form: str) -> None:
    """text, srt and vtt come as plain text that holds the sentence."""
    response = await api.ask({"response_format": form})
    assert "text/plain; charset=utf-8" == response.headers["content-type"]
    assert "this is a test." in response.text


@pytest.mark.parametrize(
    ("granularities", "expected"),
    [
        ([], {"segments"}),
        (["segment"], {"segments"}),
        (["word"], {"words"}),
        (["word", "segment"], {"segments", "words"}),
    ],
)
async def test_granularities_choose_the_lists_of_verbose_json(
    api: ApiClient, granularities: list[str], expected: set[str]
) -> None:
    """verbose_json holds segments unless words alone are asked for, and a duration that is a number."""
    response = await api.ask({"response_format": "verbose_json", "timestamp_granularities[]": granularities})
    body = response.json()
    assert expected == {"segments", "words"} & set(body)
    assert (1.0, "english", "transcribe") == (body["duration"], body["language"], body["task"])


async def test_brackets_may_be_absent(api: ApiClient) -> None:
    """A list is accepted under its name without brackets as well, repeated or mixed with the one with brackets."""
    fields: dict[str, Any] = {"timestamp_granularities": ["segment", "word"], "response_format": "verbose_json"}
    body = (await api.ask(fields)).json()
    assert {"segments", "words"} == {"segments", "words"} & set(body)
    fields["timestamp_granularities"], fields["timestamp_granularities[]"] = "segment", "word"
    assert {"segments", "words"} == {"segments", "words"} & set((await api.ask(fields)).json())
    assert "logprobs" in (await api.ask({"include": "logprobs"})).json()
    answer = await api.ask({"timestamp_granularities": "page", "response_format": "verbose_json"})
    assert (400, "invalid_timestamp_granularities", "timestamp_granularities[]") == refusal(answer)


async def test_fields_of_other_servers_are_ignored_with_a_warning(api: ApiClient) -> None:
    """Fields that other servers take do not fail the request; one warning names those that were sent."""
    fields = {"user": ["a", "b"], "vad_filter": "True", "stream_options[include_usage]": "true", "seed": ""}
    body = (await api.ask(fields)).json()
    message = "This server ignores `stream_options`, `user`, `vad_filter`."
    assert (TEXT, [{"code": "fields_ignored", "message": message}]) == (body["text"], body["warnings"])
    known = set().union(*(form_schema(task)["properties"] for task in ("transcribe", "translate")))
    assert not {name.partition("[")[0] for name in known} & IGNORED_FIELDS


async def test_word_timestamps_add_words(api: ApiClient) -> None:
    """`word_timestamps` puts the words beside the segments of verbose_json, and asks the engine for their times."""
    body = (await api.ask({"response_format": "verbose_json", "word_timestamps": "true"})).json()
    assert (TEXT.split(), 2) == ([word["word"] for word in body["words"]], len(body["segments"]))
    assert [True] == [options.word_timestamps for options in api.engine.asked]


async def test_logprobs_come_with_json(api: ApiClient) -> None:
    """include[]=logprobs adds token, bytes and log probability of every token."""
    body = (await api.ask({"include[]": "logprobs"})).json()
    assert {"token": " Good", "bytes": list(b" Good"), "logprob": -0.125} == body["logprobs"][0]


async def test_translation_asks_the_engine_to_translate(api: ApiClient) -> None:
    """The other endpoint is the same with another task."""
    response = await api.ask({"response_format": "verbose_json"}, url="/v1/audio/translations")
    assert "translate" == response.json()["task"]
    assert ["translate"] == [options.task for options in api.engine.asked]


async def test_fields_reach_the_engine(api: ApiClient) -> None:
    """Every field that the engine should know arrives there."""
    fields = {"language": "German", "prompt": "P", "hotwords": "H", "keywords[]": ["K"], "temperature": "0.5",
              "beam_size": "3", "priority": "batch"}  # fmt: skip
    assert 200 == (await api.ask(fields)).status_code
    options = api.engine.asked[-1]
    assert ("de", "P", "H, K", (0.5,)) == (options.language, options.prompt, options.hotwords, options.temperatures)
    assert (3, "batch") == (options.beam_size, options.priority)
    assert options.deadline is not None


async def test_empty_fields_are_as_good_as_none(api: ApiClient) -> None:
    """An empty temperature or language is the default, as from an HTML form."""
    assert 200 == (await api.ask({"temperature": "", "language": "", "prompt": ""})).status_code
    assert (None, FALLBACK_TEMPERATURES) == (api.engine.asked[-1].language, api.engine.asked[-1].temperatures)


async def test_whisper_1_is_the_first_model() -> None:
    """OpenAI's name means the default; any other name is its own model."""
    first, second = FakeEngine(), FakeEngine()
    api = api_client(models={"a/base": model("a/base", first), "b": model("b", second)})
    async with api.client:
        assert 200 == (await api.ask({"model": "whisper-1"})).status_code
        assert 200 == (await api.ask({"model": "b"})).status_code
        assert (1, 1) == (len(first.asked), len(second.asked))
        listed = (await api.client.get("/v1/models")).json()
        assert ["a/base", "b"] == [entry["id"] for entry in listed["data"]]
        assert "a/base" == (await api.client.get("/v1/models/a/base")).json()["id"]
        assert "whisper-1" == (await api.client.get("/v1/models/whisper-1")).json()["id"]


async def test_channels_can_be_split(api: ApiClient) -> None:
    """A stereo call transcribed side by side names a speaker per channel."""
    stereo = ("a.wav", wav(channels=2), "audio/wav")
    body = (await api.ask({"channels": "split", "response_format": "verbose_json"}, file=stereo)).json()
    assert [0, 1, 0, 1] == [segment["channel"] for segment in body["segments"]]


async def test_split_channels_are_few(api: ApiClient) -> None:
    """More channels than the limit on split ones can still be mixed."""
    six = ("a.wav", wav(channels=6), "audio/wav")
    assert (400, "unsupported_channels", "file") == refusal(await api.ask({"channels": "split"}, file=six))
    assert 200 == (await api.ask(file=six)).status_code


async def test_a_page_at_the_root_answers_nothing_of_the_api(api: ApiClient) -> None:
    """With a page mounted at "/", wrong paths and methods under /v1 still get the envelope."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("page")(scope, receive, send)

    api.app.mount("/", page)
    assert "page" == (await api.client.get("/")).text
    wrong = await api.client.get(URL)
    assert (405, "method_not_allowed") == refusal(wrong)[:2]
    assert "POST" == wrong.headers["allow"]
    assert (404, "not_found") == refusal(await api.client.get("/v1/nothing"))[:2]
    assert "cache-control" not in (await api.client.get("/")).headers


async def test_notices_come_as_warnings(api: ApiClient) -> None:
    """What the client should know of an answer that succeeded is in `warnings`, and its codes in the log."""
    body = (await api.ask({"prompt": "long " * 300})).json()
    assert {"prompt_truncated"} == {warning["code"] for warning in body["warnings"]}
    assert {"prompt_truncated"} == set(api.log[-1]["warnings"])


async def test_long_recordings_are_windows(api: ApiClient) -> None:
    """A recording of a minute is decoded in windows; the record counts them."""
    response = await api.ask(file=("a.wav", wav(59.0, rate=8000), "audio/wav"))
    assert 200 == response.status_code
    assert (3, 59.0) == (api.log[-1]["windows"], api.log[-1]["audio_seconds"])


@pytest.mark.parametrize("url", ["/healthz", "/readyz", "/version", "/v1/models", "/metrics", "/docs", "/openapi.json"])
async def test_get_endpoints_answer(api: ApiClient, url: str) -> None:
    """Everything that can be read answers 200 and bears a request id."""
    response = await api.client.get(url)
    assert 200 == response.status_code
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("processes", "told"), [(1, False), (3, True)])
async def test_metrics_say_when_they_are_not_all(processes: int, told: bool) -> None:
    """Where several processes take requests, a scrape says that it comes from one of them."""
    api = api_client(small(api_replicas=processes))
    async with api.client:
        metrics = (await api.client.get("/metrics")).text
    assert told == metrics.startswith("# one of 3 API processes; each counts its own requests\n")


async def test_request_ids_are_taken_if_they_are_sane(api: ApiClient) -> None:
    """A caller's id comes back; one that could hide something is replaced."""
    sane = await api.client.get("/healthz", headers={"x-request-id": "trace-17.a_b"})
    odd = await api.client.get("/healthz", headers={"x-request-id": "<script>"})
    assert "trace-17.a_b" == sane.headers["x-request-id"]
    assert odd.headers["x-request-id"].startswith("req_")


async def test_server_timing_says_where_time_went(api: ApiClient) -> None:
    """The header names the stages of a transcription."""
    stages = {entry.split(";")[0].strip() for entry in (await api.ask()).headers["server-timing"].split(",")}
    assert {"read", "audio", "encode", "decode", "total"} <= stages


async def test_query_strings_are_ignored(api: ApiClient) -> None:
    """A query changes nothing and is not logged."""
    assert 200 == (await api.ask(url=f"{URL}?canary=zyx")).status_code
    assert "zyx" not in "".join(LOG.lines)


# -- streams -------------------------------------------------------------------------------------------------------


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block.startswith("data: ")]


async def test_stream_deltas_add_up_to_the_text(api: ApiClient) -> None:
    """All deltas together are the text of the last event, which also bears the usage."""
    response = await api.ask({"stream": "true"}, file=("a.wav", wav(59.0, rate=8000), "audio/wav"))
    *deltas, done = events(response.text)
    assert "text/event-stream; charset=utf-8" == response.headers["content-type"]
    assert {"transcript.text.delta"} == {event["type"] for event in deltas}
    assert done["text"] == "".join(event["delta"] for event in deltas)
    assert ("transcript.text.done", {"type": "duration", "seconds": 59}) == (done["type"], done["usage"])


async def test_text_is_streamed_while_later_windows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first text is sent although the engine still holds the later windows back."""
    gate = threading.Event()
    sent: list[bytes] = []

    class Gated(FakeEngine):
        def decode(self, windows: Any, options: Any) -> Any:
            if windows[0].start > 0:
                gate.wait(300)
            return super().decode(windows, options)

    monkeypatch.setattr(sse, "HEARTBEAT", 0.05)
    api = api_client(models={"demo": model("demo", Gated())})
    body = SOUND.replace(wav(), wav(59.0, rate=8000)) + MODEL + part("stream", b"true") + part("vad", b"false") + END
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b": waiting" in sent[-1] and any(b"transcript.text.delta" in piece for piece in sent):
            gate.set()  # text has gone out, and then a heartbeat: only now the engine goes on

    headers = [(b"content-type", b"multipart/form-data; boundary=XX")]
    scope = {"type": "http", "method": "POST", "path": URL, "query_string": b"", "headers": headers, "root_path": ""}
    await api.app(scope, receive, send)
    assert b"transcript.text.done" in b"".join(sent)


async def test_errors_before_the_first_event_are_ordinary(api: ApiClient) -> None:
    """A recording that cannot be read gets a 400, streamed or not."""
    response = await api.ask({"stream": "true"}, file=("a.wav", b"no sound", "audio/wav"))
    assert (400, "invalid_audio", "file") == refusal(response)


async def test_errors_within_a_stream_are_events() -> None:
    """Once the stream has begun, a failure is an event in OpenAI's shape, and the log knows."""

    class Failing(FakeEngine):
        def decode(self, windows: Any, options: Any) -> Any:
            heard = super().decode(windows, options)
            failed = EngineError("The engine failed.")
            return [failed if window.start else text for window, text in zip(windows, heard, strict=True)]

    api = api_client(models={"demo": model("demo", Failing())})
    async with api.client:
        response = await api.ask({"stream": "true", "vad": "false"}, file=("a.wav", wav(59.0, rate=8000), "audio/wav"))
    last = events(response.text)[-1]
    assert (200, "error", "engine_failed") == (response.status_code, last["type"], last["error"]["code"])
    assert ("engine_failed", 500) == (api.log[-1]["code"], api.log[-1]["status"])


# -- rows 50 to 73: the form ---------------------------------------------------------------------------------------

LONG = "x" * (70 * 1024)
FIELD_ROWS: list[Any] = [
    pytest.param({"model": ""}, "missing_field", "model", id="50 no model"),
    pytest.param({"bogus": "1"}, "unknown_field", None, id="57 unknown field"),
    pytest.param({f"u{i}": "x" * 1000 for i in range(200)}, "unknown_field", None, id="57 200 unknown fields"),
    pytest.param({"vad_filters": "true"}, "unknown_field", None, id="57 almost an ignored field"),
    pytest.param({"hotwords": "x" * 2**20}, "field_too_large", "hotwords", id="56 field of 1 MB"),
    pytest.param({"language": ["en", "de"]}, "duplicate_field", "language", id="60 language twice"),
    pytest.param({"keywords[]": ["x"] * 1100}, "too_many_fields", None, id="58 1100 fields"),
    pytest.param({"language": "xx-INVALID"}, "invalid_language", "language", id="70 no such language"),
    pytest.param({"language": "x" * 10_000}, "invalid_language", "language", id="70 long language"),
    pytest.param({"language": "e\0n"}, "invalid_language", "language", id="70 NUL"),
    pytest.param({"language": "ja"}, "invalid_language", "language", id="70 the model does not know it"),
    *[
        pytest.param({"temperature": value}, "invalid_temperature", "temperature", id=f"71 {value!a}")
        for value in ("nan", "inf", "1e400", "-1", "2", "abc", "\uff12", "0x1", "1_0", " 1")
    ],
    pytest.param({"prompt": "p" * 20_000}, "prompt_too_long", "prompt", id="72 prompt of 20 kB"),
    pytest.param({"prompt": "p" * 900_000}, "prompt_too_long", "prompt", id="72 prompt of 900 kB"),
    pytest.param({"response_format": "yaml"}, "invalid_response_format", "response_format", id="73 no such format"),
    pytest.param(
        {"response_format": "diarized_json"}, "unsupported_response_format", "response_format", id="73 diarized"
    ),
    pytest.param(
        {"timestamp_granularities[]": "page", "response_format": "verbose_json"},
        "invalid_timestamp_granularities", "timestamp_granularities[]", id="73 no such granularity",
    ),
    pytest.param(
        {"timestamp_granularities[]": "word", "response_format": "text"},
        "invalid_timestamp_granularities", "timestamp_granularities[]", id="73 granularity of text",
    ),
    *[
        pytest.param(
            {"timestamp_granularities[]": granularities, "response_format": form},
            "invalid_timestamp_granularities", "timestamp_granularities[]", id=f"73 {granularities} of {form}",
        )
        for form, granularities in [
            ("json", ["word"]), ("json", ["word", "segment"]), ("text", ["segment"]), ("srt", ["segment"]),
            ("vtt", ["segment"]),
        ]
    ],
    *[
        pytest.param({"vad": "false", **strategy}, "conflicting_field", "vad", id=f"73 vad and {next(iter(strategy))}")
        for strategy in ({"chunking_strategy": "auto"}, {"chunking_strategy[type]": "server_vad"})
    ],
    pytest.param({"include[]": "x"}, "invalid_include", "include[]", id="73 no such include"),
    pytest.param(
        {"include[]": "logprobs", "response_format": "srt"}, "invalid_include", "include[]", id="73 logprobs of srt"
    ),
    pytest.param({"stream": "perhaps"}, "invalid_stream", "stream", id="73 stream"),
    pytest.param({"stream": "true", "response_format": "srt"}, "invalid_stream", "stream", id="73 stream of srt"),
    pytest.param({"chunking_strategy": "x"}, "invalid_chunking_strategy", "chunking_strategy", id="73 strategy"),
    pytest.param(
        {"chunking_strategy": '{"type":"server_vad","threshold":9}'},
        "invalid_chunking_strategy", "chunking_strategy", id="73 threshold",
    ),
    pytest.param(
        {"chunking_strategy": "[" * 50_000}, "invalid_chunking_strategy", "chunking_strategy", id="73 deep JSON"
    ),
    pytest.param(
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "nan"},
        "invalid_chunking_strategy", "chunking_strategy", id="73 threshold by field",
    ),
    pytest.param({"known_speaker_names[]": "A"}, "unsupported_field", "known_speaker_names[]", id="73 speakers"),
    pytest.param({"hotwords": "x" * 5000}, "field_too_large", "hotwords", id="73 hotwords"),
    pytest.param({"vad": "maybe"}, "invalid_vad", "vad", id="73 vad"),
    pytest.param({"word_timestamps": "2"}, "invalid_word_timestamps", "word_timestamps", id="73 word_timestamps"),
    pytest.param({"audio_format": "mp5"}, "invalid_audio_format", "audio_format", id="73 audio_format"),
    pytest.param({"audio_track": "-1"}, "invalid_audio_track", "audio_track", id="73 audio_track"),
    pytest.param({"audio_track": "7"}, "invalid_audio_track", "audio_track", id="73 no such track"),
    pytest.param({"channels": "5.1"}, "invalid_channels", "channels", id="73 channels"),
    pytest.param({"beam_size": "99"}, "invalid_beam_size", "beam_size", id="73 beam_size"),
    pytest.param({"priority": "vip"}, "invalid_priority", "priority", id="73 priority"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "param"), FIELD_ROWS)
async def test_bad_fields_are_refused(api: ApiClient, fields: dict[str, Any], code: str, param: str | None) -> None:
    """A field that cannot be honoured gets a 400 that names it, and the engine is not asked."""
    assert (400, code, param) == refusal(await api.ask(fields))
    assert code in CODES
    assert [] == api.engine.asked


RAW_ROWS: list[Any] = [
    pytest.param(SOUND + END, 400, "missing_field", id="50 no model"),
    pytest.param(MODEL + END, 400, "missing_field", id="50 no file"),
    pytest.param(END, 400, "missing_field", id="50 nothing"),
    pytest.param(part("file", wav()) + MODEL + END, 400, "not_a_file", id="51 file as a field"),
    pytest.param(SOUND + part("model", b"demo", filename="m") + END, 400, "not_a_field", id="51 field as a file"),
    pytest.param(b"", 400, "invalid_multipart", id="53 empty body"),
    pytest.param(SOUND.replace(b"--XX", b"--YY"), 400, "invalid_multipart", id="53 another boundary"),
    pytest.param(SOUND + MODEL, 400, "invalid_multipart", id="53 no end"),
    pytest.param(SOUND[:500], 400, "invalid_multipart", id="53 cut off"),
    pytest.param(
        part("model", b"demo", extra=b"X: " + b"x" * 2**20 + b"\r\n") + END,
        400,
        "invalid_multipart",
        id="54 header of 1 MB",
    ),
    pytest.param(
        part("model", b"demo", extra=b"X: y\r\n" * 50_000) + END, 400, "invalid_multipart", id="54 50 000 headers"
    ),
    pytest.param(b"\r\n" * 500_000 + SOUND + END, 400, "invalid_multipart", id="55 preamble"),
    pytest.param(SOUND + part("prompt", b"\xff\xfe") + END, 400, "invalid_encoding", id="56 not UTF-8"),
    pytest.param((part("keywords[]", b"x")) * 1100 + END, 400, "too_many_fields", id="58 1 100 parts"),
    pytest.param(SOUND + SOUND + MODEL + END, 400, "duplicate_field", id="59 file twice"),
    pytest.param(SOUND + MODEL + MODEL + END, 400, "duplicate_field", id="60 model twice"),
    pytest.param(part("file", wav(), filename="x" * 20_000) + MODEL + END, 400, "invalid_multipart", id="62 long name"),
    pytest.param(part("file", b"", filename="a.wav") + MODEL + END, 400, "empty_file", id="1 empty file"),
    pytest.param(b"--XX\r\n\r\nx\r\n" + END, 400, "invalid_multipart", id="53 part without a name"),
    pytest.param(SOUND + part("\xff", b"x") + END, 400, "unknown_field", id="57 odd name"),
    pytest.param(part("file", bytes(2**20 + 1), filename="a") + MODEL + END, 413, "file_too_large", id="64 one over"),
    pytest.param(SOUND + MODEL + END + b"x" * 2**21, 413, "file_too_large", id="64 epilogue"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code"), RAW_ROWS)
async def test_bad_bodies_are_refused(api: ApiClient, body: bytes, status: int, code: str) -> None:
    """A body that is not a proper form, or too large, gets its own code, and none of it comes back."""
    response = await api.send(body)
    assert (status, code) == refusal(response)[:2]
    assert 0 == api.app.state.service.uploads.taken


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("application/json", 415, "unsupported_media_type"),
        ("audio/wav", 415, "unsupported_media_type"),
        ("", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("multipart/form-data", 400, "invalid_multipart"),
        ("multipart/form-data; boundary=" + "x" * 71, 400, "invalid_multipart"),
    ],
    ids=["52 JSON", "52 raw audio", "52 nothing", "52 urlencoded", "53 no boundary", "53 long boundary"],
)
async def test_only_forms_are_taken(api: ApiClient, kind: str, status: int, code: str) -> None:
    """Another content type is refused unread."""
    response = await api.client.post(URL, content=b"{}", headers={"content-type": kind})
    assert (status, code, None) == refusal(response)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
async def test_compressed_bodies_are_refused(api: ApiClient, encoding: str) -> None:
    """Row 9: Content-Encoding gets a 415; nothing is inflated."""
    response = await api.send(SOUND + MODEL + END, **{"content-encoding": encoding})
    assert (415, "unsupported_encoding", None) == refusal(response)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "a\u202ewav.exe",
        "🎙️.wav",
        "$(id)",
        "-rf",
        "<script>",
        "con",
        "x" * 300,
        "%00",
        "",
    ],
)
async def test_file_names_do_not_matter(api: ApiClient, name: str) -> None:
    """Row 61: the recording is used whatever it is called, and the name goes nowhere."""
    responses = [await api.send(part("file", wav(), filename=given) + MODEL + END) for given in ("a.wav", name)]
    assert [200, 200] == [response.status_code for response in responses]
    assert responses[0].text == responses[1].text
    plain, odd = ({key: value for key, value in line.items() if isinstance(value, str)} for line in api.log)
    assert plain.keys() == odd.keys()
    assert {key for key in plain if plain[key] != odd[key]} == {"time", "request_id"}


async def test_the_content_decides_not_its_type(api: ApiClient) -> None:
    """Row 63: a WAV that calls itself a picture is a WAV."""
    assert 200 == (await api.ask(file=("a.png", wav(), "image/png"))).status_code


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\0", "invalid_audio"), (b"<html>", "invalid_audio"), (wav(0.0), "empty_audio"), (wav(0.05), "audio_too_short")],
    ids=["2 one byte", "6 html", "3 no samples", "5 too short"],
)
async def test_bad_recordings_are_refused(api: ApiClient, content: bytes, code: str) -> None:
    """What the decoder refuses is the caller's to mend: 400 and the file."""
    assert (400, code, "file") == refusal(await api.ask(file=("a.wav", content, "audio/wav")))


async def test_recordings_over_the_limit_are_413(api: ApiClient) -> None:
    """Row 46: an honest recording over the cap gets 413, and the message names the cap."""
    response = await api.ask(file=("a.wav", wav(61.0, rate=8000), "audio/wav"))
    assert (413, "audio_too_long", "file") == refusal(response)
    assert "60" in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["nope", "../../etc/passwd", "https://example.org/x", "openai/whisper-large-v3"])
async def test_unknown_models_are_404(api: ApiClient, name: str) -> None:
    """Row 69: a model's name is only ever looked up."""
    response = await api.ask({"model": name})
    assert (404, "model_not_found", "model") == refusal(response)
    assert name not in response.text


async def test_english_only_models_do_not_translate() -> None:
    """A checkpoint that cannot translate says so before any work."""
    api = api_client(models={"demo": model("demo", translates=False)})
    async with api.client:
        assert (400, "invalid_task", "task") == refusal(await api.ask(url="/v1/audio/translations"))


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "//v1/models", 404, "not_found"),
        ("GET", "/v1/%2e%2e/%2e%2e/etc/passwd", 404, "not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("POST", URL + "/", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", URL, 405, "method_not_allowed"),
        ("TRACE", URL, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("BREW", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_odd_paths_and_methods_get_the_envelope(
    api: ApiClient, method: str, path: str, status: int, code: str
) -> None:
    """Row 75: the framework's own refusals look like all others; 405 names the method to use."""
    response = await api.client.request(method, path)
    assert (status, code) == refusal(response)[:2]
    assert (status == 405) == ("allow" in response.headers)


# -- limits, keys, load --------------------------------------------------------------------------------------------


async def test_declared_size_is_refused_unread(api: ApiClient) -> None:
    """Row 65: a body that declares too much is refused before any of it is asked for."""

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=XX"), (b"content-length", b"1000000000")]
    scope = {"type": "http", "method": "POST", "path": URL, "query_string": b"", "headers": headers, "root_path": ""}
    await api.app(scope, receive, send)
    assert 413 == sent[0]["status"]
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_overlong_bodies_are_read_to_the_limit(api: ApiClient) -> None:
    """Row 64: of an undeclared 26 MiB, at most 1.1 times the limit is read."""

    async def body() -> AsyncIterator[bytes]:
        yield part("file", b"", filename="a.wav")[:-2]
        for _ in range(26 * 16):
            yield bytes(2**16)

    kind = {"content-type": "multipart/form-data; boundary=XX"}
    response = await api.client.post(URL, content=body(), headers=kind)
    assert (413, "file_too_large", "file") == refusal(response)
    assert api.log[-1]["request_bytes"] <= 1.1 * 2**20


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[tuple[ApiClient, str, Path]]:
    path = tmp_path / "keys.json"
    secret = add_key(path, "team", requests_per_minute=2, concurrent_requests=1)
    made = api_client(small(keys_file=path))
    async with made.client:
        yield made, secret, path


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Basic dXNlcg==")],
        [("authorization", "Bearer " + "x" * 10_000)],
        [("authorization", "Bearer KEY"), ("authorization", "Bearer KEY")],
        [("authorization", "KEY")],
    ],
    ids=["none", "wrong", "another scheme", "10 kB", "two headers", "no scheme"],
)
async def test_without_a_proper_key_nothing_is_done(
    locked: tuple[ApiClient, str, Path], headers: list[tuple[str, str]]
) -> None:
    """Row 74: 401 before the body is looked at, with a hint how to authenticate."""
    api, secret, _ = locked
    filled = [(name, value.replace("KEY", secret)) for name, value in headers]
    response = await api.ask(headers=httpx.Headers(filled))
    assert (401, "invalid_api_key", None) == refusal(response)
    assert "Bearer" == response.headers["www-authenticate"]
    assert (401, "invalid_api_key", None) == refusal(await api.client.get("/v1/models", headers=httpx.Headers(filled)))
    assert 200 == (await api.client.get("/healthz")).status_code


async def test_a_key_lets_in_up_to_its_limit(locked: tuple[ApiClient, str, Path]) -> None:
    """The third request of the minute gets 429 with Retry-After; the answers before it count down."""
    api, secret, _ = locked
    headers = {"authorization": f"Bearer {secret}"}
    answers = [await api.ask(headers=headers) for _ in range(3)]
    told = [
        [each.headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset")] for each in answers
    ]
    assert [["2", "1"], ["2", "0"], ["2", "0"]] == [each[:2] for each in told]
    resets = [float(each[2].removesuffix("s")) for each in told]
    assert 0 < resets[0] <= 30 < resets[1] <= 60
    assert 30 < resets[2] <= 60
    assert (429, "rate_limit_exceeded", None) == refusal(answers[2])
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert "team" == api.log[-1]["key_id"]


async def test_keys_are_reloaded_when_the_file_changes(locked: tuple[ApiClient, str, Path]) -> None:
    """A new key works at once, a removed one no more, and a broken file changes nothing but the log."""
    api, secret, path = locked
    fresh = add_key(path, "other")
    bearer = {"authorization": f"Bearer {fresh}"}
    assert 200 == (await api.client.get("/v1/models", headers=bearer)).status_code
    remove_key(path, "team")
    gone = await api.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
    assert 401 == gone.status_code
    path.write_text("{}")
    assert 200 == (await api.client.get("/v1/models", headers=bearer)).status_code
    assert any("keys file" in line["message"] for line in api.log)


async def test_concurrent_requests_of_a_key_are_capped(locked: tuple[ApiClient, str, Path]) -> None:
    """Row 77: a second request while the first is under way gets 429."""
    api, secret, _ = locked
    api.engine.gate = threading.Event()
    headers = {"authorization": f"Bearer {secret}"}
    first = asyncio.create_task(api.ask(headers=headers))
    await asyncio.to_thread(api.engine.started.wait, 300)
    second = await api.ask(headers=headers)
    api.engine.gate.set()
    assert (429, "rate_limit_exceeded", None) == refusal(second)
    for answer in (second, await first):
        told = [answer.headers[f"x-ratelimit-{name}-concurrent-requests"] for name in ("limit", "remaining")]
        assert ["1", "0"] == told
    assert 200 == (await first).status_code


async def test_overload_is_answered_at_once_with_a_time_to_retry() -> None:
    """Row 76: beyond the room for audio, JSON 503 and Retry-After; what was accepted is answered."""
    api = api_client(small(audio_seconds_in_flight=60))
    api.engine.gate = threading.Event()
    async with api.client:
        accepted = [asyncio.create_task(api.ask()) for _ in range(2)]
        await asyncio.to_thread(api.engine.started.wait, 300)
        await wait_until_async(lambda: api.app.state.service.admission.in_flight <= 2)  # both are measured: 1 s each
        long = await api.ask(file=("a.wav", wav(59.0, rate=8000), "audio/wav"))
        api.engine.gate.set()
        assert (503, "overloaded", None) == refusal(long)
        assert 1 <= int(long.headers["retry-after"]) <= 60
        assert [200, 200] == [(await task).status_code for task in accepted]
        assert 0.0 == api.app.state.service.admission.in_flight


@pytest.mark.slow
async def test_a_request_over_its_time_gets_504() -> None:
    """C13: when the deadline passes the request is answered, and the engine gets nothing of it afterwards."""
    api = api_client(small(request_timeout=2))
    api.engine.gate = threading.Event()
    async with api.client:
        response = await api.ask({"vad": "false"}, file=("a.wav", wav(59.0, rate=8000), "audio/wav"))
        assert (504, "deadline_exceeded", None) == refusal(response)
        api.engine.gate.set()
    assert len(api.engine.asked) <= 1


@pytest.mark.parametrize("failure", [EngineError("The engine failed."), ValueError("canary-zyx")])
async def test_an_engine_that_fails_is_a_500_without_details(failure: Exception) -> None:
    """The client learns the code and the request id; the log learns the place, nobody the message."""
    api = api_client()
    api.engine.failure = failure
    async with api.client:
        response = await api.ask()
    assert (500, "engine_failed", None) == refusal(response)
    assert "zyx" not in response.text + "".join(LOG.lines)
    assert "ERROR" == api.log[-1]["severity"]


@pytest.mark.parametrize(
    ("failure", "fields", "status"),
    [
        (None, {}, 200),
        (None, {"stream": "true"}, 200),
        (EngineError("The engine failed."), {}, 500),
        (EngineError("The engine failed."), {"stream": "true"}, 500),
        (DecodeError("It cannot be decoded."), {}, 500),
    ],
)
@pytest.mark.slow
async def test_no_recording_waits_for_the_collector(
    failure: Exception | None, fields: dict[str, str], status: int
) -> None:
    """The samples of a request are let go with its answer, whatever that is."""
    engine = FakeEngine(failure=failure)
    with recordings_held() as (detect, gone, _):
        api = api_client(None, {"demo": model("demo", engine, detect=detect)})
        async with api.client:
            assert status == (await api.ask(fields)).status_code
        assert await asyncio.to_thread(gone)


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}])
@pytest.mark.parametrize("timeout", [1, 300])
@pytest.mark.slow
def test_no_recording_is_kept_of_who_leaves(timeout: float, fields: dict[str, str]) -> None:
    """The samples of a client that left, and of a request whose time was up, are let go at once, too."""
    engine = FakeEngine(gate=threading.Event())
    with recordings_held() as (detect, gone, held):
        app = create_app(
            {"demo": model("demo", engine, detect=detect)}, small(request_timeout=timeout),
            decoders=decoders(),
        )  # fmt: skip
        with Serving(app) as url, httpx.Client(base_url=url, timeout=60 if timeout == 1 else 1) as client:
            for _ in range(60):  # on a busy machine a second may pass before its recording is looked at
                asyncio.run(decoders().decode(io.BytesIO(wav()), limits=Limits()))  # a process waits for it
                with suppress(httpx.TimeoutException):
                    client.post(URL, data={"model": "demo", **fields}, files={"file": ("a.wav", wav())})
                if held:
                    break
            client.close()
            engine.gate.set()
            assert gone()


@contextmanager
def recordings_held() -> Iterator[tuple[Detect, Callable[[], bool], list[weakref.ref[Any]]]]:
    """A speech detector, whether the samples that it saw are gone within a minute without the collector, and those."""
    held: list[weakref.ref[Any]] = []

    def detect(samples: Samples) -> list[Span]:
        held.append(weakref.ref(samples.base))
        return [Span(0, len(samples))]

    def gone() -> bool:
        wait_until(lambda: all(samples() is None for samples in held), 60)  # our threads may use them a little longer
        return bool(held)

    gc.collect()
    gc.disable()
    try:
        yield detect, gone, held
    finally:
        gc.enable()


async def test_a_mistake_of_ours_is_a_500_in_the_envelope() -> None:
    """Whatever is raised inside, the client gets the envelope and the log the place, without the message."""
    api = api_client()
    api.app.add_api_route("/broken", _broken)
    async with api.client:
        response = await api.client.get("/broken")
    assert (500, "internal_error", None) == refusal(response)
    trace = api.log[0]
    assert ("unexpected ZeroDivisionError", response.headers["x-request-id"]) == (trace["message"], trace["request_id"])
    assert "canary" not in "".join(LOG.lines)


async def _broken() -> None:
    raise ZeroDivisionError("canary")


async def test_readiness_goes_through_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not answer in time makes the service unready; liveness stays."""
    monkeypatch.setattr(health, "PROBE_TIMEOUT", 0.5)
    api = api_client()
    api.engine.gate = threading.Event()

    async def ready() -> bool:
        return (await api.client.get("/readyz")).status_code == 200

    async with api.client:
        unready = await api.client.get("/readyz")
        assert 200 == (await api.client.get("/healthz")).status_code
        api.engine.gate.set()
        await wait_until_async(ready)
    assert (503, "not_ready", None) == refusal(unready)


async def test_the_ready_metric_is_measured_by_the_scrape() -> None:
    """`tickertape_ready` is right without a call of /readyz; it is 0 while the engine fails or the service drains."""
    api = api_client()

    async def ready() -> str:
        lines = (await api.client.get("/metrics")).text.splitlines()
        return next(line for line in lines if line.startswith("tickertape_ready "))

    async with api.client:
        assert "tickertape_ready 1.0" == await ready()
        assert await api.app.state.service.drain(1)
        assert "tickertape_ready 0.0" == await ready()
        api = api_client()
        api.engine.failure = EngineError("The engine failed.")
        assert "tickertape_ready 0.0" == await ready()


@pytest.mark.parametrize(
    ("length", "expected"),
    [("0" * 5000, 200), ("0" * 5000 + "17", 200), ("9" * 5000, 413), ("0" * 5000 + "9" * 9, 413), ("\u0661", 200)],
    ids=["zeros", "padded", "nines", "padded, too large", "Arabic digit"],
)
async def test_a_content_length_of_any_digits_is_understood(api: ApiClient, length: str, expected: int) -> None:
    """A length of 5,000 digits is the number that it is; the server limits what comes in any case."""
    headers = [(b"content-type", b"multipart/form-data; boundary=XX"), (b"content-length", length.encode())]
    answer = await api.client.post(URL, content=SOUND + MODEL + END, headers=headers)
    assert expected == answer.status_code


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_transcripts_are_rendered_in_a_thread(api: ApiClient, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Rendering a long transcript takes half a second, during which the event loop goes on."""
    threads: list[int] = []
    rendered = transcription.render

    def render(*given: Any) -> Any:
        threads.append(threading.get_ident())
        return rendered(*given)

    monkeypatch.setattr(transcription, "render", render)
    assert 200 == (await api.ask({"response_format": form})).status_code
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


async def test_a_lifespan_that_raises_still_closes_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that decode audio end also when the lifespan around the application fails."""
    closed: list[bool] = []

    @asynccontextmanager
    async def failing(_: Any) -> AsyncIterator[None]:
        yield
        raise RuntimeError("a backend cannot be closed")

    app = create_app({"demo": model("demo")}, small(), lifespan=failing)
    monkeypatch.setattr(app.state.service, "close", lambda: closed.append(True))
    with pytest.raises(RuntimeError):
        async with app.router.lifespan_context(app):
            pass
    assert [True] == closed


def state(api: ApiClient) -> tuple[int, int, float]:
    """Open requests, bytes of uploads and seconds of audio that the service has reserved."""
    service = api.app.state.service
    return service.requests.active, service.uploads.taken, service.admission.in_flight


async def leave(api: ApiClient, body: bytes, *, more: bool = False, when: Callable[[], Any] = lambda: None) -> None:
    """Send a body, more of which is announced or not, and leave when `when` returns."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": more}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.to_thread(when)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise OSError("the client has left")

    headers = [(b"content-type", b"multipart/form-data; boundary=XX")]
    scope = {"type": "http", "method": "POST", "path": URL, "query_string": b"", "headers": headers, "root_path": ""}
    with suppress(OSError):
        await api.app(scope, receive, send)


@pytest.mark.parametrize("stream", [b"", part("stream", b"true")], ids=["whole", "stream"])
@pytest.mark.slow
async def test_clients_that_leave_give_back_what_they_reserved(stream: bytes) -> None:
    """A client that leaves in its upload, while its audio is decoded, in the engine or in its answer costs nothing."""
    api = api_client()
    whole = SOUND + MODEL + stream + END
    async with api.client:
        await leave(api, SOUND[:100], more=True)
        assert (0, 0, 0.0) == state(api)
        await leave(api, whole)
        assert (0, 0, 0.0) == state(api)
        answered = threading.Event()
        await leave(api, whole, when=partial(answered.wait, 5))  # sending the answer fails before
        answered.set()
        assert (0, 0, 0.0) == state(api)
        api.engine.started.clear()
        api.engine.gate = threading.Event()
        pairs = [leave(api, whole, when=api.engine.started.wait), leave(api, whole, when=api.engine.started.wait)]
        await asyncio.gather(*pairs)
        assert (0, 0, 0.0) == state(api)
        api.engine.gate.set()
        assert 200 == (await api.ask()).status_code
        assert (0, 0, 0.0) == state(api)


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}])
async def test_requests_that_fail_give_back_what_they_reserved(fields: dict[str, str]) -> None:
    """Whichever step of a request fails, nothing stays reserved, and another request is answered."""
    api = api_client(small(audio_seconds_in_flight=60))
    noise, long = ("a.wav", b"noise", "audio/wav"), ("a.wav", wav(61.0, rate=8000), "audio/wav")
    async with api.client:
        for _ in range(3):
            assert 400 == (await api.ask({**fields, "language": "xx"})).status_code
            assert 404 == (await api.ask({**fields, "model": "none"})).status_code
            assert 400 == (await api.ask(fields, file=noise)).status_code
            assert 413 == (await api.ask(fields, file=long)).status_code
            api.engine.failure = EngineError("The engine failed.")
            assert 500 == (await api.ask(fields)).status_code
            api.engine.failure = None
            assert (0, 0, 0.0) == state(api)
        assert 200 == (await api.ask(fields)).status_code
    assert (0, 0, 0.0) == state(api)


async def test_draining_refuses_new_work_and_finishes_the_old() -> None:
    """C6: readiness is red at once, a new request gets 503 with Retry-After, the accepted one its text."""
    api = api_client()
    api.engine.gate = threading.Event()
    async with api.client:
        accepted = asyncio.create_task(api.ask())
        await asyncio.to_thread(api.engine.started.wait, 300)
        draining = asyncio.create_task(api.app.state.service.drain(30))
        await asyncio.sleep(0)
        ready, late = await api.client.get("/readyz"), await api.ask()
        api.engine.gate.set()
        assert (503, "shutting_down", None) == refusal(ready)
        assert (503, "shutting_down", None) == refusal(late)
        assert "2" == late.headers["retry-after"]
        assert 200 == (await accepted).status_code
        assert await draining


async def test_what_outlasts_the_grace_is_told() -> None:
    """When the grace ends first, a request gets 503 with Retry-After, and the room that it held is given back."""
    api = api_client()
    api.engine.gate = threading.Event()
    service = api.app.state.service
    async with api.client:
        accepted = asyncio.create_task(api.ask())
        await asyncio.to_thread(api.engine.started.wait, 300)
        assert not await service.drain(0.01)
        answer = await accepted
        api.engine.gate.set()
    assert (503, "shutting_down", None) == refusal(answer)
    assert "2" == answer.headers["retry-after"]
    assert (0, 0, 0.0) == (service.requests.active, service.uploads.taken, service.admission.in_flight)


async def test_a_stream_that_outlasts_the_grace_ends_with_an_error() -> None:
    """When the grace ends within a stream, its last event says so, and the answer is whole."""
    gate, waiting = threading.Event(), threading.Event()

    class Gated(FakeEngine):
        def decode(self, windows: Any, options: Any) -> Any:
            if windows[0].start > 0:
                waiting.set()
                gate.wait(300)
            return super().decode(windows, options)

    api = api_client(models={"demo": model("demo", Gated())})
    async with api.client:
        sound = ("a.wav", wav(59.0, rate=8000), "audio/wav")
        accepted = asyncio.create_task(api.ask({"stream": "true", "vad": "false"}, file=sound))
        await asyncio.to_thread(waiting.wait, 300)
        assert not await api.app.state.service.drain(0.2)
        first, *_, last = events((await accepted).text)
        gate.set()
    assert ("transcript.text.delta", "error", "shutting_down") == (first["type"], last["type"], last["error"]["code"])
    assert ("shutting_down", 503) == (api.log[-1]["code"], api.log[-1]["status"])


async def test_cors_is_off_unless_set() -> None:
    """Only origins that were named may call from a browser."""
    origin = {"origin": "https://desk.example"}
    closed, open_ = api_client(), api_client(small(cors_origins=("https://desk.example",)))
    async with closed.client, open_.client:
        assert "access-control-allow-origin" not in (await closed.client.get("/version", headers=origin)).headers
        allowed = await open_.client.get("/version", headers=origin)
        assert "https://desk.example" == allowed.headers["access-control-allow-origin"]
        exposed = set(allowed.headers["access-control-expose-headers"].split(", "))
        assert {"x-request-id", "retry-after", *PER_MINUTE, *CONCURRENT} <= exposed
        other = await open_.client.get("/version", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_docs_can_be_turned_off() -> None:
    """Without `docs`, neither the page nor the document is there."""
    api = api_client(small(docs=False))
    async with api.client:
        assert [404, 404] == [(await api.client.get(url)).status_code for url in ("/docs", "/openapi.json")]


async def test_nothing_a_client_sends_comes_out_elsewhere(api: ApiClient) -> None:
    """Goal 13: words in prompt, hotwords, file name and text appear in no log line, metric or error body."""
    canary = "zanzibarquux"
    engine_text = TEXT.split()[0]
    answers = [
        await api.ask({"prompt": canary, "hotwords": canary}, file=(f"{canary}.wav", wav(), canary)),
        await api.ask({"prompt": canary, canary: canary}),
        await api.ask({"language": canary, "response_format": canary}),
        await api.ask({"model": canary}, headers={"user-agent": canary, "authorization": f"Bearer {canary}"}),
        await api.ask({"prompt": canary}, file=(canary, canary.encode(), "audio/wav"), url=f"{URL}?{canary}"),
        await api.client.get(f"/{canary}"),
        await api.client.request(canary.upper(), "/healthz"),
    ]
    assert [200, 400, 400, 404, 400, 404, 405] == [answer.status_code for answer in answers]
    metrics = (await api.client.get("/metrics")).text
    told = "\n".join([*LOG.lines, metrics, *(answer.text + str(answer.headers) for answer in answers)])
    assert canary not in told.lower()
    assert engine_text not in "\n".join([*LOG.lines, metrics])
