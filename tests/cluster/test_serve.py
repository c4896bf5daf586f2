"""The service as a process: with Ray and without, spoken to over HTTP, killed and stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest

import tickertape
from tests.support.checkpoint_factory import make_checkpoint
from tests.support.chromium import EXAMPLES, Page, driver
from tests.support.ray_head import ray_head
from tests.support.service import (
    ROOT,
    Service,
    calls,
    expected_text,
    sound,
    started,
    wait_until_ready,
    wave_file,
)
from tests.support.slow import HANG, POISON, text
from tests.support.waiting import wait_until, wait_until_async
from tickertape.audio import chunking
from tickertape.audio.chunking import PLAIN_OVERLAP
from tickertape.audio.decode import decode
from tickertape.server.sse import HEARTBEAT
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::ResourceWarning")]
WITH_AND_WITHOUT_RAY = pytest.mark.parametrize("service", ["ray", "alone"], indirect=True)
ENGINES = "engine-slow"
DEMO = ROOT / "tests" / "checkpoint"
EXAMPLE = EXAMPLES / "lost-card.flac"
__all__ = ["driver"]  # the browser, for the test of the page


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, for English only."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "english", "micro.en")


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest, english: Path) -> Iterator[Service]:
    """The synthetic-voice model, another model and the page."""
    mode = ["--no-ray"] if request.param == "alone" else []
    models = ["--model", f"first={DEMO}", "--model", str(english)]
    with started(*mode, *models, "--body-limit", "4000000") as running:
        yield running


@pytest.fixture(scope="module")
def known() -> str:
    """What the synthetic-voice model makes of the example in this process."""
    with tickertape.load(DEMO) as transcriber:
        text = transcriber.transcribe(EXAMPLE).text
    assert len(text.split()) > 5
    return text


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of the service."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@WITH_AND_WITHOUT_RAY
class TestService:
    """What users see of a service that runs."""

    def test_it_transcribes(self, service: Service, known: str) -> None:
        """A recording becomes the text that the same model gives elsewhere, with the time each step took."""
        answer = service.transcribe(EXAMPLE.read_bytes())
        assert (200, {"text", "usage"}) == (answer.status_code, set(answer.json()))
        assert known == answer.json()["text"]
        assert "total;dur=" in answer.headers["server-timing"]

    def test_openais_client_understands_it(self, client: openai.OpenAI, known: str) -> None:
        """The official client gets the text, whole and streamed; a prompt is heard and not repeated."""
        assert known == client.audio.transcriptions.create(model="whisper-1", file=EXAMPLE).text
        *deltas, done = client.audio.transcriptions.create(model="whisper-1", file=EXAMPLE, stream=True)
        assert (known, known) == (done.text, "".join(event.delta for event in deltas))
        prompted = client.audio.transcriptions.create(model="whisper-1", file=EXAMPLE, prompt="Zanzibar")
        assert "zanzibar" not in prompted.text.lower()

    @pytest.mark.parametrize(("said", "heard"), [(b"nonsense\r\n\r\n", b"HTTP/1.1 400 "), (b"GET /healthz", b"")])
    def test_what_is_no_request_ends_the_connection(self, service: Service, said: bytes, heard: bytes) -> None:
        """What is not HTTP is refused in the envelope; a head that does not come to its end is given up."""
        host, port = service.url.removeprefix("http://").split(":")
        answer = b""
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(said)
            while data := connection.recv(65_536):
                answer += data
        assert heard == answer[: len(heard) or None]
        if heard:
            assert "invalid_request_error" == json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]

    def test_the_request_picks_the_model(self, service: Service) -> None:
        """Models answer under their names, the first as whisper-1 too; others are unknown."""
        named = {
            name: service.transcribe(model=name).status_code for name in ("first", "english", "whisper-1", "other")
        }
        assert {"first": 200, "english": 200, "whisper-1": 200, "other": 404} == named
        assert 400 == service.transcribe(model="english", language="de").status_code

    def test_a_long_recording_comes_back_in_order(self, service: Service) -> None:
        """Windows of a recording of minutes are decoded side by side, and their segments come in order."""
        clip = decode(EXAMPLE).samples[0]
        recording = np.tile(clip, 100 * SAMPLE_RATE // len(clip))
        answer = service.transcribe(
            wave_file((recording * 32767).astype("<i2").tobytes()), response_format="verbose_json"
        )
        body = answer.json()
        starts = [segment["start"] for segment in body["segments"]]
        assert (200, sorted(starts)) == (answer.status_code, starts)
        assert len(starts) >= 4
        assert body["text"].split() == " ".join(segment["text"] for segment in body["segments"]).split()

    def test_everything_is_on_one_port(self, service: Service) -> None:
        """The page and the routes for operators are reachable beside the API."""
        paths = ["/", "/healthz", "/readyz", "/metrics", "/version", "/docs", "/openapi.json", "/v1/models"]
        wait_until(lambda: service.get("/").status_code != 503)  # the page comes last
        found = {path: service.get(path, follow_redirects=True).status_code for path in paths}
        assert dict.fromkeys(paths, 200) == found

    def test_errors_are_json(self, service: Service) -> None:
        """What does not exist, Serve's own routes included, is told in OpenAI's envelope, once, with one request id."""
        for path in ("/v1/nothing", "/-/routes"):
            answer = service.get(path)
            assert (404, "not_found") == (answer.status_code, answer.json()["error"]["code"])
        answer = service.get("/v1/nothing", headers={"x-request-id": "my-own"})
        assert ["my-own"] == answer.headers.get_list("x-request-id")

    def test_clients_do_not_steer_the_proxy(self, service: Service) -> None:
        """Headers that would set Ray Serve's timeouts and routing have no effect."""
        steering = {"x-request-timeout-seconds": "0.000001", "serve_multiplexed_model_id": "x", "x-session-id": "y"}
        assert 200 == service.get("/readyz", headers=steering).status_code

    def test_a_body_that_does_not_end_is_cut(self, service: Service) -> None:
        """A chunked upload over the limit gets a 413, however much more the client would send."""
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(1000):
                sent += 65536
                yield bytes(65536)

        headers = {"content-type": "multipart/form-data; boundary=b"}
        try:
            url = f"{service.url}/v1/audio/transcriptions"
            answer = httpx.post(url, content=endless(), headers=headers, timeout=60)
            assert (413, "file_too_large") == (answer.status_code, answer.json()["error"]["code"])
        except httpx.WriteError:  # the answer came and the connection went while we were still writing
            pass
        assert sent < 40_000_000

    def test_only_the_service_listens_outside(self, service: Service) -> None:
        """The service listens where it was told to, everything else on the loopback."""
        pids = {service.process.pid, *service.children()}
        listening = [
            entry for entry in psutil.net_connections("tcp") if entry.status == psutil.CONN_LISTEN and entry.pid in pids
        ]
        assert listening
        outside = [entry for entry in listening if entry.laddr.ip.removeprefix("::ffff:") not in {"127.0.0.1", "::1"}]
        assert [] == [psutil.Process(entry.pid).cmdline()[0] for entry in outside]

    def test_only_what_serves_runs(self, service: Service) -> None:
        """Ray's dashboard, its agent and the autoscaler are left out: they cost seconds and memory."""
        assert [] == [pid for name in ("dashboard/", "DashboardAgent", "autoscaler/") for pid in service.children(name)]

    def test_log_lines_are_json(self, service: Service) -> None:
        """Every line on standard output is one JSON object with a severity."""
        service.transcribe()
        deadline = time.monotonic() + 20
        while not any('"POST' in line for line in service.lines) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert {True} == {"severity" in json.loads(line) for line in service.lines}

    def test_it_leaves_nothing_behind(self, service: Service) -> None:
        """SIGTERM ends an idle service with exit code 0; its processes and folders are gone."""
        below = service.children()
        assert 0 == service.terminate()
        wait_until(lambda: not any(map(lives, below)))
        assert [] == [str(folder) for folder in Path("/tmp").glob(f"tickertape-{service.process.pid}-*")]  # noqa: S108


