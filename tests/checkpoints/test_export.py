"""Checkpoints as Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken

from tests.support.checkpoint_factory import add_tokens, make_adapter, make_checkpoint
from tickertape.checkpoints.checks import examine
from tickertape.checkpoints.export import export
from tickertape.checkpoints.lora import EMBEDDINGS, OUTPUT
from tickertape.checkpoints.prepare import prepare
from tickertape.checkpoints.source import find
from tickertape.errors import CheckpointError, CorruptCheckpointError, OptionError


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that no test changes."""
    return make_checkpoint(tmp_path_factory.mktemp("small") / "small", "custom")


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_an_exported_checkpoint_is_the_same(dtype: str, tmp_path: Path) -> None:
    """Every tensor is equal, float16 stays float16, and preparing gives the same decoder."""
    folder = make_checkpoint(tmp_path / "model", "custom", dtype=dtype)
    export(folder, tmp_path / "exported", cache=tmp_path)
    expected, found = find(folder).weights(), find(tmp_path / "exported").weights()
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert all((dtype == "float16") == found.is_half(name) for name in found)
    prepared = [prepare(each, cache=tmp_path).folder for each in (folder, tmp_path / "exported")]
    assert all(
        (prepared[0] / name).read_bytes() == (prepared[1] / name).read_bytes()
        for name in ("model.bin", "config.json", "vocabulary.json")
    )


@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_a_ctranslate2_folder_is_exported(stored: str, small: Path, tmp_path: Path) -> None:
    """CTranslate2's tensors get their names back, and generation_config.json has every rule of the original."""
    theirs = prepare(small, cache=tmp_path, compute_type=stored).folder
    export(theirs, tmp_path / "exported", cache=tmp_path)
    expected, found = find(small).weights(), find(tmp_path / "exported").weights()
    tolerance = {"float32": 0.0, "float16": 1e-3, "int8": 0.02}[stored]
    assert expected.keys() == found.keys()
    assert all(np.allclose(found[name], expected[name], atol=tolerance, rtol=tolerance) for name in expected)
    rules, original = (
        json.loads((folder / "generation_config.json").read_text()) for folder in (tmp_path / "exported", small)
    )
    rules["suppress_tokens"], original["suppress_tokens"] = (
        set(rules["suppress_tokens"]),
        set(original["suppress_tokens"]),
    )
    assert original == {name: rules[name] for name in original}


def test_an_adapter_is_merged(small: Path, tmp_path: Path) -> None:
    """The exported folder has the sum of base and adapter, and needs no base."""
    norm = "model.decoder.layer_norm.weight"
    adapter = make_adapter(tmp_path / "adapter", "/nowhere", {f"base_model.model.{norm}": np.full(64, 2, np.float32)})
    export(adapter, tmp_path / "exported", base=small, cache=tmp_path)
    assert np.array_equal(np.full(64, 2, np.float32), find(tmp_path / "exported").weights()[norm])


def test_moved_tokens_and_a_separate_output_layer_are_exported(small: Path, tmp_path: Path) -> None:
    """The files agree on the new ids, and config.json says that the output layer is not the embeddings."""
    source = Path(shutil.copytree(small, tmp_path / "source"))
    add_tokens(source, [AddedToken("ledger"), AddedToken("<|xx|>", special=True)], np.ones((2, 64), np.float32))
    rows = len(find(source).weights()[EMBEDDINGS])
    adapter = make_adapter(tmp_path / "adapter", str(source), {f"base_model.model.{OUTPUT}": np.ones((rows, 64))})
    export(adapter, tmp_path / "exported")
    dimensions, rules, weights = examine(find(tmp_path / "exported")).require()
    expected = examine(find(adapter)).require()
    assert (expected[0], expected[1].tokens) == (dimensions, rules.tokens)
    assert np.array_equal(expected[2][OUTPUT], weights[OUTPUT])
    assert sorted(rules.order) == rules.order


def test_an_existing_folder_is_not_overwritten(small: Path, tmp_path: Path) -> None:
    """The folder to write must be new."""
    with pytest.raises(OptionError, match="new one"):
        export(small, tmp_path, cache=tmp_path)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    """A damaged checkpoint or an impossible place is an error, and no half-written folder stays."""
    folder = make_checkpoint(tmp_path / "model", "custom")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="permissions"):
        export(folder, tmp_path / "file" / "exported", cache=tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CorruptCheckpointError):
        export(folder, tmp_path / "exported", cache=tmp_path)
    assert [folder, tmp_path / "file"] == sorted(path for path in tmp_path.iterdir() if path.name != "index.json")[::-1]
