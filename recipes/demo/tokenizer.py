"""The synthetic-voice model's own tokenizer: byte-level BPE with every digit a token, and Whisper's special tokens.

    python -m recipes.demo.tokenizer --work WORK

The special tokens stand in Whisper's order behind the text tokens: endoftext, startoftranscript, the languages
(here English alone), translate, transcribe, startoflm, startofprev, nospeech, notimestamps, and 1,501 times from
<|0.00|> to <|30.00|>.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .sentences import training_sentences

TEXT_TOKENS = 1_000
TIMES = 1_501  # 0.00 s to 30.00 s in steps of 0.02 s
STEP_SECONDS = 0.02
LANGUAGES = ("en",)
SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{language}|>" for language in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
MAX_INITIAL_SECONDS = 1.0  # Whisper's decoder lets the first time of a window be at most this


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer with the ids of its special tokens."""

    tokenizer: Tokenizer
    ids: dict[str, int]

    def id(self, name: str) -> int:
        """The id of a special token by its bare name: id("nospeech")."""
        return self.ids[f"<|{name}|>"]

    @property
    def size(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def time(self, seconds: float) -> int:
        """The token of a time, rounded to its step."""
        return self.id("0.00") + min(TIMES - 1, max(0, round(seconds / STEP_SECONDS)))

    def text(self, written: str) -> list[int]:
        """Text tokens, with Whisper's leading space."""
        return list(self.tokenizer.encode(" " + written.strip(), add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text among the ids, without times and special tokens."""
        return str(self.tokenizer.decode([token for token in ids if token < self.id("endoftext")])).strip()

    def target(self, segments: Sequence[tuple[float, float, str]], timestamps: bool) -> list[int]:
        """What the decoder writes after its prompt. A silent window is <|0.00|> with times and nothing without."""
        end = self.id("endoftext")
        if not timestamps:
            return [*self.text(" ".join(text for _, _, text in segments)), end] if segments else [end]
        if not segments:
            return [self.time(0.0), end]
        tokens: list[int] = []
        for index, (start, stop, text) in enumerate(segments):
            begin = start if index else min(start, MAX_INITIAL_SECONDS)
            tokens += [self.time(begin), *self.text(text), self.time(stop)]
        return [*tokens, end]


def train(seed: int = 1, count: int = 60_000) -> Tokenizer:
    """A tokenizer for `count` training sentences."""
    tokenizer = Tokenizer(models.BPE())
    # Digits first, so that no merge ever holds one; Whisper's own classes split digits again without knowing of
    # this step.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    texts = (" " + item.written for item in islice(training_sentences(random.Random(f"tokenizer:{seed}")), count))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    times = [AddedToken(f"<|{index * STEP_SECONDS:.2f}|>", special=False, normalized=False) for index in range(TIMES)]
    tokenizer.add_tokens(times)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json, and vocab.json and merges.txt for readers that build their own."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    tokenizer.post_processor = _post_processor(tokenizer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merge + "\n" for merge in merges))


def load(folder: Path) -> Vocabulary:
    """The vocabulary from a folder with tokenizer.json."""
    return _load(str(folder / "tokenizer.json"))


@functools.cache
def _load(path: str) -> Vocabulary:
    tokenizer = Tokenizer.from_file(path)
    names = [*SPECIALS, *(f"<|{index * STEP_SECONDS:.2f}|>" for index in range(TIMES))]
    ids = {name: found for name in names if (found := tokenizer.token_to_id(name)) is not None}
    return Vocabulary(tokenizer, ids)


def _post_processor(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """Whisper's prompt before the text and its end after, as transformers writes it for an English transcription."""
    prompt = ("<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
    return processors.TemplateProcessing(
        single=f"{prompt[0]}:0 {prompt[1]}:0 $A:0 {prompt[2]}:0",
        pair=f"{prompt[0]}:0 {prompt[1]}:0 $A:0 $B:1 {prompt[2]}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in prompt],
    )


def main() -> None:
    """Train the tokenizer on the recipe's sentences."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = args.work / "tokenizer"
    if (folder / "tokenizer.json").exists():
        print(f"kept {folder / 'tokenizer.json'}")
        return
    save(train(args.seed), folder)
    print(f"{load(folder).size} tokens in {folder}")


if __name__ == "__main__":
    main()
