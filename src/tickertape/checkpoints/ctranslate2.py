"""A Hugging Face checkpoint's tensors to the files that CTranslate2 reads, without torch.

    write_model(folder, weights, dimensions, rules, compute_type="int8")

The reference is CTranslate2's own converter (ctranslate2/converters/transformers.py, WhisperLoader), which needs torch
and transformers: for float32 and float16 checkpoints the files are the same byte for byte. From bfloat16 checkpoints
the tensors that are not quantized are float32 here and bfloat16 there, of the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tickertape.checkpoints.checks import Rules
from tickertape.checkpoints.config import Dimensions
from tickertape.checkpoints.ctranslate2_reader import layout
from tickertape.checkpoints.safetensors import Array
from tickertape.errors import CheckpointError

COMPUTE_TYPES = ("int8", "int8_float32", "int8_float16", "int16", "float16", "float32")


def write_model(
    folder: Path,
    weights: Mapping[str, Array],
    dimensions: Dimensions,
    rules: Rules,
    *,
    compute_type: str,
) -> None:
    """Write model.bin, config.json and vocabulary.json into `folder`."""
    from ctranslate2 import specs

    spec = specs.WhisperSpec(dimensions.encoder_layers, dimensions.encoder_heads,
                             dimensions.decoder_layers, dimensions.decoder_heads)  # fmt: skip
    for path, names in layout(dimensions):
        module = _module(spec, path)
        if path.endswith("layer_norm"):
            module.gamma, module.beta = weights[f"{names[0]}.weight"], weights[f"{names[0]}.bias"]
        else:
            _linear(module, weights, *names)
    for side in ("encoder", "decoder"):
        positions = weights[f"model.{side}.embed_positions.weight"]
        getattr(spec, side).position_encodings.encodings = positions
    embeddings = spec.decoder.embeddings.weight = weights["model.decoder.embed_tokens.weight"][rules.order]
    separate = "proj_out.weight" in weights
    spec.decoder.projection.weight = weights["proj_out.weight"][rules.order] if separate else embeddings
    spec.config.suppress_ids = rules.suppressed
    spec.config.suppress_ids_begin = rules.suppressed_first
    spec.config.alignment_heads = rules.alignment_heads
    spec.config.lang_ids = sorted(rules.languages.values())
    spec.register_vocabulary(rules.tokens)
    try:
        spec.validate()
        spec.optimize(quantization=compute_type)
    except ValueError as error:
        raise CheckpointError(f"CTranslate2 cannot store this model: {error}") from error
    spec.save(str(folder))


def _module(spec: Any, path: str) -> Any:
    """The part of a specification at a variable's path: `encoder/layer_0/self_attention/linear_1`."""
    for part in path.split("/"):
        name, _, index = part.rpartition("_")
        spec = getattr(spec, part) if hasattr(spec, part) else getattr(spec, name)[int(index)]
    return spec


def _linear(spec: Any, weights: Mapping[str, Array], *names: str) -> None:
    """Join projections into one matrix, copied because quantizing works in place. Keys get a bias of zeros."""
    parts = [weights[f"{name}.weight"] for name in names]
    biases = [weights.get(f"{name}.bias") for name in names]
    dtype = next(bias.dtype for bias in biases if bias is not None)
    spec.weight = np.concatenate(parts)
    spec.bias = np.concatenate([np.zeros(len(part), dtype) if bias is None else bias
                                for part, bias in zip(parts, biases, strict=True)])  # fmt: skip
