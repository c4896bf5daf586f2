"""Select the cross-attention heads that Whisper uses for word times.

    python -m recipes.demo.align --work WORK

espeak-ng speaks new training sentences and reports the start of each word. The attention of every head is turned into
word times as in Whisper (softmax, standardised over the tokens, median filter, dynamic time warping). A greedy search
then adds the best head, one at a time. The held-out sets are not used.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from . import mel, tokenizer, voices
from .heldout import word_times
from .model import Shape, Trainee
from .sentences import training_sentences
from .tokenizer import Vocabulary

CLIPS = 60
LEAD_SECONDS = 0.4
FRAME_SECONDS = 0.02
MEDIAN = 7  # positions, as in openai/whisper timing.py
Head = tuple[int, int]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spoken:
    """A sentence's sound, text and true word starts in seconds."""

    frames: Tensor
    written: str
    words: list[tuple[float, str]]


def find_heads(trainee: Trainee, words: Vocabulary, seed: int = 7) -> tuple[list[Head], float]:
    """The heads whose mean attention gives the best word starts, and their share within 0.2 s."""
    clips = _clips(seed)
    maps = [attention_maps(trainee, words, clip) for clip in clips]
    heads = list(maps[0])
    chosen: list[Head] = []
    best = -1.0
    while len(chosen) < len(heads):
        scores = {head: score(words, clips, maps, [*chosen, head]) for head in heads if head not in chosen}
        head = max(scores, key=lambda key: scores[key])
        if scores[head] <= best + 0.002:
            break
        chosen, best = [*chosen, head], scores[head]
    return sorted(chosen), best


def score(words: Vocabulary, clips: list[Spoken], maps: list[dict[Head, Matrix]], heads: list[Head]) -> float:
    """The share of word starts within 0.2 s, minus a small term for the mean error, to break ties."""
    errors = [error for clip, own in zip(clips, maps, strict=True) for error in _errors(words, clip, own, heads)]
    return float(np.mean([error <= 0.2 for error in errors]) - 0.05 * np.mean(errors))


def _errors(words: Vocabulary, clip: Spoken, maps: dict[Head, Matrix], heads: list[Head]) -> list[float]:
    starts = token_starts(np.mean([maps[head] for head in heads], axis=0))
    found = word_starts(words, clip.written, starts)
    errors, at = [], 0
    for true, word in clip.words:
        while at < len(found) and found[at][1] != word:
            at += 1
        if at == len(found):
            break
        errors.append(abs(found[at][0] - true))
        at += 1
    return errors


def word_starts(words: Vocabulary, written: str, starts: list[float]) -> list[tuple[float, str]]:
    """Word starts from token starts: a word begins with the token that begins with a space."""
    found: list[tuple[float, str]] = []
    for token, start in zip(words.text(written), starts, strict=False):
        piece = words.tokenizer.decode([token])
        if piece.startswith(" ") or not found:
            found.append((start, piece))
        else:
            found[-1] = (found[-1][0], found[-1][1] + piece)
    return [(start, word.strip(" .,?:").lower()) for start, word in found]


def token_starts(attention: Matrix) -> list[float]:
    """Each token's first position, in seconds, along the cheapest monotone path."""
    tokens, positions = attention.shape
    cost = np.full((tokens + 1, positions + 1), np.inf)
    cost[0, 0] = 0
    came = np.zeros((tokens + 1, positions + 1), np.int8)
    for row in range(1, tokens + 1):
        for column in range(1, positions + 1):
            options = (cost[row - 1, column - 1], cost[row - 1, column], cost[row, column - 1])
            came[row, column] = int(np.argmin(options))
            cost[row, column] = -attention[row - 1, column - 1] + options[came[row, column]]
    starts = [0] * tokens
    row, column = tokens, positions
    while row > 0 and column > 0:
        starts[row - 1] = column - 1
        move = came[row, column]
        row, column = row - (move != 2), column - (move != 1)
    return [position * FRAME_SECONDS for position in starts]


@torch.no_grad()
def attention_maps(trainee: Trainee, words: Vocabulary, clip: Spoken) -> dict[Head, Matrix]:
    """Every head's attention of the text tokens over the sound, standardised and smoothed."""
    prompt = [words.id(name) for name in ("startoftranscript", "en", "transcribe", "notimestamps")]
    text = words.text(clip.written)
    states = trainee.encode(clip.frames[None])
    raw = cross_attention(trainee, torch.tensor([[*prompt, *text, words.id("endoftext")]]), states)
    maps = {}
    for head, weights in raw.items():
        standard = (weights - weights.mean(axis=0)) / np.maximum(weights.std(axis=0), 1e-9)
        smooth = median_filter(standard, size=(1, MEDIAN), mode="reflect")
        # A token is chosen at the position before it: the row of the prompt's last token belongs to the first word.
        maps[head] = np.asarray(smooth[len(prompt) - 1 : len(prompt) - 1 + len(text)], dtype=np.float64)
    return maps


def cross_attention(trainee: Trainee, tokens: Tensor, states: Tensor) -> dict[Head, npt.NDArray[np.float32]]:
    """The softmax weights [tokens, positions] of every cross-attention head for one window."""
    weights: dict[Head, npt.NDArray[np.float32]] = {}
    hooks = []
    for index, layer in enumerate(trainee.whisper.model.decoder.layers):
        attention = layer.encoder_attn

        def keep(_: object, __: object, hidden: Tensor, index: int = index, attention: Any = attention) -> None:
            heads = attention.num_heads
            queries = (attention.q_proj(hidden) * attention.scaling).unflatten(-1, (heads, -1)).transpose(1, 2)
            keys = attention.k_proj(states).unflatten(-1, (heads, -1)).transpose(1, 2)
            for head, own in enumerate(torch.softmax(queries @ keys.transpose(-1, -2), -1)[0]):
                weights[index, head] = own.numpy()

        hooks.append(layer.encoder_attn_layer_norm.register_forward_hook(keep))
    trainee.decode(tokens, states)
    for hook in hooks:
        hook.remove()
    return weights


def _clips(seed: int) -> list[Spoken]:
    rng = random.Random(f"align:{seed}")
    clips = []
    for item in islice(training_sentences(rng), CLIPS):
        voice = voices.Voice("espeak", rng.choice(voices.ACCENTS), rng.choice(voices.VARIANTS))
        spoken = voices.say(item.spoken, voice, voices.manner(rng))
        times = [(at + LEAD_SECONDS, word) for at, word in word_times(item, spoken)]
        samples = np.pad(spoken.samples * 0.4, (int(LEAD_SECONDS * mel.SAMPLE_RATE), mel.SAMPLE_RATE // 5))
        frames = mel.log_mel(samples.astype(np.float32))
        clips.append(Spoken(torch.from_numpy(frames[: len(frames) // 2 * 2]), item.written, times))
    return clips


def load(work: Path) -> tuple[Trainee, Vocabulary]:
    """The trained network of a work folder, in evaluation mode."""
    words = tokenizer.load(work / "tokenizer")
    trainee = Trainee(Shape(), words)
    trainee.load_state_dict(torch.load(work / "train.pt", weights_only=True)["weights"], strict=False)
    return trainee.eval(), words


def main() -> None:
    """Find the alignment heads of the trained network."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    args = parser.parse_args()
    heads, share = find_heads(*load(args.work))
    (args.work / "heads.json").write_text(json.dumps(heads))
    print(f"alignment heads {heads}: {share:.3f}")


if __name__ == "__main__":
    main()
