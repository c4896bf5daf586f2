"""From a MODEL to a verified, prepared folder; and every way in which one is refused."""

from __future__ import annotations

import errno
import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support.checkpoint_factory import edit_json, make_adapter, make_checkpoint, write_safetensors
from tickertape.checkpoints import ctranslate2 as convert
from tickertape.checkpoints import source as sources
from tickertape.checkpoints.cache import MANIFEST
from tickertape.checkpoints.checks import examine
from tickertape.checkpoints.config import Dimensions, check_weights
from tickertape.checkpoints.lora import merge_adapter
from tickertape.checkpoints.openvino_export import write_encoder
from tickertape.checkpoints.prepare import Prepared, load, prepare
from tickertape.checkpoints.safetensors import Weights, read_weights
from tickertape.errors import (
    CacheError,
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    IncompleteCheckpointError,
    NotWhisperError,
    OptionError,
    UnsafeCheckpointError,
)
from tickertape.types import Notice


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that no test changes."""
    return make_checkpoint(tmp_path_factory.mktemp("micro") / "micro", "micro", true_vocabulary=False)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- what comes out


def rules(prepared: Prepared) -> dict[str, Any]:
    """What CTranslate2 is told of the decoding."""
    found: dict[str, Any] = json.loads((prepared.folder / "config.json").read_text())
    return found


@pytest.mark.slow
def test_a_checkpoint_is_prepared(micro: Path, tmp_path: Path) -> None:
    """A Hugging Face folder becomes a folder that CTranslate2 opens, with encoder, tokenizer and description."""
    prepared = prepare(micro, cache=tmp_path)
    assert "micro" == prepared.name
    assert Dimensions(64, 80, 51_865, 2, 2, 256, 2, 2, 256, 1500, 448) == prepared.dimensions
    special = prepared.special_tokens
    assert (50_258, 50_363) == (special["<|startoftranscript|>"], special["<|notimestamps|>"])
    assert (99, 50_261) == (len(prepared.languages), prepared.languages["de"])
    assert ("int8", "full", ()) == (prepared.compute_type, prepared.audio_context, prepared.notices)
    assert [[1, 0]] == rules(prepared)["alignment_heads"]
    assert prepared.folder / "encoder.xml" == prepared.encoder
    assert ctranslate2.models.Whisper(str(prepared.folder)).is_multilingual


def test_preparing_again_finds_the_same_folder(small: Path, tmp_path: Path) -> None:
    """The second time nothing is converted, and the answer is the same."""
    first = prepare(small, cache=tmp_path)
    written = (first.folder / "model.bin").stat().st_mtime_ns
    assert first == prepare(small, cache=tmp_path)
    assert written == (first.folder / "model.bin").stat().st_mtime_ns


def test_a_prepared_folder_can_be_given_itself(small: Path, tmp_path: Path) -> None:
    """An image can hold the prepared folder alone, without the source."""
    prepared = prepare(small, cache=tmp_path)
    moved = Path(shutil.move(prepared.folder, tmp_path / "moved"))
    assert (moved, prepared.dimensions) == (prepare(moved).folder, prepare(moved).dimensions)


def test_progress_is_reported_from_zero_to_one(small: Path, tmp_path: Path) -> None:
    """The callback hears rising fractions that end at one."""
    heard: list[float] = []
    prepare(small, cache=tmp_path, progress=lambda *step: heard.append(step[0]))
    assert (0.0, 1.0) == (heard[0], heard[-1])
    assert sorted(heard) == heard


@pytest.mark.parametrize("compute_type", convert.COMPUTE_TYPES)
def test_every_storage_type_loads(compute_type: str, small: Path, tmp_path: Path) -> None:
    """Whatever the weights are stored as, CTranslate2 opens them; each has a folder of its own."""
    prepared = prepare(small, cache=tmp_path, compute_type=compute_type)
    assert 80 == ctranslate2.models.Whisper(str(prepared.folder)).n_mels
    assert compute_type == prepared.compute_type


@pytest.mark.parametrize(("shape", "languages", "mels", "last"), [
    ("micro.en", 0, 80, 50_362), ("micro.v3", 100, 128, 50_364), ("custom", 99, 80, 464)])  # fmt: skip
@pytest.mark.slow
def test_other_layouts_are_described(shape: str, languages: int, mels: int, last: int, tmp_path: Path) -> None:
    """English-only models, 128 mels with 100 languages, and a vocabulary of one's own."""
    prepared = prepare(make_checkpoint(tmp_path / "model", shape), cache=tmp_path)
    assert languages == len(prepared.languages)
    assert (mels, last) == (prepared.dimensions.n_mels, prepared.special_tokens["<|notimestamps|>"])
    assert (
        (languages > 0) == bool(prepared.languages) == ctranslate2.models.Whisper(str(prepared.folder)).is_multilingual
    )


