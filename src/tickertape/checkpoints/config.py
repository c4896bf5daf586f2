"""The sizes that config.json declares, and the tensors that a model of these sizes must have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tickertape.checkpoints.safetensors import AGAIN, Weights
from tickertape.errors import CorruptCheckpointError, IncompleteCheckpointError, NotWhisperError

COPY = "copy the config.json of the model that was tuned"
SIZES = ("d_model", "num_mel_bins", "vocab_size",
         "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim",
         "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim",
         "max_source_positions", "max_target_positions")  # in the order of `Dimensions`' fields  # fmt: skip
MAX_LAYERS = 256  # eight times large-v3's


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of a Whisper model's tensors, under shorter names than config.json's."""

    d_model: int
    n_mels: int
    n_vocab: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    max_source_positions: int  # encoder positions, two frames each
    max_target_positions: int  # tokens, prompt included

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Dimensions:
        """Read a parsed config.json. Raises `CheckpointError` if it does not describe a whole Whisper model."""
        kind = config.get("model_type")
        if kind != "whisper":
            raise NotWhisperError(f"config.json describes a {str(kind)[:40]!r} model; use a 'whisper' model")
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
            raise NotWhisperError("config.json declares an activation or scaled embeddings that Whisper does not have")
        missing = [key for key in SIZES if not isinstance(config.get(key), int)]
        if missing:
            raise IncompleteCheckpointError(f"config.json lacks {', '.join(missing)}; {COPY}")
        sizes = [config[key] for key in SIZES]
        found = cls(*sizes)
        if (
            max(found.encoder_layers, found.decoder_layers) > MAX_LAYERS
            or min(sizes) < 1
            or found.d_model % found.encoder_heads
            or found.d_model % found.decoder_heads
        ):
            raise CorruptCheckpointError(f"config.json has impossible sizes; {COPY}")
        return found


def expected_shapes(d: Dimensions) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a Whisper model of these sizes has."""
    square = (d.d_model, d.d_model)
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (d.d_model, d.n_mels, 3), "model.encoder.conv1.bias": (d.d_model,),
        "model.encoder.conv2.weight": (*square, 3), "model.encoder.conv2.bias": (d.d_model,),
        "model.encoder.embed_positions.weight": (d.max_source_positions, d.d_model),
        "model.decoder.embed_positions.weight": (d.max_target_positions, d.d_model),
        "model.decoder.embed_tokens.weight": (d.n_vocab, d.d_model),
    }  # fmt: skip
    for side, layers, ffn in (
        ("encoder", d.encoder_layers, d.encoder_ffn),
        ("decoder", d.decoder_layers, d.decoder_ffn),
    ):
        norms = [f"model.{side}.layer_norm"]
        for layer in (f"model.{side}.layers.{i}" for i in range(layers)):
            norms.append(f"{layer}.final_layer_norm")
            shapes |= {f"{layer}.fc1.weight": (ffn, d.d_model), f"{layer}.fc1.bias": (ffn,),
                       f"{layer}.fc2.weight": (d.d_model, ffn), f"{layer}.fc2.bias": (d.d_model,)}  # fmt: skip
            for attention in ["self_attn"] + ["encoder_attn"] * (side == "decoder"):
                norms.append(f"{layer}.{attention}_layer_norm")
                shapes |= {f"{layer}.{attention}.{p}_proj.weight": square for p in ("q", "k", "v", "out")}
                shapes |= {f"{layer}.{attention}.{p}_proj.bias": (d.d_model,) for p in ("q", "v", "out")}
        shapes |= {f"{norm}.{part}": (d.d_model,) for norm in norms for part in ("weight", "bias")}
    return shapes


def check_weights(weights: Weights, dimensions: Dimensions) -> None:
    """Compare the tensors with config.json, and look for NaN and infinity.

    Raises `IncompleteCheckpointError` for missing tensors, `CorruptCheckpointError` for wrong shapes or values.
    """
    expected = expected_shapes(dimensions)
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        message = f"{len(missing)} tensors are missing, {missing[0]} for example; save the whole model again"
        raise IncompleteCheckpointError(message)
    for name, shape in expected.items():
        if weights.shape(name) != shape:
            raise CorruptCheckpointError(
                f"{name} has shape {list(weights.shape(name))} but config.json says {list(shape)}; "
                "config.json and weights must come from the same model"
            )
        if not np.isfinite(weights[name]).all():
            raise CorruptCheckpointError(f"{name} holds NaN or infinity: training diverged; use an earlier checkpoint")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; raises `CorruptCheckpointError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{path.name} is not valid JSON; {AGAIN}") from error
    if not isinstance(value, dict):
        raise CorruptCheckpointError(f"{path.name} does not hold an object; {AGAIN}")
    return value
