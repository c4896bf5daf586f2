"""The weights of a Hugging Face checkpoint, read from safetensors with numpy alone.

    weights = read_weights([folder / "model.safetensors"])
    dimensions = Dimensions.of(json.loads((folder / "config.json").read_text()))
    check_weights(weights, dimensions)

Files are mapped read-only, so that a tensor costs memory when it is used and nobody changes it by mistake. The layout
is that of https://github.com/huggingface/safetensors#format; its own numpy reader is not used because numpy has no
bfloat16, and because a damaged header must become one of our errors.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tickertape.errors import CheckpointError, CorruptCheckpoint, IncompleteCheckpoint, NotWhisper

Array: TypeAlias = NDArray[Any]

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # bfloat16 is the upper half of a float32
NOT_PLAIN_LORA = ("use_dora", "fan_in_fan_out", "alpha_pattern", "lora_bias", "megatron_config", "target_parameters",
                  "use_qalora", "layer_replication", "trainable_token_indices")  # fmt: skip
MAX_LAYERS = 256  # eight times large-v3's
ADAPTER_PREFIX = "base_model.model."  # what PEFT puts before every name


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What config.json says about a Whisper model's tensors."""

    d_model: int
    n_mels: int
    n_vocab: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    max_source_positions: int = 1500  # encoder positions, two frames each
    max_target_positions: int = 448  # tokens, prompt included

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Dimensions:
        """Read them from a parsed config.json; raises `NotWhisper` or `IncompleteCheckpoint`."""
        kind = config.get("model_type")
        if kind != "whisper":
            raise NotWhisper(f"config.json describes a {str(kind)[:40]!r} model; only 'whisper' models can be used")
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
            raise NotWhisper(
                "config.json asks for another activation or scaled embeddings, which Whisper does not have"
            )
        names = {"d_model": "d_model", "n_mels": "num_mel_bins", "n_vocab": "vocab_size",
                 "encoder_layers": "encoder_layers", "encoder_heads": "encoder_attention_heads",
                 "encoder_ffn": "encoder_ffn_dim", "decoder_layers": "decoder_layers",
                 "decoder_heads": "decoder_attention_heads", "decoder_ffn": "decoder_ffn_dim",
                 "max_source_positions": "max_source_positions",
                 "max_target_positions": "max_target_positions"}  # fmt: skip
        missing = [key for key in names.values() if not isinstance(config.get(key), int)]
        if missing:
            raise IncompleteCheckpoint(
                f"config.json lacks {', '.join(missing)}; copy the config.json of the model that was tuned"
            )
        found = cls(**{name: config[key] for name, key in names.items()})
        if (
            max(found.encoder_layers, found.decoder_layers) > MAX_LAYERS
            or min(config[key] for key in names.values()) < 1
            or found.d_model % found.encoder_heads
            or found.d_model % found.decoder_heads
        ):
            raise CorruptCheckpoint(
                "config.json holds impossible sizes; copy the config.json of the model that was tuned"
            )
        return found


class Weights(Mapping[str, Array]):
    """Tensors by name. Each look-up gives an array to read: float16 as stored, all else as float32."""

    def __init__(self, stored: Mapping[str, tuple[str, Array]]) -> None:
        self._stored = stored

    def __getitem__(self, name: str) -> Array:
        dtype, array = self._stored[name]
        if dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32) if dtype == "F64" else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""
        return self._stored[name][1].shape

    def is_half(self, name: str) -> bool:
        """Whether the tensor is stored as float16."""
        return self._stored[name][0] == "F16"


def read_weights(files: Iterable[Path]) -> Weights:
    """Open safetensors files as one mapping; raises `CorruptCheckpoint` if one is damaged or a name comes twice."""
    stored: dict[str, tuple[str, Array]] = {}
    for file in files:
        tensors = _open(file)
        if stored.keys() & tensors.keys():
            raise CorruptCheckpoint("two shards hold the same tensor; fetch or save the checkpoint again")
        stored |= tensors
    return Weights(stored)


def _open(file: Path) -> dict[str, tuple[str, Array]]:
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < 8:
            raise CorruptCheckpoint("a safetensors file is empty or cut off; fetch or save the checkpoint again")
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(data[:8], "little")
    start = 8 + length
    if length > MAX_HEADER_BYTES or start > size:
        raise CorruptCheckpoint("a safetensors file is cut off or not safetensors at all; fetch or save it again")
    try:
        header = json.loads(data[8:start])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = {name: _tensor(entry, data, start) for name, entry in entries.items()}
        end = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptCheckpoint("a safetensors header is damaged; fetch or save the checkpoint again") from error
    if end != size:
        raise CorruptCheckpoint("a safetensors file is longer than its tensors; fetch or save the checkpoint again")
    return tensors


