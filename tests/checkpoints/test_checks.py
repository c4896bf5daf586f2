"""Relations between tokenizer, configs, weights and adapter: each holds, gets a default, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from tests.support.audio_factory import speech
from tests.support.checkpoint_factory import add_tokens, edit_json, make_checkpoint
from tickertape.checkpoints.checks import Examination, examine
from tickertape.checkpoints.lora import EMBEDDINGS
from tickertape.checkpoints.prepare import Prepared, load, prepare
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


# --- tokens


def decoded(prepared: Prepared, options: Options) -> Decoded:
    """Two seconds of sound, decoded in float32."""
    engine = open_prepared(prepared, LoadOptions(device="cpu", compute_type="float32", precision="f32", threads=1))
    outcome = engine.decode([Window(speech(2.0, seed=3))], [options])[0]
    assert isinstance(outcome, Decoded), outcome
    return outcome


TIMED = Options(language="en", temperatures=(0.0,), max_new_tokens=40, no_speech_threshold=None)


def test_tokens_behind_the_timestamps_are_text(copy: Path, tmp_path: Path) -> None:
    """Words that were added at tuning are written, the text around them stays as it was, with the same times."""
    before = decoded(prepare(copy, cache=tmp_path, compute_type="float32"), TIMED)
    frequent = max(before.segments[0].tokens, key=before.segments[0].tokens.count)
    row = find(copy).weights()[EMBEDDINGS][frequent]
    added = [AddedToken(" ledger", normalized=False), AddedToken("<|xx|>", special=True), AddedToken("[laughs]")]
    add_tokens(copy, added, np.stack([row * 1.001, row * 0, row * 0]))  # the first one takes the place of its model
    prepared = prepare(copy, cache=tmp_path, compute_type="float32")
    assert ["moved_tokens"] == [notice.code for notice in prepared.notices]
    after = decoded(prepared, TIMED)
    theirs = Tokenizer.from_file(str(copy / "tokenizer.json")).id_to_token(frequent).replace("\u0120", " ")
    assert before.text.replace(theirs, " ledger") == after.text
    assert [(s.start, s.end) for s in before.segments] == [(s.start, s.end) for s in after.segments]
    assert "ledger" in after.text
    assert prepared.special_tokens["<|xx|>"] < prepared.special_tokens["<|notimestamps|>"]


def test_tokens_that_the_model_does_not_have_are_ignored(copy: Path, tmp_path: Path) -> None:
    """A tokenizer that was extended without the model: a prompt with such a word is spelled as before."""
    expected = decoded(prepare(copy, cache=tmp_path), replace(TIMED, prompt="the ledger"))
    add_tokens(copy, [AddedToken("ledger")])
    prepared = prepare(copy, cache=tmp_path)
    assert ["ignored_tokens"] == [notice.code for notice in prepared.notices]
    assert expected.text == decoded(prepared, replace(TIMED, prompt="the ledger")).text


def test_rows_without_a_token_are_never_written(copy: Path, tmp_path: Path) -> None:
    """An output layer that is padded to a round size: its rows are left out, the text stays as it was."""
    before = decoded(prepare(copy, cache=tmp_path, compute_type="float32"), TIMED)
    row = find(copy).weights()[EMBEDDINGS][before.segments[0].tokens[0]]
    add_tokens(copy, [], np.stack([row * 2] * 3))
    prepared = prepare(copy, cache=tmp_path, compute_type="float32")
    assert before.segments == decoded(prepared, TIMED).segments


def test_a_tokenizer_without_timestamps_has_them_behind_its_last_token(copy: Path) -> None:
    """Tokenizers before 2023 lack them. A word that was added in their place is refused."""
    expected = examine(find(copy)).require()[1]
    state = json.loads((copy / "tokenizer.json").read_text())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].endswith("0|>")]
    state["added_tokens"] = [token for token in state["added_tokens"] if "." not in token["content"]]
    (copy / "tokenizer.json").write_text(json.dumps(state))
    assert expected.tokens == examine(find(copy)).require()[1].tokens
    add_tokens(copy, [AddedToken("ledger")])
    with pytest.raises(CorruptCheckpointError, match="belong"):
        examine(find(copy)).require()


@pytest.mark.parametrize("change", [{"lang_to_id": None}, {"lang_to_id": {}},
                                    {"lang_to_id": None, "is_multilingual": None, "task_to_id": None}])  # fmt: skip
def test_languages_are_the_tokenizers_where_none_are_declared(change: dict[str, Any], copy: Path,
                                                              tmp_path: Path) -> None:  # fmt: skip
    """`lang_to_id` missing, null or empty: every language with a token, with a notice; one is detected."""
    write(copy / "generation_config.json", **change)
    prepared = prepare(copy, cache=tmp_path)
    assert 99 == len(prepared.languages)
    assert ["default_languages"] == [notice.code for notice in prepared.notices]
    assert decoded(prepared, replace(TIMED, language=None)).language in prepared.languages


@pytest.mark.slow
def test_a_resized_english_only_model_stays_english_only(tmp_path: Path) -> None:
    """Its tokenizer has language tokens too; the end of its text, where GPT-2's is, tells it apart."""
    folder = make_checkpoint(tmp_path / "model", "micro.en")
    (folder / "generation_config.json").unlink()
    rows = np.zeros((8, 64), np.float32)
    add_tokens(folder, [AddedToken(f"word{i}") for i in range(8)], rows)
    prepared = prepare(folder, cache=tmp_path)
    assert {} == prepared.languages
    assert decoded(prepared, Options(max_new_tokens=4, temperatures=(0.0,))).language == "en"


