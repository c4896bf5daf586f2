"""Write the trained network as a Hugging Face checkpoint in fp16.

python -m recipes.demo.export --work WORK --to tests/checkpoint
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import align, tokenizer
from .model import MAX_TOKENS, Trainee
from .tokenizer import LANGUAGES, MAX_INITIAL_SECONDS, SPECIALS, STEP_SECONDS, TIMES, Vocabulary

# British spellings of this domain and what Whisper's English normalisation makes of them.
SPELLINGS = {
    "authorise": "authorize", "authorised": "authorized", "cancelled": "canceled", "centre": "center",
    "cheque": "check", "cheques": "checks", "colour": "color", "favour": "favor", "grey": "gray",
    "harbour": "harbor", "honour": "honor", "jewellery": "jewelry", "labour": "labor", "licence": "license",
    "neighbour": "neighbor", "organise": "organize", "programme": "program", "realise": "realize",
    "recognise": "recognize", "recognised": "recognized", "traveller": "traveler", "travelling": "traveling",
    "tyre": "tire",
}  # fmt: skip


def export(trainee: Trainee, words: Vocabulary, heads: list[tuple[int, int]], source: Path, folder: Path) -> None:
    """Write weights, configurations and tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # The output projection is the embedding itself, and the positions of the encoder are kept, as in Whisper's own
    # files.
    weights = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in trainee.whisper.state_dict().items()
        if name != "proj_out.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_json(folder / "config.json", network_config(trainee))
    write_json(folder / "generation_config.json", generation_config(words, heads))
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    write_json(folder / "tokenizer_config.json", tokenizer_config(words))
    write_json(folder / "special_tokens_map.json", special_tokens())
    write_json(folder / "added_tokens.json", words.ids)
    write_json(folder / "normalizer.json", SPELLINGS)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        shutil.copyfile(source / "tokenizer" / name, folder / name)


def network_config(trainee: Trainee) -> dict[str, Any]:
    """config.json; `audio_context` declares training on windows shorter than 30 s."""
    settings: dict[str, Any] = trainee.whisper.config.to_diff_dict()
    for name in ("transformers_version", "_name_or_path", "torch_dtype", "dtype"):
        settings.pop(name, None)
    return settings | {
        "architectures": ["WhisperForConditionalGeneration"],
        "audio_context": "trimmed",
        "begin_suppress_tokens": [],
        "dtype": "float16",
        "model_type": "whisper",
        "num_hidden_layers": settings["encoder_layers"],
    }


def generation_config(words: Vocabulary, heads: list[tuple[int, int]]) -> dict[str, Any]:
    """generation_config.json, all ids of this vocabulary.

    The suppressed tokens end with startofprev and nospeech, because transformers takes the last but one for
    startofprev. Nothing is suppressed at the beginning: silence is an empty text here, and a text may begin with a
    digit, whose space is a token of its own.
    """
    control = ("startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    return {
        "alignment_heads": [list(head) for head in heads],
        "begin_suppress_tokens": [],
        "bos_token_id": words.id("endoftext"),
        "decoder_start_token_id": words.id("startoftranscript"),
        "eos_token_id": words.id("endoftext"),
        "is_multilingual": True,
        "language": "en",  # transformers' prompt without them lacks the task, which every training sequence had
        "lang_to_id": {f"<|{language}|>": words.id(language) for language in LANGUAGES},
        "max_initial_timestamp_index": round(MAX_INITIAL_SECONDS / STEP_SECONDS),
        "max_length": MAX_TOKENS,
        "no_timestamps_token_id": words.id("notimestamps"),
        "pad_token_id": words.id("endoftext"),
        "prev_sot_token_id": words.id("startofprev"),
        "return_timestamps": False,
        "suppress_tokens": [words.id(name) for name in control],
        "task": "transcribe",
        "task_to_id": {task: words.id(task) for task in ("transcribe", "translate")},
    }


PREPROCESSOR = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480_000,
    "nb_max_frames": 3_000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16_000,
}


def special_tokens() -> dict[str, Any]:
    """special_tokens_map.json; the last of them must be notimestamps, after which transformers expects the times."""
    end = "<|endoftext|>"
    return {
        "additional_special_tokens": list(SPECIALS),
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
    }


def tokenizer_config(words: Vocabulary) -> dict[str, Any]:
    """tokenizer_config.json for transformers' Whisper tokenizer."""
    added = {
        str(token): {
            "content": name,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": name in SPECIALS,
        }
        for name, token in words.ids.items()
    }
    return special_tokens() | {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": MAX_TOKENS,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "tokenizer_class": "WhisperTokenizer",
    }


def write_json(path: Path, value: object) -> None:
    """Sorted and indented, so that two exports of one network are the same file."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def main() -> None:
    """Write the trained network as a Hugging Face checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument(
        "--to", type=Path, default=Path(__file__).parents[2] / "tests" / "checkpoint", help="the checkpoint's folder"
    )
    args = parser.parse_args()
    trainee, words = align.load(args.work)
    heads = [tuple(head) for head in json.loads((args.work / "heads.json").read_text())]
    export(trainee, words, heads, args.work, args.to)
    size = sum(path.stat().st_size for path in args.to.iterdir())
    print(
        f"{args.to}: {size / 1e6:.1f} MB, {words.size} tokens of which {tokenizer.TEXT_TOKENS} text and {TIMES} times"
    )


if __name__ == "__main__":
    main()
