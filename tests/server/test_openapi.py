"""What the API says of itself is true: schemathesis reads the OpenAPI document and finds nothing to object to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.fakes import Serving, model, wav
from tickertape import contract, errors, failures
from tickertape.api import create_app
from tickertape.errors import TickertapeError
from tickertape.orders import FIELDS
from tickertape.settings import Settings

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "api.md"
SOUND = wav(0.2)
PATIENCE = 120.0  # seconds for an answer: the first upload starts a process that decodes


def app() -> Any:
    return create_app({"demo": model()}, Settings(body_limit=2**20), emit=lambda _: None)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Serving(app()) as served:
        yield served


schema = schemathesis.openapi.from_dict(app().openapi())
schema.config.update(request_timeout=PATIENCE)
bounded = settings(
    max_examples=50,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# What a schema cannot say: that a file is a recording, that a model exists, that one field excludes another.
UNSAYABLE = [positive_data_acceptance]


@schema.parametrize()
@bounded
def test_schemathesis_finds_nothing(case: schemathesis.Case, url: str) -> None:
    """Whatever the document allows or forbids: no 5xx, only documented statuses, types and bodies."""
    case.call_and_validate(base_url=url, excluded_checks=UNSAYABLE)


@schema.include(path_regex="^/v1/audio/").parametrize()
@bounded
def test_schemathesis_finds_nothing_with_a_recording(case: schemathesis.Case, url: str) -> None:
    """The same with a recording and a model that exist, so that the other fields are looked at."""
    if isinstance(case.body, dict):
        case.body |= {"file": SOUND, "model": "demo"}
    case.call_and_validate(base_url=url, excluded_checks=[*UNSAYABLE, negative_data_rejection])


def test_the_reference_is_current() -> None:
    """docs/reference/api.md is what the tables say."""
    assert contract.reference() == REFERENCE.read_text(encoding="utf-8")


def test_every_situation_has_a_status() -> None:
    """Every exception that can become an answer is in the table of statuses and in the reference."""
    told = {code for _, code, _ in contract.situations()}
    for module in (errors, failures):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, TickertapeError):
                assert 400 <= failures.status_of(kind) <= 599
                if not issubclass(kind, errors.CheckpointError | errors.OptionError) and kind is not errors.DecodeError:
                    assert kind.code in told


def test_the_document_holds_every_field() -> None:
    """The form in the document is the table of fields; the framework's 422 is gone."""
    document = app().openapi()
    form = document["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(FIELDS) == set(form["schema"]["properties"])
    assert "422" not in str(document["paths"])


async def test_the_page_loads_nothing() -> None:
    """/docs names every endpoint and field, and fetches nothing from anywhere."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://test") as client:
        answer = await client.get("/docs")
    assert all(name in answer.text for name in (*FIELDS, "/v1/audio/translations", "/readyz", "curl"))
    assert not any(mark in answer.text for mark in ("<script", "src=", "@import", "<link"))
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("module", ["ray", "gradio", "torch"])
def test_the_application_needs_no_heavy_library(module: str) -> None:
    """create_app runs without Ray, Gradio and torch."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from tickertape.api import create_app; from tickertape.settings import Settings\n"
        "create_app({}, Settings())\n"
    )

    async def run() -> int:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        return await process.wait()

    assert 0 == asyncio.run(run())
