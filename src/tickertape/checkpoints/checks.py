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
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from tickertape.checkpoints.config import Dimensions, check_weights
from tickertape.checkpoints.lora import EMBEDDINGS
from tickertape.checkpoints.safetensors import Weights
from tickertape.checkpoints.source import Source
from tickertape.errors import CheckpointError, CorruptCheckpointError, IncompleteCheckpointError
from tickertape.types import Notice

AudioContext: TypeAlias = Literal["full", "trimmed"]
T = TypeVar("T")
Found: TypeAlias = tuple[T, str] | tuple[T, str, str]  # a value, what was found, and a notice's code for an assumption

POSITIONS = 1500  # encoder positions of a 30 s window
MIN_TEXT_CONTEXT = 32  # decoder positions; half are for the prompt, whose task takes up to five
ENGLISH_END = 50_256  # <|endoftext|> of OpenAI's English-only checkpoints, which have GPT-2's text tokens
SPECIAL = re.compile(r"<\|[^|]+\|>")
TIMES = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]  # the timestamps
OPENAI_SIZES = (51_864, 51_865, 51_866)  # tokens: English only, multilingual, large-v3; others are padded or extended
TIME = re.compile(r"<\|\d+\.\d\d\|>")
LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
BLANK = "\u0120"  # a space, as byte-level tokenizers write it
COPY_TOKENIZER = "copy the tokenizer of the model that was tuned"
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

    tokenizer: str  # tokenizer.json
    tokens: list[str]  # by id
    order: list[int]  # the checkpoint's id of each token, that is its row in the embeddings
    special: dict[str, int]  # "<|startoftranscript|>" and the others, without the timestamps
    languages: dict[str, int]  # code to token id; empty for English-only models
    suppressed: list[int]  # tokens that are never written
    suppressed_first: list[int]  # tokens that no text begins with
    alignment_heads: list[list[int]]  # pairs of decoder layer and head whose attention gives word times
    audio_context: AudioContext


@dataclass(frozen=True, slots=True)
class _Layout:
    """The vocabulary in Whisper's order."""

    order: list[int]  # the checkpoint's id of each token
    names: list[str]
    is_gpt2: bool  # text tokens of OpenAI's English-only checkpoints


@dataclass(slots=True)
class Examination:
    """The findings of all checks, and what they found unless the checkpoint is refused."""

    findings: list[Finding] = field(default_factory=list)
    dimensions: Dimensions | None = None
    rules: Rules | None = None
    weights: Weights | None = None

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
        return replace(self.dimensions, n_vocab=len(self.rules.tokens)), self.rules, self.weights

    def check(self, name: str, check: Callable[[], Found[T]]) -> T | None:
        """Run a check and note its finding. Returns its value, or None if it refused the checkpoint."""
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
    weights = found.check("adapter" if source.adapter else "weight files", lambda: _weight_files(source))
    resized = weights.shape(EMBEDDINGS)[:1] if weights and source.adapter and EMBEDDINGS in weights else ()
    found.dimensions = sizes = None if config is None else found.check("sizes", lambda: _sizes(config, *resized))
    tokenizer = found.check("tokenizer", lambda: _tokenizer(source))
    if tokenizer is not None and config is not None and generation is not None and sizes is not None:
        files = {"config.json": config, "generation_config.json": generation}
        found.check("token ids", lambda: _token_ids(files, tokenizer.get_vocab(with_added_tokens=True)))
        found.rules = _rules(found, {**config, **generation}, tokenizer, sizes)
    if weights is not None and sizes is not None:
        found.weights = found.check("weights", lambda: _weights(weights, sizes))
    return found


def _tokenizer(source: Source) -> Found[Any]:
    """The checkpoint's tokenizer; a CTranslate2 folder also has the tokens by id, and both agree."""
    tokenizer, names = source.tokenizer(), source.vocabulary()
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    specials = {token: i for token, i in tokens.items() if SPECIAL.fullmatch(token)}
    if not {"<|nospeech|>", "<|nocaptions|>"} & specials.keys():
        raise IncompleteCheckpointError(f"the tokenizer lacks <|nospeech|>; {COPY_TOKENIZER}")
    if names and any(names[i : i + 1] not in ([token], [""]) for token, i in specials.items()):
        raise CorruptCheckpointError(f"tokenizer.json and the vocabulary have other special tokens; {SAME_MODEL}")
    return tokenizer, f"{len(tokens)} tokens, {len(specials)} of them special"


