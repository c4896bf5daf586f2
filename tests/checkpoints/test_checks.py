"""Relations between tokenizer, configs, weights and adapter: each holds, gets a default, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.audio_factory import speech
from tests.support.checkpoint_factory import edit_json
from tickertape.checkpoints.checks import Examination, examine
from tickertape.checkpoints.prepare import load, prepare
from tickertape.checkpoints.source import find
from tickertape.engine.loading import LoadOptions, open_prepared
from tickertape.errors import CheckpointError, CorruptCheckpointError
from tickertape.types import Decoded, Options, Window

UPPER_HALF = [[1, 0], [1, 1]]  # of two layers with two heads
WORDS = Options(language="en", temperatures=(0.0,), max_new_tokens=8, word_timestamps=True, timestamps=False,
                no_speech_threshold=None)  # fmt: skip


def codes(examined: Examination) -> list[str]:
    """What was assumed."""
    return [notice.code for notice in examined.notices]


def write(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None is written as null."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_checkpoint_passes_every_check(small: Path) -> None:
    """Nothing is assumed or refused where everything is declared."""
    examined = examine(find(small))
    assert [] == [finding for finding in examined.findings if finding.error or finding.notice]
    assert all(finding.check and finding.detail for finding in examined.findings)


@pytest.mark.parametrize("heads", [[[5, 0]], [[1, 0], [0, 2]], [[-1, 0]], [], None, [[1]], "all", [[True, "0"]]])
def test_words_are_timed_by_default_heads_where_those_declared_do_not_exist(heads: Any, copy: Path,
                                                                            tmp_path: Path) -> None:  # fmt: skip
    """A distilled decoder with its teacher's heads: the upper half of the layers, with a notice that load repeats."""
    write(copy / "generation_config.json", alignment_heads=heads)
    prepared = prepare(copy, cache=tmp_path)
    assert UPPER_HALF == json.loads((prepared.folder / "config.json").read_text())["alignment_heads"]
    assert ["default_heads"] == [notice.code for notice in load(prepared.folder).notices]
    engine = open_prepared(prepared, LoadOptions(device="cpu", threads=1))
    assert any(reason.startswith("default_heads: ") for reason in engine.reasons)
    decoded = engine.decode([Window(speech(1.0))], [WORDS])[0]
    assert isinstance(decoded, Decoded)
    assert all(segment.words for segment in decoded.segments)


@pytest.mark.parametrize(("changes", "expected", "code"), [
    ({"begin_suppress_tokens": None}, ("suppressed_first", 2), ["default_begin"]),
    ({"begin_suppress_tokens": [7, 10**6]}, ("suppressed_first", 1), ["unknown_ids"]),
    ({"suppress_tokens": None}, ("suppressed", 0), []),
    ({"suppress_tokens": [-1, 5, 10**6, "x"]}, ("suppressed", 1), ["unknown_ids"])])  # fmt: skip
def test_suppressed_tokens_are_in_the_vocabulary(changes: dict[str, Any], expected: tuple[str, int], code: list[str],
                                                 copy: Path) -> None:  # fmt: skip
    """Ids beyond the vocabulary are left out with a notice; by default no text begins with a blank or its end."""
    write(copy / "generation_config.json", **changes)
    examined = examine(find(copy))
    _, rules, _ = examined.require()
    name, count = expected
    assert (count, code) == (len(getattr(rules, name)), codes(examined))


@pytest.mark.parametrize("positions", [{"max_source_positions": 750}, {"max_target_positions": 8}])
def test_positions_for_a_window_and_a_prompt_are_needed(positions: dict[str, int], copy: Path) -> None:
    """Fewer positions than a window or a prompt takes would be read beyond their end."""
    edit_json(copy / "config.json", **positions)
    with pytest.raises(CheckpointError, match="positions"):
        examine(find(copy)).require()


def test_every_relation_is_checked_even_if_one_is_refused(copy: Path) -> None:
    """The findings go on after a refusal; `require` raises the first."""
    edit_json(copy / "generation_config.json", decoder_start_token_id=7)
    edit_json(copy / "config.json", d_model=128)
    examined = examine(find(copy))
    assert ["token ids", "weights"] == [finding.check for finding in examined.findings if finding.error]
    with pytest.raises(CorruptCheckpointError, match="same model"):
        examined.require()


def test_a_folder_of_another_version_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files were checked by other rules."""
    folder = prepare(small, cache=tmp_path).folder
    monkeypatch.setattr("tickertape.checkpoints.cache.CONVERTER_VERSION", 99)
    with pytest.raises(CorruptCheckpointError, match="prepare it again"):
        load(folder)
