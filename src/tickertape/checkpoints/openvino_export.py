"""A Hugging Face checkpoint's encoder as OpenVINO IR, built from numpy arrays without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tickertape.checkpoints.config import Dimensions
from tickertape.checkpoints.safetensors import Weights


def write_encoder(weights: Weights, dimensions: Dimensions, path: Path) -> None:
    """Write the encoder as OpenVINO IR: `path` (.xml) and the weights beside it (.bin).

    The graph maps mel [batch, n_mels, frames] to states [batch, ceil(frames / 2), d_model], for any length up to 30 s;
    its layers are those of Hugging Face's modeling_whisper.py. Weights are stored as float16 if all of the checkpoint's
    are, else as float32; both keep the values exactly. Raises `OSError` if the files cannot be written.
    """
    import openvino as ov

    graph = _Graph(weights, dimensions)
    mel = graph.op.parameter([-1, dimensions.n_mels, -1], np.float32, name="mel")
    x = graph.convolution(mel, "model.encoder.conv1", stride=1)
    x = graph.convolution(x, "model.encoder.conv2", stride=2)
    x = graph.positions(graph.op.transpose(x, np.array([0, 2, 1])))
    for layer in range(dimensions.encoder_layers):
        name = f"model.encoder.layers.{layer}"
        x = graph.op.add(x, graph.attention(graph.norm(x, f"{name}.self_attn_layer_norm"), f"{name}.self_attn"))
        h = graph.op.gelu(graph.linear(graph.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1"), "erf")
        x = graph.op.add(x, graph.linear(h, f"{name}.fc2"))
    states = graph.norm(x, "model.encoder.layer_norm")
    states.output(0).set_names({"states"})
    model = ov.Model([states], [mel], "whisper_encoder")
    for number, node in enumerate(model.get_ordered_ops()):  # default names count up in a process: files would differ
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    half = all(weights.is_half(name) for name in weights if name.startswith("model.encoder."))
    try:
        ov.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # OpenVINO gives no reason
        raise OSError("OpenVINO could not write the encoder; the disk may be full") from error


class _Graph:
    """Whisper's layers in OpenVINO operations."""

    def __init__(self, weights: Weights, dimensions: Dimensions) -> None:
        from openvino import opset13

        self.op: Any = opset13
        self.weights, self.dimensions = weights, dimensions

    def constant(self, name: str, shape: tuple[int, ...] | None = None) -> Any:
        array = self.weights[name].astype(np.float32)
        return self.op.constant(array if shape is None else array.reshape(shape))

    def convolution(self, x: Any, name: str, stride: int) -> Any:
        y = self.op.convolution(x, self.constant(f"{name}.weight"), [stride], [1], [1], [1])
        return self.op.gelu(self.op.add(y, self.constant(f"{name}.bias", (1, -1, 1))), "erf")

    def positions(self, x: Any) -> Any:
        length = self.op.gather(self.op.shape_of(x), np.array([1]), np.array(0))
        table = self.constant("model.encoder.embed_positions.weight")
        zero, one = np.array([0]), np.array([1])
        return self.op.add(x, self.op.slice(table, zero, length, one, zero))

    def norm(self, x: Any, name: str) -> Any:
        y = self.op.mvn(x, np.array([-1]), True, 1e-5, "inside_sqrt")
        return self.op.add(self.op.multiply(y, self.constant(f"{name}.weight")), self.constant(f"{name}.bias"))

    def linear(self, x: Any, name: str) -> Any:
        y = self.op.matmul(x, self.constant(f"{name}.weight"), False, True)
        return self.op.add(y, self.constant(f"{name}.bias")) if f"{name}.bias" in self.weights else y

    def attention(self, x: Any, name: str) -> Any:
        heads, width = self.dimensions.encoder_heads, self.dimensions.d_model
        split, order = np.array([0, 0, heads, width // heads]), np.array([0, 2, 1, 3])

        def part(letter: str) -> Any:
            return self.op.transpose(self.op.reshape(self.linear(x, f"{name}.{letter}_proj"), split, True), order)

        y = self.op.scaled_dot_product_attention(part("q"), part("k"), part("v"))
        y = self.op.reshape(self.op.transpose(y, order), np.array([0, 0, width]), True)
        return self.linear(y, f"{name}.out_proj")
