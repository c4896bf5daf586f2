"""A MODEL to a verified folder of files that the engine can open: converted once, kept in the user's cache.

    prepared = prepare("checkpoint")
    prepared.folder, prepared.encoder, prepared.dimensions.n_mels

The folder's name is the digest of the source files, the storage type and the converter's version. It is written under
another name and renamed, so that it is whole or absent; a lock keeps two processes from doing the same work; its
manifest holds size and SHA-256 of every file, and all are checked at every load, large models included: that takes
about a second for 2 GB, and opening such a model takes longer. It guards against damage and half copies, not against
somebody who may write to the cache.

Hashing a large source at every start would be slow: an index remembers the hash of a source file for as long as its
size, inode, modification and change times stay the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tickertape import convert, encoder, sources
from tickertape.errors import CheckpointError, CorruptCheckpoint, IncompleteCheckpoint
from tickertape.types import Notice
from tickertape.weights import Dimensions

CONVERTER_VERSION = 2  # raise it when the same source gives other files: every cache entry is then made anew
MANIFEST, ENCODER = "manifest.json", "encoder.xml"
CTRANSLATE2_FILES = ("model.bin", "config.json", "vocabulary.json", "tokenizer.json")
SETTLED_NS = 2_000_000_000  # a file changed less than 2 s ago may change again within the same tick of its clock

AudioContext: TypeAlias = Literal["full", "trimmed"]
Progress: TypeAlias = Callable[[float, str], None]  # from 0.0 to 1.0, and what is being done


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is ready to be opened, and what the engine must know about it."""

    folder: Path  # the CTranslate2 model, with tokenizer.json beside it
    name: str
    digest: str
    compute_type: str  # how the weights are stored; "as is" for a CTranslate2 folder
    dimensions: Dimensions
    special_tokens: Mapping[str, int]  # "<|startoftranscript|>" and its like, without the timestamps
    languages: Mapping[str, int]  # code to token id; empty for English-only models
    audio_context: AudioContext = "full"  # "trimmed": tuned on windows that were not padded to 30 s
    notices: tuple[Notice, ...] = ()

    @property
    def decoder(self) -> Path:
        """The CTranslate2 model's folder."""
        return self.folder

    @property
    def encoder(self) -> Path | None:
        """OpenVINO's encoder; None where the source was a CTranslate2 model, which then encodes too."""
        path = self.folder / ENCODER
        return path if path.is_file() else None

    @property
    def tokenizer(self) -> Path:
        """tokenizer.json."""
        return self.folder / "tokenizer.json"

    @property
    def is_multilingual(self) -> bool:
        """Whether a language can be chosen."""
        return len(self.languages) > 1


