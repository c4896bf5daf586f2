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
from tickertape.errors import CheckpointError, CorruptCheckpointError, NotWhisperError, OptionError

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

    check_compute_type(compute_type)
    spec = specs.WhisperSpec(dimensions.encoder_layers, dimensions.encoder_heads,
                             dimensions.decoder_layers, dimensions.decoder_heads)  # fmt: skip
    _fill_encoder(spec.encoder, weights, dimensions)
    _fill_decoder(spec.decoder, weights, dimensions, tied=settings.get("tie_word_embeddings", True))
    for name, value in decoding_config(dimensions, settings).items():
        setattr(spec.config, name, value)
    spec.register_vocabulary(tokens)
    try:
        spec.validate()
        spec.optimize(quantization=compute_type)
    except ValueError as error:
        raise CheckpointError(f"CTranslate2 cannot store this model: {error}") from error
    spec.save(str(folder))


def check_compute_type(compute_type: str) -> None:
    """Raise `OptionError` unless weights can be stored that way."""
    if compute_type not in COMPUTE_TYPES:
        raise OptionError(
            f"compute_type must be one of {', '.join(COMPUTE_TYPES)}", "compute_type", "invalid_compute_type"
        )


def decoding_config(dimensions: Dimensions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """CTranslate2's config.json: what may never be sampled, the languages, and the heads that align words."""
    heads = settings.get("alignment_heads")
    if heads is None:  # the last half of the layers, as the official converter has it
        layers = range(dimensions.decoder_layers // 2, dimensions.decoder_layers)
        heads = [list(pair) for pair in itertools.product(layers, range(dimensions.decoder_heads))]
    return {
        "suppress_ids": settings.get("suppress_tokens"),
        "suppress_ids_begin": settings.get("begin_suppress_tokens"),
        "alignment_heads": heads,
        "lang_ids": sorted(settings.get("lang_to_id", {}).values()),
    }


def vocabulary(tokens: Mapping[str, int], size: int) -> list[str]:
    """The tokens in the order of their ids, exactly `size` of them.

    Tokenizers of older checkpoints lack the timestamps, which then follow the text and special tokens; ids that no
    token has (an output layer padded to a round size) get names that cannot be mistaken for text.
    """
    named = {i: token for token, i in tokens.items() if i < size}
    if "<|0.00|>" not in tokens:
        first = max(named, default=-1) + 1
        named |= {first + i: f"<|{i * 0.02:.2f}|>" for i in range(size - first)}
    if "" not in tokens and tokens.get("<|endoftext|>") != ENGLISH_END and "<|startoflm|>" in tokens:
        # CTranslate2 takes a vocabulary without the empty string for English-only, and then detects no language. Only
        # ids cross into it, and no Whisper ever used this token, so its name is free.
        named[tokens["<|startoflm|>"]] = ""
    return [named.get(i, f"<|unused{i}|>") for i in range(size)]


def _fill_encoder(spec: Any, weights: Mapping[str, Array], dimensions: Dimensions) -> None:
    for name in ("conv1", "conv2"):
        _linear(getattr(spec, name), weights, f"model.encoder.{name}")
    spec.position_encodings.encodings = weights["model.encoder.embed_positions.weight"]
    _norm(spec.layer_norm, weights, "model.encoder.layer_norm")
    for layer, name in _layers(spec, "encoder", dimensions.encoder_layers):
        _self_attention(layer.self_attention, weights, name)
        _feed_forward(layer.ffn, weights, name)


def _fill_decoder(spec: Any, weights: Mapping[str, Array], dimensions: Dimensions, *, tied: bool) -> None:
    spec.embeddings.weight = weights["model.decoder.embed_tokens.weight"].copy()
    separate = not tied and "proj_out.weight" in weights
    spec.projection.weight = weights["proj_out.weight"].copy() if separate else spec.embeddings.weight
    spec.position_encodings.encodings = weights["model.decoder.embed_positions.weight"]
    _norm(spec.layer_norm, weights, "model.decoder.layer_norm")
    for layer, name in _layers(spec, "decoder", dimensions.decoder_layers):
        _self_attention(layer.self_attention, weights, name)
        _norm(layer.attention.layer_norm, weights, f"{name}.encoder_attn_layer_norm")
        _fuse(layer.attention.linear[0], weights, [f"{name}.encoder_attn.q_proj"])
        _fuse(layer.attention.linear[1], weights, [f"{name}.encoder_attn.{part}_proj" for part in "kv"])
        _linear(layer.attention.linear[2], weights, f"{name}.encoder_attn.out_proj")
        _feed_forward(layer.ffn, weights, name)


def _layers(spec: Any, side: str, count: int) -> list[tuple[Any, str]]:
    return [(spec.layer[i], f"model.{side}.layers.{i}") for i in range(count)]


def _self_attention(spec: Any, weights: Mapping[str, Array], layer: str) -> None:
    _norm(spec.layer_norm, weights, f"{layer}.self_attn_layer_norm")
    _fuse(spec.linear[0], weights, [f"{layer}.self_attn.{part}_proj" for part in "qkv"])
    _linear(spec.linear[1], weights, f"{layer}.self_attn.out_proj")


def _feed_forward(spec: Any, weights: Mapping[str, Array], layer: str) -> None:
    _norm(spec.layer_norm, weights, f"{layer}.final_layer_norm")
    _linear(spec.linear_0, weights, f"{layer}.fc1")
    _linear(spec.linear_1, weights, f"{layer}.fc2")


def _norm(spec: Any, weights: Mapping[str, Array], name: str) -> None:
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear(spec: Any, weights: Mapping[str, Array], name: str) -> None:
    spec.weight, spec.bias = weights[f"{name}.weight"].copy(), weights[f"{name}.bias"]  # quantizing works in place


def _fuse(spec: Any, weights: Mapping[str, Array], names: Sequence[str]) -> None:
    """One matrix for several projections; keys have no bias in Whisper, so zeros stand in."""
    parts = [weights[f"{name}.weight"] for name in names]
    biases = [weights.get(f"{name}.bias") for name in names]
    dtype = next(bias.dtype for bias in biases if bias is not None)
    spec.weight = np.concatenate(parts)
    spec.bias = np.concatenate([np.zeros(len(part), dtype) if bias is None else bias
                                for part, bias in zip(parts, biases, strict=True)])  # fmt: skip


# --- reading what somebody else converted


def read_dimensions(model: Path) -> Dimensions:
    """The sizes of a CTranslate2 Whisper model, from the headers of its model.bin.

    The layout is that of ctranslate2/specs/model_spec.py, `_serialize`.
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