def test_a_decoder_may_have_fewer_layers(tmp_path: Path) -> None:
    """Distilled models keep the encoder and lose decoder layers."""
    prepared = prepare(
        make_checkpoint(tmp_path / "model", "custom", encoder_layers=3, decoder_layers=1), cache=tmp_path
    )
    assert (3, 1) == (prepared.dimensions.encoder_layers, prepared.dimensions.decoder_layers)
    assert ctranslate2.models.Whisper(str(prepared.folder)).is_multilingual


def test_trimmed_windows_are_declared_in_the_config(tmp_path: Path) -> None:
    """`audio_context` in config.json reaches the engine."""
    folder = make_checkpoint(tmp_path / "model", "custom", config={"audio_context": "trimmed"})
    assert "trimmed" == prepare(folder, cache=tmp_path).audio_context
    edit_json(folder / "config.json", audio_context="half")
    with pytest.raises(CheckpointError, match="audio_context"):
        prepare(folder, cache=tmp_path)


def test_shards_and_dtypes_hold_the_same_model(tmp_path: Path) -> None:
    """Sharded weights give the same files as whole ones; float16 and bfloat16 are read to their precision."""
    whole = prepare(make_checkpoint(tmp_path / "whole", "custom"), cache=tmp_path)
    sharded = prepare(make_checkpoint(tmp_path / "sharded", "custom", shards=3), cache=tmp_path)
    assert (whole.folder / "model.bin").read_bytes() == (sharded.folder / "model.bin").read_bytes()
    exact = sources.find(tmp_path / "whole").weights()
    for dtype, precision in (("float16", 2**-10), ("bfloat16", 2**-7)):
        rough = sources.find(make_checkpoint(tmp_path / dtype, "custom", dtype=dtype)).weights()
        for name in exact:
            np.testing.assert_allclose(rough[name].astype(np.float32), exact[name], rtol=precision, atol=1e-6)


def test_converting_leaves_the_weights_as_they_were(small: Path, tmp_path: Path) -> None:
    """Quantizing does not reach back into the tensors the encoder is built from."""
    weights = sources.find(small).weights()
    before = {name: weights[name].copy() for name in weights}
    dimensions, rules, _ = examine(sources.find(small)).require()
    convert.write_model(tmp_path, weights, dimensions, rules, compute_type="int8")
    assert all(np.array_equal(before[name], weights[name]) for name in before)


@pytest.mark.slow
def test_a_slow_tokenizer_is_built(small: Path, tmp_path: Path) -> None:
    """vocab.json, merges.txt and added_tokens.json stand in for tokenizer.json."""
    slow = make_checkpoint(tmp_path / "slow", "custom", slow_tokenizer=True)
    vocabularies = [
        (prepare(folder, cache=tmp_path).folder / "vocabulary.json").read_bytes() for folder in (small, slow)
    ]
    assert vocabularies[0] == vocabularies[1]


def test_old_checkpoints_without_generation_config(copy: Path, tmp_path: Path) -> None:
    """Before 2023 config.json held the suppressed tokens, and the languages were not declared."""
    (copy / "generation_config.json").unlink()
    edit_json(copy / "config.json", suppress_tokens=[1, 2], begin_suppress_tokens=[3])
    prepared = prepare(copy, cache=tmp_path)
    assert 99 == len(prepared.languages)
    found = rules(prepared)
    assert ([1, 2], [3]) == (found["suppress_ids"], found["suppress_ids_begin"])
    assert [[1, 0], [1, 1]] == found["alignment_heads"]


@pytest.mark.parametrize("stored", ["float32", "float16", "int8", "int16"])
def test_a_ctranslate2_folder_is_prepared_like_any_other(stored: str, small: Path, tmp_path: Path) -> None:
    """A model.bin in any type gives the decoder and encoder that the original gives; int8 stays the same numbers."""
    theirs = ctranslate2_folder(prepare(small, cache=tmp_path, compute_type=stored).folder, tmp_path / "theirs")
    ours, again = prepare(small, cache=tmp_path), prepare(theirs, cache=tmp_path)
    same = ("dimensions", "languages", "special_tokens", "compute_type")
    assert [getattr(ours, name) for name in same] == [getattr(again, name) for name in same]
    assert again.encoder.is_file()
    expected, found = (sources.find(folder).weights() for folder in (small, theirs))
    assert expected.keys() == found.keys()
    tolerance = {"float32": 0.0, "float16": 1e-3, "int8": 0.02, "int16": 1e-3}[stored]
    assert all(np.allclose(found[name], expected[name], atol=tolerance, rtol=tolerance) for name in expected)
    if stored in {"float32", "int8"}:
        assert (ours.folder / "model.bin").read_bytes() == (again.folder / "model.bin").read_bytes()


