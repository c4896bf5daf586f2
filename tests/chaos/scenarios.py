"""What may happen to a service under load: kills, floods, clients that leave. Each returns figures and a verdict.

The engine is `tests.support.slow`, whose time per call is known, so the figures are those of the service around it.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.chaos.flood import Flood
from tests.chaos.mutants import sent
from tests.support.audio_factory import LONG, encode, speech
from tests.support.harmful import holds
from tests.support.service import (
    Clients,
    Service,
    calls,
    expected_text,
    free_port,
    pss,
    sound,
    started,
    wait_until_ready,
)
from tests.support.slow import HANG, POISON
from tests.support.waiting import TIMEOUT, wait_until
from tickertape.server.sse import HEARTBEAT

ENGINE, API, PROXY, CONTROLLER = "engine-slow", "tickertape:tickertape", "ProxyActor", "ServeController"
DECODER = "tickertape.audio.worker"
Figures = dict[str, Any]


@contextmanager
def slow_service(seconds: float, *flags: str) -> Iterator[tuple[Service, Path]]:
    """A service on Ray around the slow engine, and the folder in which its engines write."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        fixed = ["--engine", "tests.support.slow:engine", "--model", f"slow={seconds}:{folder}", "--no-page"]
        with started(*fixed, "--threads", "1", *flags) as service:
            yield service, Path(folder)


def kill(service: Service, name: str) -> None:
    """Kill -9 one process of that name."""
    os.kill(service.children(name)[0], signal.SIGKILL)


class Load(Clients):
    """Requests at a steady rate until the block ends; what became of each."""

    def __init__(self, service: Service, clients: int, recording: Callable[[int], bytes] = sound) -> None:
        super().__init__(clients)  # an outcome's time is when it ended
        self._service = service
        self._recording = recording

    def _ask(self, client: int) -> None:
        number = 1000 * (client + 1)
        while self._going:
            begun = time.monotonic()
            try:
                outcome = str(self._service.transcribe(self._recording(number % 30000), vad="false").status_code)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
                time.sleep(0.05)
            now = time.monotonic()
            self.outcomes.append((now, now - begun, outcome))
            number += 1

    @property
    def counts(self) -> Figures:
        """How many ended in which way."""
        return dict(Counter(outcome for _, _, outcome in self.outcomes))

    @property
    def failures(self) -> int:
        """How many did not get their text."""
        return sum(outcome != "200" for _, _, outcome in self.outcomes)


def c1_engine_killed(service: Service, folder: Path) -> Figures:
    """Kill -9 one of 2 engine replicas, 200 in flight."""
    recordings = [sound(number) for number in range(1, 201)]
    before = Counter(number for call in calls(folder) for number in call)
    with ThreadPoolExecutor(200) as pool:
        asked = [pool.submit(service.transcribe, each, vad="false") for each in recordings]
        time.sleep(2.0)
        kill(service, ENGINE)
        answers = [each.result() for each in asked]
    after = Counter(number for call in calls(folder) for number in call)
    right = sum(
        a.status_code == 200 and a.json()["text"] == expected_text(r) for a, r in zip(answers, recordings, strict=True)
    )
    times = [after[number] - before[number] for number in range(1, 201)]
    figures = {
        "requests": 200,
        "right": right,
        "decoded_twice": times.count(2),
        "decoded_more": sum(t > 2 for t in times),
    }
    return {**figures, "passed": right == 200 and not figures["decoded_more"]}


def c3_api_killed(service: Service, folder: Path) -> Figures:
    """Kill -9 one of 2 API replicas under the load of 8 clients."""
    wait_for(lambda: len(service.children(API)) >= 2)
    with Load(service, 8) as load:
        time.sleep(3)
        kill(service, API)
        killed = time.monotonic()
        time.sleep(0.5)
        wait_for(lambda: len(service.children(API)) >= 2)
        back = time.monotonic() - killed
        time.sleep(3)
    figures = {
        "requests": len(load.outcomes),
        "failed": load.failures,
        "second_process_s": round(back, 1),
        **load.counts,
    }
    return {**figures, "passed": load.failures <= 8 and back <= 10}


def c4_proxy_killed(service: Service, folder: Path) -> Figures:
    """Kill -9 the HTTP proxy."""
    kill(service, PROXY)
    killed = time.monotonic()
    time.sleep(0.2)
    wait_until_ready(service)
    seconds = time.monotonic() - killed
    return {"back_after_s": round(seconds, 1), "passed": seconds <= 10}


def c5_controller_killed(service: Service, folder: Path) -> Figures:
    """Kill -9 Serve's controller under the load of 8 clients."""
    with Load(service, 8) as load:
        time.sleep(2)
        kill(service, CONTROLLER)
        time.sleep(10)
    return {"requests": len(load.outcomes), "failed": load.failures, **load.counts, "passed": not load.failures}


