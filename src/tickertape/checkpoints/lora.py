"""LoRA adapters in PEFT's layout, merged into their base model: W + scale * B A."""

from __future__ import annotations

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

    def __init__(
        self, stored: Mapping[str, tuple[str, Array]], pairs: Mapping[str, tuple[Array, Array, float]]
    ) -> None:
        super().__init__(stored)
        self._pairs = pairs  # A, B and the scale, by name

    def __getitem__(self, name: str) -> Array:
        weight = super().__getitem__(name)
        if name not in self._pairs:
            return weight
        down, up, scale = self._pairs[name]
        product = up.astype(np.float32) @ down.astype(np.float32)
        merged = weight.astype(np.float32) + np.float32(scale) * product
        result: Array = merged.astype(weight.dtype)
        return result


def merge_adapter(base: Weights, adapter: Weights, config: Mapping[str, Any]) -> MergedWeights:
    """Add a LoRA adapter to its base model. `config` is the adapter's adapter_config.json.

    Tensors that the adapter holds whole (`modules_to_save`, trained biases) replace the base's. Raises
    `CheckpointError` for variants other than plain LoRA and `CorruptCheckpointError` for another base model.
    """
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    if unsupported or config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"this adapter is not plain LoRA ({', '.join(unsupported or ['peft_type'])}); merge it with PEFT's "
            "merge_and_unload() and use the merged model"
        )
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise IncompleteCheckpointError("adapter_config.json lacks lora_alpha; save the adapter again")
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
    pairs = {name: (down, ups[name]) for name, down in downs.items()}
    shapes = {name: array.shape for name, (_, array) in replaced.items()}
    for name, (down, up) in pairs.items():
        fits = down.ndim == up.ndim == 2 and up.shape[1] == len(down) > 0
        shapes[name] = (len(up), down.shape[1]) if fits else ()
    if any(name not in base or base.shape(name) != shape for name, shape in shapes.items()):
        raise CorruptCheckpointError("the adapter does not fit its base model; name the base it was trained on")
    alpha, power = float(config["lora_alpha"]), 0.5 if config.get("use_rslora") else 1.0
    scaled = {name: (down, up, alpha / len(down) ** power) for name, (down, up) in pairs.items()}
    return MergedWeights({**base._stored, **replaced}, scaled)