def test_a_ctranslate2_folder_with_an_older_vocabulary_and_without_rules(small: Path, tmp_path: Path) -> None:
    """vocabulary.txt in place of vocabulary.json, and no `suppress_ids_begin`: blank and empty texts are suppressed."""
    theirs = ctranslate2_folder(prepare(small, cache=tmp_path).folder, tmp_path / "theirs")
    (theirs / "vocabulary.json").rename(theirs / "vocabulary.txt")
    edit_json(theirs / "config.json", suppress_ids_begin=None)
    vocabulary = sources.find(theirs).tokenizer().get_vocab()
    expected = [vocabulary[token] for token in ("\u0120", "<|endoftext|>")]
    assert expected == rules(prepare(theirs, cache=tmp_path))["suppress_ids_begin"]


@pytest.mark.slow
def test_english_only_folders_may_list_languages(tmp_path: Path) -> None:
    """CTranslate2's converter lists languages for English-only models too; nothing is detected among them."""
    made = prepare(make_checkpoint(tmp_path / "model", "micro.en"), cache=tmp_path)
    theirs = ctranslate2_folder(made.folder, tmp_path / "theirs")
    edit_json(theirs / "config.json", lang_ids=[50_259, 50_260])
    assert {} == prepare(theirs, cache=tmp_path).languages


def test_a_damaged_ctranslate2_folder_is_refused(small: Path, tmp_path: Path) -> None:
    """A file that is cut off, another kind of model, or a missing tokenizer: each has its own error."""
    theirs = ctranslate2_folder(prepare(small, cache=tmp_path).folder, tmp_path / "theirs")
    whole = (theirs / "model.bin").read_bytes()
    (theirs / "model.bin").write_bytes(whole[:-100])
    with pytest.raises(CorruptCheckpointError, match="cut off"):
        prepare(theirs, cache=tmp_path)
    (theirs / "model.bin").write_bytes(whole.replace(b"WhisperSpec", b"WhisperSpeC", 1))
    with pytest.raises(NotWhisperError):
        prepare(theirs, cache=tmp_path)
    (theirs / "tokenizer.json").unlink()
    with pytest.raises(IncompleteCheckpointError, match="tokenizer"):
        prepare(theirs, cache=tmp_path)


def ctranslate2_folder(prepared: Path, folder: Path) -> Path:
    """A copy without what is ours: a folder as CTranslate2's own converter writes it."""
    shutil.copytree(prepared, folder)
    for name in (MANIFEST, "encoder.xml", "encoder.bin"):
        (folder / name).unlink()
    return folder


# --- the cache


def test_a_changed_source_gives_another_folder(copy: Path, tmp_path: Path) -> None:
    """The cache is keyed by content: a new training step is never mistaken for the old one."""
    first = prepare(copy, cache=tmp_path)
    make_checkpoint(copy, "custom", seed=1)
    assert first.folder != prepare(copy, cache=tmp_path).folder


@pytest.mark.parametrize(
    ("name", "damage"),
    list(itertools.product(("model.bin", "encoder.bin", "tokenizer.json", MANIFEST), ("flip", "cut", "remove"))),
)
@pytest.mark.slow
def test_a_damaged_cache_is_made_anew(name: str, damage: str, small: Path, tmp_path: Path) -> None:
    """A file that differs from the manifest is never used: the folder is made again from the source, with a notice."""
    prepared = prepare(small, cache=tmp_path)
    path, whole = prepared.folder / name, (prepared.folder / name).read_bytes()
    {"flip": flip, "cut": lambda p: p.write_bytes(whole[:-9]), "remove": Path.unlink}[damage](path)
    again = prepare(small, cache=tmp_path)
    assert whole == (again.folder / name).read_bytes()
    lost = damage == "remove" and name == MANIFEST  # then nothing says that there was anything
    assert () == again.notices if lost else ["cache_rebuilt"] == [notice.code for notice in again.notices]
    assert isinstance(again.notices, tuple)
    assert all(isinstance(notice, Notice) for notice in again.notices)


def test_a_damaged_folder_without_source_is_refused(small: Path, tmp_path: Path) -> None:
    """A prepared folder given as MODEL cannot be made again, so that damage is an error."""
    folder = prepare(small, cache=tmp_path).folder
    flip(folder / "model.bin")
    with pytest.raises(CorruptCheckpointError, match="prepare the model again"):
        load(folder)


