"""The model that is used when none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.logs import LOG
from tickertape.checkpoints.source import Located
from tickertape.engine import loading
from tickertape.engine.loading import SMALL_MODEL, LoadOptions, default_model
from tickertape.errors import CheckpointNotFoundError, CorruptCheckpointError


@pytest.fixture(autouse=True)
def pulled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """An empty working directory, and what `pull` was asked for; it finds every model in the cache."""
    asked: dict[str, Any] = {}

    def pull(model: str, **options: Any) -> Located:
        asked.update(options, model=model)
        return Located(tmp_path, "cache")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "pull", pull)
    return asked


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither cache nor index nor hub has the default model."""

    def pull(*_: Any, **__: Any) -> Located:
        raise CheckpointNotFoundError("no connection")

    monkeypatch.setattr(loading, "pull", pull)


def test_whisper_base_is_the_default(pulled: dict[str, Any], tmp_path: Path) -> None:
    """OpenAI's whisper-base is fetched, into the cache and with the limits of the options."""
    assert ("whisper-base", "openai/whisper-base") == default_model(LoadOptions(cache=tmp_path, offline=True))
    assert ("openai/whisper-base", tmp_path, True) == (pulled["model"], pulled["cache"], pulled["offline"])


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_folder_of_ones_own_comes_first(name: str, pulled: dict[str, Any], tmp_path: Path) -> None:
    """A folder `checkpoint` with a model or an adapter in the working directory is used, and nothing is fetched."""
    (tmp_path / "checkpoint").mkdir()
    assert "whisper-base" == default_model()[0]
    pulled.clear()
    (tmp_path / "checkpoint" / name).touch()
    assert ("checkpoint", str(tmp_path / "checkpoint")) == default_model()
    assert {} == pulled


@pytest.mark.usefixtures("unreachable")
def test_a_checkout_falls_back_to_its_small_model() -> None:
    """Without a connection the small model of synthetic voices is used, and one sentence says so."""
    assert ("synthetic-voices", str(SMALL_MODEL)) == default_model()
    assert (SMALL_MODEL / "config.json").is_file()
    [record] = LOG.records
    assert "openai/whisper-base cannot be fetched" in record.getMessage()
    assert "synthetic voices" in record.getMessage()


@pytest.mark.usefixtures("unreachable")
def test_an_installation_without_it_explains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed package has no small model; the error has the reason and says what to do."""
    monkeypatch.setattr(loading, "SMALL_MODEL", tmp_path / "absent")
    with pytest.raises(CheckpointNotFoundError, match="no connection; name another model, or run tickertape pull"):
        default_model()


def test_a_tampered_index_is_no_reason_to_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other errors than a missing model are raised."""

    def pull(*_: Any, **__: Any) -> Located:
        raise CorruptCheckpointError("other files")

    monkeypatch.setattr(loading, "pull", pull)
    with pytest.raises(CorruptCheckpointError):
        default_model()
