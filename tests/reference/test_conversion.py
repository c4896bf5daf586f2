"""Prepared files against the originals': CTranslate2's converter, Hugging Face's encoder. Needs the `reference` extra.

transformers 5 works with CTranslate2's converter as it is: it passes the dtype of config.json to from_pretrained, so
that weights are converted from what is stored. The turbo layout is reduced in width (256) and encoder layers (4) to
keep CI short; 128 mels, 51,866 tokens and its 4 decoder layers are true.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoint_factory import has_true_vocabulary, make_checkpoint
from tickertape.checkpoints.prepare import Prepared, prepare
from tickertape.engine.encoder import Encoder

needed = ("torch", "transformers")
pytestmark = [
    pytest.mark.reference,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in needed) or not has_true_vocabulary(),
        reason="torch, transformers and openai-whisper are not installed: pip install tickertape[reference]",
    ),
    pytest.mark.filterwarnings("ignore"),  # transformers and torch warn about themselves
]
TURBO = {"width": 256, "heads": 4, "encoder_layers": 4}
CASES = [
    ("tiny", "float32", {}, ["float32", "int8", "int8_float16", "float16"]),
    ("base", "float16", {}, ["int8"]),
    ("turbo", "float32", TURBO, ["float32", "int8"]),
    ("tiny.en", "float32", {"width": 128, "heads": 2}, ["int8"]),
    ("distil", "float16", TURBO | {"shards": 2}, ["int8_float16"]),
]
BFLOAT16 = 5  # CTranslate2's number for the type


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make each checkpoint once: (shape, dtype, changes) to its folder."""
    made: dict[str, Path] = {}

    def make(shape: str, dtype: str, changes: dict[str, Any]) -> Path:
        name = f"{shape}-{dtype}"
        if name not in made:
            made[name] = make_checkpoint(tmp_path_factory.mktemp(name), shape, dtype=dtype, **changes)
        return made[name]

    return make


def official(folder: Path, output: Path, compute_type: str) -> Path:
    """What CTranslate2's own converter makes of a checkpoint."""
    from ctranslate2.converters import TransformersConverter

    return Path(TransformersConverter(str(folder)).convert(str(output), quantization=compute_type))


def read_model(path: Path) -> tuple[dict[str, tuple[int, tuple[int, ...], bytes]], dict[str, str]]:
    """The variables (type, shape, bytes) and aliases of a model.bin."""
    data, at = path.read_bytes(), 0

    def unpack(code: str) -> Any:
        nonlocal at
        value = struct.unpack_from(f"<{code}", data, at)[0]
        at += struct.calcsize(f"<{code}")
        return value

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    def text() -> str:
        return take(unpack("H")).rstrip(b"\0").decode()

    assert (unpack("I"), text(), unpack("I")) == (6, "WhisperSpec", 3)
    variables = {}
    for _ in range(unpack("I")):
        name = text()
        shape = tuple(unpack("I") for _ in range(unpack("B")))
        variables[name] = (unpack("B"), shape, take(unpack("I")))
    aliases = {text(): text() for _ in range(unpack("I"))}
    assert len(data) == at
    return variables, aliases


@pytest.mark.parametrize(
    ("shape", "dtype", "changes", "compute_type"),
    [(shape, dtype, changes, kind) for shape, dtype, changes, kinds in CASES for kind in kinds],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_model_is_the_official_converters(
    shape: str, dtype: str, changes: dict[str, Any], compute_type: str, checkpoint: Any, tmp_path: Path
) -> None:
    """model.bin, vocabulary.json and config.json are what CTranslate2's own converter writes, byte for byte."""
    source = checkpoint(shape, dtype, changes)
    expected = official(source, tmp_path / "official", compute_type)
    actual = prepare(source, cache=tmp_path / "cache", compute_type=compute_type).folder
    assert read_model(expected / "model.bin") == read_model(actual / "model.bin")
    assert (expected / "model.bin").read_bytes() == (actual / "model.bin").read_bytes()
    assert json.loads((expected / "vocabulary.json").read_text()) == json.loads(
        (actual / "vocabulary.json").read_text()
    )
    assert json.loads((expected / "config.json").read_text()) == json.loads((actual / "config.json").read_text())


def test_bfloat16_weights_keep_their_values(checkpoint: Any, tmp_path: Path) -> None:
    """From bfloat16, quantized tensors are the same bytes, and the others the same values, stored as float32."""
    source = checkpoint("turbo", "bfloat16", TURBO)
    expected, expected_aliases = read_model(official(source, tmp_path / "official", "int8") / "model.bin")
    actual, aliases = read_model(prepare(source, cache=tmp_path / "cache").folder / "model.bin")
    assert expected_aliases == aliases
    widened = {name: _widen(*variable) for name, variable in expected.items()}
    assert widened == actual


def _widen(code: int, shape: tuple[int, ...], data: bytes) -> tuple[int, tuple[int, ...], bytes]:
    """A bfloat16 variable as float32; others as they are."""
    if code != BFLOAT16:
        return code, shape, data
    return 0, shape, (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).tobytes()


def test_a_slow_tokenizer_gives_the_same_vocabulary(tmp_path: Path) -> None:
    """vocab.json, merges.txt and added tokens give the words and splits that tokenizer.json gives."""
    from tokenizers import Tokenizer

    make = partial(make_checkpoint, shape="tiny", width=64, heads=1, encoder_layers=1, decoder_layers=1)
    fast = prepare(make(tmp_path / "fast"), cache=tmp_path)
    slow = prepare(make(tmp_path / "slow", slow_tokenizer=True), cache=tmp_path)
    assert (fast.folder / "vocabulary.json").read_bytes() == (slow.folder / "vocabulary.json").read_bytes()
    for text in (" It's 25°C in Zürich, isn't it?", "привет 世界 ♪", "  two  spaces\n"):
        ids = [
            Tokenizer.from_file(str(p.folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
            for p in (fast, slow)
        ]
        assert ids[0] == ids[1]


def hugging_face_states(source: Path, mel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What Hugging Face's encoder makes of a mel, in float32."""
    import torch
    from transformers import WhisperModel

    model = WhisperModel.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        return np.asarray(model.encoder(torch.from_numpy(mel)).last_hidden_state.numpy())


def difference(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    """The relative norm of the difference."""
    return float(np.linalg.norm(expected - actual) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("shape", "dtype", "changes"),
    [("tiny", "float32", {}), ("base", "float16", {}), ("turbo", "float32", TURBO), ("turbo", "bfloat16", TURBO)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_encoder_is_hugging_faces(shape: str, dtype: str, changes: dict[str, Any], checkpoint: Any,
                                      tmp_path: Path) -> None:  # fmt: skip
    """The encoder's states differ from Hugging Face's by less than 1e-5, relative norm, and in bfloat16 by 2e-2."""
    source = checkpoint(shape, dtype, changes)
    prepared: Prepared = prepare(source, cache=tmp_path)
    mel = np.random.default_rng(0).standard_normal((1, prepared.dimensions.n_mels, 3000)).astype(np.float32)
    expected = hugging_face_states(source, mel)
    assert prepared.encoder is not None
    for precision, limit in (("f32", 1e-5), ("bf16", 2e-2)):
        actual = Encoder(prepared.encoder, threads=2, precision=precision, frames=3000).encode(mel)
        assert difference(expected, actual) < limit
