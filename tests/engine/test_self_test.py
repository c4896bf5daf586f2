"""The check of an engine at start: every kind of request is decoded once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_factory import make_checkpoint
from tickertape.checkpoints.prepare import prepare
from tickertape.engine.loading import LoadOptions, open_prepared
from tickertape.engine.self_test import clip, kinds, self_test
from tickertape.engine.whisper import WhisperEngine
from tickertape.errors import EngineError
from tickertape.types import Decoded, ModelInfo


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> WhisperEngine:
    """An engine of random weights."""
    root = tmp_path_factory.mktemp("self_test")
    folder = make_checkpoint(root / "model", "custom", config={"audio_context": "trimmed"})
    return open_prepared(prepare(folder, cache=root), LoadOptions(device="cpu", threads=1))


def test_the_kinds_are_those_that_the_checkpoint_serves() -> None:
    """English-only checkpoints neither detect a language nor translate."""
    both = ModelInfo("x", languages=("en", "de"))
    assert ["text", "words", "language", "translate", "beam"] == list(kinds(both))
    assert ["text", "words", "beam"] == list(kinds(replace(both, languages=("en",), translates=False)))


def test_a_whole_engine_passes(engine: WhisperEngine) -> None:
    """Nothing is raised; the words of a given text are timed within the clip."""
    self_test(engine, *kinds(engine.info))
    aligned = engine.align(clip(), " a b")
    assert isinstance(aligned, Decoded)
    assert [" a", " b"] == [word.text for word in aligned.segments[0].words]
    assert all(0 <= word.start <= word.end <= 1 for word in aligned.segments[0].words)


class Broken:
    """A decoder that fails in one method."""

    def __init__(self, decoder: Any, method: str) -> None:
        self._decoder, self._method = decoder, method

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            raise TypeError
        return getattr(self._decoder, name)


@pytest.mark.parametrize(("method", "kind"), [("align", "words"), ("detect_language", "language"),
                                              ("generate", "text, words, language, translate, beam")])  # fmt: skip
def test_the_kinds_that_fail_are_named(method: str, kind: str, engine: WhisperEngine) -> None:
    """Alignment, detection or all of it: the error names the kinds and the next step."""
    broken = WhisperEngine(Broken(engine._decoder, method), engine._encoder, engine.prepared, ())
    with pytest.raises(EngineError, match=rf"fails at: {kind}\. .*tickertape doctor"):
        self_test(broken, *kinds(engine.info))


@pytest.mark.parametrize("config", [{"heads": [[9, 9]]}, {"generation": False}])
def test_checkpoints_with_defaults_pass(config: dict[str, Any], tmp_path: Path) -> None:
    """Heads that do not exist, or no generation_config.json at all: the defaults decode every kind."""
    folder = make_checkpoint(tmp_path / "model", "custom")
    path = folder / "generation_config.json"
    if "heads" in config:
        path.write_text(path.read_text().replace('"alignment_heads"', '"alignment_heads": [[9, 9]], "x"'))
    else:
        path.unlink()
    found = open_prepared(prepare(folder, cache=tmp_path), LoadOptions(device="cpu", threads=1))
    self_test(found, *kinds(found.info))
