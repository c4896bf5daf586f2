"""Makes Hugging Face-layout Whisper checkpoints with random weights, without torch: for tests only.

    folder = make_checkpoint(tmp_path / "tiny", "tiny", dtype="float16", shards=2)

Shapes are Whisper's true ones; `width`, `heads` and `encoder_layers` make the big ones affordable. The vocabulary is
the true one where the `openai-whisper` package is installed (its `assets/*.tiktoken`), else an invented one of the same
size with every special token at its true id, which the `micro` shapes always use.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import itertools
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from tickertape.checkpoints.lora import EMBEDDINGS
from tickertape.checkpoints.safetensors import read_weights

# openai/whisper tokenizer.py, in its order, which is the order of the ids; `yue` came with large-v3
_CODES = """
    en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur
    hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si
    km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha
    ba jw su yue
"""
LANGUAGES = tuple(_CODES.split())
TIMESTAMPS = 1501  # 0.00 to 30.00 s in steps of 0.02 s
POSITIONS = 1500  # encoder positions in 30 s
TEXT_CONTEXT = 448  # decoder positions

Array = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """The dimensions that tell one Whisper from another."""

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    n_mels: int = 80
    vocabulary: str = "multilingual"  # multilingual, english, v3, or invented ones: micro, micro.en, small-vocabulary

    @property
    def is_multilingual(self) -> bool:
        """Whether the vocabulary's specials begin after the multilingual text tokens."""
        return self.vocabulary not in {"english", "micro.en"}


SHAPES = {
    "micro": Shape(64, 2, 2, 2, vocabulary="micro"),
    "micro.en": Shape(64, 2, 2, 2, vocabulary="micro.en"),
    "micro.v3": Shape(64, 2, 2, 2, 128, vocabulary="micro.v3"),
    "custom": Shape(64, 2, 2, 2, vocabulary="custom"),  # a vocabulary nobody else has: 358 text tokens
    "tiny": Shape(384, 6, 4, 4),
    "tiny.en": Shape(384, 6, 4, 4, vocabulary="english"),
    "base": Shape(512, 8, 6, 6),
    "small": Shape(768, 12, 12, 12),
    "medium": Shape(1024, 16, 24, 24),
    "large-v3": Shape(1280, 20, 32, 32, 128, "v3"),
    "distil": Shape(1280, 20, 32, 2, 128, "v3"),  # distil-large-v3
    "turbo": Shape(1280, 20, 32, 4, 128, "v3"),  # large-v3-turbo
}


