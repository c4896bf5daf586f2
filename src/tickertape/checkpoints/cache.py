"""The cache of prepared models: one folder for each digest of source files, storage type and converter version.

A folder is written under a temporary name and renamed, so it is complete or absent. Each load checks the SHA-256 of
every file, which takes about a second for 2 GB. This detects damage and incomplete copies, but no attacker who can
write here. An index keeps the hash of each source file until its size, inode, modification or change time differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tickertape.checkpoints.config import read_json
from tickertape.errors import CacheError, CheckpointError, CorruptCheckpointError

CONVERTER_VERSION = 3  # raise it when the same source gives other files, so that every model is prepared again
MANIFEST = "manifest.json"
DAMAGED = "the prepared model's manifest is damaged; prepare the model again"
SETTLED_NS = 2_000_000_000  # a file changed less than 2 s ago may change again without a new time stamp

T = TypeVar("T")
Progress: TypeAlias = Callable[[float, str], None]  # from 0.0 to 1.0, and the current step


def default_cache() -> Path:
    """The user's cache folder for Tickertape."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("tickertape"))


def folder_of(cache: Path, files: Mapping[str, Path], compute_type: str) -> Path:
    """The folder of a prepared model, named after the hash of its source files and options."""
    found = hashes(files.values(), cache / "index.json")
    parts = [f"{CONVERTER_VERSION} {compute_type}", *(f"{name} {found[path]}" for name, path in sorted(files.items()))]
    return cache / "prepared" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def build_once(target: Path, load: Callable[[Path], T], build: Callable[[Path], None]) -> T:
    """Build a folder under a lock, unless another process has done so meanwhile; then load it.

    `build` fills an empty folder. Raises `CacheError` if the cache cannot be written.
    """
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            with suppress(FileNotFoundError, CorruptCheckpointError):
                return load(target)
            _remove_leftovers(target)  # of a process that was killed
            temporary = target.parent / f".{target.name}.{os.getpid()}"
            temporary.mkdir()
            try:
                build(temporary)
                if target.exists():
                    target.rename(target.parent / f".{target.name}.damaged")
                temporary.rename(target)
            finally:
                _remove_leftovers(target)
            return load(target)
    except OSError as error:
        raise CacheError(
            f"the cache folder {target.parent.parent} cannot be written ({error.strerror or error}); free space, "
            "change its permissions, or set XDG_CACHE_HOME to another folder"
        ) from error


def write_manifest(folder: Path, model: Mapping[str, Any]) -> None:
    """Write the manifest: a description of the model, and every file's size and hash."""
    files = {path.name: _entry(path) for path in sorted(folder.iterdir())}
    manifest = {"converter": CONVERTER_VERSION, "model": model, "files": files}
    manifest["seal"] = _seal(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def verified_model(folder: Path, required: Iterable[str]) -> Mapping[str, Any]:
    """The manifest's description of the model, after a check of every file. Raises `CorruptCheckpointError`."""
    manifest = read_json(folder / MANIFEST)
    if manifest["converter"] != CONVERTER_VERSION:
        raise CorruptCheckpointError("another version of Tickertape prepared the model; prepare it again")
    model: Mapping[str, Any] = manifest["model"]
    files: Mapping[str, Any] = manifest["files"]
    named = {*required} <= files.keys() and all(Path(name).name == name for name in files)
    if manifest["seal"] != _seal(manifest) or not named:
        raise CorruptCheckpointError(DAMAGED)

    def is_intact(name: str) -> bool:
        path = folder / name
        return path.is_file() and path.stat().st_size == files[name]["size"] and _entry(path) == files[name]

    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing releases the interpreter lock; two files are large
        if not all(pool.map(is_intact, files)):
            raise CorruptCheckpointError("a prepared file differs from its manifest; prepare the model again")
    return model


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def hashes(files: Iterable[Path], index: Path) -> dict[Path, str]:
    """SHA-256 of each file, from the index if the file has not been modified since."""
    known: dict[str, Any] = {}
    with suppress(OSError, CheckpointError):
        known = read_json(index)
    found, fresh = {}, {}
    for file in files:
        state = file.stat()
        stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
        match known.get(str(file)):
            case [known_stamp, str(known_hash)] if known_stamp == stamp:
                found[file] = known_hash
                continue
        found[file] = sha256(file)
        if time.time_ns() - state.st_mtime_ns > SETTLED_NS:
            fresh[str(file)] = [stamp, found[file]]
    with suppress(OSError):  # without an index the next hash takes longer; two writers at once may lose an entry
        if fresh:
            existing = {path: entry for path, entry in (known | fresh).items() if Path(path).is_file()}
            index.parent.mkdir(parents=True, exist_ok=True)
            temporary = index.with_name(f".index.{os.getpid()}.json")
            temporary.write_text(json.dumps(existing), encoding="utf-8")
            temporary.replace(index)
    return found


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _seal(manifest: Mapping[str, Any]) -> str:
    """The hash of everything else in the manifest, to detect damage of the manifest itself."""
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
