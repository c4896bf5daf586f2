"""A checkpoint's name to a verified folder that the engine can open: converted once, then read from the cache.

prepared = prepare("openai/whisper-base")
prepared.folder, prepared.encoder, prepared.dimensions.n_mels
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from tickertape.checkpoints import cache as folders
from tickertape.checkpoints import ctranslate2
from tickertape.checkpoints.cache import Progress
from tickertape.checkpoints.checks import AudioContext, examine
from tickertape.checkpoints.config import Dimensions
from tickertape.checkpoints.openvino_export import write_encoder
from tickertape.checkpoints.source import Source, find, locate
from tickertape.errors import CheckpointError, CorruptCheckpointError, OptionError
from tickertape.types import ModelInfo, Notice

ENCODER = "encoder.xml"
CTRANSLATE2_FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json")
REBUILT = Notice("cache_rebuilt", "the prepared model was damaged and has been rebuilt from its source")


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

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        return ModelInfo(
            self.name,
            trimmed=self.audio_context == "trimmed",
            languages=tuple(self.languages) or ("en",),
            translates=len(self.languages) > 1 and "<|translate|>" in self.special_tokens,
            created=int((self.folder / "model.bin").stat().st_mtime),
        )


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
        found = locate(model, cache=cache, offline=offline, token=token, progress=report)
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
        notices = tuple(Notice(**notice) for notice in model["notices"])
        sizes = Dimensions(**model["dimensions"])
        return Prepared(**{**known, "folder": folder, "dimensions": sizes, "notices": notices})
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
    return replace(prepared, notices=(*notices, *prepared.notices))


def _build(source: Source, folder: Path, compute_type: str, report: Progress) -> None:
    """Write every file of a prepared model into an empty folder, the manifest last."""
    report(0.1, "checking the checkpoint")
    examined = examine(source)
    dimensions, rules, weights = examined.require()
    prepared = Prepared(folder, source.name, compute_type, dimensions, rules.special, rules.languages,
                        rules.audio_context, examined.notices)  # fmt: skip
    report(0.2, "converting the decoder")
    ctranslate2.write_model(folder, weights, dimensions, rules, compute_type=compute_type)
    report(0.7, "converting the encoder")
    write_encoder(weights, dimensions, folder / ENCODER)
    (folder / "tokenizer.json").write_text(rules.tokenizer, encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": dimensions.n_mels}))
    report(0.9, "writing the manifest")
    model = {name: value for name, value in asdict(prepared).items() if name not in {"folder", "origin"}}
    folders.write_manifest(folder, model)