def lives(pid: int) -> bool:
    """Whether there is such a process, and more of it than its exit code."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the slow engines write."""
    return tmp_path_factory.mktemp("slow")


@pytest.fixture(scope="module")
def slow(folder: Path) -> Iterator[Service]:
    """Two replicas of an engine that takes 0.2 s a call, and the page."""
    flags = ["--engine", "tests.support.slow:engine", "--model", f"slow=0.2:{folder}", "--engine-replicas", "2"]
    limits = ["--threads", "1", "--batch", "4", "--engine-timeout", "3", "--audio-seconds-in-flight", "100000"]
    with started(*flags, *limits) as running:
        yield running


def ask(slow: Service, pool: ThreadPoolExecutor, recordings: list[bytes]) -> list[Future[httpx.Response]]:
    return [pool.submit(slow.transcribe, each, vad="false") for each in recordings]


def test_a_long_recording_fans_out(slow: Service, folder: Path) -> None:
    """The windows of one recording go to both engines, each to one of them, and their texts come in order."""
    wait_until(lambda: len(slow.children(ENGINES)) == len(list(folder.iterdir())) == 2)
    step = WINDOW_SAMPLES - PLAIN_OVERLAP
    samples = np.frombuffer(sound(1, seconds=500.0)[44:], "<i2").copy()
    numbers = range(601, 619)  # more than are under way at once
    samples[: len(numbers) * step : step] = numbers  # the first of each window, which the engine notes down
    answer = slow.transcribe(wave_file(samples.tobytes()), vad="false", language="en")
    expected = [text(window) for window in chunking.plain(samples.astype(np.float32) / 32768)]
    assert (200, "".join(expected).strip()) == (answer.status_code, answer.json()["text"])
    heard = [
        [number for number in map(int, path.read_text().split()) if number in numbers] for path in folder.iterdir()
    ]
    assert list(numbers) == sorted(number for share in heard for number in share)
    assert 2 == len([share for share in heard if share])


