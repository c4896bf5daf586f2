"""A first request to a service that was just deployed: it answers, and it transcribes."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import wave

from tickertape.tools.commands import CommandFailed

PATIENCE = 300.0  # seconds: a service without instances has to start one first
BOUNDARY = "tickertape-smoke-test"
RATE = 16_000  # samples per second


def smoke_test(address: str, *, token: str = "", patience: float = PATIENCE) -> str:
    """Send a second of silence; a sentence about the answer. `token` is for Cloud Run's own gate.

    A service that asks for an API key has answered, too. Raises `CommandFailed`.
    """
    request = urllib.request.Request(  # noqa: S310 - the address comes from gcloud
        f"{address}/v1/audio/transcriptions",
        data=_form({"model": "whisper-1", "response_format": "json", "vad": "false"}, _silence()),  # to the engine
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    if token:  # beside `Authorization`, which is for the service's own keys
        request.add_header("X-Serverless-Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:  # noqa: S310 - as above
            json.load(answer)["text"]
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 401 and b"invalid_api_key" in error.read():
                return "it answers, and asks for an API key"
        raise CommandFailed(f"The smoke test failed: the service answered {error.code}.", "smoke_test") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"The smoke test failed: no proper answer ({type(error).__name__}).", "smoke_test"
        ) from error
    return "it transcribes"


def _silence() -> bytes:
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE)
            sound.writeframes(bytes(2 * RATE))
        return file.getvalue()


def _form(fields: dict[str, str], recording: bytes) -> bytes:
    head = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in
            fields.items()]  # fmt: skip
    head.append(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="silence.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return "".join(head).encode() + recording + f"\r\n--{BOUNDARY}--\r\n".encode()
