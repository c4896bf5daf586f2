"""A checkpoint's name to a verified folder that the engine can open: converted once, then read from the cache.

prepared = prepare("checkpoint")
prepared.folder, prepared.encoder, prepared.dimensions.n_mels
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tickertape.checkpoints import cache as folders
from tickertape.checkpoints import ctranslate2
from tickertape.checkpoints.config import Dimensions
from tickertape.checkpoints.openvino_export import write_encoder
from tickertape.checkpoints.source import Source, find, locate
from tickertape.errors import CheckpointError, CorruptCheckpointError, IncompleteCheckpointError, OptionError
from tickertape.types import Notice

ENCODER = "encoder.xml"
CTRANSLATE2_FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json")
FIRST_MULTILINGUAL_START = 50_258  # <|startoftranscript|> of OpenAI's multilingual vocabularies
ENGLISH_ONLY_SIZE = 51_864  # tokens in OpenAI's English-only vocabulary
REBUILT = Notice("cache_rebuilt", "the prepared model was damaged and has been rebuilt from its source")

AudioContext: TypeAlias = Literal["full", "trimmed"]
Progress: TypeAlias = Callable[[float, str], None]  # from 0.0 to 1.0, and the current step


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that the engine can open, and its description."""

    folder: Path  # the CTranslate2 model, with tokenizer.json beside it
    name: str
    compute_type: str  # how the decoder's weights are stored
    dimensions: Dimensions
    special_tokens: Mapping[str, int]  # "<|startoftranscript|>" and the others, without the timestamps
    languages: Mapping[str, int]  # code to token id; empty for English-only models
    audio_context: AudioContext = "full"  # "trimmed": tuned on windows that were not padded to 30 s
    notices: tuple[Notice, ...] = ()
    origin: str = "folder"  # or "cache", "hub", "installed wheel NAME VERSION"

    @property
    def encoder(self) -> Path:
        """OpenVINO's encoder."""
        return self.folder / ENCODER


def prepare(model: str | Path, *, base: str | Path | None = None, cache: Path | None = None, compute_type: str = "int8",
            offline: bool = False, token: str | None = None, progress: Progress | None = None) -> Prepared:  # fmt: skip
    """Find a model, convert it unless the cache has it, verify the result and describe it.

    Parameters as for `tickertape.load`; `compute_type` is one of `ctranslate2.COMPUTE_TYPES`. A prepared folder is
    verified and described only. Raises `CheckpointError`, and `OptionError` for an unknown `compute_type`.
    """
    if compute_type not in ctranslate2.COMPUTE_TYPES:
        message = f"compute_type must be one of {', '.join(ctranslate2.COMPUTE_TYPES)}"
        raise OptionError(message, "compute_type", "invalid_compute_type")
    report = progress or (lambda _fraction, _step: None)
    report(0.0, "looking for the checkpoint")
    try:
        found = locate(model, cache=cache, offline=offline, token=token)
        if (found.folder / folders.MANIFEST).is_file():
            return replace(load(found.folder), origin=found.origin)
        source = find(found.folder, base=base, cache=cache, offline=offline, token=token)
        prepared = _from_cache(source, cache or folders.default_cache(), compute_type, report)
        report(1.0, "ready")
        name = found.folder.name if found.origin == "folder" else str(model)
        return replace(prepared, name=name, origin=found.origin)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint cannot be read ({error.strerror or error}); check its path and permissions"
        ) from error


def load(folder: Path) -> Prepared:
    """Open a prepared folder. Raises `CorruptCheckpointError` if a file differs from the manifest."""
    try:
        model = folders.verified_model(folder, required=CTRANSLATE2_FILES)
        known = {field.name: model[field.name] for field in fields(Prepared) if field.name in model}
        return Prepared(**{**known, "folder": folder, "dimensions": Dimensions(**model["dimensions"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(folders.DAMAGED) from error


def _from_cache(source: Source, cache: Path, compute_type: str, report: Progress) -> Prepared:
    """Load the prepared model, or build it if it is missing or damaged."""
    report(0.05, "reading the checkpoint")
    target = folders.folder_of(cache, source.files, compute_type)
    notices: tuple[Notice, ...] = ()
    try:
        return load(target)
    except CorruptCheckpointError:
        notices = (REBUILT,)
    except OSError:  # missing, or the cache is not a folder, which `build_once` reports
        pass
    prepared = folders.build_once(target, load, lambda folder: _build(source, folder, compute_type, report))
    return replace(prepared, notices=notices)


def _build(source: Source, folder: Path, compute_type: str, report: Progress) -> None:
    """Write every file of a prepared model into an empty folder, the manifest last."""
    dimensions, settings = source.dimensions, source.settings
    tokenizer = source.tokenizer()
    tokens = ctranslate2.vocabulary(tokenizer.get_vocab(with_added_tokens=True), dimensions.n_vocab)
    report(0.1, "checking the weights")
    weights = source.weights()
    prepared = replace(_describe(folder, settings, tokens, compute_type, dimensions), name=source.name)
    report(0.2, "converting the decoder")
    ctranslate2.write_model(folder, weights, dimensions, settings=settings, tokens=tokens, compute_type=compute_type)
    report(0.7, "converting the encoder")
    write_encoder(weights, dimensions, folder / ENCODER)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": dimensions.n_mels}))
    report(0.9, "writing the manifest")
    model = {name: value for name, value in asdict(prepared).items() if name not in {"folder", "notices", "origin"}}
    folders.write_manifest(folder, model)


def _describe(
    folder: Path, settings: Mapping[str, Any], tokens: Sequence[str], compute_type: str, dimensions: Dimensions
) -> Prepared:
    """Describe a model by its config (`settings`) and its vocabulary in the order of ids (`tokens`)."""
    ids = {token: number for number, token in enumerate(tokens)}
    if "<|0.00|>" not in ids or "<|startoftranscript|>" not in ids:
        raise IncompleteCheckpointError(
            "the vocabulary lacks Whisper's special tokens; copy the tokenizer of the model that was tuned"
        )
    context = settings.get("audio_context", "full")
    if context not in get_args(AudioContext):
        raise CheckpointError("audio_context in config.json must be 'full' or 'trimmed'")
    special = {
        t: i for t, i in ids.items() if re.fullmatch(r"<\|[^|]+\|>", t) and not re.fullmatch(r"<\|\d+\.\d\d\|>", t)
    }
    return Prepared(folder, folder.name, compute_type, dimensions, special, _languages(settings, ids), context)


def _languages(settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The declared languages, else the tokens between `<|startoftranscript|>` and `<|translate|>`."""
    declared = settings.get("lang_to_id")
    if isinstance(declared, Mapping):
        return {str(token).strip("<|>"): int(number) for token, number in declared.items()}
    start = ids["<|startoftranscript|>"]
    english_only = start < FIRST_MULTILINGUAL_START and len(ids) == ENGLISH_ONLY_SIZE
    if english_only or settings.get("is_multilingual") is False:
        return {}
    return {token.strip("<|>"): number for token, number in ids.items() if start < number < ids.get("<|translate|>", 0)}
