"""Log-mel features, against Hugging Face's extractor where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from tickertape.engine.mel import HOP, log_mel
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * SAMPLE_RATE))
    return samples.astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.05, 1.0, 7.31, 29.98, 30.0])
@pytest.mark.reference
def test_full_windows_equal_hugging_face(n_mels: int, seconds: float) -> None:
    """Features padded to 30 s equal Hugging Face's extractor within 1e-4."""
    transformers = pytest.importorskip("transformers", reason="the extra `reference` is not installed")
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    samples = noise(seconds)
    expected = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features[0]
    actual = log_mel(samples, WINDOW_SAMPLES, n_mels)
    assert expected.shape == actual.shape
    assert float(np.abs(expected - actual).max()) < 1e-4


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5])
def test_trimmed_windows_equal_the_features_of_the_padded_samples(seconds: float) -> None:
    """Trimmed features are those of the same samples with zeros appended, computed in full."""
    length = 3 * SAMPLE_RATE
    samples = noise(seconds)
    padded = np.pad(samples, (0, length - len(samples)))
    assert np.allclose(log_mel(padded, length, 80), log_mel(samples, length, 80), atol=1e-5)
    assert log_mel(samples, length, 80).shape == (80, length // HOP)


def test_silence_is_flat() -> None:
    """Digital silence gives one constant value and no warning from the logarithm."""
    mel = log_mel(np.zeros(1600, np.float32), WINDOW_SAMPLES, 80)
    assert np.unique(mel).tolist() == [pytest.approx(-1.5)]
