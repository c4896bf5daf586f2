"""Speech detection: samples to spans, by the silero model that faster-whisper ships.

The model sees frames of 512 samples (32 ms), each with the 64 samples before it, and carries a recurrent state from
frame to frame. The frames are independent up to that state, so a block of them is one call. OpenVINO runs the model in
f32 about three times as fast as onnxruntime. Its Fourier transform, written as a convolution, becomes a product of
matrices here, which is faster still.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tickertape.errors import IncompleteCheckpointError
from tickertape.types import SAMPLE_RATE, Samples, Span

FRAME = 512  # samples (32 ms), what the model was trained on at 16 kHz
CONTEXT = 64  # samples before each frame that it hears too, and samples mirrored behind it
BINS = 129  # frequencies of its Fourier transform, of 256 samples every 128, so four times in a frame
BLOCK = 32 * SAMPLE_RATE // FRAME  # 1,000 frames a call: spans flow while the rest of a long recording waits
STATE = (1, 1, 128)  # shape of the recurrent state, and of the cell's
MILLISECOND = SAMPLE_RATE // 1000  # 16 samples


@dataclass(frozen=True, slots=True)
class Detection:
    """The parameters of the detector, with silero's meanings."""

    threshold: float = 0.5  # probability from which a frame begins speech
    neg_threshold: float = 0.35  # probability below which speech may end
    min_speech_ms: int = 100  # shorter spans are dropped: no word fits in three frames
    doubtful_ms: int = 300  # shorter spans must reach `sure`: the model greets a hum or a chord with a hesitant blip,
    sure: float = 0.7  # while the shortest words ("two", "hi") in noise of 10 dB reached 0.72 or more
    min_silence_ms: int = 300  # shorter pauses do not end a span
    speech_pad_ms: int = 300  # kept on each side, at most half of the pause: soft beginnings and endings


def model_path() -> Path:
    """Where faster-whisper keeps the silero model. Raises `IncompleteCheckpointError` if it is not installed."""
    spec = importlib.util.find_spec("faster_whisper")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "assets" / "silero_vad_v6.onnx"
        if path.is_file():
            return path
    raise IncompleteCheckpointError("the speech detection model is missing: install faster-whisper 1.2 or later")


class SpeechDetector:
    """Finds speech. One instance serves many threads at once; the interpreter lock is free while the model runs."""

    def __init__(self, *, threads: int = 1, streams: int = 1) -> None:
        """Load the model for `streams` calls at a time, each on `threads` threads; further calls wait their turn.

        Raises `IncompleteCheckpointError` where the model is missing.
        """
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # bf16 is 1.5 times as fast, but moves probabilities by up to 0.005
            "INFERENCE_NUM_THREADS": threads * streams,
            "NUM_STREAMS": streams,
        }
        self._model: Any = core.compile_model(_model(core), "CPU", settings)

    def detect(self, samples: Samples, parameters: Detection = Detection()) -> Iterator[Span]:
        """The spans of speech in `samples` (float32, [n], 16 kHz), in order and apart, in samples.

        Each comes as soon as the next has begun, or the recording has ended.
        """
        spans = _spans(self.probabilities(samples), len(samples), parameters)
        return _padded(spans, len(samples), parameters)

    def probabilities(self, samples: Samples) -> Iterator[Samples]:
        """The probability of speech in each frame of 512 samples, float32, in blocks of at most 1,000 frames."""
        request = self._model.create_infer_request()
        state = cell = np.zeros(STATE, np.float32)
        for first in range(0, len(samples), BLOCK * FRAME):
            request.infer([_frames(samples, first), state, cell])
            probabilities, state, cell = (request.get_output_tensor(i).data.copy() for i in range(3))
            yield probabilities.ravel()


def _model(core: Any) -> Any:
    """The silero model, with inputs `slices` ([frames, 4, 256]), state and cell, and the outputs it always had."""
    import openvino
    from openvino import opset13 as ops

    model = core.read_model(model_path())
    operations = model.get_ordered_ops()
    (root,) = (operation for operation in operations if operation.get_type_name() == "Sqrt")
    (waves,) = (  # sines and cosines under a Hann window, [258, 1, 256]
        operation.data
        for operation in operations
        if operation.get_type_name() == "Constant" and list(operation.shape) == [2 * BINS, 1, 256]
    )
    slices = ops.parameter([-1, 4, 256], np.float32)
    real, imaginary = (ops.matmul(slices, ops.constant(half), False, True) for half in np.split(waves[:, 0], 2))
    magnitude = ops.sqrt(ops.add(ops.multiply(real, real), ops.multiply(imaginary, imaginary)))
    spectrum = ops.transpose(magnitude, ops.constant(np.array([0, 2, 1])))
    for target in root.output(0).get_target_inputs():
        target.replace_source_output(spectrum.output(0))
    state, cell = (model.input(name).get_node() for name in ("h", "c"))
    outputs = [model.output(name).get_node() for name in ("speech_probs", "hn", "cn")]
    return openvino.Model(outputs, [slices, state, cell])


def _frames(samples: Samples, first: int) -> Samples:
    """One block from sample `first` on: each frame's four slices of 256 samples, shape [frames, 4, 256].

    A frame is its 512 samples, the 64 before, and the last 64 once more, mirrored.
    """
    piece = samples[max(first - CONTEXT, 0) : first + BLOCK * FRAME]
    before = CONTEXT if first == 0 else 0
    after = -(len(piece) + before - CONTEXT) % FRAME
    padded = np.pad(piece, (before, after))
    frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
    slices = np.empty((len(frames), 4, 256), np.float32)
    for n in range(3):
        slices[:, n] = frames[:, n * 128 : n * 128 + 256]
    slices[:, 3, :192] = frames[:, 384:]
    slices[:, 3, 192:] = frames[:, -2 : -2 - CONTEXT : -1]
    return slices


def _spans(blocks: Iterator[Samples], length: int, parameters: Detection) -> Iterator[Span]:
    """Speech without padding: it begins at `threshold` and ends before a long enough stretch under `release`."""
    pause = parameters.min_silence_ms * MILLISECOND
    start = quiet = -1  # where the open span began, and where its last silence did
    peak, now = 0.0, -FRAME
    for block in blocks:
        for probability in block.tolist():
            now += FRAME
            if probability >= parameters.threshold:
                start, peak = (now, 0.0) if start < 0 else (start, peak)
                peak, quiet = max(peak, probability), -1
            elif start >= 0 and probability < parameters.neg_threshold:
                quiet = now if quiet < 0 else quiet
                if now - quiet >= pause:
                    if _is_speech(quiet - start, peak, parameters):
                        yield Span(start, quiet)
                    start = quiet = -1
    if start >= 0 and _is_speech(length - start, peak, parameters):
        yield Span(start, length)


def _is_speech(length: int, peak: float, parameters: Detection) -> bool:
    """Whether a span of that many samples, which reached that probability, counts as speech."""
    if length <= parameters.min_speech_ms * MILLISECOND:
        return False
    return length > parameters.doubtful_ms * MILLISECOND or peak >= parameters.sure


def _padded(spans: Iterator[Span], length: int, parameters: Detection) -> Iterator[Span]:
    """The same spans, each widened by the padding, or up to the middle of a pause too short for two paddings."""
    pad = parameters.speech_pad_ms * MILLISECOND
    start, end = 0, -1
    for span in spans:
        if end < 0:
            start = max(0, span.start - pad)
        else:
            widen = min(pad, (span.start - end) // 2)
            yield Span(start, end + widen)
            start = span.start - widen
        end = span.end
    if end >= 0:
        yield Span(start, min(length, end + pad))
