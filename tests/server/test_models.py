"""Which models the settings ask for, and that what they say of opening them is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from tests.checkpoint_factory import make_adapter, make_checkpoint
from tickertape import roster
from tickertape.errors import CheckpointMissing, OptionError
from tickertape.settings import Settings


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of random weights, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # opening an engine sets it
    return make_checkpoint(tmp_path / "micro", "micro")


def test_models_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is called as it was asked, or as its folder; folders get their whole path, hub ids stay."""
    (tmp_path / "calls").mkdir()
    monkeypatch.chdir(tmp_path)
    found = roster.sources(Settings(models=("first=calls", "calls", "org/name@v2")))
    assert {"first": str(tmp_path / "calls"), "calls": str(tmp_path / "calls"), "name": "org/name@v2"} == found
    assert (["first", "calls", "name"], "") == (list(found), roster.placed(""))


@pytest.mark.parametrize("models", [("a=x", "a=y"), ("a b=x",), ("=x",)])
def test_names_that_cannot_be_are_refused(models: tuple[str, ...]) -> None:
    """Two models of one name, and names that have no place in a URL."""
    with pytest.raises(OptionError):
        roster.sources(Settings(models=models))


def test_a_model_can_be_run_exactly(micro: Path) -> None:
    """`compute_type` and `precision` decide the numbers of decoder and encoder."""
    settings = Settings(models=(str(micro),), compute_type="float32", precision="f32", threads=1)
    (source,) = roster.prepare(settings).values()
    reasons = roster.open_engine("micro", source, settings).reasons
    assert {"encoder: openvino f32 (asked for)", "decoder: ctranslate2 float32 (as asked)"} <= set(reasons)


def test_the_base_of_an_adapter_can_be_named(micro: Path, tmp_path: Path) -> None:
    """An adapter whose own base is elsewhere is put on the one that the settings name."""
    name = "base_model.model.model.encoder.layers.0.fc1"
    halves = {
        f"{name}.lora_A.weight": np.ones((4, 64), np.float32),
        f"{name}.lora_B.weight": np.ones((256, 4), np.float32),
    }
    adapter = make_adapter(tmp_path / "adapter", "/nowhere/base", halves)
    with pytest.raises(CheckpointMissing):
        roster.prepare(Settings(models=(str(adapter),), offline=True))
    settings = Settings(models=(str(adapter),), base=str(micro), threads=1)
    roster.prepare(settings)
    assert "adapter" == roster.open_engine("adapter", str(adapter), settings).model.name


@pytest.mark.parametrize("offline", [True, False])
def test_offline_never_asks_the_hub(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `offline` only the hub's folder on this machine is looked at."""
    asked: list[bool] = []

    def snapshot(*_: Any, local_files_only: bool, **__: Any) -> str:
        asked.append(local_files_only)
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(CheckpointMissing):
        roster.prepare(Settings(models=("org/name",), offline=offline))
    assert [offline] == asked
