"""The systems that `benchmarks.engine` compares, each in a separate process.

    python -m benchmarks.systems tickertape --checkpoint FOLDER --batch 8

loads one system and prints a line of JSON. For each line of JSON on standard input it transcribes and prints another.
Every system decodes the same clips greedily in two threads and counts the tokens that its decoder generated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
WINDOW = 30 * RATE
Clip = NDArray[np.float32]


@dataclass(frozen=True)
class Setup:
    """Options for loading a system. `tokens` limits each window; None decodes to the end of the text."""

    checkpoint: Path  # Hugging Face layout
    cache: Path
    batch: int
    tokens: int | None
    threads: int
    context: str = "auto"  # Tickertape's windows: trimmed, full, or as the checkpoint declares
    compute_type: str = "int8"  # of Tickertape's decoder
    precision: str = "auto"  # of Tickertape's encoder
    language: str = "en"

    @property
    def never(self) -> list[int]:
        """The checkpoint's suppressed tokens; every system gets this list."""
        settings = json.loads((self.checkpoint / "generation_config.json").read_text())
        return list(settings.get("suppress_tokens") or ())


class System(Protocol):
    """A system that transcribes clips of at most 30 s."""

    counted: list[int]  # tokens of each window since last cleared

    def transcribe(self, clips: Sequence[Clip]) -> list[str]: ...


class Tickertape:
    """This project's engine: log-mel, OpenVINO encoder, CTranslate2 decoder."""

    def __init__(self, setup: Setup) -> None:
        from tickertape.checkpoints.prepare import prepare
        from tickertape.engine.loading import LoadOptions, open_prepared
        from tickertape.types import Options

        self.counted: list[int] = []
        self.batch = setup.batch
        prepared = prepare(setup.checkpoint, cache=setup.cache, compute_type=setup.compute_type)
        if setup.context != "auto":
            prepared = replace(prepared, audio_context=setup.context)
        self.engine = open_prepared(prepared, LoadOptions(precision=setup.precision, threads=setup.threads))
        self.engine._decoder = _Counting(self.engine._decoder, self.counted)
        self.options = Options(
            language=setup.language,
            timestamps=False,
            temperatures=(0.0,),
            max_new_tokens=setup.tokens,
            no_speech_threshold=None,
        )

    def transcribe(self, clips: Sequence[Clip]) -> list[str]:
        from tickertape.types import Window

        texts: list[str] = []
        for first in range(0, len(clips), self.batch):
            windows = [Window(clip) for clip in clips[first : first + self.batch]]
            for decoded in self.engine.decode(windows, [self.options] * len(windows)):
                if isinstance(decoded, Exception):
                    raise decoded
                texts.append(decoded.text)
        return texts


class FasterWhisper:
    """faster-whisper, int8, on the model files that Tickertape prepared: one window after the other."""

    def __init__(self, setup: Setup) -> None:
        from faster_whisper import WhisperModel

        from tickertape.checkpoints.prepare import prepare

        folder = prepare(setup.checkpoint, cache=setup.cache).folder
        self.batch = setup.batch
        self.model = WhisperModel(str(folder), "cpu", compute_type="int8", cpu_threads=setup.threads, num_workers=1)
        self.counted: list[int] = []
        self.model.model = _Counting(self.model.model, self.counted)
        self.settings: dict[str, Any] = {
            "language": setup.language,
            "beam_size": 1,
            "temperature": 0,
            "without_timestamps": True,
            "vad_filter": False,
            "condition_on_previous_text": False,
            "suppress_tokens": setup.never,
            **dict.fromkeys(("no_speech_threshold", "log_prob_threshold", "compression_ratio_threshold")),
        }
        if setup.tokens is not None:  # CTranslate2 makes half of `max_length`; faster-whisper adds its prompt of 4
            self.settings |= {"max_new_tokens": 2 * setup.tokens - 4}

    def transcribe(self, clips: Sequence[Clip]) -> list[str]:
        return ["".join(segment.text for segment in self.model.transcribe(clip, **self.settings)[0]) for clip in clips]


class FasterWhisperBatched(FasterWhisper):
    """faster-whisper with its BatchedInferencePipeline."""

    def transcribe(self, clips: Sequence[Clip]) -> list[str]:
        from faster_whisper import BatchedInferencePipeline

        ends = np.cumsum([len(clip) for clip in clips]) / RATE
        starts = [0.0, *ends[:-1]]
        spans = [{"start": float(start), "end": float(end)} for start, end in zip(starts, ends, strict=True)]
        pipeline = BatchedInferencePipeline(self.model)
        segments, _ = pipeline.transcribe(
            np.concatenate(clips), clip_timestamps=spans, batch_size=self.batch, **self.settings
        )
        texts = [""] * len(clips)
        for segment in segments:
            texts[int(np.searchsorted(ends, segment.start + 1e-3))] += segment.text
        return texts


class HuggingFace:
    """Hugging Face's pipeline: float32, `chunk_length_s=30`, one window after the other."""

    def __init__(self, setup: Setup) -> None:
        import torch
        from transformers import pipeline

        torch.set_num_threads(setup.threads)
        self.counted: list[int] = []
        self.pipe = pipeline(
            "automatic-speech-recognition",
            model=str(setup.checkpoint),
            chunk_length_s=30,
            dtype=torch.float32,
            device="cpu",
        )
        self.settings: dict[str, Any] = {"num_beams": 1, "do_sample": False}
        if self.pipe.model.generation_config.is_multilingual:
            self.settings |= {"language": setup.language, "task": "transcribe"}
        if setup.tokens is not None:
            self.settings |= {"max_new_tokens": setup.tokens}
        _count_steps(self.pipe.model, self.counted)

    def transcribe(self, clips: Sequence[Clip]) -> list[str]:
        return [
            self.pipe({"raw": clip, "sampling_rate": RATE}, generate_kwargs=dict(self.settings))["text"]
            for clip in clips
        ]