def _tensor(entry: Mapping[str, Any], data: mmap.mmap, start: int) -> tuple[str, Array]:
    code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in DTYPES:
        raise CheckpointError(
            f"weights stored as {str(code)[:20]} cannot be read; save them as float32, float16 or bfloat16"
        )
    dtype = np.dtype(DTYPES[code])
    count = math.prod(shape)
    if min([begin, *shape], default=0) < 0 or end - begin != count * dtype.itemsize or start + end > len(data):
        raise CorruptCheckpoint("a safetensors file is cut off; fetch or save the checkpoint again")
    return code, np.frombuffer(data, dtype, count, start + begin).reshape(shape)


def expected_shapes(d: Dimensions) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor a Whisper model of these dimensions must have."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (d.d_model, d.n_mels, 3), "model.encoder.conv1.bias": (d.d_model,),
        "model.encoder.conv2.weight": (d.d_model, d.d_model, 3), "model.encoder.conv2.bias": (d.d_model,),
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
                shapes |= {
                    f"{layer}.{attention}.{p}_proj.weight": (d.d_model, d.d_model) for p in ("q", "k", "v", "out")
                }
                shapes |= {f"{layer}.{attention}.{p}_proj.bias": (d.d_model,) for p in ("q", "v", "out")}
        shapes |= {f"{norm}.{part}": (d.d_model,) for norm in norms for part in ("weight", "bias")}
    return shapes


def check_weights(weights: Weights, dimensions: Dimensions) -> None:
    """Compare the tensors with config.json, and refuse NaN and infinity.

    Raises `IncompleteCheckpoint` for missing tensors, `CorruptCheckpoint` for wrong shapes or numbers.
    """
    expected = expected_shapes(dimensions)
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        raise IncompleteCheckpoint(
            f"{len(missing)} tensors are missing, {missing[0]} for example; save the whole model again"
        )
    for name, shape in expected.items():
        if weights.shape(name) != shape:
            raise CorruptCheckpoint(f"{name} has shape {list(weights.shape(name))} but config.json says {list(shape)}; "
                                    "config.json and weights must come from the same model")  # fmt: skip
        if not np.isfinite(weights[name]).all():
            raise CorruptCheckpoint(f"{name} holds NaN or infinity: the training diverged; use an earlier checkpoint")


# --- LoRA adapters


class Merged(Weights):
    """A base model's tensors with a LoRA adapter added: W + alpha / r * B A, computed at each look-up in float32."""

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


def merge_adapter(base: Weights, adapter: Weights, config: Mapping[str, Any]) -> Merged:
    """Lay a LoRA adapter of PEFT's layout (`config` is its adapter_config.json) over a base model.

    Tensors that the adapter holds whole (`modules_to_save`, trained biases) replace the base's.
    Raises `CheckpointError` for variants that are not a plain sum, `CorruptCheckpoint` if it does not fit the base.
    """
    _refuse_variants(config)
    downs, ups, replaced = {}, {}, {}
    for key in adapter:
        name = key.removeprefix(ADAPTER_PREFIX)
        if name.endswith(".lora_A.weight"):
            downs[name.replace(".lora_A.", ".")] = adapter[key]
        elif name.endswith(".lora_B.weight"):
            ups[name.replace(".lora_B.", ".")] = adapter[key]
        else:
            replaced[name] = adapter._stored[key]
    if downs.keys() != ups.keys() or not (downs or replaced):
        raise IncompleteCheckpoint("the adapter lacks one half of a LoRA pair; save it again")
    pairs = {name: (downs[name], ups[name]) for name in downs}
    for name in [*pairs, *replaced]:
        shape = (ups[name].shape[0], downs[name].shape[-1]) if name in pairs else replaced[name][1].shape
        if name not in base or base.shape(name) != shape or (name in pairs and downs[name].ndim != 2):
            raise CorruptCheckpoint("the adapter does not fit its base model; name the base it was trained on")
    root = bool(config.get("use_rslora"))
    alpha = float(config["lora_alpha"])
    scales = {name: alpha / (math.sqrt(len(down)) if root else len(down)) for name, down in downs.items()}
    return Merged(base, pairs, scales, replaced)


def _refuse_variants(config: Mapping[str, Any]) -> None:
    odd = [key for key in NOT_PLAIN_LORA if config.get(key)]
    if config.get("peft_type") != "LORA":
        odd.append("peft_type")
    if odd:
        raise CheckpointError(
            f"this adapter is not plain LoRA ({', '.join(odd)}); merge it with PEFT's merge_and_unload() "
            "and use the merged model"
        )
    if not isinstance(config.get("lora_alpha"), (int, float)):
        raise IncompleteCheckpoint("adapter_config.json lacks lora_alpha; save the adapter again")