def test_leftovers_of_a_killed_process_are_removed(small: Path, tmp_path: Path) -> None:
    """A half-written folder is not used, and goes away with the next conversion."""
    folder = prepare(small, cache=tmp_path).folder
    folder.rename(folder.parent / f".{folder.name}.1234")
    assert folder == prepare(small, cache=tmp_path).folder
    assert [folder.name] == [path.name for path in folder.parent.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_two_processes_at_once_get_the_same_folder(small: Path, tmp_path: Path) -> None:
    """Whoever comes second waits for the first and finds its work."""
    script = (f"from pathlib import Path; from tickertape.checkpoints.prepare import prepare; "
              f"print(prepare({str(small)!r}, cache=Path({str(tmp_path)!r})).folder)")  # fmt: skip
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [0, 0] == [process.returncode for process in both]
    assert {str(prepare(small, cache=tmp_path).folder)} == folders


def test_an_index_that_cannot_be_written_only_costs_time(small: Path, tmp_path: Path) -> None:
    """A read-only or damaged index is no reason to fail."""
    (tmp_path / "index.json").mkdir()
    assert isinstance(prepare(small, cache=tmp_path), Prepared)


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_in_place_of_the_cache_folder_is_explained(small: Path, tmp_path: Path) -> None:
    """The error names the folder, the reason and the remedy in one line."""
    (tmp_path / "file").write_text("in the way")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CacheError, match=f"{cache} cannot be written .*XDG_CACHE_HOME") as caught:
            prepare(small, cache=cache)
        assert "\n" not in caught.value.message
        assert "cache_not_writable" == caught.value.code