class HuggingFaceWhole(HuggingFace):
    """Hugging Face's pipeline on all clips as one recording: its windows then overlap by 10 s."""

    def transcribe(self, clips: Sequence[Clip]) -> list[str]:
        return super().transcribe([np.concatenate(clips)])


class OpenAI:
    """openai-whisper, float32, its weights translated from the Hugging Face layout in memory."""

    def __init__(self, setup: Setup) -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self.counted: list[int] = []
        self.model = openai_model(setup.checkpoint)
        self.settings: dict[str, Any] = {
            "language": setup.language,
            "temperature": 0.0,
            "without_timestamps": True,
            "fp16": False,
            "condition_on_previous_text": False,
            "suppress_tokens": setup.never,
            **dict.fromkeys(("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold")),
        }
        if setup.tokens is not None:
            self.settings |= {"sample_len": setup.tokens}
        _count_steps(self.model.decoder, self.counted)

    def transcribe(self, clips: Sequence[Clip]) -> list[str]:
        import whisper

        return [whisper.transcribe(self.model, clip, **self.settings)["text"] for clip in clips]


SYSTEMS: dict[str, type[Any]] = {
    "tickertape": Tickertape,
    "faster-whisper": FasterWhisper,
    "faster-whisper-batched": FasterWhisperBatched,
    "hugging-face": HuggingFace,
    "hugging-face-whole": HuggingFaceWhole,
    "openai-whisper": OpenAI,
}


class _Counting:
    """A CTranslate2 model that records the number of generated tokens."""

    def __init__(self, model: Any, counted: list[int]) -> None:
        self._model, self._counted = model, counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        results = self._model.generate(*args, **kwargs)
        self._counted.extend(len(result.sequences_ids[0]) for result in results)
        return results


def _count_steps(module: Any, counted: list[int]) -> None:
    """Count the decoder calls of each window, one per token; a call with several tokens starts a window."""

    def count(_: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("decoder_input_ids", args[0] if args else None)
        if ids is not None and ids.shape[1] > 1:
            counted.append(1)
        elif counted:
            counted[-1] += 1

    module.register_forward_pre_hook(count, with_kwargs=True)


def openai_model(folder: Path) -> Any:
    """openai-whisper's model with the weights of a Hugging Face folder."""
    import whisper

    config = json.loads((folder / "config.json").read_text())
    if config["vocab_size"] not in {51_864, 51_865, 51_866}:
        raise SystemExit("openai-whisper has its own vocabularies only")
    dimensions = whisper.model.ModelDimensions(
        config["num_mel_bins"],
        1500,
        config["d_model"],
        config["encoder_attention_heads"],
        config["encoder_layers"],
        config["vocab_size"],
        448,
        config["d_model"],
        config["decoder_attention_heads"],
        config["decoder_layers"],
    )
    model = whisper.model.Whisper(dimensions).eval()
    model.load_state_dict(_openai_weights(folder), strict=False)
    return model


def _openai_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    renames = (
        ("model.", ""),
        ("layers", "blocks"),
        ("fc1", "mlp.0"),
        ("fc2", "mlp.2"),
        ("final_layer_norm", "mlp_ln"),
        ("self_attn_layer_norm", "attn_ln"),
        ("encoder_attn_layer_norm", "cross_attn_ln"),
        ("self_attn", "attn"),
        ("encoder_attn", "cross_attn"),
        ("q_proj", "query"),
        ("k_proj", "key"),
        ("v_proj", "value"),
        ("out_proj", "out"),
        ("decoder.embed_tokens", "decoder.token_embedding"),
        ("embed_positions.weight", "positional_embedding"),
        ("encoder.layer_norm", "encoder.ln_post"),
        ("decoder.layer_norm", "decoder.ln"),
    )
    renamed: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            new = name
            for old, other in renames:
                new = new.replace(old, other)
            renamed[new] = tensor.float()
    return renamed


def _peak_bytes() -> int:
    """Peak resident memory of this process in bytes (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _answer(system: System, clips: Sequence[Clip]) -> dict[str, Any]:
    system.counted.clear()
    started, cpu = time.perf_counter(), time.process_time()
    texts = system.transcribe(clips)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "tokens": list(system.counted),
        "audio_seconds": sum(len(clip) for clip in clips) / RATE,
        "texts": texts,
        "peak_bytes": _peak_bytes(),
    }


def main() -> None:
    """Load one system and run the commands from standard input."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=0, help="new tokens for each window; 0: until the text ends")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", choices=("auto", "full", "trimmed"), default="auto", help="Tickertape's windows")
    parser.add_argument("--compute-type", default="int8", help="of Tickertape's decoder")
    parser.add_argument("--precision", default="auto", help="of Tickertape's encoder")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # libraries print to stdout; keep it for the JSON lines
    settings = vars(given) | {"tokens": given.tokens or None}
    system_name = settings.pop("system")
    setup = Setup(**settings)
    system = SYSTEMS[system_name](setup)
    print(
        json.dumps(
            {
                "load_seconds": time.perf_counter() - started,
                "peak_bytes": _peak_bytes(),
                "reasons": list(getattr(getattr(system, "engine", None), "reasons", ())),
            }
        ),
        file=answers,
        flush=True,
    )
    for line in sys.stdin:
        asked = json.loads(line)
        with np.load(asked["clips"]) as stored:
            clips = [stored[name] for name in stored.files][: asked.get("count")]
        print(json.dumps(_answer(system, clips)), file=answers, flush=True)


if __name__ == "__main__":
    main()
