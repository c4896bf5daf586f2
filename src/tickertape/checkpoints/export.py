"""Any checkpoint as a Hugging Face folder: what transformers, tuning tools and other converters read.

export("openai/whisper-base", Path("whisper-base"))
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from tickertape.checkpoints.cache import Progress
from tickertape.checkpoints.checks import Rules, examine
from tickertape.checkpoints.config import SIZES, Dimensions
from tickertape.checkpoints.safetensors import Array, write_weights
from tickertape.checkpoints.source import WEIGHTS, Source, find, ignore, locate
from tickertape.errors import CheckpointError, OptionError

END = "<|endoftext|>"
VOCABULARY_TENSORS = {"model.decoder.embed_tokens.weight", "proj_out.weight"}  # with a row for each token
PROCESSOR = {"processor_class": "WhisperProcessor"}


def export(model: str | Path, folder: Path, *, base: str | Path | None = None, cache: Path | None = None,
           offline: bool = False, token: str | None = None, progress: Progress = ignore) -> None:  # fmt: skip
    """Write MODEL into a new folder, an adapter merged in. Parameters as for `tickertape.load`.

    Tensors stored as float16 stay so; all others are written as float32, which holds them exactly. Raises
    `OptionError` if the folder exists, and `CheckpointError`s.
    """
    if folder.exists():
        raise OptionError("The folder to write exists; name a new one.", "folder", "folder_exists")
    progress(0.0, "looking for the checkpoint")
    temporary = folder.absolute().parent / f".{folder.name}.{os.getpid()}"
    try:
        found = locate(model, cache=cache, offline=offline, token=token, progress=progress)
        source = find(found.folder, base=base, cache=cache, offline=offline, token=token)
        progress(0.1, "checking the checkpoint")
        temporary.mkdir(parents=True)
        _write(source, temporary, lambda fraction: progress(0.2 + 0.8 * fraction, "writing the weights"))
        temporary.rename(folder)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint cannot be read or written ({error.strerror or error}); check space and permissions"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(source: Source, folder: Path, report: Any) -> None:
    """Write every file that `WhisperForConditionalGeneration` and `WhisperProcessor` read."""
    dimensions, rules, weights = examine(source).require()
    tokenizer = json.loads(rules.tokenizer)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    generation = _generation_config(source, rules, dimensions)
    files: dict[str, Any] = {
        "config.json": _config(source, rules, dimensions, generation)
        | {"tie_word_embeddings": "proj_out.weight" not in weights},
        "generation_config.json": generation,
        "preprocessor_config.json": PROCESSOR | {
            "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": dimensions.n_mels,
            "sampling_rate": 16_000, "n_fft": 400, "hop_length": 160, "chunk_length": 30,
        },
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": PROCESSOR | {
            "tokenizer_class": "WhisperTokenizer", "bos_token": END, "eos_token": END, "unk_token": END,
            "pad_token": END, "model_max_length": dimensions.max_target_positions,
            "additional_special_tokens": sorted(rules.special, key=rules.special.__getitem__),  # times follow the last
        },
        "vocab.json": tokenizer["model"]["vocab"],
        "added_tokens.json": {token["content"]: token["id"] for token in tokenizer["added_tokens"]},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")

    def read(name: str) -> Array:
        return weights[name][rules.order] if name in VOCABULARY_TENSORS else weights[name]

    write_weights(folder / WEIGHTS, weights, read, report)


def _config(source: Source, rules: Rules, dimensions: Dimensions, generation: Mapping[str, Any]) -> dict[str, Any]:
    """The source's own config.json over what every Whisper has; the rules of decoding are in generation_config.json."""
    own = {name: value for name, value in source.config.items() if name not in {*generation, "torch_dtype", "dtype"}}
    return {
        "architectures": ["WhisperForConditionalGeneration"], "activation_function": "gelu", "scale_embedding": False,
        "is_encoder_decoder": True, **own, **dict(zip(SIZES, astuple(dimensions), strict=True)),
        "num_hidden_layers": dimensions.encoder_layers, **_token_ids(rules),
    }  # fmt: skip


def _generation_config(source: Source, rules: Rules, dimensions: Dimensions) -> dict[str, Any]:
    """The source's own generation_config.json with the rules that Tickertape decodes by."""
    special = rules.special
    found: dict[str, Any] = {
        "max_initial_timestamp_index": 50, "return_timestamps": False, "max_length": dimensions.max_target_positions,
        **source.generation_config,
    }  # fmt: skip
    tasks = {task: special[f"<|{task}|>"] for task in ("transcribe", "translate") if f"<|{task}|>" in special}
    if rules.languages and "transcribe" in tasks:
        found["forced_decoder_ids"] = [[1, None], [2, tasks["transcribe"]]]  # with a detected language none is added
        found["lang_to_id"] = {f"<|{code}|>": number for code, number in rules.languages.items()}
        found["task_to_id"] = tasks
    if "<|startofprev|>" in special:
        found["prev_sot_token_id"] = special["<|startofprev|>"]
    return found | _token_ids(rules) | {
        "is_multilingual": bool(rules.languages), "no_timestamps_token_id": special["<|notimestamps|>"],
        "alignment_heads": rules.alignment_heads, "suppress_tokens": rules.suppressed,
        "begin_suppress_tokens": rules.suppressed_first,
    }  # fmt: skip


def _token_ids(rules: Rules) -> dict[str, int]:
    end = rules.special[END]
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
    return ids | {"decoder_start_token_id": rules.special["<|startoftranscript|>"]}