def make_checkpoint(folder: Path, shape: str | Shape = "micro", *, dtype: str = "float32", shards: int = 1,
                    seed: int = 0, slow_tokenizer: bool = False, true_vocabulary: bool | None = None,
                    config: Mapping[str, Any] | None = None, **changes: Any) -> Path:  # fmt: skip
    """Write a checkpoint into `folder` and return the folder.

    `changes` are fields of `Shape` (width=128, encoder_layers=2); `config` is merged into config.json; `slow_tokenizer`
    writes vocab.json, merges.txt and added_tokens.json instead of tokenizer.json. `true_vocabulary` None takes the
    true vocabulary where it is installed.
    """
    shape = replace(SHAPES[shape] if isinstance(shape, str) else shape, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    true = has_true_vocabulary() if true_vocabulary is None else true_vocabulary
    kind = shape.vocabulary if true else {"multilingual": "micro", "english": "micro.en", "v3": "micro.v3"}.get(
        shape.vocabulary, shape.vocabulary)  # fmt: skip
    tokenizer = make_tokenizer(kind)
    n_vocab = tokenizer.get_vocab_size(with_added_tokens=True)
    _write_json(folder / "config.json", model_config(shape, n_vocab, dtype) | dict(config or {}))
    _write_json(folder / "generation_config.json", generation_config(shape, tokenizer))
    _write_json(folder / "preprocessor_config.json", feature_config(shape))
    (_save_slow_tokenizer if slow_tokenizer else _save_tokenizer)(tokenizer, folder)
    save_weights(folder, random_weights(shape, n_vocab, seed), dtype, shards)
    return folder


def model_config(shape: Shape, n_vocab: int, dtype: str = "float32") -> dict[str, Any]:
    """What Hugging Face writes into config.json."""
    first = n_vocab - TIMESTAMPS - (107 if shape.vocabulary.endswith("v3") else 106)  # <|startoftranscript|>
    return {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "is_encoder_decoder": True,
        "activation_function": "gelu", "d_model": shape.width, "num_hidden_layers": shape.encoder_layers,
        "encoder_layers": shape.encoder_layers, "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": 4 * shape.width, "decoder_layers": shape.decoder_layers,
        "decoder_attention_heads": shape.heads,
        "decoder_ffn_dim": 4 * shape.width,
        "num_mel_bins": shape.n_mels, "max_source_positions": POSITIONS, "max_target_positions": TEXT_CONTEXT,
        "vocab_size": n_vocab, "scale_embedding": False, "decoder_start_token_id": first, "bos_token_id": first - 1,
        "eos_token_id": first - 1, "pad_token_id": first - 1, "tie_word_embeddings": True, "torch_dtype": dtype,
        "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "use_cache": True,
    }  # fmt: skip


def feature_config(shape: Shape) -> dict[str, Any]:
    """What Hugging Face writes into preprocessor_config.json."""
    return {"feature_size": shape.n_mels, "sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "chunk_length": 30,
            "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor"}  # fmt: skip


def generation_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """What Hugging Face writes into generation_config.json."""
    ids = {token: tokenizer.token_to_id(token) for token in [*special_tokens(100), "<|nocaptions|>"]}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    layers = range(shape.decoder_layers // 2, shape.decoder_layers)
    heads = [[layer, head] for layer in layers for head in range(0, shape.heads, 2)]
    after = [ids[t] for t in ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>")]
    silence = next(ids[t] for t in ("<|nospeech|>", "<|nocaptions|>") if ids.get(t) is not None)
    common = {
        "alignment_heads": heads, "begin_suppress_tokens": [tokenizer.token_to_id("Ġ"), end], "bos_token_id": end,
        "decoder_start_token_id": start, "eos_token_id": end, "is_multilingual": shape.is_multilingual,
        "max_initial_timestamp_index": 50, "max_length": TEXT_CONTEXT,
        "no_timestamps_token_id": ids["<|notimestamps|>"], "pad_token_id": end, "prev_sot_token_id": after[3],
        "return_timestamps": False, "suppress_tokens": [*non_speech_tokens(tokenizer), start, *sorted(after), silence],
    }  # fmt: skip
    if not shape.is_multilingual:
        return common
    languages = [f"<|{code}|>" for code in LANGUAGES if ids.get(f"<|{code}|>") is not None]
    return common | {
        "lang_to_id": {token: ids[token] for token in languages},
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
    }


def non_speech_tokens(tokenizer: Tokenizer) -> list[int]:
    """Tokens of brackets, notes and the like, never spoken: openai/whisper tokenizer.py, `non_speech_tokens`."""
    pairs = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
    symbols = [*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', *pairs.split()]
    found = {tokenizer.encode(text, add_special_tokens=False).ids[0] for text in (" -", " '")}
    for symbol, text in itertools.product(symbols + list("♩♪♫♬♭♮♯"), ("{}", " {}")):
        ids = tokenizer.encode(text.format(symbol), add_special_tokens=False).ids
        if len(ids) == 1 or symbol in "♩♪♫♬♭♮♯":
            found.add(ids[0])
    return sorted(found)


# --- weights


def random_weights(shape: Shape, n_vocab: int, seed: int = 0) -> dict[str, Array]:
    """Every tensor of the Hugging Face layout, float32, scaled so that greedy decoding wanders."""
    random, width = np.random.default_rng(seed), shape.width

    def normal(*size: int, std: float) -> Array:
        return random.standard_normal(size, dtype=np.float32) * np.float32(std)

    weights = {
        "model.encoder.conv1.weight": normal(width, shape.n_mels, 3, std=(3 * shape.n_mels) ** -0.5),
        "model.encoder.conv1.bias": normal(width, std=0.05),
        "model.encoder.conv2.weight": normal(width, width, 3, std=(3 * width) ** -0.5),
        "model.encoder.conv2.bias": normal(width, std=0.05),
        "model.encoder.embed_positions.weight": sinusoids(POSITIONS, width),
        "model.decoder.embed_tokens.weight": normal(n_vocab, width, std=3.0 * width**-0.5),
        "model.decoder.embed_positions.weight": normal(TEXT_CONTEXT, width, std=1.0),
    }
    for side, count in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        gain = 1.0 if side == "encoder" else 0.5  # keeps what all steps have in common from drowning token and position
        names = [f"model.{side}.layers.{i}" for i in range(count)]
        for name in names:
            for attention in ["self_attn"] + ["encoder_attn"] * (side == "decoder"):
                weights.update(_attention(f"{name}.{attention}", width, normal, gain))
            weights.update(_linear(f"{name}.fc1", width, 4 * width, normal))
            weights.update(_linear(f"{name}.fc2", 4 * width, width, normal, gain=gain))
            weights.update(_norm(f"{name}.final_layer_norm", width, normal))
        weights.update(_norm(f"model.{side}.layer_norm", width, normal))
    return weights


def sinusoids(length: int, width: int) -> Array:
    """The encoder's fixed positions, shape [length, width]: openai/whisper model.py, `sinusoids`."""
    steps = np.exp(-np.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * steps[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _linear(
    name: str, inputs: int, outputs: int, normal: Any, *, bias: bool = True, gain: float = 1.0
) -> dict[str, Array]:
    weights = {f"{name}.weight": normal(outputs, inputs, std=gain * inputs**-0.5)}
    return weights | ({f"{name}.bias": normal(outputs, std=0.05)} if bias else {})


def _norm(name: str, width: int, normal: Any) -> dict[str, Array]:
    return {f"{name}.weight": 1 + normal(width, std=0.1), f"{name}.bias": normal(width, std=0.05)}


def _attention(name: str, width: int, normal: Any, gain: float) -> dict[str, Array]:
    gains = {"q": 2.0, "k": 2.0, "v": 1.0, "out": gain}
    parts = [_linear(f"{name}.{p}_proj", width, width, normal, bias=p != "k", gain=gains[p]) for p in gains]
    return dict(itertools.chain(*(part.items() for part in parts), _norm(f"{name}_layer_norm", width, normal).items()))


# --- files


def save_weights(folder: Path, weights: Mapping[str, Array], dtype: str = "float32", shards: int = 1) -> None:
    """Write model.safetensors, or `shards` files and their index."""
    names = sorted(weights)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights, dtype)
        return
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        write_safetensors(folder / file, part, dtype)
        index |= dict.fromkeys(part, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def write_safetensors(path: Path, weights: Mapping[str, Array], dtype: str = "float32") -> None:
    """Write one safetensors file by its published layout, because its numpy interface knows no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, array in sorted(weights.items()):
        blob = _bytes(array, dtype)
        code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def _bytes(array: Array, dtype: str) -> bytes:
    if dtype != "bfloat16":
        return np.ascontiguousarray(array, dtype=dtype).tobytes()
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()  # to nearest, ties to even


def make_adapter(folder: Path, base: str, weights: Mapping[str, Array], **config: Any) -> Path:
    """Write a LoRA adapter in PEFT's layout; `weights` by their names in the file, `config` merged into its config."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 4, "lora_alpha": 8, "bias": "none",
                "use_rslora": False, "fan_in_fan_out": False, "modules_to_save": None}  # fmt: skip
    _write_json(folder / "adapter_config.json", settings | config)
    write_safetensors(folder / "adapter_model.safetensors", weights)
    return folder


def add_tokens(folder: Path, tokens: Sequence[AddedToken], rows: Array | None = None) -> None:
    """Add tokens behind the timestamps, as `tokenizer.add_tokens` and `model.resize_token_embeddings` do."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    if rows is not None:
        weights = dict(read_weights([folder / "model.safetensors"]))
        weights[EMBEDDINGS] = np.concatenate([weights[EMBEDDINGS], rows])
        write_safetensors(folder / "model.safetensors", weights)
        edit_json(folder / "config.json", vocab_size=len(weights[EMBEDDINGS]))


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    _write_json(path, {name: value for name, value in values.items() if value is not None})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


# --- vocabularies


def has_true_vocabulary() -> bool:
    """Whether openai-whisper, whose assets hold Whisper's vocabulary, is installed."""
    return importlib.util.find_spec("whisper") is not None


def special_tokens(languages: int, no_speech: str = "<|nospeech|>") -> list[str]:
    """Whisper's special tokens in the order of their ids, without the timestamps."""
    codes = [f"<|{code}|>" for code in LANGUAGES[:languages]]
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", no_speech, "<|notimestamps|>"]
    return ["<|endoftext|>", "<|startoftranscript|>", *codes, *tasks]


@functools.cache
def make_tokenizer(kind: str) -> Tokenizer:
    """A byte-level BPE tokenizer as Hugging Face writes it for Whisper, of one of the kinds of `Shape.vocabulary`."""
    vocabulary, merges = _text_tokens(kind)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    v3 = kind.endswith("v3")
    specials = special_tokens(100 if v3 else 99, "<|nospeech|>" if v3 else "<|nocaptions|>")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    times = [AddedToken(f"<|{i * 0.02:.2f}|>", special=False, normalized=False) for i in range(TIMESTAMPS)]
    tokenizer.add_tokens(times)
    start = [
        (token, tokenizer.token_to_id(token))
        for token in ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftranscript|> <|notimestamps|> $A <|endoftext|>", special_tokens=start)  # fmt: skip
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer", "unk_token": "<|endoftext|>",
                                                   "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
                                                   "pad_token": "<|endoftext|>"})  # fmt: skip


def _save_slow_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    state = json.loads(tokenizer.to_str())
    _write_json(folder / "vocab.json", state["model"]["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    _write_json(folder / "added_tokens.json", {token["content"]: token["id"] for token in state["added_tokens"]})
    specials = [token["content"] for token in state["added_tokens"] if token["special"]]
    _write_json(
        folder / "special_tokens_map.json",
        {"additional_special_tokens": specials, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    )


def _text_tokens(kind: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if kind in {"multilingual", "v3", "english"}:
        return _true_tokens("gpt2" if kind == "english" else "multilingual")
    count = {"micro.en": 50_256, "custom": 358}.get(kind, 50_257)
    alphabet = list(byte_characters().values())
    blank = (
        [] if kind == "micro.en" else [""]
    )  # the last text token of multilingual vocabularies; CTranslate2 knows them by it
    merges = list(itertools.islice(_invented_merges(), count - len(alphabet) - len(blank)))
    tokens = alphabet + [left + right for left, right in merges] + blank
    return {token: i for i, token in enumerate(tokens)}, merges


def _invented_merges() -> Iterator[tuple[str, str]]:
    """Words of one to four letters, so that random output reads like text: ` a`, `ab`, ` abc`, `abcd`."""
    letters, space = string.ascii_lowercase, byte_characters()[ord(" ")]
    pairs = [a + b for a in letters for b in letters]
    yield from ((space, a) for a in letters)
    yield from itertools.product(letters, letters)
    yield from itertools.product([space + a for a in letters], pairs)
    yield from itertools.product(pairs, pairs)


def _true_tokens(name: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Whisper's own text tokens and merges, recovered from the ranks that openai-whisper ships."""
    spec = importlib.util.find_spec("whisper")
    if spec is None or spec.origin is None:
        raise RuntimeError("the true vocabulary needs the openai-whisper package")
    lines = (Path(spec.origin).parent / "assets" / f"{name}.tiktoken").read_text().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split(" ") for line in lines)}
    characters = byte_characters()

    def text(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    pairs = (_parts(token, rank, ranks) for token, rank in ranks.items() if len(token) > 1)
    return {text(token): rank for token, rank in ranks.items()}, [(text(left), text(right)) for left, right in pairs]


def _parts(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made `token`: byte pair encoding stopped one merge early."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        merged = [ranks.get(left + right, rank) for left, right in itertools.pairwise(parts)]
        i = merged.index(min(merged))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@functools.cache
def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
