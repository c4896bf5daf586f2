"""Uploads are decoded apart: what harms a decoder costs only itself, and no process outlives its service."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.support import harmful
from tests.support.audio_factory import encode, recording, speech
from tests.support.fakes import TEXT, model, wav
from tests.support.harmful import ABORT, BUG, FAULT, FULL, HANG, KILL, ONCE, SPIN, holds
from tests.support.logs import LOG
from tests.support.waiting import TIMEOUT, wait_until
from tickertape.audio import decode as audio
from tickertape.audio import worker_pool
from tickertape.audio.limits import Limits
from tickertape.audio.worker import MAX_HEAP_BYTES
from tickertape.audio.worker_pool import Decoders
from tickertape.errors import (
    AudioError,
    HarmfulAudioError,
    OptionError,
    OverloadedError,
    ShuttingDownError,
    TickertapeError,
)
from tickertape.server.app import create_app
from tickertape.server.settings import Settings
from tickertape.types import Audio

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="recordings are decoded in threads here"),
]


class LoggedPool:
    """Decoders, and what they log."""

    def __init__(self, count: int = 2, *, timeout: float = TIMEOUT, target: str = harmful.DECODE) -> None:
        self.decoders = Decoders(count, timeout=timeout, target=target)

    @property
    def lines(self) -> list[tuple[str, dict[str, Any]]]:
        """The messages in the log, and their fields."""
        return [(record.getMessage(), vars(record)["fields"]) for record in LOG.records]

    async def decode(self, data: bytes, **options: Any) -> Audio:
        return await self.decoders.decode(io.BytesIO(data), **{"limits": Limits(), **options})


@contextmanager
def opened(count: int = 2, **options: Any) -> Iterator[LoggedPool]:
    """Decoders for the length of the block; afterwards their processes are gone."""
    before = workers()
    pool = LoggedPool(count, **options)
    try:
        yield pool
    finally:
        pool.decoders.close()
    wait_until(lambda: not workers() - before)


@pytest.fixture
def pool() -> Iterator[LoggedPool]:
    with opened() as made:
        yield made


def workers(pid: int | None = None) -> set[int]:
    """The processes below one, this one unless another is given, that decode by the function of these tests."""
    found = set()
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):
            if harmful.DECODE in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


async def started(pool: LoggedPool, data: bytes) -> asyncio.Future[Audio]:
    """The recording's decoding, once a process has it."""
    task = asyncio.ensure_future(pool.decode(data))
    await asyncio.to_thread(wait_until, lambda: any(holds(pid, len(data)) for pid in workers()))
    return task


# -- what comes back -----------------------------------------------------------------------------------------------


RECORDINGS: dict[str, Callable[[], bytes]] = {
    "wav": lambda: wav(2.0, rate=8000),
    "mp3": lambda: recording("mp3", 3.0),
    "opus": lambda: recording("opus", 3.0),
    "m4a": lambda: recording("m4a", 3.0),
    "flac, cut": lambda: recording("flac", 3.0)[:-20_000],
    "longer than it says": lambda: recording("adts", 40.0),
}


async def test_samples_and_notices_are_those_of_decoding_here(pool: LoggedPool) -> None:
    """Every format comes back as `audio.decode` gives it, to the last sample, as one channel or as several."""
    stereo = encode(np.stack([speech(2.0), speech(2.0, seed=1)]), "flac", "flac")
    for name, data, channels in [*((name, make(), "mix") for name, make in RECORDINGS.items()),
                                 ("split", stereo, "split"), ("mixed", stereo, "mix")]:  # fmt: skip
        there, here = await pool.decode(data, channels=channels), audio.decode(data, channels=channels)  # type: ignore[arg-type]
        assert (name, here.notices) == (name, there.notices)
        assert here.samples.dtype == there.samples.dtype
        np.testing.assert_array_equal(here.samples, there.samples)
    assert [] == pool.lines


BAD: list[tuple[bytes, dict[str, Any]]] = [
    (b"", {}),
    (b"no recording at all" * 10, {}),
    (wav(0.01), {}),
    (wav(5.0), {"limits": Limits(max_seconds=2.0)}),
    (wav(1.0), {"limits": Limits(max_bytes=1000)}),
    (wav(1.0), {"track": 7}),
    (wav(1.0), {"audio_format": "marmalade"}),
    (wav(1.0), {"channels": "both"}),
]


async def test_errors_are_those_of_decoding_here(pool: LoggedPool) -> None:
    """What is wrong with a recording or an option arrives as the same error, with all that it holds."""

    def facts(error: TickertapeError) -> tuple[Any, ...]:
        return type(error), error.args, error.code, error.message, getattr(error, "param", None)

    for data, options in BAD:
        with pytest.raises((AudioError, OptionError)) as here:
            audio.decode(data, **options)
        with pytest.raises(type(here.value)) as there:
            await pool.decode(data, **options)
        assert facts(here.value) == facts(there.value)
    assert 1 == len(workers())