def called(folder: Path) -> dict[int, int]:
    """How many calls each engine has begun, by its process."""
    return {int(path.name): len(path.read_text().splitlines()) for path in folder.iterdir()}


def just_begun(folder: Path) -> int:
    """The process of an engine that has begun a call within the last moment."""
    then = called(folder)
    found: list[int] = []
    wait_until(lambda: found.extend(pid for pid, count in called(folder).items() if count > then.get(pid, 0)) or found)
    return found[0]


def test_a_killed_engine_loses_nothing(slow: Service, folder: Path) -> None:
    """An engine of two is killed under load: every request is answered with its own text, decoded twice at most."""
    recordings = [sound(number) for number in range(1, 61)]
    before = called(folder)
    with ThreadPoolExecutor(60) as pool:
        asked = ask(slow, pool, recordings)
        wait_until(lambda: sum(called(folder).values()) >= sum(before.values()) + 4)
        os.kill(just_begun(folder), signal.SIGKILL)
        answers = [each.result() for each in asked]
    assert [200] * 60 == [answer.status_code for answer in answers]
    assert [expected_text(each) for each in recordings] == [answer.json()["text"] for answer in answers]
    wait_until(lambda: any("an engine died" in line for line in slow.lines))
    decoded = [number for call in calls(folder) for number in call]
    assert {1, 2} >= {decoded.count(number) for number in range(1, 61)}


def test_a_hostile_recording_kills_two_engines_at_most(slow: Service, folder: Path) -> None:
    """The recording that kills its engine gets a 400 after two deaths; those beside it are answered."""
    wait_until_ready(slow)
    bystanders = [sound(number) for number in range(101, 121)]
    while len(before := slow.children(ENGINES)) < 2:  # the test before has killed one
        time.sleep(0.1)
    known = {path.name for path in folder.iterdir()} | {str(pid) for pid in before}
    with ThreadPoolExecutor(30) as pool:
        asked = ask(slow, pool, bystanders[:10])
        (poisoned,) = ask(slow, pool, [sound(100, first=POISON)])
        asked += ask(slow, pool, bystanders[10:])
        answers = [each.result() for each in asked]
        answer = poisoned.result()
    assert [200] * 20 == [answer.status_code for answer in answers]
    assert (400, "harmful_audio") == (answer.status_code, answer.json()["error"]["code"])
    wait_until_ready(slow)
    assert len({path.name for path in folder.iterdir()} - known) <= 2


def test_a_hung_engine_is_replaced(slow: Service) -> None:
    """A call that never returns ends with its process; who waited behind it is answered by another."""
    wait_until_ready(slow)
    with ThreadPoolExecutor(10) as pool:
        (hung,) = ask(slow, pool, [sound(200, first=HANG)])
        time.sleep(0.1)
        asked = ask(slow, pool, [sound(number) for number in range(201, 207)])
        assert [200] * 6 == [each.result().status_code for each in asked]
        assert 400 == hung.result().status_code
    wait_until_ready(slow)


