"""Checks of every relation between a checkpoint's tokenizer, configs, weights and adapter.

    examined = examine(source)
    dimensions, rules, weights = examined.require()  # raises the first refusal

A relation holds, or a default replaces it with a notice, or the checkpoint is refused. `prepare` and `doctor` use the
same checks. Native code reads memory at the indices that it is given: CTranslate2's `generate` (token ids, positions),
`detect_language` (language ids) and `align` (heads, token ids, frames), and the encoder (positions). `Rules` and
`Dimensions` hold only indices that are checked here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from tickertape.checkpoints.config import Dimensions, check_weights
from tickertape.checkpoints.safetensors import Weights
from tickertape.checkpoints.source import Source
from tickertape.errors import CheckpointError, CorruptCheckpointError, IncompleteCheckpointError
from tickertape.types import Notice

AudioContext: TypeAlias = Literal["full", "trimmed"]
T = TypeVar("T")

POSITIONS = 1500  # encoder positions of a 30 s window
MIN_TEXT_CONTEXT = 32  # decoder positions; half are for the prompt, whose task takes up to five
FIRST_MULTILINGUAL_START = 50_258  # <|startoftranscript|> of OpenAI's multilingual vocabularies
ENGLISH_ONLY_SIZE = 51_864  # tokens in OpenAI's English-only vocabulary
ENGLISH_END = 50_256  # <|endoftext|> of the English-only checkpoints
BLANK = "\u0120"  # a space, as byte-level tokenizers write it
SAME_MODEL = "both must come from the same model"
DECLARED_IDS = {"decoder_start_token_id": "<|startoftranscript|>", "no_timestamps_token_id": "<|notimestamps|>",
                "prev_sot_token_id": "<|startofprev|>"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One relation: refused with an error, replaced by a default with a notice, else it holds."""

    check: str
    detail: str
    notice: Notice | None = None
    error: CheckpointError | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What the converter and the engine need to know of a checkpoint beside its sizes. All ids are checked."""

    tokens: list[str]  # by id
    special: dict[str, int]  # "<|startoftranscript|>" and the others, without the timestamps
    languages: dict[str, int]  # code to token id; empty for English-only models
    suppressed: list[int]  # tokens that are never written
    suppressed_first: list[int]  # tokens that no text begins with
    alignment_heads: list[list[int]]  # pairs of decoder layer and head whose attention gives word times
    audio_context: AudioContext


@dataclass(slots=True)
class Examination:
    """The findings of all checks, and what they found unless the checkpoint is refused."""

    findings: list[Finding] = field(default_factory=list)
    dimensions: Dimensions | None = None
    rules: Rules | None = None
    weights: Weights | None = None
    tokenizer: Any = None

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What was assumed."""
        return tuple(finding.notice for finding in self.findings if finding.notice)

    def require(self) -> tuple[Dimensions, Rules, Weights]:
        """What was found. Raises the first `CheckpointError`."""
        for finding in self.findings:
            if finding.error:
                raise finding.error
        assert self.dimensions and self.rules and self.weights  # noqa: S101, PT018 - nothing was refused
        return self.dimensions, self.rules, self.weights

    def check(self, name: str, check: Callable[[], tuple[T, str] | tuple[T, str, str]]) -> T | None:
        """Run a check, which returns a value, what it found, and the code of its notice if it assumed something."""
        try:
            value, detail, *assumed = check()
        except CheckpointError as error:
            self.findings.append(Finding(name, error.message, error=error))
            return None
        self.findings.append(Finding(name, detail, Notice(assumed[0], detail) if assumed else None))
        return value


def examine(source: Source) -> Examination:
    """Check a checkpoint's files against each other. Raises only `OSError`."""
    found = Examination()
    config = found.check("config", lambda: (source.config, "config.json is whole"))
    generation = found.check("generation config", lambda: _generation_config(source))
    found.dimensions = sizes = None if config is None else found.check("sizes", lambda: _sizes(config))
    found.tokenizer = tokenizer = found.check("tokenizer", lambda: (source.tokenizer(), "has all special tokens"))
    if tokenizer is not None and config is not None and generation is not None and sizes is not None:
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        files = {"config.json": config, "generation_config.json": generation}
        found.check("token ids", lambda: _token_ids(files, tokens))
        found.rules = _rules(found, {**config, **generation}, tokens, sizes)
    weights = found.check("adapter" if source.adapter else "files", lambda: (source.weights(), "every file is whole"))
    if weights is not None and sizes is not None:
        found.weights = found.check("weights", lambda: _weights(weights, sizes))
    return found