async def test_the_upload_is_let_go_and_samples_outlive_their_process() -> None:
    """The upload's memory is free once it is passed on; samples can be read and written when the process is gone."""
    file = io.BytesIO(wav(1.0))
    with opened(1) as pool:
        heard = await pool.decoders.decode(file, limits=Limits())
    assert file.closed
    heard.samples[:] = 0.5
    assert 0.5 == heard.samples.mean()


async def test_nothing_is_left_open(pool: LoggedPool) -> None:
    """After any number of recordings, good and bad, neither side holds a descriptor more."""

    def held() -> list[int]:
        gc.collect()
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in ("self", *workers())]

    for _ in range(2):
        await pool.decode(wav(1.0))
    before = await asyncio.to_thread(held)
    for _ in range(5):
        await pool.decode(wav(1.0))
        with pytest.raises(AudioError):
            await pool.decode(b"nothing")
    await asyncio.to_thread(wait_until, lambda: before == held())


# -- what harms a process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status"), [(ABORT, -signal.SIGABRT), (FAULT, -signal.SIGSEGV), (KILL, -signal.SIGKILL), (FULL, 1)]
)
async def test_a_recording_that_kills_costs_two_processes(pool: LoggedPool, word: bytes, status: int) -> None:
    """It is tried once more and then refused; the operator hears of both; other recordings do not notice."""
    poison = asyncio.ensure_future(pool.decode(word))
    others = await asyncio.gather(*(pool.decode(wav(1.0)) for _ in range(6)))
    with pytest.raises(HarmfulAudioError, match="Two audio decoders died"):
        await poison
    assert {1.0} == {each.seconds for each in others}
    assert [("an audio decoder died", {"status": status})] * 2 == pool.lines
    assert 1.0 == (await pool.decode(wav(1.0))).seconds


async def test_a_process_that_is_killed_costs_nobody_a_recording(tmp_path: Path) -> None:
    """What somebody else has killed is replaced, and the recording it had is decoded all the same."""
    with opened(1) as pool:
        task = await started(pool, ONCE + os.fsencode(tmp_path / "seen") + b"\n" + wav(2.0))
        await asyncio.to_thread(wait_until, (tmp_path / "seen").exists)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        assert 2.0 == (await task).seconds
        assert [("an audio decoder died", {"status": -signal.SIGKILL})] == pool.lines
        for pid in workers():  # one that has nothing to do
            os.kill(pid, signal.SIGKILL)
        assert 1.0 == (await pool.decode(wav(1.0))).seconds


@pytest.mark.parametrize("word", [HANG, SPIN])
async def test_a_recording_without_an_end_is_refused_at_once(word: bytes) -> None:
    """Whether it waits or computes, its process ends when its time is up, and it gets no other."""
    with opened(1, timeout=1.0) as pool:
        with pytest.raises(HarmfulAudioError, match="more than 1 seconds"):
            await pool.decode(word)
        assert [("an audio decoder came to no end", {"seconds": 1.0})] == pool.lines
        assert set() == workers()


async def test_the_unexpected_is_told_without_what_it_says(pool: LoggedPool) -> None:
    """An exception that nobody raised on purpose tells where it came from, and nothing that it holds."""
    with pytest.raises(Exception, match="KeyError") as raised:
        await pool.decode(BUG)
    assert not isinstance(raised.value, TickertapeError)
    [(line, facts)] = pool.lines
    assert ("an audio decoder failed", "KeyError") == (line, facts["error"])
    assert facts["where"][-1].startswith("harmful.py:")
    assert "marmalade" not in str(facts) + str(raised.value)
    assert 1 == len(workers())


async def test_a_decoder_that_cannot_start_is_a_503() -> None:
    """Where no process comes up, the recording is not to blame."""
    with opened(1, target="tests.support.harmful:missing") as pool:
        with pytest.raises(OverloadedError, match="could be started"):
            await pool.decode(wav(1.0))
        assert [("an audio decoder did not start", {"status": 1})] == pool.lines


async def test_it_is_a_400_over_http_and_others_get_their_text() -> None:
    """The sender of a harmful recording is told so; requests beside it are answered."""
    with opened(2) as pool:
        settings = Settings(body_limit=2**20, max_audio_seconds=60)
        app = create_app({"demo": model()}, settings, decoders=pool.decoders)

        async def ask(data: bytes) -> httpx.Response:
            url, form = "/v1/audio/transcriptions", {"model": "demo"}
            return await client.post(url, data=form, files={"file": ("a", data)}, timeout=TIMEOUT)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answers = await asyncio.gather(*map(ask, [ABORT, *[wav()] * 5, FAULT]))
    errors = [(answer.status_code, answer.json()["error"]["code"]) for answer in (answers[0], answers[-1])]
    assert [(400, "harmful_audio")] * 2 == errors
    assert [TEXT] * 5 == [answer.json()["text"] for answer in answers[1:-1]]
    service = app.state.service
    assert (0, 0.0, 0) == (service.uploads.taken, service.admission.in_flight, service.requests.active)


# -- life and death ------------------------------------------------------------------------------------------------


