"""A CTranslate2 Whisper folder as a checkpoint: its tensors and settings under Hugging Face's names.

`layout` is the table between the two; `ctranslate2.write_model` writes by it. Quantized tensors are restored to
float32, so converting them again to the same type gives the same numbers.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tickertape.checkpoints.config import SIZES, Dimensions
from tickertape.checkpoints.safetensors import Array, Weights
from tickertape.errors import CorruptCheckpointError, NotWhisperError

FORMAT_VERSION = 6  # of model.bin since CTranslate2 2.0 (ctranslate2/specs/model_spec.py, `CURRENT_BINARY_VERSION`)
# By the number that model.bin stores, as in `safetensors.DTYPES`.
TYPES = (("F32", "<f4"), ("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("F16", "<f2"), ("BF16", "<u2"))


def layout(dimensions: Dimensions) -> Iterator[tuple[str, tuple[str, ...]]]:
    """CTranslate2's name of each linear layer and norm, and those of Hugging Face's layers that it joins by rows."""
    yield from ((f"encoder/{conv}", (f"model.encoder.{conv}",)) for conv in ("conv1", "conv2"))
    for side, layers in (("encoder", dimensions.encoder_layers), ("decoder", dimensions.decoder_layers)):
        yield f"{side}/layer_norm", (f"model.{side}.layer_norm",)
        for number in range(layers):
            ours, theirs = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            yield f"{ours}/self_attention/layer_norm", (f"{theirs}.self_attn_layer_norm",)
            yield f"{ours}/self_attention/linear_0", tuple(f"{theirs}.self_attn.{part}_proj" for part in "qkv")
            yield f"{ours}/self_attention/linear_1", (f"{theirs}.self_attn.out_proj",)
            if side == "decoder":
                yield f"{ours}/attention/layer_norm", (f"{theirs}.encoder_attn_layer_norm",)
                yield f"{ours}/attention/linear_0", (f"{theirs}.encoder_attn.q_proj",)
                yield f"{ours}/attention/linear_1", tuple(f"{theirs}.encoder_attn.{part}_proj" for part in "kv")
                yield f"{ours}/attention/linear_2", (f"{theirs}.encoder_attn.out_proj",)
            yield f"{ours}/ffn/layer_norm", (f"{theirs}.final_layer_norm",)
            yield f"{ours}/ffn/linear_0", (f"{theirs}.fc1",)
            yield f"{ours}/ffn/linear_1", (f"{theirs}.fc2",)


@dataclass(frozen=True, slots=True)
class Model:
    """A CTranslate2 Whisper model."""

    dimensions: Dimensions
    weights: Weights
    config: Mapping[str, Any]  # config.json and generation_config.json as Hugging Face would write them


def read_model(folder: Path, tokens: Mapping[str, int]) -> Model:
    """Read a folder. `tokens` is the vocabulary. Raises `NotWhisperError` or `CorruptCheckpointError`."""
    variables = _read_variables(folder / "model.bin")
    dimensions = _dimensions(variables)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        languages = set(config.get("lang_ids", []))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError("config.json is damaged; convert the model again") from error
    separate = variables["decoder/projection/weight"] is not variables["decoder/embeddings/weight"]
    settings = {
        "model_type": "whisper",
        **dict(zip(SIZES, astuple(dimensions), strict=True)),
        "tie_word_embeddings": not separate,
        "suppress_tokens": config.get("suppress_ids", []),
        "begin_suppress_tokens": config.get("suppress_ids_begin"),
        "alignment_heads": config.get("alignment_heads"),
    }
    if languages:
        settings["lang_to_id"] = {token: number for token, number in tokens.items() if number in languages}
    return Model(dimensions, _weights(variables, dimensions, separate=separate), settings)


def _read_variables(path: Path) -> dict[str, tuple[str, Array]]:
    """Type and array of every variable; an alias has the same tuple as its variable."""
    with path.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    found: dict[str, tuple[str, Array]] = {}
    at = 0

    def unpack(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{code}", data, at)
        at += struct.calcsize(f"<{code}")
        return int(value)

    def text() -> str:
        nonlocal at
        length = unpack("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    try:
        version, kind, _revision = unpack("I"), text(), unpack("I")
        for _ in range(unpack("I")):
            name, shape = text(), tuple(unpack("I") for _ in range(unpack("B")))
            (code, dtype), size = TYPES[unpack("B")], unpack("I")
            found[name] = code, np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
            at += size
        for _ in range(unpack("I")):
            alias, name = text(), text()
            found[alias] = found[name]
    except (struct.error, ValueError, LookupError) as error:
        raise CorruptCheckpointError("model.bin is damaged or cut off; convert the model again") from error
    if version != FORMAT_VERSION or at != len(data):
        raise CorruptCheckpointError("model.bin is cut off, or not of the format since CTranslate2 2.0; convert again")
    if kind != "WhisperSpec":
        raise NotWhisperError(f"model.bin holds a {kind[:40]!r} model; only Whisper can be used")
    return found


def _dimensions(variables: Mapping[str, tuple[str, Array]]) -> Dimensions:
    """The model's sizes, from the shapes of its tensors."""

    def shape(name: str) -> tuple[int, ...]:
        return variables[name][1].shape

    try:
        sizes = [*shape("encoder/conv1/weight")[:2], shape("decoder/embeddings/weight")[0]]
        for side in ("encoder", "decoder"):
            layers = sum(
                name.startswith(f"{side}/layer_") and name.endswith("/ffn/linear_0/weight") for name in variables
            )
            heads = int(variables[f"{side}/num_heads"][1])
            sizes += [layers, heads, shape(f"{side}/layer_0/ffn/linear_0/weight")[0]]
        sizes += [shape(f"{side}/position_encodings/encodings")[0] for side in ("encoder", "decoder")]
        return Dimensions(*sizes)
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptCheckpointError("model.bin lacks tensors of Whisper; convert the model again") from error


