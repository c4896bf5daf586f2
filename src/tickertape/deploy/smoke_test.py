"""A first request that checks that a service which was just deployed transcribes."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import wave

from tickertape.deploy.commands import CommandError

TIMEOUT = 300.0  # seconds: a service without instances has to start one first
BOUNDARY = "tickertape-smoke-test"
RATE = 16_000  # samples per second


def smoke_test(address: str, *, token: str = "") -> str:
    """Send a second of silence; the outcome as a phrase. `token` is for Cloud Run's own access check.

    A service that asks for an API key passes, too. Raises `CommandError`.
    """
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    if token:  # not in `Authorization`, which is for the service's own keys
        headers["X-Serverless-Authorization"] = f"Bearer {token}"
    url = f"{address}/v1/audio/transcriptions"
    request = urllib.request.Request(url, _form(), headers)  # noqa: S310 - the address comes from gcloud
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - as above
            json.load(answer)["text"]
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 401 and b"invalid_api_key" in error.read():
                return "it answers, and asks for an API key"
        raise CommandError(f"The smoke test failed: the service answered {error.code}.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"The smoke test failed: no proper answer ({type(error).__name__}).") from error
    return "it transcribes"


def _form() -> bytes:
    """A form with a second of silence, without speech detection, so that it reaches the engine."""
    parts = ('"model"\r\n\r\nwhisper-1\r\n', '"vad"\r\n\r\nfalse\r\n', '"file"; filename="silence.wav"\r\n\r\n')
    head = "".join(f"--{BOUNDARY}\r\nContent-Disposition: form-data; name={part}" for part in parts)
    with wave.open(file := io.BytesIO(), "wb") as recording:
        recording.setparams((1, 2, RATE, 0, "NONE", ""))
        recording.writeframes(bytes(2 * RATE))
    return head.encode() + file.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()
