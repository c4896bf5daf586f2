"""What the API says of itself is true: schemathesis reads the OpenAPI document and finds nothing to object to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.fakes import Serving, model, wav
from tests.support.waiting import TIMEOUT
from tickertape import errors
from tickertape.errors import TickertapeError
from tickertape.server import errors as server_errors
from tickertape.server import openapi
from tickertape.server.app import create_app
from tickertape.server.params import form_schema
from tickertape.server.settings import Settings

SOUND = wav(0.2)


def app() -> Any:
    return create_app({"demo": model()}, Settings(body_limit=2**20))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Serving(app()) as served:
        yield served


schema = schemathesis.openapi.from_dict(app().openapi())
schema.config.update(request_timeout=TIMEOUT)
bounded = settings(
    max_examples=50,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# What a schema cannot say: that a file is a recording, that a model exists, that one field excludes another.
UNSAYABLE = [positive_data_acceptance]


@schema.parametrize()
@bounded
@pytest.mark.slow
def test_schemathesis_finds_nothing(case: schemathesis.Case, url: str) -> None:
    """Whatever the document allows or forbids: no 5xx, only documented statuses, types and bodies."""
    case.call_and_validate(base_url=url, excluded_checks=UNSAYABLE)


@schema.include(path_regex="^/v1/audio/").parametrize()
@bounded
@pytest.mark.slow
def test_schemathesis_finds_nothing_with_a_recording(case: schemathesis.Case, url: str) -> None:
    """The same with a recording and a model that exist, so that the other fields are looked at."""
    if isinstance(case.body, dict):
        case.body |= {"file": SOUND, "model": "demo"}
    case.call_and_validate(base_url=url, excluded_checks=[*UNSAYABLE, negative_data_rejection])


def test_every_situation_has_a_status() -> None:
    """Every exception that can become an answer is in the table of statuses and in the reference."""
    told = {code for _, code, _ in openapi.situations()}
    for module in (errors, server_errors):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, TickertapeError):
                assert 400 <= kind.status <= 599
                if not issubclass(kind, errors.CheckpointError | errors.OptionError) and kind is not errors.DecodeError:
                    assert kind.code in told


def test_the_document_holds_every_field() -> None:
    """The form in the document is the table of fields; the framework's 422 is gone."""
    document = app().openapi()
    form = document["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form_schema("transcribe") == form["schema"]
    assert "422" not in str(document["paths"])


async def test_the_page_loads_nothing() -> None:
    """/docs names every endpoint and field, and fetches nothing from anywhere."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://test") as client:
        answer = await client.get("/docs")
    assert all(
        name in answer.text
        for name in (*form_schema("transcribe")["properties"], "/v1/audio/translations", "/readyz", "curl")
    )
    assert not any(mark in answer.text for mark in ("<script", "src=", "@import", "<link"))
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("module", ["ray", "gradio", "torch"])
@pytest.mark.slow
def test_the_application_needs_no_heavy_library(module: str) -> None:
    """create_app runs without Ray, Gradio and torch."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from tickertape.server.app import create_app; from tickertape.server.settings import Settings\n"
        "create_app({}, Settings())\n"
    )

    async def run() -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        return await process.wait()

    assert 0 == asyncio.run(run())
