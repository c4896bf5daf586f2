"""Damaged recordings and damaged forms, thousands of them, over HTTP: nothing that a client sends may be a 5xx."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import httpx

from tests.support.audio_factory import encode, speech
from tests.support.service import Service

CLIENTS = 8
FORMATS = (("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("mp4", "aac"), ("ogg", "libopus"), ("webm", "libopus"),
           ("flac", "flac"), ("adts", "aac"))  # fmt: skip
LIE = 1 / 4  # of the mutants are damaged in the form around the recording, too


def mutants(count: int, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """So many bodies of requests, each with its Content-Type."""
    generator = random.Random(seed)
    sound = speech(3.0)
    recordings = [encode(sound, container, codec) for container, codec in FORMATS]
    for _ in range(count):
        recording = _damaged(generator, generator.choice(recordings))
        form = {"model": "slow", "vad": generator.choice(("true", "false"))}
        request = httpx.Request("POST", "http://service/", files={"file": ("a", recording)}, data=form)
        body = request.read()
        if generator.random() < LIE:
            body = _damaged(generator, body, within=512)
        yield body, request.headers["content-type"].encode()


def _damaged(generator: random.Random, data: bytes, within: int = 2**20) -> bytes:
    """Some bytes changed, mostly near the beginning; a third of the time the end cut off."""
    damaged = bytearray(data)
    reach = min(len(data), generator.choice((64, 1024, within)))
    for _ in range(generator.choice((1, 4, 64, 400))):
        damaged[generator.randrange(reach)] = generator.randrange(256)
    if generator.random() < 1 / 3:
        del damaged[generator.randrange(1, len(damaged)) :]
    return bytes(damaged)


def sent(service: Service, count: int) -> Counter[str]:
    """Send them all; how many were answered with which status, or how the answer was wrong."""
    return asyncio.run(_sent(service, count))


async def _sent(service: Service, count: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    waiting = mutants(count)
    url = f"{service.url}/v1/audio/transcriptions"

    async def client() -> None:
        async with httpx.AsyncClient(timeout=120) as http:
            for body, kind in waiting:
                try:
                    answer = await http.post(url, content=body, headers={b"content-type": kind})
                    seen[str(answer.status_code) if _typed(answer) else "not typed"] += 1
                except httpx.HTTPError as error:  # noqa: PERF203 - each answer is looked at
                    seen[type(error).__name__] += 1

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return seen


def _typed(answer: httpx.Response) -> bool:
    """Whether an error is in the envelope."""
    if answer.status_code < 400:
        return True
    try:
        return {"message", "type", "param", "code"} == set(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return False