async def test_what_nobody_waits_for_does_not_run(slow: Service, folder: Path) -> None:
    """Requests whose clients left while they waited never reach an engine."""
    wait_until_ready(slow)
    numbers = range(301, 401)  # more than the engines can begin in a second
    async with httpx.AsyncClient(timeout=30) as client:

        async def leave(number: int) -> None:
            post = client.post(
                f"{slow.url}/v1/audio/transcriptions",
                files={"file": ("a.wav", sound(number))},
                data={"model": "slow", "vad": "false"},
            )
            try:
                await asyncio.wait_for(post, 1.0)
            except asyncio.TimeoutError:
                return

        await asyncio.gather(*map(leave, numbers))
    await wait_until_async(lambda: slow.inside() == 0)
    await asyncio.sleep(1.0)
    seen = len([number for call in calls(folder) for number in call if number in numbers])
    await asyncio.sleep(1.0)
    assert seen == len([number for call in calls(folder) for number in call if number in numbers])
    assert seen < len(numbers)


def test_a_cluster_is_joined_and_left() -> None:
    """With `--address auto` the service runs on a Ray that is there already; it takes its applications along."""
    with ray_head(cpus=1) as head, tempfile.TemporaryDirectory(prefix="calls-") as folder:
        flags = ["--engine", "tests.support.slow:engine", "--model", f"slow=0:{folder}", "--threads", "1"]
        with started("--address", "auto", *flags, environment=head.environment) as service:
            recording = sound(701)
            assert expected_text(recording) == service.transcribe(recording, vad="false").json()["text"]
            assert 200 == service.get("/page/").status_code
            assert 0 == service.terminate()
        assert ([], True) == (head.applications(), head.alive)


def test_a_missing_cluster_is_reported(tmp_path: Path) -> None:
    """`--address auto` without a cluster ends with exit code 2 and one line with the remedy."""
    flags = ["--address", "auto", "--engine", "tests.support.slow:engine", "--model", "slow=0:/tmp"]
    with started(*flags, environment={"RAY_TMPDIR": str(tmp_path)}, ready=False) as service:
        assert 2 == service.process.wait(120)  # with another service's Ray on this machine, the attempt takes 22 s
        assert "ray start" in service.lines[-1]  # lines of Ray about the attempt may come before


@pytest.mark.browser
@pytest.mark.filterwarnings("default")  # selenium's own warnings are not ours
def test_the_page_works_behind_ray(slow: Service, driver: Any, tmp_path: Path) -> None:
    """From `/` one comes to the page; a file becomes text piece by piece, a row plays from its time, errors show."""
    page = Page(driver, slow.url)
    page.resize(1280, 960)
    page.open()
    page.run("window.news = []; tickertape.addEventListener('update', ({detail}) => news.push(detail))")
    recording = tmp_path / "long.wav"
    clip = decode(EXAMPLES / "lost-card.flac").samples[0]
    recording.write_bytes(wave_file((np.tile(clip, 72) * 32767).astype("<i2").tobytes()))
    page.upload(recording)
    texts = page.done()
    assert len(texts) > 2
    early = page.run(
        "return news.filter((one) => one.state == 'running').flatMap((one) => Object.keys(one.segments ?? {}))"
    )
    assert early == [str(number) for number in range(len(early))]
    assert early  # some of the text was there before all of it
    page.all(".tt-text td button")[1].click()
    start = page.run("return Number(document.querySelectorAll('#tt-table tr[data-start]')[1].dataset.start)")
    page.until(lambda: page.run("return document.querySelector('#tt-audio').currentTime") >= start > 0)
    assert f"{slow.url}/v1/audio/transcriptions" in page.run("return document.querySelector('#tt-snippet').textContent")
    (tmp_path / "empty.txt").write_text("no sound\n" * 10)
    page.upload(tmp_path / "empty.txt")
    assert page.until(lambda: page.at("error").text)
    wait_until(lambda: any('"endpoint":"page","status":200' in line for line in slow.lines))


