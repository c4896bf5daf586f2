"""LoRA adapters in PEFT's layout, merged into their base model: W + scale * B A."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tickertape.checkpoints.safetensors import Array, Weights
from tickertape.errors import CheckpointError, CorruptCheckpointError, IncompleteCheckpointError

PREFIX = "base_model.model."  # PEFT puts it before every name
UNSUPPORTED = ("use_dora", "fan_in_fan_out", "alpha_pattern", "lora_bias", "megatron_config", "target_parameters",
               "use_qalora", "layer_replication", "trainable_token_indices")  # fmt: skip


class MergedWeights(Weights):
    """A base model's tensors plus a LoRA adapter's, computed in float32 at each look-up."""

    def __init__(self, base: Weights, pairs: Mapping[str, tuple[Array, Array]], scales: Mapping[str, float],
                 replaced: Mapping[str, tuple[str, Array]]) -> None:  # fmt: skip
        super().__init__({**base._stored, **replaced})
        self._pairs, self._scales = pairs, scales

    def __getitem__(self, name: str) -> Array:
        weight = super().__getitem__(name)
        if name not in self._pairs:
            return weight
        down, up = (part.astype(np.float32) for part in self._pairs[name])
        merged = weight.astype(np.float32) + np.float32(self._scales[name]) * (up @ down)
        result: Array = merged.astype(weight.dtype)
        return result


def merge_adapter(base: Weights, adapter: Weights, config: Mapping[str, Any]) -> MergedWeights:
    """Add a LoRA adapter to its base model. `config` is the adapter's adapter_config.json.

    Tensors that the adapter holds whole (`modules_to_save`, trained biases) replace the base's. Raises
    `CheckpointError` for variants other than plain LoRA and `CorruptCheckpointError` for another base model.
    """
    _reject_variants(config)
    downs, ups, replaced = {}, {}, {}
    for key in adapter:
        name = key.removeprefix(PREFIX)
        if name.endswith(".lora_A.weight"):
            downs[name.replace(".lora_A.", ".")] = adapter[key]
        elif name.endswith(".lora_B.weight"):
            ups[name.replace(".lora_B.", ".")] = adapter[key]
        else:
            replaced[name] = adapter._stored[key]
    if downs.keys() != ups.keys() or not (downs or replaced):
        raise IncompleteCheckpointError("the adapter lacks one half of a LoRA pair; save it again")
    pairs = {name: (downs[name], ups[name]) for name in downs}
    for name in [*pairs, *replaced]:
        shape = _product_shape(*pairs[name]) if name in pairs else replaced[name][1].shape
        if name not in base or base.shape(name) != shape:
            raise CorruptCheckpointError("the adapter does not fit its base model; name the base it was trained on")
    alpha, rank_stabilised = float(config["lora_alpha"]), bool(config.get("use_rslora"))
    scales = {name: alpha / (math.sqrt(len(down)) if rank_stabilised else len(down)) for name, down in downs.items()}
    return MergedWeights(base, pairs, scales, replaced)


def _product_shape(down: Array, up: Array) -> tuple[int, ...] | None:
    """The shape of B A; None if the two cannot be multiplied."""
    fits = down.ndim == up.ndim == 2 and up.shape[1] == len(down) > 0
    return (len(up), down.shape[1]) if fits else None


def _reject_variants(config: Mapping[str, Any]) -> None:
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        unsupported.append("peft_type")
    if unsupported:
        raise CheckpointError(
            f"this adapter is not plain LoRA ({', '.join(unsupported)}); merge it with PEFT's merge_and_unload() "
            "and use the merged model"
        )
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise IncompleteCheckpointError("adapter_config.json lacks lora_alpha; save the adapter again")
