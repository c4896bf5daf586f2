"""whisper-base beside Hugging Face's `generate` and openai-whisper's `transcribe`: words, times and language.

All compute in float32 and without fallback. openai-whisper fills a short window with zeros where the others hear
silence, so it gets its clips with silence up to 30 s.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.systems import openai_model
from tests.support.real_speech import CASES, SHARED, Clip, clips, needs_speech
from tickertape.audio.decode import decode
from tickertape.checkpoints.export import export
from tickertape.transcriber import Transcriber
from tickertape.types import WINDOW_SAMPLES, Samples, Transcript

torch = pytest.importorskip("torch", reason="the extra `reference` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `reference` is not installed")
whisper = pytest.importorskip("whisper", reason="the extra `reference` is not installed")

pytestmark = [pytest.mark.real, pytest.mark.reference, pytest.mark.timeout(300), needs_speech]
SETS = ("vctk_en_gb", "librispeech", "multilingual", "german_kerstin")


@cache
def heard() -> list[Clip]:
    """Every third clip of some sets, and clips of one window that once failed."""
    jfk = Clip(SHARED / "audio" / "jfk.flac", "", "en", 11.0)
    return [jfk, Clip(CASES / "short_long_3.wav", "", "en", 0.4), *(c for name in SETS for c in clips(name, 3))]


@cache
def samples(clip: Clip) -> Samples:
    """The samples, with silence up to 30 s."""
    decoded = decode(clip.path).samples[0]
    return np.pad(decoded, (0, WINDOW_SAMPLES - len(decoded)))


@pytest.fixture(scope="module")
def exported(whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hugging Face folder."""
    folder = tmp_path_factory.mktemp("exported") / "whisper-base"
    export(whisper_base, folder)
    return folder


@pytest.fixture(scope="module")
def hugging_face(exported: Path) -> tuple[Any, Any]:
    """Processor and model."""
    transformers.logging.set_verbosity_error()
    processor = transformers.WhisperProcessor.from_pretrained(exported)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(exported, dtype=torch.float32)
    return processor, model.eval()


@pytest.fixture(scope="module")
def openai(exported: Path) -> Any:
    """openai-whisper's model with these weights."""
    return openai_model(exported)


@pytest.fixture(scope="module")
def ours(exact: Transcriber) -> list[Transcript]:
    """Our transcripts, the language detected."""
    return [exact.transcribe(clip.path, vad=False, temperatures=(0.0,)) for clip in heard()]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The references warn about their own parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_texts_equal_hugging_faces(ours: list[Transcript], hugging_face: tuple[Any, Any]) -> None:
    """Word for word, punctuation included."""
    processor, model = hugging_face
    expected = []
    for clip, transcript in zip(heard(), ours, strict=True):
        features = processor(samples(clip), sampling_rate=16_000, return_tensors="pt").input_features
        tokens = model.generate(features, language=transcript.language, task="transcribe", return_timestamps=True)
        expected.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
    assert expected == [transcript.text for transcript in ours]


def test_transcripts_equal_openais(ours: list[Transcript], openai: Any) -> None:
    """The language, the words and the times of the segments."""
    for clip, transcript in zip(heard(), ours, strict=True):
        expected = whisper.transcribe(openai, samples(clip), fp16=False, temperature=0.0)
        assert (expected["language"], expected["text"].strip()) == (transcript.language, transcript.text)
        end = transcript.duration  # behind it there is only the silence that was added
        times = [(min(segment["start"], end), min(segment["end"], end)) for segment in expected["segments"]]
        assert [pytest.approx(pair) for pair in times] == [(each.start, each.end) for each in transcript.segments]


def test_word_times_are_near_openais(exact: Transcriber, openai: Any) -> None:
    """Nine of ten words begin within a quarter of a second of its times, the median within a tenth."""
    distances: list[float] = []
    settings: dict[str, Any] = {"language": "en", "word_timestamps": True}
    for clip in [clip for clip in heard() if clip.language == "en"]:
        found = exact.transcribe(clip.path, vad=False, temperatures=(0.0,), **settings).words
        timed = whisper.transcribe(openai, samples(clip), fp16=False, temperature=0.0, **settings)
        words = [word for segment in timed["segments"] for word in segment["words"]]
        assert [word["word"].strip() for word in words] == [word.text.strip() for word in found]
        distances += [abs(one["start"] - other.start) for one, other in zip(words, found, strict=True)]
    assert statistics.median(distances) <= 0.1
    assert statistics.quantiles(distances, n=10)[-1] <= 0.25