@pytest.mark.browser
@pytest.mark.filterwarnings("default")  # selenium's own warnings are not ours
def test_the_page_comes_after_the_api(driver: Any) -> None:
    """Without Ray the API is ready first: a browser that comes early waits for the page, and then the page works."""
    with started("--no-ray", "--model", f"first={DEMO}") as service:
        page = Page(driver, service.url)
        page.open()
        page.upload(EXAMPLE)
        assert page.done()
        told = [line for line in service.lines if '"listening"' in line or '"the page is ready"' in line]
        assert ["listening" in line for line in told] == [True, False]
        wait_until(lambda: any('"endpoint":"page","status":200' in line for line in service.lines))


def drains(service: Service, requests: int, seconds: float) -> None:
    """SIGTERM while requests, each of so many seconds of audio, are being answered and new ones arrive."""
    recordings = [sound(number, seconds=seconds) for number in range(401, 401 + requests)]
    with httpx.Client() as client, ThreadPoolExecutor(requests) as pool:
        asked = [pool.submit(service.transcribe, each, post=client.post, vad="false") for each in recordings]
        wait_until(lambda: sum(each.done() for each in asked) + service.inside() >= requests)
        assert not all(each.done() for each in asked)
        service.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        while (ready := service.get("/readyz")).status_code == 200 and time.monotonic() < signalled + 60:
            time.sleep(0.02)
        late = service.transcribe()
        assert (503, "shutting_down") == (ready.status_code, ready.json()["error"]["code"])
        assert (503, "shutting_down") == (late.status_code, late.json()["error"]["code"])
        assert "retry-after" in late.headers
        assert [200] * requests == [each.result().status_code for each in asked]
    assert 0 == service.process.wait(60)


def test_it_drains(slow: Service) -> None:
    """On SIGTERM readiness turns red, new work is refused in JSON, accepted work is finished, the exit code 0."""
    wait_until_ready(slow)
    drains(slow, 20, 100.0)


def test_it_drains_without_ray(tmp_path: Path) -> None:
    """The same in one process."""
    flags = [
        "--no-ray",
        "--no-page",
        "--engine",
        "tests.support.slow:engine",
        "--model",
        f"slow=0.5:{tmp_path}",
        "--batch",
        "2",
    ]
    with started(*flags) as service:
        drains(service, 10, 5.0)


def outlasts(service: Service) -> None:
    """SIGTERM while requests run that take longer than the grace."""
    endless = {"vad": "false", "language": "en"}
    with ThreadPoolExecutor(3) as pool:
        whole = pool.submit(service.transcribe, sound(501, seconds=100.0), **endless)
        stream = pool.submit(service.transcribe, sound(502, seconds=100.0), stream="true", **endless)
        half = pool.submit(half_uploaded, service)
        wait_until(lambda: service.inside() == 3)
        time.sleep(HEARTBEAT + 2.0)  # the stream has begun, with a heartbeat
        service.process.send_signal(signal.SIGTERM)
        answer, streamed, uploading = whole.result(), stream.result(), half.result()
    assert (503, "shutting_down") == (answer.status_code, answer.json()["error"]["code"])
    assert "retry-after" in answer.headers
    events = [json.loads(block.removeprefix("data: ")) for block in streamed.text.split("\n\n") if "data: " in block]
    assert (200, "error") == (streamed.status_code, events[-1]["type"])
    assert "shutting_down" == events[-1]["error"]["code"]
    assert b" 503 " in uploading.partition(b"\r\n")[0]
    assert 0 == service.process.wait(60)
    assert not any("Traceback" in line for line in service.lines)


def half_uploaded(service: Service) -> bytes:
    """What a client that has sent half of a form is told."""
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b'Content-Length: 200000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(head + bytes(10_000))
        return client.recv(65536)


@pytest.mark.parametrize("mode", [["--no-ray"], []], ids=["alone", "ray"])
def test_what_outlasts_the_grace_is_told(mode: list[str], tmp_path: Path) -> None:
    """When the grace ends first, requests get a 503 in JSON, streams an error event, and the process leaves with 0."""
    flags = ["--no-page", "--engine", "tests.support.slow:engine", "--model", f"slow=30:{tmp_path}", "--batch", "2"]
    with started(*mode, *flags, "--grace-seconds", "2") as service:
        outlasts(service)


def test_a_taken_port_is_told() -> None:
    """Starting on a port that is taken ends at once, with exit code 2 and one line that says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["--engine", "tests.support.slow:engine", "--model", "slow=0:/tmp"]
        with started(*flags, port=port, ready=False) as service:
            assert 2 == service.process.wait(60)
            assert [True] == [str(port) in line for line in service.lines]
