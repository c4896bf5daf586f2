"""LoRA adapters in PEFT's layout, merged into their base model: W + scale * B A.

Whisper's token embeddings are its output layer too. PEFT adapts one without the other, so an adapter of either gives
the model an output layer of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tickertape.checkpoints.safetensors import Array, Weights
from tickertape.errors import CheckpointError, CorruptCheckpointError, IncompleteCheckpointError

PREFIX = "base_model.model."  # PEFT puts it before every name
EMBEDDINGS, OUTPUT = "model.decoder.embed_tokens.weight", "proj_out.weight"
UNSUPPORTED = ("use_dora", "fan_in_fan_out", "alpha_pattern", "lora_bias", "megatron_config", "target_parameters",
               "use_qalora", "layer_replication", "trainable_token_indices")  # fmt: skip
PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")  # these leave the base model as it was
PARTS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
CONVERT = (
    "convert it where it was trained: before training model.save_pretrained('INITIAL'), afterwards "
    "model.save_pretrained('CONVERTED', path_initial_model_for_weight_conversion='INITIAL'); or merge it: "
    "PeftModel.from_pretrained(BASE, 'ADAPTER').merge_and_unload().save_pretrained('MERGED')"
)


class MergedWeights(Weights):
    """A base model's tensors plus a LoRA adapter's, computed in float32 at each look-up."""

    def __init__(
        self, stored: Mapping[str, tuple[str, Array]], pairs: Mapping[str, tuple[Array, Array, float]]
    ) -> None:
        super().__init__(stored)
        self._pairs = pairs  # A [rank, columns], B [rows, rank] and the scale, by name

    def __getitem__(self, name: str) -> Array:
        weight = super().__getitem__(name)
        if name not in self._pairs:
            return weight
        down, up, scale = self._pairs[name]
        product = up.astype(np.float32) @ down.astype(np.float32)
        merged = weight.astype(np.float32) + np.float32(scale) * product.reshape(weight.shape)
        result: Array = merged.astype(weight.dtype)
        return result


def merge_adapter(base: Weights, adapter: Weights, config: Mapping[str, Any]) -> MergedWeights:
    """Add a LoRA adapter to its base model. `config` is the adapter's adapter_config.json.

    Tensors that the adapter holds whole (`modules_to_save`, trained biases, a resized vocabulary) replace the base's.
    Raises `CheckpointError` for variants other than plain LoRA and `CorruptCheckpointError` for another base model.
    """
    _check_kind(config)
    halves: dict[str, dict[str, Array]] = {}
    replaced: dict[str, tuple[str, Array]] = {}
    for key in (key for key in adapter if ".original_module." not in key):
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        part = next((part for part in PARTS if name.endswith(part)), None)
        if part is None:
            replaced[name] = adapter._stored[key]
        else:
            halves.setdefault(f"{name.removesuffix(part)}.weight", {})[part] = adapter[key]
    if not (halves or replaced) or any(len(parts) != 2 for parts in halves.values()):
        raise IncompleteCheckpointError("the adapter lacks one half of a LoRA pair; save it again")
    pairs = {name: _matrices(parts) for name, parts in halves.items()}
    stored = dict(base._stored)
    if {EMBEDDINGS, OUTPUT} & {*pairs, *replaced}:
        stored.setdefault(OUTPUT, stored[EMBEDDINGS])
    stored |= replaced
    _check_shapes(base, stored, pairs, replaced)
    alpha, power = float(config["lora_alpha"]), 0.5 if config.get("use_rslora") else 1.0
    return MergedWeights(stored, {n: (down, up, alpha / len(down) ** power) for n, (down, up) in pairs.items()})


def _check_kind(config: Mapping[str, Any]) -> None:
    """Raise unless the adapter is a sum of the base model's weights and its own."""
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    if unsupported or config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"this adapter is not plain LoRA ({', '.join(unsupported or ['peft_type'])}); merge it with PEFT's "
            "merge_and_unload() and use the merged model"
        )
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise IncompleteCheckpointError("adapter_config.json lacks lora_alpha; save the adapter again")
    start = config.get("init_lora_weights")
    if start not in PLAIN_INITS:
        raise CheckpointError(f"{str(start)[:20]!r} changed the base model before training; {CONVERT}")


def _matrices(parts: Mapping[str, Array]) -> tuple[Array, Array]:
    """A [rank, columns] and B [rows, rank] of a linear layer, of a convolution (columns joined) or of embeddings."""
    first, second = (parts[part] for part in sorted(parts))
    if ".lora_embedding_A" in parts:  # PEFT transposes the product
        first, second = second.T, first.T
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def _check_shapes(base: Weights, stored: Mapping[str, tuple[str, Array]], pairs: Mapping[str, tuple[Array, Array]],
                  replaced: Mapping[str, tuple[str, Array]]) -> None:  # fmt: skip
    """Compare with the base's shapes; a resized vocabulary changes the rows of embeddings and output layer alike."""
    resized = {name for name in (EMBEDDINGS, OUTPUT) if name in replaced}
    if len({stored[name][1].shape for name in (EMBEDDINGS, OUTPUT) if name in stored}) > 1:
        raise CorruptCheckpointError(
            "the adapter resizes the vocabulary of the embeddings or of the output layer alone; save it again with "
            "save_embedding_layers=True"
        )
    fits = all(name in stored and (name in resized or (name in base and base.shape(name) == array.shape))
               for name, (_, array) in replaced.items())  # fmt: skip
    for name, (down, up) in pairs.items():
        shape = stored[name][1].shape if name in stored else (0,)
        fits = fits and up.shape[1] == len(down) > 0 and (len(up), down.shape[1]) == (shape[0], math.prod(shape[1:]))
    if not fits:
        raise CorruptCheckpointError("the adapter does not fit its base model; name the base it was trained on")