def _generation_config(source: Source) -> tuple[dict[str, Any], str]:
    """The decoding rules of checkpoints since 2023; before, config.json held them. A null is as good as missing."""
    given = {name: value for name, value in source.generation_config.items() if value is not None}
    return given, "generation_config.json is whole" if given else "none; config.json holds the rules"


def _sizes(config: Mapping[str, Any]) -> tuple[Dimensions, str]:
    """The sizes of the tensors, for which windows of 30 s and a prompt must fit."""
    sizes = Dimensions.of(config)
    if sizes.max_source_positions != POSITIONS or sizes.max_target_positions < MIN_TEXT_CONTEXT:
        raise CheckpointError(
            f"the model has {sizes.max_source_positions} encoder and {sizes.max_target_positions} decoder positions; "
            f"use one of {POSITIONS} and at least {MIN_TEXT_CONTEXT}, as Whisper has"
        )
    layers = f"{sizes.encoder_layers} encoder and {sizes.decoder_layers} decoder layers"
    return sizes, f"{layers}, {sizes.d_model} wide, {sizes.n_mels} mels"


def _token_ids(files: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, int]) -> tuple[int, str]:
    """The ids of special tokens in each config are the tokenizer's. Those of another generation differ by one."""
    count = 0
    for file, values in files.items():
        for token, number in _declared_ids(values):
            if tokens.get(token) != number:
                theirs = tokens.get(token, "nowhere")
                message = f"{file} has {token} at {str(number)[:20]} and the tokenizer {theirs}; {SAME_MODEL}"
                raise CorruptCheckpointError(message)
            count += 1
    return count, f"{count} ids of special tokens are the tokenizer's"


