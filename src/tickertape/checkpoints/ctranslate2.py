"""A Hugging Face checkpoint's tensors to the files that CTranslate2 reads, without torch.

    write_model(folder, weights, dimensions, settings=settings, tokens=tokens, compute_type="int8")

The reference is CTranslate2's own converter (ctranslate2/converters/transformers.py, WhisperLoader), which needs torch
and transformers: for float32 and float16 checkpoints the files are the same byte for byte. From bfloat16 checkpoints
the tensors that are not quantized are float32 here and bfloat16 there, of the same values.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tickertape.checkpoints.config import Dimensions
from tickertape.checkpoints.safetensors import Array
from tickertape.errors import CheckpointError, CorruptCheckpointError, NotWhisperError

COMPUTE_TYPES = ("int8", "int8_float32", "int8_float16", "int16", "float16", "float32")

ENGLISH_END = 50_256  # <|endoftext|> of the English-only checkpoints


def write_model(
    folder: Path,
    weights: Mapping[str, Array],
    dimensions: Dimensions,
    *,
    settings: Mapping[str, Any],
    tokens: Sequence[str],
    compute_type: str,
) -> None:
    """Write model.bin, config.json and vocabulary.json into `folder`.

    `settings` is config.json overlaid with generation_config.json; `tokens` is the vocabulary in the order of its ids.
    """
    from ctranslate2 import specs

    spec = specs.WhisperSpec(dimensions.encoder_layers, dimensions.encoder_heads,
                             dimensions.decoder_layers, dimensions.decoder_heads)  # fmt: skip
    _linear(spec.encoder.conv1, weights, "model.encoder.conv1")
    _linear(spec.encoder.conv2, weights, "model.encoder.conv2")
    _fill_layers(spec.encoder, weights, "encoder")
    _fill_layers(spec.decoder, weights, "decoder")
    spec.decoder.embeddings.weight = weights["model.decoder.embed_tokens.weight"].copy()
    separate = not settings.get("tie_word_embeddings", True) and "proj_out.weight" in weights
    projection = weights["proj_out.weight"].copy() if separate else spec.decoder.embeddings.weight
    spec.decoder.projection.weight = projection
    half = range(dimensions.decoder_layers // 2, dimensions.decoder_layers)  # the official converter's default
    all_heads = [list(pair) for pair in itertools.product(half, range(dimensions.decoder_heads))]
    heads = settings.get("alignment_heads")
    spec.config.suppress_ids = settings.get("suppress_tokens")
    spec.config.suppress_ids_begin = settings.get("begin_suppress_tokens")
    spec.config.alignment_heads = all_heads if heads is None else heads
    spec.config.lang_ids = sorted(settings.get("lang_to_id", {}).values())
    spec.register_vocabulary(tokens)
    try:
        spec.validate()
        spec.optimize(quantization=compute_type)
    except ValueError as error:
        raise CheckpointError(f"CTranslate2 cannot store this model: {error}") from error
    spec.save(str(folder))


def vocabulary(tokens: Mapping[str, int], size: int) -> list[str]:
    """The tokens in the order of their ids, exactly `size` of them.

    Tokenizers of older checkpoints lack the timestamps, which then follow the text and special tokens. Ids without a
    token, in an output layer padded to a round size, get names that cannot be mistaken for text.
    """
    named = {i: token for token, i in tokens.items() if i < size}
    if "<|0.00|>" not in tokens:
        first = max(named, default=-1) + 1
        named |= {first + i: f"<|{i * 0.02:.2f}|>" for i in range(size - first)}
    if "" not in tokens and tokens.get("<|endoftext|>") != ENGLISH_END and "<|startoflm|>" in tokens:
        # CTranslate2 treats a vocabulary without the empty string as English-only and then detects no language. It is
        # given only ids, and no Whisper uses this token, so its name is free.
        named[tokens["<|startoflm|>"]] = ""
    return [named.get(i, f"<|unused{i}|>") for i in range(size)]


def _fill_layers(spec: Any, weights: Mapping[str, Array], side: str) -> None:
    """Fill the positions, layers and last norm of the encoder or decoder."""
    spec.position_encodings.encodings = weights[f"model.{side}.embed_positions.weight"]
    _norm(spec.layer_norm, weights, f"model.{side}.layer_norm")
    for number, layer in enumerate(spec.layer):
        name = f"model.{side}.layers.{number}"
        _norm(layer.self_attention.layer_norm, weights, f"{name}.self_attn_layer_norm")
        _linear(layer.self_attention.linear[0], weights, *(f"{name}.self_attn.{part}_proj" for part in "qkv"))
        _linear(layer.self_attention.linear[1], weights, f"{name}.self_attn.out_proj")
        if side == "decoder":
            _norm(layer.attention.layer_norm, weights, f"{name}.encoder_attn_layer_norm")
            _linear(layer.attention.linear[0], weights, f"{name}.encoder_attn.q_proj")
            _linear(layer.attention.linear[1], weights, *(f"{name}.encoder_attn.{part}_proj" for part in "kv"))
            _linear(layer.attention.linear[2], weights, f"{name}.encoder_attn.out_proj")
        _norm(layer.ffn.layer_norm, weights, f"{name}.final_layer_norm")
        _linear(layer.ffn.linear_0, weights, f"{name}.fc1")
        _linear(layer.ffn.linear_1, weights, f"{name}.fc2")


def _norm(spec: Any, weights: Mapping[str, Array], name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear(spec: Any, weights: Mapping[str, Array], *names: str) -> None:
    """Join projections into one matrix, copied because quantizing works in place. Keys get a bias of zeros."""
    parts = [weights[f"{name}.weight"] for name in names]
    biases = [weights.get(f"{name}.bias") for name in names]
    dtype = next(bias.dtype for bias in biases if bias is not None)
    spec.weight = np.concatenate(parts)
    spec.bias = np.concatenate([np.zeros(len(part), dtype) if bias is None else bias
                                for part, bias in zip(parts, biases, strict=True)])  # fmt: skip


def read_dimensions(model: Path) -> Dimensions:
    """The sizes of a CTranslate2 Whisper model, from model.bin (ctranslate2/specs/model_spec.py, `_serialize`).

    Raises `NotWhisperError` or `CorruptCheckpointError`.
    """
    with model.open("rb") as stream:
        try:
            kind, shapes, scalars = _read_headers(stream, model.stat().st_size)
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise CorruptCheckpointError("model.bin is damaged or cut off; convert the model again") from error
    if kind != "WhisperSpec":
        raise NotWhisperError(f"model.bin holds a {kind[:40]!r} model; only Whisper can be used")
    try:
        d_model, n_mels, _ = shapes["encoder/conv1/weight"]
        layers = {side: sum(f"{side}/layer_{i}/ffn/linear_0/weight" in shapes for i in range(len(shapes)))
                  for side in ("encoder", "decoder")}  # fmt: skip
        return Dimensions(
            d_model, n_mels, shapes["decoder/embeddings/weight"][0],
            layers["encoder"], scalars["encoder/num_heads"], shapes["encoder/layer_0/ffn/linear_0/weight"][0],
            layers["decoder"], scalars["decoder/num_heads"], shapes["decoder/layer_0/ffn/linear_0/weight"][0],
            shapes["encoder/position_encodings/encodings"][0], shapes["decoder/position_encodings/encodings"][0],
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise CorruptCheckpointError("model.bin lacks tensors of Whisper; convert the model again") from error


def _read_headers(stream: BinaryIO, size: int) -> tuple[str, dict[str, tuple[int, ...]], dict[str, int]]:
    """The model's kind, every variable's shape, and the integers among the scalars."""

    def unpack(code: str) -> int:
        return int(struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0])

    def text() -> str:
        return stream.read(unpack("H")).rstrip(b"\0").decode()

    version = unpack("I")
    if version != 6:
        raise CorruptCheckpointError(
            "model.bin is damaged, or its format is not the one CTranslate2 writes since version 2"
        )
    kind, _revision = text(), unpack("I")
    shapes: dict[str, tuple[int, ...]] = {}
    scalars: dict[str, int] = {}
    for _ in range(unpack("I")):
        name = text()
        shapes[name] = tuple(unpack("I") for _ in range(unpack("B")))
        dtype, count = unpack("B"), unpack("I")
        if not shapes[name] and dtype == 2:  # int16
            scalars[name] = unpack("h")
        else:
            stream.seek(count, 1)
    for _ in range(unpack("I")):
        alias, name = text(), text()
        shapes[alias] = shapes.get(name, ())
    if stream.tell() != size:
        raise CorruptCheckpointError("model.bin is cut off; convert the model again")
    return kind, shapes, scalars
