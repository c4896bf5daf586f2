"""The cache of prepared models: one folder for each digest of source files, storage type and converter version.

A folder is written under a temporary name and renamed, so it is complete or absent. A lock keeps two processes from
building the same folder. `manifest.json` holds size and SHA-256 of every file. Each load checks all of them, which
takes about a second for 2 GB. This detects damage and incomplete copies, but no attacker who can write here.

Hashing a large source takes long, so an index keeps the hash of each source file until its size, inode, modification
time or change time differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tickertape.checkpoints.source import read_json
from tickertape.errors import CacheError, CheckpointError, CorruptCheckpointError

CONVERTER_VERSION = 2  # raise it when the same source gives other files: every model is then prepared again
MANIFEST = "manifest.json"
SETTLED_NS = 2_000_000_000  # a file changed less than 2 s ago may change again without a new time stamp

T = TypeVar("T")


def default_cache() -> Path:
    """The user's cache folder for Tickertape."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("tickertape"))


def folder_of(cache: Path, files: Mapping[str, Path], compute_type: str) -> Path:
    """The folder of a prepared model, named after everything that it is made of."""
    hashes = _hashes(files.values(), cache / "index.json")
    parts = [f"{CONVERTER_VERSION} {compute_type}", *(f"{name} {hashes[path]}" for name, path in sorted(files.items()))]
    return cache / "prepared" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def build_once(target: Path, load: Callable[[Path], T], build: Callable[[Path], None]) -> T:
    """Build a folder under a lock, unless another process has done so meanwhile; then load it.

    `build` fills an empty folder. Raises `CacheError` if the cache cannot be written.
    """
    with _cache_errors(target.parent.parent), _lock(target):
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


def write_manifest(folder: Path, model: Mapping[str, Any]) -> None:
    """Describe every file in the folder, and the model, in its manifest."""
    files = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    manifest = {"converter": CONVERTER_VERSION, "model": model, "files": files}
    manifest["seal"] = _seal(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def verified_model(folder: Path, required: Iterable[str]) -> Mapping[str, Any]:
    """What the manifest says of the model, after a check of every file. Raises `CorruptCheckpointError`."""
    manifest = read_json(folder / MANIFEST)
    try:
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        model: Mapping[str, Any] = manifest["model"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptCheckpointError("the prepared model's manifest is damaged; prepare the model again") from error
    sealed = manifest.get("seal") == _seal(manifest)
    if not sealed or not {*required} <= files.keys() or any(Path(name).name != name for name in files):
        raise CorruptCheckpointError("the prepared model's manifest is damaged; prepare the model again")
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing releases the interpreter lock; two files are large
        intact = all(pool.map(lambda item: _is_intact(folder / item[0], *item[1]), files.items()))
    if not intact:
        raise CorruptCheckpointError("a prepared file differs from its manifest; prepare the model again")
    return model


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    """Raise `CacheError` in place of `OSError`."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache folder {cache} cannot be written ({error.strerror or error}); free space, change its "
            "permissions, or set XDG_CACHE_HOME to another folder"
        ) from error


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        yield


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _hashes(files: Iterable[Path], index: Path) -> dict[Path, str]:
    """SHA-256 of each file, from the index if the file has not been modified since."""
    known: dict[str, Any] = {}
    with suppress(OSError, CheckpointError):
        known = read_json(index)
    hashes, fresh = {}, {}
    for file in files:
        state = file.stat()
        stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
        entry = known.get(str(file))
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp:
            hashes[file] = str(entry[1])
            continue
        hashes[file] = sha256(file)
        if time.time_ns() - state.st_mtime_ns > SETTLED_NS:
            fresh[str(file)] = [stamp, hashes[file]]
    if fresh:
        _save_index(index, known | fresh)
    return hashes


def _save_index(index: Path, entries: Mapping[str, Any]) -> None:
    """Replace the index. Two writers at once may lose an entry; a cache that cannot be written only costs time."""
    existing = {path: entry for path, entry in entries.items() if Path(path).is_file()}
    with suppress(OSError):
        index.parent.mkdir(parents=True, exist_ok=True)
        temporary = index.with_name(f".index.{os.getpid()}.json")
        temporary.write_text(json.dumps(existing), encoding="utf-8")
        temporary.replace(index)


def _seal(manifest: Mapping[str, Any]) -> str:
    """The hash of everything else in the manifest, whose own damage would otherwise go unnoticed."""
    rest = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _is_intact(path: Path, size: int, expected: str) -> bool:
    return path.is_file() and path.stat().st_size == size and sha256(path) == expected