def c10_poison(service: Service, folder: Path) -> Figures:
    """A recording that kills its engine, among 40 others."""
    wait_until_ready(service)
    before = len(list(folder.iterdir()))
    with ThreadPoolExecutor(41) as pool:
        asked = [pool.submit(service.transcribe, sound(n), vad="false") for n in range(2001, 2041)]
        poison = pool.submit(service.transcribe, sound(2000, first=POISON), vad="false").result()
        lost = sum(each.result().status_code != 200 for each in asked)
    time.sleep(12)
    wait_until_ready(service)
    deaths = len(list(folder.iterdir())) - before
    figures = {"bystanders_lost": lost, "engines_died": deaths, "status": poison.status_code}
    return {**figures, "passed": not lost and deaths <= 2 and poison.status_code == 400}


def c10audio_poison(service: Service, folder: Path) -> Figures:
    """Ten recordings whose audio decoders are killed as soon as they have them, among 40 others."""
    wait_until_ready(service)
    poison = LONG["half_hour"]()  # so that there is time
    killed: set[int] = set()
    over = threading.Event()

    def kill_holders() -> None:
        while not over.is_set():
            for pid in set(service.children(DECODER)) - killed:
                if holds(pid, len(poison)):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    killing = threading.Thread(target=kill_holders)
    killing.start()
    with ThreadPoolExecutor(50) as pool:
        harmful = [pool.submit(service.transcribe, poison, vad="false") for _ in range(10)]
        asked = [pool.submit(service.transcribe, sound(n), vad="false") for n in range(9001, 9041)]
        lost = sum(each.result().status_code != 200 for each in asked)
        told = Counter(each.result().json().get("error", {}).get("code", "") for each in harmful)
    over.set()
    killing.join()
    figures = {"bystanders_lost": lost, "decoders_died": len(killed), "told": dict(told)}
    return {**figures, "passed": not lost and len(killed) <= 20 and told == {"harmful_audio": 10}}


def c14_half_uploads(service: Service, folder: Path) -> Figures:
    """200 clients upload half and vanish; looked at 10 s later."""
    wait_until_ready(service)
    service.transcribe()
    before = descriptors(service)
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b'Content-Length: 200000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    for batch in range(10):
        clients = [socket.create_connection((host, int(port))) for _ in range(20)]
        for client in clients:
            client.sendall(head + bytes(100_000))
        time.sleep(0.3)
        for client in clients:
            client.close()
        del batch
    time.sleep(10)
    metrics = [service.get("/metrics").text for _ in range(6)]  # some of each API replica
    held = max(gauge(text, "upload_bytes_in_memory") for text in metrics)
    inside = max(gauge(text, "requests_in_flight") for text in metrics)
    grown = descriptors(service) - before
    figures = {"clients": 200, "bytes_held": held, "requests_inside": inside, "descriptors_more": grown}
    return {**figures, "passed": not held and not inside and grown <= 10}


def c15_client_leaves(service: Service, folder: Path) -> Figures:
    """A client leaves in the middle of 20 minutes of audio."""
    wait_until_ready(service)
    recording = sound(3000, seconds=1200.0)
    begun = len(lines(folder))
    with suppress(httpx.TimeoutException):
        service.transcribe(recording, vad="false", timeout=2.5)
    left = time.monotonic()
    last, seen = left, len(lines(folder))
    while time.monotonic() - left < 5:
        if len(lines(folder)) != seen:
            last, seen = time.monotonic(), len(lines(folder))
        time.sleep(0.05)
    figures = {"calls_before": seen - begun, "last_call_began_after_s": round(last - left, 2)}
    return {**figures, "passed": last - left <= 1 and seen > begun}