def other_generation(folder: Path) -> None:
    """The tokenizer of large-v3 beside another model: 100 languages, so that all later ids are one higher."""
    state = json.loads((folder / "tokenizer.json").read_text())
    yue = next(t["id"] for t in state["added_tokens"] if t["content"] == "<|translate|>")
    for token in state["added_tokens"]:
        token["id"] += token["id"] >= yue
    new = {**state["added_tokens"][0], "id": yue, "content": "<|yue|>"}
    state["added_tokens"] = sorted([*state["added_tokens"], new], key=lambda token: token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(state))


@pytest.mark.parametrize(("damage", "hint"), [
    (other_generation, "at"),
    (lambda f: edit_json(f / "generation_config.json", task_to_id={"translate": 1}), "translate"),
    (lambda f: edit_json(f / "generation_config.json", lang_to_id={"<|de|>": 1}), "de"),
    (lambda f: edit_json(f / "generation_config.json", lang_to_id=[1, 2]), "lang_to_id"),
    (lambda f: edit_json(f / "generation_config.json", no_timestamps_token_id=1), "notimestamps"),
    (lambda f: edit_json(f / "config.json", forced_decoder_ids=[[1, 2], [2, 3], [3, 4]]), "notimestamps"),
    (lambda f: edit_json(f / "config.json", decoder_start_token_id=[1]), "startoftranscript")])  # fmt: skip
def test_ids_of_another_model_are_refused(damage: Callable[[Path], None], hint: str, copy: Path) -> None:
    """Special tokens have one id in tokenizer, config.json and generation_config.json."""
    damage(copy)
    with pytest.raises(CorruptCheckpointError, match=f"{hint}.*model"):
        examine(find(copy)).require()


@pytest.mark.parametrize(("model", "tokenizer"), [("micro.v3", "micro"), ("micro", "micro.v3"), ("micro", "micro.en")])
def test_another_generations_tokenizer_is_refused_without_any_declared_id(model: str, tokenizer: str,
                                                                          tmp_path: Path) -> None:  # fmt: skip
    """The number of tokens tells OpenAI's generations apart where no config declares an id."""
    folder = make_checkpoint(tmp_path / "model", model, true_vocabulary=False)
    other = make_checkpoint(tmp_path / "other", tokenizer, true_vocabulary=False)
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", decoder_start_token_id=None)
    shutil.copy(other / "tokenizer.json", folder)
    with pytest.raises(CorruptCheckpointError, match="same model"):
        examine(find(folder)).require()


@pytest.mark.parametrize("token", ["<|startofprev|>", "<|nocaptions|>", "<|transcribe|>"])
def test_every_special_token_of_a_prompt_is_needed(token: str, copy: Path) -> None:
    """A tokenizer without one is refused at once, not at the first request that needs it."""
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace(f'"{token}"', '"<|other|>"'))
    (copy / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks"):
        examine(find(copy)).require()


def test_a_ctranslate2_folder_with_another_tokenizer_is_refused(small: Path, tmp_path: Path) -> None:
    """vocabulary.json has the tokens of the model itself."""
    folder = Path(shutil.copytree(prepare(small, cache=tmp_path).folder, tmp_path / "theirs"))
    (folder / "manifest.json").unlink()
    assert [] == codes(examine(find(folder)))
    other_generation(folder)
    with pytest.raises(CorruptCheckpointError, match="vocabulary"):
        examine(find(folder)).require()