def _declared_ids(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The special tokens that a config refers to, and the ids it has for them."""
    for key, token in DECLARED_IDS.items():
        if values.get(key) is not None:
            yield token, values[key]
    for key in ("task_to_id", "lang_to_id"):
        declared = values.get(key) or {}
        if not isinstance(declared, Mapping):
            raise CorruptCheckpointError(f"{key} must map tokens to ids; copy it from the model that was tuned")
        yield from ((f"<|{str(name).strip('<|>')}|>", number) for name, number in declared.items())


def _rules(
    found: Examination, settings: Mapping[str, Any], tokens: Mapping[str, int], sizes: Dimensions
) -> Rules | None:
    """Check everything that refers to a token or a layer by its number."""
    names = found.check("vocabulary", lambda: _vocabulary(tokens, sizes.n_vocab))
    if names is None:
        return None
    ids = {token: number for number, token in enumerate(names)}
    special = {
        t: i for t, i in ids.items() if re.fullmatch(r"<\|[^|]+\|>", t) and not re.fullmatch(r"<\|\d+\.\d\d\|>", t)
    }
    languages = found.check("languages", lambda: (_languages(settings, ids), "declared"))
    never = found.check("suppressed tokens", lambda: _suppressed(settings, sizes.n_vocab))
    first = found.check("first tokens", lambda: _suppressed_first(settings, ids, sizes.n_vocab))
    heads = found.check("alignment heads", lambda: _alignment_heads(settings, sizes))
    context = found.check("windows", lambda: _audio_context(settings))
    if languages is None or never is None or first is None or heads is None or context is None:
        return None
    return Rules(names, special, languages, never, first, heads, context)


def _vocabulary(tokens: Mapping[str, int], size: int) -> tuple[list[str], str]:
    """The tokens in the order of their ids, exactly `size` of them.

    Tokenizers of older checkpoints lack the timestamps, which then follow the text and special tokens. Ids without a
    token, in an output layer padded to a round size, get names that cannot be mistaken for text.
    """
    named = {i: token for token, i in tokens.items() if i < size}
    if "<|0.00|>" not in tokens:
        first = max(named, default=-1) + 1
        named |= {first + i: f"<|{i * 0.02:.2f}|>" for i in range(size - first)}
    if "" not in tokens and tokens.get("<|endoftext|>") != ENGLISH_END and "<|startoflm|>" in tokens:
        # CTranslate2 treats a vocabulary without the empty string as English-only and then detects no language. It is
        # given only ids, and no Whisper uses this token, so its name is free.
        named[tokens["<|startoflm|>"]] = ""
    names = [named.get(i, f"<|unused{i}|>") for i in range(size)]
    if "<|0.00|>" not in names or "<|startoftranscript|>" not in names:
        raise IncompleteCheckpointError(
            "the vocabulary lacks Whisper's special tokens; copy the tokenizer of the model that was tuned"
        )
    return names, f"{size} tokens"


def _languages(settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The declared languages, else the tokens between `<|startoftranscript|>` and `<|translate|>`."""
    start, declared = ids["<|startoftranscript|>"], settings.get("lang_to_id")
    english_only = start < FIRST_MULTILINGUAL_START and len(ids) == ENGLISH_ONLY_SIZE  # CTranslate2's declare some
    if english_only or settings.get("is_multilingual") is False:
        return {}
    if isinstance(declared, Mapping):
        return {str(token).strip("<|>"): int(number) for token, number in declared.items()}
    return {token.strip("<|>"): number for token, number in ids.items() if start < number < ids.get("<|translate|>", 0)}


def _suppressed(settings: Mapping[str, Any], size: int) -> tuple[list[int], str] | tuple[list[int], str, str]:
    """Tokens that are never written, besides the special ones. None declared: none, as transformers does it."""
    return _ids(settings.get("suppress_tokens") or [], size)


def _suppressed_first(
    settings: Mapping[str, Any], ids: Mapping[str, int], size: int
) -> tuple[list[int], str] | tuple[list[int], str, str]:
    """Tokens that no text begins with: by default a blank and the end of the text, as in openai/whisper decoding.py."""
    declared = settings.get("begin_suppress_tokens")
    if declared is not None:
        return _ids(declared, size)
    default = [ids[token] for token in (BLANK, "<|endoftext|>") if token in ids]
    return default, "none declared (begin_suppress_tokens); no text begins with a blank or its end", "default_begin"


def _ids(given: Any, size: int) -> tuple[list[int], str] | tuple[list[int], str, str]:
    """The token ids in a declared list; those that the vocabulary lacks are left out."""
    listed = given if isinstance(given, list) else [given]
    ids = [i for i in listed if isinstance(i, int) and 0 <= i < size]
    if len(ids) == len(listed):
        return ids, f"{len(ids)} tokens"
    return ids, f"{len(listed) - len(ids)} of {len(listed)} ids are not in the vocabulary and ignored", "unknown_ids"


def _alignment_heads(
    settings: Mapping[str, Any], sizes: Dimensions
) -> tuple[list[list[int]], str] | tuple[list[list[int]], str, str]:
    """The declared heads, if the decoder has them all; else every head of the upper half, as CTranslate2's default."""
    declared = settings.get("alignment_heads")
    upper = range(sizes.decoder_layers // 2, sizes.decoder_layers)
    default = [list(pair) for pair in itertools.product(upper, range(sizes.decoder_heads))]
    if not declared:
        reason = "none declared (alignment_heads)"
    elif isinstance(declared, list) and all(_is_head(pair, sizes) for pair in declared):
        return declared, f"{len(declared)} of {sizes.decoder_layers * sizes.decoder_heads} heads"
    else:
        reason = (f"alignment_heads names heads beyond the decoder's {sizes.decoder_layers} layers of "
                  f"{sizes.decoder_heads}")  # fmt: skip
    return default, f"{reason}; word times come from the upper half of the layers, less exactly", "default_heads"


def _is_head(pair: Any, sizes: Dimensions) -> bool:
    match pair:
        case [int(layer), int(head)]:
            return 0 <= layer < sizes.decoder_layers and 0 <= head < sizes.decoder_heads
    return False


def _audio_context(settings: Mapping[str, Any]) -> tuple[AudioContext, str]:
    """Whether the checkpoint was tuned on windows of any length."""
    context = settings.get("audio_context", "full")
    if context not in get_args(AudioContext):
        raise CheckpointError("audio_context in config.json must be 'full' or 'trimmed'")
    return context, context


def _weights(weights: Weights, sizes: Dimensions) -> tuple[Weights, str]:
    """Tensors of the shapes that config.json declares, of finite numbers."""
    check_weights(weights, sizes)
    return weights, f"{len(weights)} tensors, all finite"