def test_a_cache_without_permission_is_explained(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be created or written is a `CacheError`; a model that is there already is used."""
    found = prepare(small, cache=tmp_path / "cache")
    monkeypatch.setattr(Path, "mkdir", denied)
    assert found.folder == prepare(small, cache=tmp_path / "cache").folder
    with pytest.raises(CacheError, match="Permission denied"):
        prepare(small, cache=tmp_path / "other")


@pytest.mark.parametrize("most", [100, 20_000, 200_000])
@pytest.mark.slow
def test_a_full_disk_is_explained(most: int, small: Path, tmp_path: Path) -> None:
    """A write that fails midway is a `CacheError` and leaves no folder; with room the next attempt succeeds."""
    script = (f"import resource; from pathlib import Path; from tickertape.checkpoints.prepare import prepare\n"
              f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, resource.RLIM_INFINITY))\n"
              f"try: prepare({str(small)!r}, cache=Path({str(tmp_path)!r}))\n"
              f"except Exception as error: print(type(error).__name__, error)")  # fmt: skip
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.startswith("CacheError the cache folder"), run.stdout
    assert [] == [path for path in tmp_path.glob("prepared/*") if path.is_dir()]
    assert isinstance(prepare(small, cache=tmp_path), Prepared)


def test_an_encoder_that_cannot_be_written_is_an_os_error(small: Path, tmp_path: Path) -> None:
    """OpenVINO's own exception becomes an `OSError`, as of any file that cannot be written."""
    (tmp_path / "encoder.bin").mkdir()
    source = sources.find(small)
    with pytest.raises(OSError, match="could not write"):
        write_encoder(source.weights(), Dimensions.of(source.config), tmp_path / "encoder.xml")


def test_a_checkpoint_that_cannot_be_read_is_explained(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing permissions on the source and impossible paths are checkpoint errors."""
    with pytest.raises(CheckpointError, match="cannot be read"):
        prepare("x" * 5000, cache=tmp_path)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CheckpointError, match=r"cannot be read .*permissions"):
        prepare(small, cache=tmp_path)


# --- adapters


def lora(base: Path, names: list[str], rank: int = 4) -> dict[str, np.ndarray]:
    """Random halves for each named matrix, under PEFT's names."""
    random, weights = np.random.default_rng(1), sources.find(base).weights()
    halves = {}
    for name in names:
        rows, columns = weights.shape(f"{name}.weight")
        halves[f"base_model.model.{name}.lora_A.weight"] = random.standard_normal((rank, columns)).astype(np.float32)
        halves[f"base_model.model.{name}.lora_B.weight"] = random.standard_normal((rows, rank)).astype(np.float32)
    return halves


@pytest.mark.parametrize(("root", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_an_adapter_is_added_to_its_base(root: bool, scale: float, small: Path, tmp_path: Path) -> None:
    """W + alpha / r * B A, or alpha / sqrt(r) with rank-stabilised LoRA; other tensors stay; whole ones replace."""
    name, norm = "model.decoder.layers.1.encoder_attn.q_proj", "model.decoder.layer_norm.weight"
    halves = lora(small, [name])
    whole = {f"base_model.model.{norm}": np.full(64, 2, np.float32)}
    adapter = make_adapter(tmp_path / "adapter", str(small), halves | whole, use_rslora=root)
    before, after = sources.find(small).weights(), sources.find(adapter).weights()
    down, up = halves.values()
    np.testing.assert_allclose(before[f"{name}.weight"] + scale * (up @ down), after[f"{name}.weight"], rtol=1e-5)
    assert 64 * 2 == after[norm].sum()
    assert all(np.array_equal(before[other], after[other]) for other in before if other not in {f"{name}.weight", norm})
    prepared = prepare(adapter, cache=tmp_path)
    assert prepared.folder != prepare(small, cache=tmp_path).folder
    assert "adapter" == prepared.name


def test_a_base_can_be_named_instead_of_the_adapters_own(small: Path, tmp_path: Path) -> None:
    """`base` overrides base_model_name_or_path, which often is a path on another machine."""
    halves = lora(small, ["model.encoder.layers.0.fc1"])
    adapter = make_adapter(tmp_path / "adapter", "/nowhere/base", halves)
    with pytest.raises(CheckpointNotFoundError):
        prepare(adapter, cache=tmp_path)
    assert "adapter" == prepare(adapter, base=small, cache=tmp_path).name


@pytest.mark.parametrize(("config", "error"), [
    ({"use_dora": True}, CheckpointError), ({"fan_in_fan_out": True}, CheckpointError),
    ({"peft_type": "IA3"}, CheckpointError), ({"lora_alpha": None}, IncompleteCheckpointError)])  # fmt: skip
def test_other_adapters_are_refused(config: dict[str, object], error: type, small: Path, tmp_path: Path) -> None:
    """What is not a plain sum is not guessed at."""
    adapter = make_adapter(tmp_path / "adapter", str(small), lora(small, ["model.encoder.layers.0.fc1"]), **config)
    with pytest.raises(error, match=r"merge|again"):
        prepare(adapter, cache=tmp_path)


EMBEDDINGS, OUTPUT = "model.decoder.embed_tokens.weight", "proj_out.weight"
PEFT = "base_model.model."


def merged(small: Path, tmp_path: Path, tensors: dict[str, np.ndarray], **config: object) -> tuple[Weights, Weights]:
    """The base's tensors and those with an adapter whose names lack PEFT's prefix."""
    named = {f"{PEFT}{name}": array.astype(np.float32) for name, array in tensors.items()}
    adapter = make_adapter(tmp_path / "adapter", str(small), named, **config)
    return sources.find(small).weights(), sources.find(adapter).weights()


def test_trained_biases_replace_the_bases(small: Path, tmp_path: Path) -> None:
    """PEFT calls them `base_layer.bias` in adapted layers."""
    layer = "model.decoder.layers.0.self_attn.q_proj"
    _, after = merged(small, tmp_path, {f"{layer}.base_layer.bias": np.full(64, 3)}, bias="all")
    assert 64 * 3 == after[f"{layer}.bias"].sum()


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapted_output_layer_is_separated_from_the_embeddings(whole: bool, small: Path, tmp_path: Path) -> None:
    """`proj_out` trained whole or by LoRA: the embeddings stay, the output layer is stored beside them."""
    rows = sources.find(small).weights().shape(EMBEDDINGS)[0]
    halves = {"proj_out.lora_A.weight": np.ones((4, 64)), "proj_out.lora_B.weight": np.ones((rows, 4))}
    before, after = merged(small, tmp_path, {OUTPUT: np.full((rows, 64), 0.5)} if whole else halves)
    assert np.array_equal(before[EMBEDDINGS], after[EMBEDDINGS])
    expected = np.full((rows, 64), 0.5) if whole else before[EMBEDDINGS] + 8 / 4 * 4
    np.testing.assert_allclose(expected, after[OUTPUT], rtol=1e-5)
    files = [prepare(folder, cache=tmp_path).folder / "model.bin" for folder in (small, tmp_path / "adapter")]
    assert files[1].stat().st_size > files[0].stat().st_size + rows * 64


def test_adapted_embeddings_leave_the_output_layer(small: Path, tmp_path: Path) -> None:
    """LoRA of embeddings is transposed, and PEFT keeps the original ones for the output."""
    random, rows = np.random.default_rng(2), sources.find(small).weights().shape(EMBEDDINGS)[0]
    down, up = random.standard_normal((4, rows)), random.standard_normal((64, 4))
    name = "model.decoder.embed_tokens.lora_embedding_"
    before, after = merged(small, tmp_path, {f"{name}A": down, f"{name}B": up})
    np.testing.assert_allclose(before[EMBEDDINGS] + 2 * (up @ down).T, after[EMBEDDINGS], rtol=1e-4, atol=1e-5)
    assert np.array_equal(before[EMBEDDINGS], after[OUTPUT])


def test_an_adapted_convolution_is_merged(small: Path, tmp_path: Path) -> None:
    """A has the kernel's columns, B a kernel of one."""
    random, name = np.random.default_rng(3), "model.encoder.conv1"
    down, up = random.standard_normal((4, 80, 3)), random.standard_normal((64, 4, 1))
    before, after = merged(small, tmp_path, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up})
    expected = before[f"{name}.weight"] + 2 * np.einsum("or,rik->oik", up[..., 0], down)
    np.testing.assert_allclose(expected, after[f"{name}.weight"], rtol=1e-4, atol=1e-5)


def test_an_adapter_may_resize_the_vocabulary(small: Path, tmp_path: Path) -> None:
    """Its embeddings and output layer are the model's, with the tokenizer beside it; without one it is refused."""
    rows = sources.find(small).weights().shape(EMBEDDINGS)[0]
    tensors = {EMBEDDINGS: np.zeros((rows + 2, 64)), OUTPUT: np.ones((rows + 2, 64))}
    merged(small, tmp_path, tensors)
    with pytest.raises(IncompleteCheckpointError, match="tokenizer of its training"):
        prepare(tmp_path / "adapter", cache=tmp_path)
    tokenizer = Tokenizer.from_file(str(small / "tokenizer.json"))
    tokenizer.add_tokens(["ledger", "audit"])
    tokenizer.save(str(tmp_path / "adapter" / "tokenizer.json"))
    assert rows + 2 == prepare(tmp_path / "adapter", cache=tmp_path).dimensions.n_vocab
    merged(small, tmp_path, {OUTPUT: tensors[OUTPUT], EMBEDDINGS: tensors[EMBEDDINGS],
        "model.decoder.embed_tokens.original_module.weight": np.zeros((rows, 64)),
        "model.decoder.embed_tokens.modules_to_save.weight": tensors[EMBEDDINGS]})  # fmt: skip
    assert rows + 2 == prepare(tmp_path / "adapter", cache=tmp_path).dimensions.n_vocab
    with pytest.raises(CorruptCheckpointError, match="save_embedding_layers"):
        merged(small, tmp_path, {EMBEDDINGS: tensors[EMBEDDINGS]})


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "another", 7])
def test_adapters_of_a_changed_base_are_refused_with_the_conversion(start: object, small: Path, tmp_path: Path) -> None:
    """Their initialization changed the base's weights, so that they would merge into other ones."""
    halves = lora(small, ["model.encoder.layers.0.fc1"])
    adapter = make_adapter(tmp_path / "adapter", str(small), halves, init_lora_weights=start)
    with pytest.raises(CheckpointError, match=r"path_initial_model_for_weight_conversion"):
        prepare(adapter, cache=tmp_path)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_adapters_that_leave_the_base_alone_are_merged(start: object, small: Path, tmp_path: Path) -> None:
    """Their first product is zero or random, and the base's weights stay what they are."""
    halves = lora(small, ["model.encoder.layers.0.fc1"])
    adapter = make_adapter(tmp_path / "adapter", str(small), halves, init_lora_weights=start)
    assert "adapter" == prepare(adapter, cache=tmp_path).name


def test_an_adapter_of_another_model_is_refused(small: Path) -> None:
    """Names or shapes that the base does not have."""
    base = sources.find(small).weights()
    config = {"peft_type": "LORA", "lora_alpha": 8}
    half = np.zeros((4, 4), np.float32)
    for name in ("model.encoder.layers.9.fc1", "model.encoder.layers.0.fc1"):
        adapter = Weights({f"{name}.lora_A.weight": ("F32", half), f"{name}.lora_B.weight": ("F32", half)})
        with pytest.raises(CorruptCheckpointError, match="base"):
            merge_adapter(base, adapter, config)
    with pytest.raises(IncompleteCheckpointError):
        merge_adapter(base, Weights({"model.encoder.layers.0.fc1.lora_A.weight": ("F32", half)}), config)


# --- what is refused


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def without_tensor(folder: Path) -> None:
    weights = read_weights([folder / "model.safetensors"])
    write_safetensors(folder / "model.safetensors", {n: weights[n].copy() for n in weights if "layers.1.fc2" not in n})


def infinite(folder: Path) -> None:
    weights = read_weights([folder / "model.safetensors"])
    copies = {name: weights[name].copy() for name in weights}
    copies["model.encoder.conv1.bias"][3] = np.nan
    write_safetensors(folder / "model.safetensors", copies)


def removing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def writing(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(("damage", "error", "hint"), [
    (pickled, UnsafeCheckpointError, "save_pretrained"),
    (cut, CorruptCheckpointError, "again"),
    (without_tensor, IncompleteCheckpointError, "missing"),
    (infinite, CorruptCheckpointError, "NaN"),
    (removing("model.safetensors"), IncompleteCheckpointError, "save_pretrained"),
    (removing("config.json"), IncompleteCheckpointError, "config.json"),
    (removing("tokenizer.json"), IncompleteCheckpointError, "another model's"),
    (writing("tokenizer.json", "{"), CorruptCheckpointError, "tokenizer.json"),
    (writing("config.json", "{"), CorruptCheckpointError, "config.json"),
    (writing("config.json", "[]"), CorruptCheckpointError, "config.json"),
    (writing("model.safetensors", ""), CorruptCheckpointError, "again"),
    (writing("model.safetensors", "version https://git-lfs.github.com/spec/v1"), CorruptCheckpointError, "again"),
    (lambda f: edit_json(f / "config.json", model_type="wav2vec2"), NotWhisperError, "wav2vec2"),
    (lambda f: edit_json(f / "config.json", activation_function="relu"), NotWhisperError, "activation"),
    (lambda f: edit_json(f / "config.json", d_model=None), IncompleteCheckpointError, "d_model"),
    (lambda f: edit_json(f / "config.json", d_model=128), CorruptCheckpointError, "shape"),
    (lambda f: edit_json(f / "config.json", d_model=-64), CorruptCheckpointError, "sizes"),
    (lambda f: edit_json(f / "config.json", encoder_layers=10**9), CorruptCheckpointError, "sizes"),
    (lambda f: edit_json(f / "config.json", decoder_layers=9), IncompleteCheckpointError, "missing"),
    (lambda f: edit_json(f / "generation_config.json", decoder_start_token_id=7), CorruptCheckpointError, "same model"),
])  # fmt: skip
def test_bad_checkpoints_are_refused(damage: Callable[[Path], object], error: type, hint: str, copy: Path,
                                     tmp_path: Path) -> None:  # fmt: skip
    """Each kind of damage has its error, which says how to mend it, and leaves nothing in the cache."""
    damage(copy)
    with pytest.raises(error, match=hint):
        prepare(copy, cache=tmp_path / "cache")
    assert [] == [path for path in tmp_path.glob("cache/prepared/*") if path.is_dir()]


def test_missing_shards_and_shards_elsewhere_are_refused(tmp_path: Path) -> None:
    """An index must name files that are there, in its own folder."""
    folder = make_checkpoint(tmp_path / "model", "custom", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(IncompleteCheckpointError, match="1 of 3"):
        prepare(folder, cache=tmp_path)
    edit_json(folder / "model.safetensors.index.json", weight_map={"x": "../other.safetensors"})
    with pytest.raises(CorruptCheckpointError, match="outside"):
        prepare(folder, cache=tmp_path)


@pytest.mark.parametrize(("model", "error", "hint"), [
    ("no-such-folder", CheckpointNotFoundError, "org/name"),
    ("whisper-tny", CheckpointNotFoundError, "openai/whisper-tiny"),
    ("nobody/nothing", CheckpointNotFoundError, "copy the model's folder")])  # fmt: skip
def test_a_missing_model_is_reported(model: str, error: type, hint: str, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Neither folder nor hub model; offline, only what the hub's cache holds is there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=hint):
        prepare(model, cache=tmp_path, offline=True)


def test_single_files_are_refused(tmp_path: Path) -> None:
    """A pickle is unsafe, and other files are not a folder."""
    for name, error in (("model.pt", UnsafeCheckpointError), ("model.safetensors", CheckpointNotFoundError)):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(error):
            prepare(tmp_path / name, cache=tmp_path)


def test_an_unknown_storage_type_is_refused(small: Path, tmp_path: Path) -> None:
    """The message lists those there are."""
    with pytest.raises(OptionError, match="int8_float16"):
        prepare(small, cache=tmp_path, compute_type="int3")


@given(at=st.integers(0, 4000), value=st.integers(0, 255))
def test_a_damaged_header_never_escapes_as_anything_else(at: int, value: int, small: Path,
                                                         tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    """Whatever byte of a safetensors header changes, reading and checking either work or raise a checkpoint error."""
    data = bytearray((small / "model.safetensors").read_bytes())
    data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data)
    try:
        check_weights(read_weights([path]), Dimensions.of(json.loads((small / "config.json").read_text())))
    except CheckpointError:
        return


# --- the hub


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: one model `org/model`, whose files are `folder`'s."""

    folder: Path
    requests: list[str]
    sha = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.requests.append(self.path)
        name = self.path.split("?")[0].rpartition("/")[2]
        if self.path.startswith("/api/models/org/model"):
            files = sorted(path.name for path in self.folder.iterdir())
            entries = [{"type": "file", "path": f, "size": (self.folder / f).stat().st_size, "oid": f} for f in files]
            info = {"id": "org/model", "sha": self.sha, "siblings": [{"rfilename": name} for name in files]}
            self.send(200, json.dumps(entries if "/tree/" in self.path else info).encode(), body=body)
        elif self.path.startswith("/org/model/resolve/") and (self.folder / name).is_file():
            self.send(200, (self.folder / name).read_bytes(), body=body)
        else:
            self.send(404, b"{}", body=body)

    def send(self, status: int, data: bytes, *, body: bool) -> None:
        self.send_response(status)
        headers = {
            "Content-Length": str(len(data)),
            "ETag": f'"{hash(data) & 0xFFFFFFFF:x}"',
            "X-Repo-Commit": self.sha,
        }
        for header, value in (headers | ({} if status == 200 else {"X-Error-Code": "RepoNotFound"})).items():
            self.send_header(header, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def prepare_elsewhere(
    model: str, tmp_path: Path, endpoint: str, *, offline: bool = False, hub: Path | None = None
) -> str:
    """Prepare in a process whose hub is `endpoint`, cached in `hub`; the prepared name, or the error's."""
    script = (f"from pathlib import Path; from tickertape.checkpoints.prepare import prepare\n"
              f"try: print(prepare({model!r}, cache=Path({str(tmp_path / 'cache')!r}), offline={offline}).name)\n"
              f"except Exception as error: print(type(error).__name__)")  # fmt: skip
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(hub or tmp_path / "hub"),
                                "HF_HUB_DISABLE_XET": "1",
                                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120,
                         check=True)  # fmt: skip
    return run.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_ctranslate2_model_is_fetched_from_the_hub(small: Path, tmp_path: Path) -> None:
    """Its model.bin is no pickle, whether the vocabulary is JSON or text."""
    theirs = ctranslate2_folder(prepare(small, cache=tmp_path, compute_type="float16").folder, tmp_path / "theirs")
    names = json.loads((theirs / "vocabulary.json").read_text())
    (theirs / "vocabulary.txt").write_text("\n".join(names), encoding="utf-8")
    (theirs / "vocabulary.json").unlink()
    handler = type("Handler", (Hub,), {"folder": theirs, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        assert "org/model" == prepare_elsewhere("org/model", tmp_path, endpoint)
        server.shutdown()
    assert any("vocabulary.txt" in path for path in handler.requests)


@pytest.mark.slow
def test_hub_models_are_fetched_without_pickles_and_kept(copy: Path, tmp_path: Path) -> None:
    """A hub id with a revision is downloaded once, never a pickle; afterwards it needs no network."""
    (copy / "pytorch_model.bin").write_bytes(b"never fetched")
    handler = type("Handler", (Hub,), {"folder": copy, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        assert "CheckpointNotFoundError" == prepare_elsewhere("org/model", tmp_path, endpoint, offline=True)
        assert "org/model@v2" == prepare_elsewhere("org/model@v2", tmp_path, endpoint)
        assert any("v2" in path for path in handler.requests)
        assert not any("pytorch_model.bin" in path for path in handler.requests)
        assert "CheckpointNotFoundError" == prepare_elsewhere("org/other", tmp_path, endpoint)
        (tmp_path / "file").touch()
        assert "CacheError" == prepare_elsewhere("org/model@v3", tmp_path, endpoint, hub=tmp_path / "file" / "hub")
        (copy / "model.safetensors").unlink()
        assert "UnsafeCheckpointError" == prepare_elsewhere("org/model@pickles", tmp_path / "new", endpoint)
        server.shutdown()
    assert "org/model@v2" == prepare_elsewhere("org/model@v2", tmp_path, "http://127.0.0.1:9", offline=True)
    assert "org/model@v2" == prepare_elsewhere("org/model@v2", tmp_path, "http://127.0.0.1:9")