def default_cache() -> Path:
    """The user's cache folder for Tickertape."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("tickertape"))


def prepare(model: str | Path, *, base: str | Path | None = None, cache: Path | None = None, compute_type: str = "int8",
            offline: bool = False, token: str | None = None, progress: Progress | None = None) -> Prepared:  # fmt: skip
    """Resolve MODEL, convert it unless that was done before, verify the result and describe it.

    MODEL is a Hugging Face folder, a hub id with optional `@revision`, a LoRA adapter's folder (`base` overrides
    the base it names), a CTranslate2 folder, which is used as it is, or a folder made here. `token` is the hub's.
    Raises `CheckpointError`s, and `OptionError` for an unknown `compute_type`.
    """
    convert.check_compute_type(compute_type)
    report = progress or _report_nothing
    report(0.0, "looking for the checkpoint")
    folder = sources.locate(model, offline=offline, token=token)
    if (folder / MANIFEST).is_file():
        return load(folder)
    if (folder / "model.bin").is_file() and not (folder / sources.ADAPTER_CONFIG).is_file():
        return describe_ctranslate2(folder)
    source = sources.find(folder, base=base, offline=offline, token=token)
    name = folder.name if Path(model).expanduser().exists() else str(model)
    cache = cache or default_cache()
    report(0.05, "reading the checkpoint")
    digest = _digest(source.files, compute_type, cache)
    target = cache / "prepared" / digest
    notices: tuple[Notice, ...] = ()
    try:
        found = load(target)
    except FileNotFoundError:
        found = None
    except CorruptCheckpoint:
        found = None
        notices = (Notice("cache_rebuilt", "the prepared model was damaged and has been made anew from its source"),)
    if found is None:
        found = _build_locked(source, target, compute_type, report)
    report(1.0, "ready")
    return replace(found, name=name, notices=notices)


def load(folder: Path) -> Prepared:
    """Open a folder that `prepare` made. Raises `CorruptCheckpoint` if a file differs from the manifest."""
    manifest = sources.read_json(folder / MANIFEST)
    try:
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        prepared = _from_json(folder, manifest["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptCheckpoint("the prepared model's manifest is damaged; prepare the model again") from error
    sealed = manifest.get("seal") == _seal(manifest)
    if not sealed or not {*CTRANSLATE2_FILES}.issubset(files) or any(Path(name).name != name for name in files):
        raise CorruptCheckpoint("the prepared model's manifest is damaged; prepare the model again")
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing releases the interpreter lock; two files are large
        intact = all(pool.map(lambda item: _is_intact(folder / item[0], *item[1]), files.items()))
    if not intact:
        raise CorruptCheckpoint("a prepared file differs from its manifest; prepare the model again")
    return prepared


def describe_ctranslate2(folder: Path) -> Prepared:
    """Describe a CTranslate2 Whisper model, which is used as it is and encodes by itself."""
    missing = [name for name in CTRANSLATE2_FILES if not (folder / name).is_file()]
    if missing:
        raise IncompleteCheckpoint(
            f"the CTranslate2 model lacks {', '.join(missing)}; "
            "convert it again with --copy_files tokenizer.json preprocessor_config.json"
        )
    config = sources.read_json(folder / "config.json")
    try:
        tokens = [str(token) for token in json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))]
    except ValueError as error:
        raise CorruptCheckpoint("vocabulary.json is not valid JSON; convert the model again") from error
    dimensions = convert.read_dimensions(folder / "model.bin")
    digest = hashlib.sha256("\n".join(_sha256(folder / name) for name in CTRANSLATE2_FILES).encode()).hexdigest()
    return _describe(
        folder, name=folder.name, digest=digest, compute_type="as is", dimensions=dimensions, settings=config,
        tokens=tokens,
    )  # fmt: skip


def _report_nothing(_fraction: float, _what: str) -> None:
    pass


def _build_locked(source: sources.Source, target: Path, compute_type: str, report: Progress) -> Prepared:
    """Convert under a lock; whoever waited for it finds the other's work."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        with suppress(FileNotFoundError, CorruptCheckpoint):
            return load(target)
        for leftover in target.parent.glob(f".{target.name}.*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = target.parent / f".{target.name}.{os.getpid()}"
        temporary.mkdir()
        try:
            prepared = _build(source, temporary, target.name, compute_type, report)
            if target.exists():
                target.rename(target.parent / f".{target.name}.damaged")
            temporary.rename(target)
        finally:
            for leftover in target.parent.glob(f".{target.name}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
    return replace(prepared, folder=target)


def _build(source: sources.Source, folder: Path, digest: str, compute_type: str, report: Progress) -> Prepared:
    """Write every file of a prepared model into an empty folder, its manifest last."""
    dimensions, settings = source.dimensions, source.settings
    tokenizer = source.tokenizer()
    tokens = convert.vocabulary(tokenizer.get_vocab(with_added_tokens=True), dimensions.n_vocab)
    report(0.1, "checking the weights")
    weights = source.weights()
    prepared = _describe(
        folder, name=source.name, digest=digest, compute_type=compute_type, dimensions=dimensions, settings=settings,
        tokens=tokens,
    )  # fmt: skip
    report(0.2, "converting the decoder")
    convert.write_model(folder, weights, dimensions, settings=settings, tokens=tokens, compute_type=compute_type)
    report(0.7, "converting the encoder")
    encoder.save(weights, dimensions, folder / ENCODER)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": dimensions.n_mels}))
    report(0.9, "writing the manifest")
    files = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    manifest = {"converter": CONVERTER_VERSION, "model": _to_json(prepared), "files": files}
    manifest["seal"] = _seal(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return prepared


def _describe(
    folder: Path,
    *,
    name: str,
    digest: str,
    compute_type: str,
    dimensions: Dimensions,
    settings: Mapping[str, Any],
    tokens: Sequence[str],
) -> Prepared:
    """Gather what the engine needs to know of a model with these settings and this vocabulary."""
    ids = {token: number for number, token in enumerate(tokens)}
    if "<|0.00|>" not in ids or "<|startoftranscript|>" not in ids:
        raise IncompleteCheckpoint(
            "the vocabulary lacks Whisper's special tokens; copy the tokenizer of the model that was tuned"
        )
    context = settings.get("audio_context", "full")
    if context not in get_args(AudioContext):
        raise CheckpointError("audio_context in config.json must be 'full' or 'trimmed'")
    special = {
        t: i for t, i in ids.items() if re.fullmatch(r"<\|[^|]+\|>", t) and not re.fullmatch(r"<\|\d+\.\d\d\|>", t)
    }
    return Prepared(folder, name, digest, compute_type, dimensions, special, _languages(settings, ids), context)


def _languages(settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The languages a model was trained for: as it declares, else those its tokens name, if there is more than one."""
    declared = settings.get("lang_to_id")
    if isinstance(declared, Mapping):
        return {str(token).strip("<|>"): int(number) for token, number in declared.items()}
    english_only = ids["<|startoftranscript|>"] < 50_258 and "lang_to_id" not in settings and len(ids) == 51_864
    if english_only or settings.get("is_multilingual") is False:
        return {}
    first, last = ids["<|startoftranscript|>"] + 1, ids.get("<|translate|>", 0)
    return {token.strip("<|>"): number for token, number in ids.items() if first <= number < last}


def _to_json(prepared: Prepared) -> dict[str, Any]:
    values = asdict(prepared)
    return {name: value for name, value in values.items() if name not in {"folder", "notices"}}


def _from_json(folder: Path, values: Mapping[str, Any]) -> Prepared:
    dimensions = Dimensions(**values["dimensions"])
    # an older manifest may say more than is asked today
    known = {field.name: values[field.name] for field in fields(Prepared) if field.name in values}
    return Prepared(**{**known, "folder": folder, "dimensions": dimensions})


# --- hashes


def _digest(files: Mapping[str, Path], compute_type: str, cache: Path) -> str:
    """Name the result after everything it is made of."""
    hashes = _hashes(files.values(), cache / "index.json")
    parts = [f"{CONVERTER_VERSION} {compute_type}", *(f"{name} {hashes[path]}" for name, path in sorted(files.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _hashes(files: Iterable[Path], index: Path) -> dict[Path, str]:
    """SHA-256 of each file, from the index where the file has not been touched since."""
    known: dict[str, Any] = {}
    with suppress(OSError, CheckpointError):
        known = sources.read_json(index)
    hashes, fresh = {}, {}
    for file in files:
        state = file.stat()
        stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
        entry = known.get(str(file))
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp:
            hashes[file] = str(entry[1])
            continue
        hashes[file] = _sha256(file)
        if time.time_ns() - state.st_mtime_ns > SETTLED_NS:
            fresh[str(file)] = [stamp, hashes[file]]
    if fresh:
        _save_index(index, known | fresh)
    return hashes


def _save_index(index: Path, entries: Mapping[str, Any]) -> None:
    """Replace the index; two writers at once lose an entry, never the file. A read-only cache only costs time."""
    alive = {path: entry for path, entry in entries.items() if Path(path).is_file()}
    with suppress(OSError):
        index.parent.mkdir(parents=True, exist_ok=True)
        temporary = index.with_name(f".index.{os.getpid()}.json")
        temporary.write_text(json.dumps(alive), encoding="utf-8")
        temporary.replace(index)


def _seal(manifest: Mapping[str, Any]) -> str:
    """The hash of all else in a manifest, which nothing else would check."""
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_intact(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
