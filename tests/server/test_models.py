"""The models of the settings, and how they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from tests.support.checkpoint_factory import make_adapter, make_checkpoint
from tickertape.errors import CheckpointNotFoundError, OptionError
from tickertape.server.models import absolute_source, model_sources, open_engine, prepare_models
from tickertape.server.settings import Settings


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of random weights, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # opening an engine sets it
    return make_checkpoint(tmp_path / "micro", "micro")


def test_models_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model has the name given, or its folder's; folders become absolute, hub ids stay unchanged."""
    (tmp_path / "calls").mkdir()
    monkeypatch.chdir(tmp_path)
    found = model_sources(Settings(models=("first=calls", "calls", "org/name@v2")))
    assert {"first": str(tmp_path / "calls"), "calls": str(tmp_path / "calls"), "name": "org/name@v2"} == found
    assert (["first", "calls", "name"], "") == (list(found), absolute_source(""))


@pytest.mark.parametrize("models", [("a=x", "a=y"), ("a b=x",), ("=x",)])
def test_invalid_names_are_rejected(models: tuple[str, ...]) -> None:
    """Duplicate names and names that are not valid in a URL are errors."""
    with pytest.raises(OptionError):
        model_sources(Settings(models=models))


@pytest.mark.slow
def test_compute_type_is_used(micro: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`compute_type` sets the number format of the decoder; with `float32` the encoder is exact, too."""
    settings = Settings(models=(str(micro),), compute_type="float32", threads=1)
    (source,) = prepare_models(settings).values()
    with caplog.at_level("INFO", "tickertape"):
        open_engine("micro", source, settings)
    [chosen] = [record.fields["chosen"] for record in caplog.records]  # type: ignore[attr-defined]
    assert {"encoder: openvino f32 (as asked)", "decoder: ctranslate2 float32 (as asked)"} <= set(chosen)


@pytest.mark.slow
def test_base_replaces_the_base_of_an_adapter(micro: Path, tmp_path: Path) -> None:
    """The setting `base` replaces the base checkpoint that an adapter names."""
    name = "base_model.model.model.encoder.layers.0.fc1"
    halves = {
        f"{name}.lora_A.weight": np.ones((4, 64), np.float32),
        f"{name}.lora_B.weight": np.ones((256, 4), np.float32),
    }
    adapter = make_adapter(tmp_path / "adapter", "/nowhere/base", halves)
    with pytest.raises(CheckpointNotFoundError):
        prepare_models(Settings(models=(str(adapter),), offline=True))
    settings = Settings(models=(str(adapter),), base=str(micro), threads=1)
    prepare_models(settings)
    assert "adapter" == open_engine("adapter", str(adapter), settings)[1].name


@pytest.mark.parametrize("offline", [True, False])
def test_offline_never_contacts_the_hub(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `offline`, only the local cache of the hub is searched."""
    asked: list[bool] = []

    def snapshot(*_: Any, local_files_only: bool, **__: Any) -> str:
        asked.append(local_files_only)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(CheckpointNotFoundError):
        prepare_models(Settings(models=("org/name",), offline=offline))
    assert [offline] == asked
