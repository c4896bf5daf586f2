"""Log-mel to encoder states, by OpenVINO, which is two to four times faster at this than anything else on a CPU.

save(weights, dimensions, folder / "encoder.xml")
encoder = Encoder(folder / "encoder.xml", threads=2)
states = encoder.encode(mel)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tickertape.errors import CorruptCheckpoint
from tickertape.machine import instruction_sets
from tickertape.weights import Dimensions, Weights

if TYPE_CHECKING:
    import openvino as ov

Array: TypeAlias = NDArray[np.float32]
Precision: TypeAlias = Literal["auto", "f32", "bf16"]


def save(weights: Weights, dimensions: Dimensions, path: Path) -> None:
    """Write the encoder as OpenVINO IR: `path` (.xml) and the weights beside it (.bin).

    Weights are float32, which holds every float32 and bfloat16 checkpoint exactly, or float16 where all of them were
    float16: half the size, the same values.
    """
    import openvino as ov

    half = all(weights.is_half(name) for name in weights if name.startswith("model.encoder."))
    ov.save_model(build(weights, dimensions), path, compress_to_fp16=half)


def build(weights: Mapping[str, NDArray[Any]], dimensions: Dimensions) -> ov.Model:
    """Draw Whisper's encoder as an OpenVINO graph: mel [batch, n_mels, frames] to [batch, ceil(frames / 2), d_model].

    The sums of Hugging Face's modeling_whisper.py; the positions are sliced, so that any length up to 30 s runs.
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
    for number, node in enumerate(model.get_ordered_ops()):  # else a counter of the whole process ends up in the file
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    return model


class _Graph:
    """Whisper's layers in OpenVINO operations."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], dimensions: Dimensions) -> None:
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


class Encoder:
    """An encoder that is ready to run, one call at a time. `reason` says what was chosen and why.

    Windows run one by one: a batch of them is no faster (every multiplication is large already), and so each gets
    exactly the states it would get alone. `frames` fixes their length, which is 10 to 20 % faster than any length.
    """

    def __init__(self, path: Path, *, threads: int, precision: Precision = "auto", frames: int | None = None) -> None:
        """Compile the graph at `path` for this CPU; `threads` 0 takes all. Raises `CorruptCheckpoint`."""
        import openvino as ov

        core = ov.Core()
        chosen, why = choose_precision(core) if precision == "auto" else (precision, "asked for")
        options = {
            "INFERENCE_PRECISION_HINT": chosen,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # pinned threads wait for whoever else runs on their core
        }
        try:
            graph = core.read_model(path)
            if frames is not None:
                graph.reshape([1, graph.input(0).partial_shape[1].get_length(), frames])
            model = core.compile_model(graph, "CPU", options)
        except RuntimeError as error:
            raise CorruptCheckpoint("the prepared encoder cannot be opened; prepare the model again") from error
        self.precision = chosen
        self.reason = f"openvino {chosen} ({why})"
        self._width = model.output(0).partial_shape[2].get_length()
        self._request = model.create_infer_request()

    def encode(self, mel: Array) -> Array:
        """Encode log-mel [batch, n_mels, frames] to a new array [batch, ceil(frames / 2), d_model].

        `frames` is at most 3,000, or what the encoder was fixed to. CTranslate2 takes the array without a copy
        (`StorageView.from_array`) as long as it is kept alive.
        """
        batch, _, frames = mel.shape
        states = np.empty((batch, (frames + 1) // 2, self._width), np.float32)
        for i in range(batch):
            window = np.ascontiguousarray(mel[i : i + 1], dtype=np.float32)
            states[i] = self._request.infer([window], share_inputs=True, share_outputs=True)[0][0]
        return states


def choose_precision(core: ov.Core) -> tuple[str, str]:
    """The precision that is fast here, and why: bfloat16 where the CPU multiplies it natively, else float32."""
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()  # OpenVINO asks the CPU itself
    if default != "bf16":
        return "f32", "CPU has no bfloat16 arithmetic"
    native = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in instruction_sets()]
    return "bf16", f"CPU has {native[0]}" if native else "CPU has bfloat16 arithmetic"
