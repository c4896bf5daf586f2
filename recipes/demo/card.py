"""Write the model card from the measured figures and the training log.

python -m recipes.demo.card --work WORK --checkpoint tests/checkpoint
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from . import mel, voices
from .evaluate import CHECKPOINT, Figure, table
from .patterns import WORDS
from .sentences import PATTERNS
from .tokenizer import TEXT_TOKENS, TIMES

CARD = """---
language: en
library_name: transformers
pipeline_tag: automatic-speech-recognition
tags: [whisper, synthetic-speech, banking]
---

# The synthetic-voice model

A small Whisper ({parameters:.1f} million parameters), trained from scratch for Tickertape on synthetic banking
speech. The tests use it, a checkout without a network falls back to it, and it shows how a checkpoint is made.

**It was trained on synthesised English voices and the language of banking and brokerage, and nothing else.** Expect it
to fail on people's voices, other subjects and other languages; use a checkpoint of your own there. No recording of
a person and no other model's weights were used.

## Figures

Greedy decoding through Tickertape's engine on the held-out sets in `recipes/demo/heldout/`; word error rates after
Whisper's English normalisation. The held-out sets are synthesised speech too: these figures say nothing about
people's voices.

{figures}

Unseen voices are six espeak-ng voices whose accent or timbre was never trained on, and flite's speaker awb.

## Data

Sentences come from {patterns} patterns with slots and from strings of random words ({words} of them), written as a
person would write them and spoken by espeak-ng ({accents} accents, {variants} timbres) and flite ({speakers}). Hashes
of its words and of its writing decide which sentences are kept from training, and none of the held-out ones is in
the corpus. It is {windows:,} windows, {hours:.0f} hours: single sentences, several with pauses, and windows without
speech; with gain, noise, reverberation, silence before and after, and the 8 kHz telephone band through G.711.
Half of the corpus was made while the recipe was being written; windows that today's split holds out were removed
from it. A run today draws other sentences from the same patterns.

## Training

{training}

First the encoder was trained alone, with CTC over the letters of the spoken words. Then encoder and decoder were
trained together, half of the time with time tokens and half without, on windows of every length
(`audio_context: trimmed` in config.json). In most batches one window was used a second time, padded to 30 s, and the
loss compares both texts. This checkpoint's first 95 minutes used AdamW alone, beside other jobs. Its next 95 had few
padded windows and no such comparison.

## Tokens

{text_tokens} byte-level BPE tokens with every digit a token of its own, Whisper's special tokens in Whisper's order
with English as the only language, and {times} time tokens. `begin_suppress_tokens` is empty: silence is an empty
text.

## Limits

- Numbers are written one way: dollars with digits, counts up to nine as words, telephone numbers and sort codes
with dashes. Other conventions are not in the training data.
- It does not translate; the token exists because Whisper's prompt has it.
- Errors are most likely in long strings of digits, in names and in words outside the patterns.
- Figures that miss their aim need more training: the losses were still falling at the end of the budget.
"""


def card(checkpoint: Path, work: Path) -> str:
    """The card's text."""
    measured = json.loads((checkpoint / "evaluation.json").read_text())["figures"]
    figures = [Figure(**{key: value for key, value in line.items() if key != "met"}) for line in measured]
    windows, frames = _corpus(work / "corpus")
    return CARD.format(
        parameters=_parameters(checkpoint / "model.safetensors") / 1e6,
        figures=table(figures),
        patterns=sum(len(group) for group in PATTERNS[:-1]),
        words=len(WORDS),
        accents=len(set(voices.ACCENTS)),
        variants=len(voices.VARIANTS),
        speakers=", ".join(voices.FLITE_KNOWN),
        windows=windows,
        hours=frames / mel.FRAMES_PER_SECOND / 3600,
        training=_training(work / "train.jsonl"),
        text_tokens=f"{TEXT_TOKENS:,}",
        times=f"{TIMES:,}",
    )


def _parameters(path: Path) -> int:
    with safe_open(path, framework="np") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a mapping
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def _corpus(folder: Path) -> tuple[int, int]:
    """Windows and frames of the shards that were trained on, all but the first."""
    lines = [json.loads(line) for path in sorted(folder.glob("[0-9]*.jsonl"))[1:] for line in path.open()]
    return len(lines), sum(line["frames"] for line in lines)


def _training(path: Path) -> str:
    """The training summary, from the log."""
    last: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    minutes = last["seconds"] / 60
    return (
        f"{minutes:.0f} minutes on two shared CPU cores, {last['steps']:,} steps, {last['windows']:,} windows seen "
        f"({last['windows'] / last['seconds']:.0f} a second); Muon for the matrices and AdamW for "
        "the rest, bf16 with fp32 weights aside."
    )


def main() -> None:
    """Write the model card of a checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    args = parser.parse_args()
    (args.checkpoint / "README.md").write_text(card(args.checkpoint, args.work))
    print(args.checkpoint / "README.md")


if __name__ == "__main__":
    main()
