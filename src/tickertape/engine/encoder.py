"""Log-mel to encoder states by OpenVINO, on a CPU two to four times as fast as CTranslate2 (benchmarks/).

encoder = Encoder(folder / "encoder.xml", threads=2)
states = encoder.encode(mel)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tickertape.engine.hardware import instruction_sets
from tickertape.errors import CorruptCheckpointError

if TYPE_CHECKING:
    import openvino as ov

Array: TypeAlias = NDArray[np.float32]


class Encoder:
    """A compiled encoder, for one call at a time. `reason` gives its precision and why it was chosen.

    Windows run one by one: batches are no faster, because each multiplication is large already, and each window gets
    exactly the states it would get alone. A fixed number of `frames` is 10 to 20 % faster than any length.
    """

    def __init__(self, path: Path, *, threads: int, precision: str = "auto", frames: int | None = None) -> None:
        """Compile the graph at `path` for this CPU. Raises `CorruptCheckpointError`."""
        import openvino as ov

        core = ov.Core()
        chosen, why = choose_precision(core) if precision == "auto" else (precision, "as asked")
        options = {
            "INFERENCE_PRECISION_HINT": chosen,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # a pinned thread waits for other processes on its core
        }
        try:
            graph = core.read_model(path)
            if frames is not None:
                graph.reshape([1, graph.input(0).partial_shape[1].get_length(), frames])
            model = core.compile_model(graph, "CPU", options)
        except RuntimeError as error:
            raise CorruptCheckpointError("the prepared encoder cannot be opened; prepare the model again") from error
        self.precision = chosen
        self.reason = f"openvino {chosen} ({why})"
        self._width = model.output(0).partial_shape[2].get_length()
        self._request = model.create_infer_request()

    def encode(self, mel: Array) -> Array:
        """Encode log-mel [batch, n_mels, frames] to a new array [batch, ceil(frames / 2), d_model].

        `frames` is at most 3,000, or the fixed number.
        """
        batch, _, frames = mel.shape
        states = np.empty((batch, (frames + 1) // 2, self._width), np.float32)
        for i in range(batch):
            window = np.ascontiguousarray(mel[i : i + 1], dtype=np.float32)
            states[i] = self._request.infer([window], share_inputs=True, share_outputs=True)[0][0]
        return states


def choose_precision(core: ov.Core) -> tuple[str, str]:
    """The fast precision on this CPU, and why: bfloat16 if the CPU multiplies it natively, else float32."""
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()  # OpenVINO asks the CPU itself
    if default != "bf16":
        return "f32", "CPU has no bfloat16 arithmetic"
    native = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in instruction_sets()]
    return "bf16", f"CPU has {[*native, 'bfloat16 arithmetic'][0]}"
