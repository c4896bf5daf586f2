"""The training of the synthetic-voice model: what it saves, and what it compares."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `reference` is not installed")
pytest.importorskip("jiwer", reason="the extra `reference` is not installed")

from recipes.demo import tokenizer, train  # noqa: E402 - they need torch
from recipes.demo.model import Shape  # noqa: E402

pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]
CHECKPOINT = Path(__file__).parents[1] / "checkpoint"
SHAPE = Shape(width=32, heads=2, encoder_layers=1, decoder_layers=1)
FRAMES = 200  # 2 s


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> train.Corpus:
    """Two shards of four windows of noise, with what they would say."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = np.random.default_rng(0)
    label = {"frames": FRAMES, "segments": [[0.2, 1.8, "Hello there."]], "spoken": "hello there"}
    for shard in range(2):
        labels = [json.dumps({"first": at * FRAMES, **label}) for at in range(4)]
        (folder / f"{shard}.jsonl").write_text("\n".join(labels) + "\n")
        np.save(folder / f"{shard}.npy", chance.standard_normal((4 * FRAMES, 80)).astype(np.float16))
    return train.Corpus(folder)


@pytest.fixture(scope="module")
def words() -> Any:
    """The synthetic-voice model's vocabulary."""
    return tokenizer.load(CHECKPOINT)


def learner(words: Any, path: Path) -> train.Learner:
    """A small network that learns; a saved one, if there is one."""
    torch.manual_seed(0)
    return train.Learner(SHAPE, words, 1e-3, path)


def batch(corpus: train.Corpus, words: Any, length: int, padded: int) -> train.Batch:
    """All windows but the first shard's, as long as each other."""
    return train.collate(corpus, words, corpus.refresh(), length, random.Random(0), padded=padded)


def test_training_goes_on_from_what_was_saved(corpus: train.Corpus, words: Any, tmp_path: Path) -> None:
    """Weights, the optimisers' memory and the progress come back: the next step is the one it would have been."""
    first, path = learner(words, tmp_path / "train.pt"), tmp_path / "train.pt"
    given = batch(corpus, words, FRAMES, padded=0)
    train.step(first, given, 0.9, 1e-3)
    first.progress.steps = 1
    first.save()
    second = learner(words, path)
    assert second.progress == train.Progress(steps=1)
    for each in (first, second):
        train.step(each, given, 0.9, 1e-3)
    for one, other in zip(first.exact, second.exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_is_saved_is_never_half(words: Any, tmp_path: Path) -> None:
    """A checkpoint is moved into its place when it is whole."""
    learner(words, tmp_path / "train.pt").save()
    assert [path.name for path in tmp_path.iterdir()] == ["train.pt"]


def test_a_window_agrees_with_itself(corpus: train.Corpus, words: Any, tmp_path: Path) -> None:
    """Trimmed and padded windows of the same length say the same; of different lengths, a new network disagrees."""
    trainee = learner(words, tmp_path / "train.pt").trainee

    @torch.no_grad()
    def found(length: int) -> float:
        given = batch(corpus, words, length, padded=1)
        assert given.padded.shape == (1, train.FULL_FRAMES, 80)
        logits = trainee.decode(given.tokens, trainee.encode(given.frames.bfloat16()))
        return float(train.disagreement(trainee, given, logits))

    assert found(train.FULL_FRAMES) < found(FRAMES) / 10


def test_losses_count_what_the_padded_window_says_otherwise(corpus: train.Corpus, words: Any, tmp_path: Path) -> None:
    """The decoder's loss has the disagreement on top; CTC's loss has not."""
    trainee = learner(words, tmp_path / "train.pt").trainee
    with torch.no_grad():
        plain, padded = (train.losses(trainee, batch(corpus, words, FRAMES, padded=count), True) for count in (0, 1))
    assert padded[0] == plain[0]
    assert padded[1] > plain[1]


def test_what_a_batch_dies_of_is_heard_of() -> None:
    """The thread that prepares batches passes on what it raised, after the batches before that."""

    def source() -> Iterator[int]:
        yield 1
        raise ValueError("no such shard")

    batches = train.ahead(source())  # type: ignore[arg-type]  # any item will do
    assert next(batches) == 1
    with pytest.raises(ValueError, match="no such shard"):
        next(batches)