def _generation_config(source: Source) -> Found[dict[str, Any]]:
    """The decoding rules of checkpoints since 2023; before, config.json held them. A null is as good as missing."""
    given = {name: value for name, value in source.generation_config.items() if value is not None}
    return given, "generation_config.json is whole" if given else "none; config.json holds the rules"


def _weight_files(source: Source) -> Found[Weights]:
    """The tensors; an adapter's must fit its base. One that resizes the vocabulary needs a tokenizer of its own."""
    weights = source.weights()
    if source.adapter is None:
        return weights, "every file is whole"
    grown = EMBEDDINGS in weights and weights.shape(EMBEDDINGS)[0] != source.config.get("vocab_size")
    if grown and not any((source.adapter / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise IncompleteCheckpointError(
            "the adapter resizes the vocabulary and has no tokenizer; save the tokenizer of its training beside it"
        )
    return weights, "fits its base model" + (" and resizes the vocabulary" if grown else "")


def _sizes(config: Mapping[str, Any], n_vocab: int | None = None) -> Found[Dimensions]:
    """The sizes of the tensors, for which windows of 30 s and a prompt must fit; `n_vocab` is an adapter's."""
    sizes = Dimensions.of({**config, "vocab_size": n_vocab or config.get("vocab_size")})
    if sizes.max_source_positions != POSITIONS or sizes.max_target_positions < MIN_TEXT_CONTEXT:
        raise CheckpointError(
            f"the model has {sizes.max_source_positions} encoder and {sizes.max_target_positions} decoder positions; "
            f"use one of {POSITIONS} and at least {MIN_TEXT_CONTEXT}, as Whisper has"
        )
    layers = f"{sizes.encoder_layers} encoder and {sizes.decoder_layers} decoder layers"
    return sizes, f"{layers}, {sizes.d_model} wide, {sizes.n_mels} mels"


def _token_ids(files: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, int]) -> Found[int]:
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
    for entry in values.get("forced_decoder_ids") or []:
        match entry:
            case [3, int(number)]:  # after <|startoftranscript|>, the language and the task
                yield "<|notimestamps|>", number


def _rules(found: Examination, settings: Mapping[str, Any], tokenizer: Any, sizes: Dimensions) -> Rules | None:
    """Check everything that refers to a token or a layer by its number."""
    layout = found.check("vocabulary", lambda: _layout(tokenizer, sizes.n_vocab))
    heads = found.check("alignment heads", lambda: _alignment_heads(settings, sizes))
    context = found.check("windows", lambda: _audio_context(settings))
    if layout is None:
        return None
    ids = {token: number for number, token in enumerate(layout.names)}
    moved = {old: new for new, old in enumerate(layout.order)}
    languages = found.check("languages", lambda: _languages(settings, ids, is_gpt2=layout.is_gpt2))
    never = found.check("suppressed tokens", lambda: _ids(settings.get("suppress_tokens") or [], moved))
    first = found.check("first tokens", lambda: _suppressed_first(settings, ids, moved))
    if languages is None or never is None or first is None or heads is None or context is None:
        return None
    special = {token: i for token, i in ids.items() if SPECIAL.fullmatch(token) and not TIME.fullmatch(token)}
    names = list(layout.names)
    if languages and "" not in ids:
        # CTranslate2 treats a vocabulary without the empty string as English-only and then detects no language. It is
        # given only ids, and no Whisper uses this token, so its name is free.
        names[ids.get("<|startoflm|>", ids["<|startofprev|>"])] = ""
    return Rules(_tokenizer_file(tokenizer, ids), names, layout.order, special, languages, never, first,
                 heads, context)  # fmt: skip


def _layout(tokenizer: Any, size: int) -> Found[_Layout]:
    """Order the tokens as CTranslate2 needs them: text, special tokens, and as the last ones the timestamps.

    Tokens that were added behind the timestamps move before them. Rows that pad the output layer are left out.
    Tokenizers of older checkpoints lack the timestamps, which then follow `<|notimestamps|>`.
    """
    tokens: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    end, last, highest = tokens["<|endoftext|>"], tokens["<|notimestamps|>"], max(tokens.values())
    first = tokens.get(TIMES[0], last + 1)
    times = {first + i: token for i, token in enumerate(TIMES)}
    named = {i: token for token, i in tokens.items() if i < size}
    if any(named.get(i, token) != token for i, token in times.items()):
        message = f"the tokenizer has other tokens where {TIMES[0]} to {TIMES[-1]} belong; {COPY_TOKENIZER}"
        raise CorruptCheckpointError(message)
    needed = max(highest, *times) + 1
    if max(times) >= size or (size in OPENAI_SIZES and size > needed):
        raise CorruptCheckpointError(f"the tokenizer has {needed} tokens and the model {size}; {SAME_MODEL}")
    named |= times
    controls = [i for i in sorted(named) if i >= end and (i <= last or i in special) and i not in {end, last}]
    fixed = {end, last, *times, *controls}
    text = [i for i in range(size) if i not in fixed and (i < end or i in named)]
    order = [*text, end, *controls, last, *times]
    layout = _Layout(order, [named.get(i, f"unused {i}") for i in order], is_gpt2=end == ENGLISH_END)
    if highest >= size:
        ignored = sum(i >= size for i in tokens.values())
        return layout, f"{ignored} tokens of the tokenizer are not in the model and ignored", "ignored_tokens"
    if order != sorted(order):
        moved = sum(i > max(times) for i in named)
        return layout, f"{moved} tokens behind the timestamps are moved before them, to other ids", "moved_tokens"
    return layout, f"{len(text)} tokens for text, {len(TIMES)} timestamps, {size - len(order)} unused rows left out"


def _tokenizer_file(tokenizer: Any, ids: Mapping[str, int]) -> str:
    """The contents of tokenizer.json, with every token at the given id."""
    tokens = tokenizer.get_vocab(with_added_tokens=True)
    if all(ids.get(token) == i for token, i in tokens.items()):
        return str(tokenizer.to_str(pretty=False))
    state = json.loads(tokenizer.to_str())
    added = [{**token, "id": ids[token["content"]]} for token in state["added_tokens"] if token["content"] in ids]
    state["added_tokens"] = sorted(added, key=lambda token: int(token["id"]))
    state["model"]["vocab"] = {token: ids[token] for token in tokens if token in ids}
    return json.dumps(state | {"post_processor": None}, ensure_ascii=False)  # prompts are put together elsewhere


def _languages(settings: Mapping[str, Any], ids: Mapping[str, int], *, is_gpt2: bool) -> Found[dict[str, int]]:
    """The declared languages, else those with tokens, which English-only tokenizers have too."""
    tokens = {match[1]: number for token, number in ids.items() if (match := LANGUAGE.fullmatch(token))}
    declared = settings.get("lang_to_id")
    multilingual = settings.get("is_multilingual", not is_gpt2)
    if not multilingual or not (declared or tokens):
        return {}, "English only"
    codes = [str(token).strip("<|>") for token in declared] if declared else list(tokens)
    if not set(codes) <= tokens.keys() or "<|transcribe|>" not in ids:
        raise CorruptCheckpointError(f"the tokenizer lacks languages or <|transcribe|>; {SAME_MODEL}")
    found = {code: tokens[code] for code in codes}
    if declared:
        return found, f"{len(found)} declared"
    return found, f"none declared (lang_to_id); {len(found)} of the tokenizer are used", "default_languages"


def _suppressed_first(
    settings: Mapping[str, Any], ids: Mapping[str, int], moved: Mapping[int, int]
) -> Found[list[int]]:
    """Tokens that no text begins with: by default a blank and the end of the text, as in openai/whisper decoding.py."""
    declared = settings.get("begin_suppress_tokens")
    if declared is not None:
        return _ids(declared, moved)
    default = [ids[token] for token in (BLANK, "<|endoftext|>") if token in ids]
    return default, "none declared (begin_suppress_tokens); no text begins with a blank or its end", "default_begin"


def _ids(given: Any, moved: Mapping[int, int]) -> Found[list[int]]:
    """The ids in a declared list, as they are now; those that the vocabulary lacks are left out."""
    listed = given if isinstance(given, list) else [given]
    ids = [moved[i] for i in listed if isinstance(i, int) and i in moved]
    if len(ids) == len(listed):
        return ids, f"{len(ids)} tokens"
    return ids, f"{len(listed) - len(ids)} of {len(listed)} ids are not in the vocabulary and ignored", "unknown_ids"


def _alignment_heads(settings: Mapping[str, Any], sizes: Dimensions) -> Found[list[list[int]]]:
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


def _audio_context(settings: Mapping[str, Any]) -> Found[AudioContext]:
    """Whether the checkpoint was tuned on windows of any length."""
    context = settings.get("audio_context", "full")
    if context not in get_args(AudioContext):
        raise CheckpointError("audio_context in config.json must be 'full' or 'trimmed'")
    return context, context


def _weights(weights: Weights, sizes: Dimensions) -> Found[Weights]:
    """Tensors of the shapes that config.json declares, of finite numbers."""
    check_weights(weights, sizes)
    return weights, f"{len(weights)} tensors, all finite"