def c17_mixed(service: Service, folder: Path, count: int = 2000) -> Figures:
    """2,000 requests, half of them bad; memory and descriptors after a fifth of them and at the end."""
    wait_until_ready(service)
    bad: list[Callable[[], httpx.Response]] = [
        lambda: service.transcribe(b""),
        lambda: service.transcribe(b"not audio at all" * 100),
        lambda: service.transcribe(language="klingon"),
        lambda: service.transcribe(model="nobody"),
        lambda: httpx.post(f"{service.url}/v1/audio/transcriptions", content=b"x" * 10000, timeout=60),
        lambda: service.transcribe(sound(1)[:20000], temperature="nan"),
    ]
    statuses: Counter[int] = Counter()

    def one(number: int) -> None:
        answer = service.transcribe(sound(number)) if number % 2 else bad[number // 2 % len(bad)]()
        statuses[answer.status_code] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(count // 5)))
        time.sleep(3)
        first = (memory(service), descriptors(service), files(service))
        list(pool.map(one, range(count // 5, count)))
    time.sleep(3)
    last = (memory(service), descriptors(service), files(service))
    growth = last[0] / first[0] - 1
    figures = {"requests": count, "statuses": dict(statuses), "mib_after_a_fifth": first[0], "mib_at_the_end": last[0],
               "growth_percent": round(100 * growth, 1), "descriptors": [first[1], last[1]],
               "temporary_files": [first[2], last[2]]}  # fmt: skip
    flat = growth <= 0.05 and last[1] - first[1] <= 10 and last[2] <= first[2]
    return {**figures, "passed": flat and set(statuses) <= {200, 400, 404, 415}}


def c24_hung(service: Service, folder: Path) -> Figures:
    """An engine call that never returns, with 6 requests behind it; the limit for a call is 3 s."""
    wait_until_ready(service)
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        hung = pool.submit(service.transcribe, sound(4000, first=HANG), vad="false")
        time.sleep(0.1)
        asked = [pool.submit(service.transcribe, sound(n), vad="false") for n in range(4001, 4007)]
        lost = sum(each.result().status_code != 200 for each in asked)
        status = hung.result().status_code
    seconds = time.monotonic() - begun
    figures = {"bystanders_lost": lost, "status": status, "told_after_s": round(seconds, 1)}
    return {**figures, "passed": not lost and status == 400}


def c26_same_text(service: Service, folder: Path) -> Figures:
    """The same audio 500 times, by 16 clients, with an engine killed every 100 requests."""
    wait_until_ready(service)
    recording = sound(5000)
    texts: Counter[str] = Counter()

    def one(number: int) -> None:
        if number % 100 == 50:
            kill(service, ENGINE)
        answer = service.transcribe(recording, vad="false")
        texts[answer.json()["text"] if answer.status_code == 200 else str(answer.status_code)] += 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(500)))
    return {"requests": 500, "kills": 5, "texts": len(texts), "passed": texts == {expected_text(recording): 500}}


def c6_drain(service: Service, folder: Path) -> Figures:
    """SIGTERM with 20 requests in flight and new ones arriving."""
    wait_until_ready(service)
    late: Counter[str] = Counter()
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(service.transcribe, sound(n, seconds=5.0), vad="false") for n in range(6001, 6021)]
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        wait_until(lambda: service.get("/readyz").status_code != 200)
        red = time.monotonic() - signalled
        while not all(each.done() for each in asked) and time.monotonic() - signalled < TIMEOUT:
            late[str(service.transcribe().status_code)] += 1
        finished = sum(each.result().status_code == 200 for each in asked)
        done = time.monotonic() - signalled
    code = service.process.wait(60)
    figures = {"red_after_s": round(red, 2), "finished": finished, "of": 20, "new_ones": dict(late), "exit_code": code,
               "answered_after_s": round(done, 1), "gone_after_s": round(time.monotonic() - signalled, 1)}  # fmt: skip
    return {**figures, "passed": red <= 1 and finished == 20 and set(late) <= {"503"} and code == 0}


def c11_overload(seconds: float = 60.0) -> Figures:
    """Ten times what the engines can do, for 60 s: 80 requests a second, 8 of which can be decoded."""
    limits = ["--engine-replicas", "2", "--batch", "4", "--audio-seconds-in-flight", "720"]
    small = encode(speech(29.0), "ogg", "libopus", bit_rate=16_000)  # one window in 50 KB
    form = {"model": "slow", "vad": "false", "language": "en"}
    with slow_service(1.0, *limits) as (service, _):
        url = f"{service.url}/v1/audio/transcriptions"
        Flood(url, rate=4.0, seconds=2.0, recording=small, form=form).run()  # what is done once is not the question
        spent = processor_seconds(service)
        flood = Flood(url, rate=80.0, seconds=seconds, recording=small, form=form)
        flood.run()
        spent = processor_seconds(service) - spent
        ended = time.monotonic()
        while service.transcribe(sound(1), vad="false").status_code != 200:
            time.sleep(0.1)
        recovered = time.monotonic() - ended
    rejected, accepted = flood.times("503"), flood.times("200")
    budget = 720 / 30 / 8 + 1.0  # seconds: what may wait, at capacity, and a call
    goodput = len(accepted) / (seconds * 8)
    figures = {"sent": len(flood.outcomes), "statuses": flood.statuses,
               "rejects_p50_ms": round(1000 * p50(rejected)), "rejects_p99_ms": round(1000 * p99(rejected)),
               "accepted_p99_s": round(p99(accepted), 1), "budget_s": budget, "goodput_percent": round(100 * goodput),
               "recovered_after_s": round(recovered, 1), "with_retry_after": flood.polite,
               "cores_busy": round(spent / seconds, 2)}  # fmt: skip
    good = p99(rejected) <= 0.2 and p99(accepted) <= 2 * budget and goodput >= 0.9 and recovered <= 5
    return {**figures, "passed": good and flood.polite and set(flood.statuses) <= {"200", "503"}}


def c13_deadline() -> Figures:
    """A deadline of 5 s on 60 s of audio while every slot is busy."""
    limits = ["--request-timeout", "5", "--batch", "1"]
    with slow_service(2.0, *limits) as (service, folder):
        with ThreadPoolExecutor(8) as pool:
            busy = [pool.submit(service.transcribe, sound(n), vad="false") for n in range(1, 7)]
            time.sleep(0.3)
            begun = time.monotonic()
            answer = service.transcribe(sound(8000, seconds=60.0), vad="false")
            seconds = time.monotonic() - begun
            for each in busy:
                each.result()
        time.sleep(2.5)
        seen = len(lines(folder))
        time.sleep(5)
        work = len(lines(folder)) - seen
    figures = {"status": answer.status_code, "answered_after_s": round(seconds, 2), "engine_calls_after": work}
    return {**figures, "passed": answer.status_code in {503, 504} and seconds <= 5.5 and not work}


def c19_mutants(count: int = 10_000) -> Figures:
    """10,000 damaged recordings and forms over HTTP, by 8 clients."""
    with slow_service(0.0, "--no-ray", "--body-limit", "4000000") as (service, _):
        begun = time.monotonic()
        seen = sent(service, count)
        seconds = time.monotonic() - begun
        ready = service.get("/readyz").status_code
        alive = service.process.poll() is None
    figures = {"mutants": count, "statuses": dict(sorted(seen.items())), "ready_after": ready, "took_s": round(seconds)}
    good = all(status.startswith(("2", "4")) for status in seen) and sum(seen.values()) == count
    return {**figures, "passed": good and alive and ready == 200}


def c6_grace(*flags: str) -> Figures:
    """SIGTERM with requests that take longer than the grace: each is told, and the process leaves in time."""
    grace = 4.0
    limits = ["--grace-seconds", str(grace), *flags]
    with slow_service(60.0, *limits) as (service, _), ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(service.transcribe, sound(n, 100.0), vad="false", stream=("false", "true")[n % 2])
            for n in range(8)
        ]
        time.sleep(HEARTBEAT + 2.0)  # the streams have begun, with a heartbeat
        service.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        code = service.process.wait(60)
        gone = time.monotonic() - signalled
        told = Counter("shutting_down" in each.result().text for each in asked)
    figures = {"requests": 8, "told": told[True], "exit_code": code, "grace_s": grace, "gone_after_s": round(gone, 1)}
    return {**figures, "passed": told == {True: 8} and code == 0 and gone <= grace + 3.0}


def c6_grace_alone() -> Figures:
    """The same without Ray."""
    return c6_grace("--no-ray")


def c22_offline() -> Figures:
    """No network but loopback, no DNS; run it under `unshare --net`."""
    port = free_port()
    with slow_service(0.1) as (service, _):
        answer = service.transcribe(sound(1), vad="false")
    interfaces = [name for _, name in socket.if_nameindex()]
    return {"interfaces": interfaces, "status": answer.status_code, "passed": answer.status_code == 200 and bool(port)}


def lines(folder: Path) -> list[str]:
    """One for each call of an engine."""
    return [line for file in folder.iterdir() for line in file.read_text().splitlines() if line.strip()]


def gauge(metrics: str, name: str) -> float:
    """A gauge's value."""
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith(f"tickertape_{name} "))