async def test_processes_come_with_the_work_and_go_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """None before the first recording, as many as are decoded at once, and one when nothing has come for a while."""
    monkeypatch.setattr(worker_pool, "IDLE", 0.0)
    with opened(2) as pool:
        assert set() == workers()
        both = [await started(pool, word) for word in (HANG, SPIN)]
        await asyncio.to_thread(wait_until, lambda: 2 == len(workers()))
        for task in both:
            task.cancel()
        await asyncio.wait(both)
        await asyncio.gather(*(pool.decode(wav(1.0)) for _ in range(4)))
        await asyncio.sleep(1.1)
        await pool.decode(wav(1.0))
        await asyncio.sleep(1.1)
        await asyncio.to_thread(wait_until, lambda: 1 == len(workers()))


async def test_warming_starts_one(pool: LoggedPool) -> None:
    """A service that is ready has a process ready, too, and no more for being asked again."""
    for _ in range(3):
        pool.decoders.warm()
    await asyncio.to_thread(wait_until, workers)
    pool.decoders.close()
    pool.decoders.warm()
    await asyncio.to_thread(wait_until, lambda: not workers())


async def test_who_leaves_ends_the_process() -> None:
    """When nobody waits for a recording any more, its process ends, and the next recording gets another."""
    with opened(1) as pool:
        task = await started(pool, HANG)
        later = asyncio.ensure_future(pool.decode(HANG))  # waits for its turn
        for each in (later, task):
            each.cancel()
        await asyncio.wait([task, later])
        assert task.cancelled() and later.cancelled()  # noqa: PT018 - one behaviour
        assert 1.0 == (await pool.decode(wav(1.0))).seconds
        assert [] == pool.lines


async def test_closing_gives_up_what_is_under_way() -> None:
    """A recording that is being decoded when the service closes is told so, as one that comes later is."""
    with opened(1) as pool:
        task = await started(pool, HANG)
        pool.decoders.close()
        with pytest.raises(ShuttingDownError):
            await task
        with pytest.raises(ShuttingDownError):
            await pool.decode(wav(1.0))
        assert [] == pool.lines


async def test_forgotten_decoders_take_their_processes_along() -> None:
    """Whoever drops them without closing leaves no process behind."""
    before = workers()
    pool = LoggedPool(1)
    await pool.decode(wav(1.0))
    assert 1 == len(workers() - before)
    finish = pool.decoders
    del pool
    for handle in [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]:  # type: ignore[attr-defined]
        handle.cancel()  # a loop that goes on would hold them for a minute
    del finish, handle
    gc.collect()
    await asyncio.to_thread(wait_until, lambda: not workers() - before)


PARENT = """
import asyncio, io
from tickertape.audio.limits import Limits
from tickertape.audio.worker_pool import Decoders

async def main():
    decoders = Decoders(2, timeout=600, target="tests.support.harmful:decode")
    await asyncio.gather(*(decoders.decode(io.BytesIO(word), limits=Limits()) for word in (b"HANG", b"SPIN")))

asyncio.run(main())
"""


@contextmanager
def parent() -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """A process of its own whose two decoders are busy for good, and they."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=environment, cwd=ROOT) as process:
        try:
            wait_until(lambda: any(holds(pid, 4) for pid in workers(process.pid)) and 2 == len(workers(process.pid)))
            busy = workers(process.pid)
            wait_until(lambda: all(holds(pid, 4) for pid in busy))
            yield process, busy
        finally:
            process.kill()


def test_no_process_outlives_a_service_that_is_killed() -> None:
    """Kill -9 of the service ends its decoders, even in the middle of recordings that never end."""
    with parent() as (process, busy):
        process.kill()
        process.wait()
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in busy))


def test_signals_for_the_whole_group_leave_decoders_alone() -> None:
    """Ctrl-C and a supervisor's SIGTERM reach every process; decoders go on for as long as their service drains."""
    with parent() as (process, busy):
        for pid in busy:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        time.sleep(0.2)
        assert busy == workers(process.pid)


def test_a_process_dumps_no_core_and_has_its_limits() -> None:
    """Nobody's recording is written to a disk when a decoder crashes, and none can take all of the memory."""
    with parent() as (_, busy):
        for pid in busy:
            assert (0, 0) == psutil.Process(pid).rlimit(psutil.RLIMIT_CORE)
            assert psutil.Process(pid).rlimit(psutil.RLIMIT_DATA)[0] <= MAX_HEAP_BYTES


def test_a_process_imports_little() -> None:
    """A decoder's memory is that of PyAV and numpy: nothing of the service around it is imported."""
    heavy = {"ray", "gradio", "openvino", "fastapi", "pydantic", "scipy", "ctranslate2", "asyncio", "subprocess"}
    code = "import sys, tickertape.audio.decode, tickertape.audio.worker; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "av" in imported.split()
    assert set() == heavy & set(imported.split())


async def test_without_files_in_memory_it_decodes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no `memfd_create`, no process is started, and recordings and errors are the same."""
    monkeypatch.delattr(os, "memfd_create")
    with opened(2) as pool:
        pool.decoders.warm()
        file = io.BytesIO(wav(1.0))
        assert 1.0 == (await pool.decoders.decode(file, limits=Limits())).seconds
        assert file.closed
        with pytest.raises(AudioError):
            await pool.decode(b"nothing")
        assert set() == workers()