def _weights(variables: Mapping[str, tuple[str, Array]], dimensions: Dimensions, *, separate: bool) -> Weights:
    stored: dict[str, tuple[str, Array]] = {}
    scales: dict[str, Array] = {}

    def add(ours: str, theirs: str, part: int = 0, parts: int = 1) -> None:
        if ours not in variables:
            return
        code, array = variables[ours]
        rows = slice(part * len(array) // parts, (part + 1) * len(array) // parts)
        stored[theirs] = code, array[rows]
        if f"{ours}_scale" in variables:
            scale = variables[f"{ours}_scale"][1]  # of each row, or of the whole tensor
            scales[theirs] = scale[rows].reshape(-1, *(1,) * (array.ndim - 1)) if scale.ndim else scale

    for ours, names in layout(dimensions):
        first, second = ("gamma", "beta") if ours.endswith("layer_norm") else ("weight", "bias")
        for part, name in enumerate(names):
            add(f"{ours}/{first}", f"{name}.weight", part, len(names))
            if not name.endswith("k_proj"):  # Whisper's keys have no bias; CTranslate2 stores zeros
                add(f"{ours}/{second}", f"{name}.bias", part, len(names))
    for side in ("encoder", "decoder"):
        add(f"{side}/position_encodings/encodings", f"model.{side}.embed_positions.weight")
    add("decoder/embeddings/weight", "model.decoder.embed_tokens.weight")
    if separate:
        add("decoder/projection/weight", "proj_out.weight")
    return _RestoredWeights(stored, scales)


class _RestoredWeights(Weights):
    """Tensors of which the quantized ones become float32 at each look-up."""

    def __init__(self, stored: Mapping[str, tuple[str, Array]], scales: Mapping[str, Array]) -> None:
        super().__init__(stored)
        self._scales = scales

    def __getitem__(self, name: str) -> Array:
        array = super().__getitem__(name)
        return array / self._scales[name] if name in self._scales else array
