"""Log-mel to encoder states by OpenVINO."""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np
import pytest

from tests.support.checkpoint_factory import make_checkpoint
from tickertape.checkpoints.prepare import Prepared, prepare
from tickertape.engine.encoder import Encoder, choose_precision
from tickertape.errors import CorruptCheckpointError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A small model in float32, so that CTranslate2's encoder is exact too."""
    folder = tmp_path_factory.mktemp("encoder")
    return prepare(make_checkpoint(folder / "model", "custom"), cache=folder, compute_type="float32")


def open_encoder(prepared: Prepared, frames: int | None = None, precision: str = "f32") -> Encoder:
    """Open with two threads."""
    assert prepared.encoder is not None
    return Encoder(prepared.encoder, threads=2, precision=precision, frames=frames)  # type: ignore[arg-type]


def make_mel(batch: int = 1, frames: int = 3000, seed: int = 0) -> np.ndarray:
    """Noise in the range of log-mel."""
    return np.random.default_rng(seed).standard_normal((batch, 80, frames)).astype(np.float32)


def test_states_equal_ctranslate2s(prepared: Prepared) -> None:
    """In float32 the states differ from CTranslate2's encoder by less than 1e-5, relative norm."""
    mel = make_mel()
    model = ctranslate2.models.Whisper(str(prepared.folder), compute_type="float32")
    expected = np.array(model.encode(ctranslate2.StorageView.from_array(mel)))
    actual = open_encoder(prepared).encode(mel)
    assert np.linalg.norm(expected - actual) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("frames", [1, 2, 3, 301, 1500, 2999, 3000])
def test_any_length_up_to_thirty_seconds(frames: int, prepared: Prepared) -> None:
    """Two frames make one position, rounded up, contiguous and finite float32."""
    states = open_encoder(prepared).encode(make_mel(frames=frames))
    assert (1, (frames + 1) // 2, 64) == states.shape
    assert (np.float32, True, True) == (states.dtype, states.flags.c_contiguous, bool(np.isfinite(states).all()))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_window_gets_the_same_states_in_any_batch(precision: str, prepared: Prepared) -> None:
    """Bit for bit, whatever its neighbours are."""
    encoder, mel = open_encoder(prepared, precision=precision), make_mel(batch=3, frames=200)
    batch = encoder.encode(mel)
    assert all(np.array_equal(batch[i : i + 1], encoder.encode(mel[i : i + 1])) for i in range(3))


def test_states_outlive_the_next_call(prepared: Prepared) -> None:
    """The array belongs to the caller, who hands it to the decoder while the next window is encoded."""
    encoder = open_encoder(prepared)
    states = encoder.encode(make_mel(frames=100))
    kept = states.copy()
    encoder.encode(make_mel(frames=100, seed=1))
    assert np.array_equal(kept, states)


def test_the_decoder_takes_the_states_without_a_copy(prepared: Prepared) -> None:
    """CTranslate2's view shows what is written into the array."""
    states = open_encoder(prepared).encode(make_mel(frames=100))
    view = ctranslate2.StorageView.from_array(states)
    states[:] = 7
    assert 7 == np.array(view).min()


def test_a_fixed_length_gives_the_same_states(prepared: Prepared) -> None:
    """Fixing the frames only makes it faster."""
    mel = make_mel()
    expected = open_encoder(prepared).encode(mel)
    np.testing.assert_allclose(open_encoder(prepared, frames=3000).encode(mel), expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_close(prepared: Prepared) -> None:
    """Half the digits: within two per cent of float32, relative norm."""
    expected, actual = (open_encoder(prepared, precision=p).encode(make_mel()) for p in ("f32", "bf16"))
    assert np.linalg.norm(expected - actual) < 2e-2 * np.linalg.norm(expected)


def test_the_choice_is_explained(prepared: Prepared) -> None:
    """The reason names the precision and what the CPU has."""
    encoder = open_encoder(prepared, precision="auto")
    assert encoder.reason.startswith(f"openvino {encoder.precision} (CPU has ")
    assert "openvino f32 (as asked)" == open_encoder(prepared, precision="f32").reason


@pytest.mark.parametrize(("default", "expected"), [("bf16", "bf16"), ("f32", "f32"), ("f16", "f32")])
def test_bfloat16_where_the_cpu_multiplies_it(default: str, expected: str) -> None:
    """OpenVINO's own default says what the CPU has; half precision, which overflows sooner, is not taken."""

    class Type:
        def to_string(self) -> str:
            return default

    class Core:
        def get_property(self, device: str, name: str) -> Type:
            return Type()

    assert expected == choose_precision(Core())[0]  # type: ignore[arg-type]


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    """What OpenVINO cannot read is a corrupt checkpoint."""
    (tmp_path / "encoder.xml").write_text("<net>")
    with pytest.raises(CorruptCheckpointError, match="prepare"):
        Encoder(tmp_path / "encoder.xml", threads=1)