def descriptors(service: Service) -> int:
    """Open descriptors of the service's own replicas and proxy."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in serving(service))


def files(service: Service) -> int:
    """Files in the service's temporary folder, Ray's own logs left out."""
    below = Path(tempfile.gettempdir()).glob(f"tickertape-{service.process.pid}-*/**/*")
    return sum(path.is_file() and "logs" not in path.parts for path in below)


def memory(service: Service) -> int:
    """MiB of the service's own replicas and proxy, shared pages counted once."""
    return round(sum(map(pss, serving(service))))


def serving(service: Service) -> list[int]:
    """The processes through which requests go."""
    return [pid for name in (ENGINE, API, PROXY, DECODER) for pid in service.children(name)]


def processor_seconds(service: Service) -> float:
    """What the service and the processes below it have used of the cores so far."""
    total = 0.0
    for pid in (service.process.pid, *service.children()):
        with suppress(psutil.Error):
            total += sum(psutil.Process(pid).cpu_times()[:2])
    return total


def p50(values: list[float]) -> float:
    """The median."""
    return statistics.median(values) if values else float("nan")


def p99(values: list[float]) -> float:
    """The 99th percentile of sorted values."""
    return values[int(0.99 * (len(values) - 1))] if values else float("nan")


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until it holds, at most so long."""
    begun = time.monotonic()
    while not condition() and time.monotonic() - begun < seconds:
        time.sleep(0.1)
