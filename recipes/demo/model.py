"""The network: transformers' Whisper at a small size, with forward passes that take windows of any length.

transformers' own encoder requires 30 s. Here the same modules run on shorter windows, which makes training on a CPU
possible. The checkpoint declares this as `audio_context: trimmed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from .tokenizer import Vocabulary

LETTERS = "_abcdefghijklmnopqrstuvwxyz' "  # CTC's alphabet; the first is the blank
MAX_TOKENS = 448


@dataclass(frozen=True)
class Shape:
    """The network's size."""

    width: int = 256
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 2


def config(shape: Shape, words: Vocabulary) -> WhisperConfig:
    """Whisper's configuration for a shape and a vocabulary."""
    return WhisperConfig(
        vocab_size=words.size,
        num_mel_bins=80,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        encoder_attention_heads=shape.heads,
        decoder_layers=shape.decoder_layers,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        max_source_positions=1500,
        max_target_positions=MAX_TOKENS,
        dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=words.id("endoftext"),
        bos_token_id=words.id("endoftext"),
        eos_token_id=words.id("endoftext"),
        decoder_start_token_id=words.id("startoftranscript"),
    )


class Trainee(nn.Module):
    """The network and a head for CTC over letters, which trains the encoder and is dropped at export."""

    def __init__(self, shape: Shape, words: Vocabulary) -> None:
        super().__init__()
        self.whisper = WhisperForConditionalGeneration(config(shape, words))
        self.letters = nn.Linear(shape.width, len(LETTERS))
        encoder = self.whisper.model.encoder
        for convolution in (encoder.conv1, encoder.conv2):
            # Whisper's default is far too small against its position sines when training starts from nothing.
            nn.init.kaiming_uniform_(convolution.weight, a=5**0.5)

    def encode(self, frames: Tensor) -> Tensor:
        """Log-mel [batch, frames, 80] as states [batch, frames / 2, width]."""
        encoder = self.whisper.model.encoder
        hidden = F.gelu(convolve(encoder.conv2, F.gelu(convolve(encoder.conv1, frames))))
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = hidden + attention(layer.self_attn, layer.self_attn_layer_norm(hidden))
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        return torch.as_tensor(encoder.layer_norm(hidden))

    def decode(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Logits [batch, tokens, vocabulary] for the token after each of `tokens`."""
        decoder = self.whisper.model.decoder
        hidden = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]
        for layer in decoder.layers:
            hidden = hidden + attention(layer.self_attn, layer.self_attn_layer_norm(hidden), causal=True)
            hidden = hidden + attention(layer.encoder_attn, layer.encoder_attn_layer_norm(hidden), states)
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        return F.linear(decoder.layer_norm(hidden), decoder.embed_tokens.weight)


def convolve(module: nn.Conv1d, values: Tensor) -> Tensor:
    """A convolution of width three over [batch, time, channels] as one product, whose gradient is cheaper on a CPU."""
    count, step = values.shape[1], module.stride[0]
    padded = F.pad(values, (0, 0, 1, 1))
    stacked = torch.cat([padded[:, tap : tap + count : step] for tap in range(3)], -1)
    return F.linear(stacked, module.weight.permute(0, 2, 1).flatten(1), module.bias)


def attention(module: Any, queries: Tensor, states: Tensor | None = None, causal: bool = False) -> Tensor:
    """transformers' attention module written out; `states` makes it cross-attention.

    Not torch's fused kernel, except for the short causal case: on a CPU with bf16 matrix units plain products were
    measured three times faster, backward pass included, at the lengths trained here.
    """

    def project(values: Tensor, *parts: nn.Linear) -> tuple[Tensor, ...]:
        weight = torch.cat([part.weight for part in parts])
        bias = torch.cat([weight.new_zeros(part.out_features) if part.bias is None else part.bias for part in parts])
        split = F.linear(values, weight, bias).unflatten(-1, (len(parts), module.num_heads, -1))
        return split.permute(2, 0, 3, 1, 4).contiguous().unbind(0)

    if states is None:
        asked, keys, contents = project(queries, module.q_proj, module.k_proj, module.v_proj)
    else:
        (asked,), (keys, contents) = project(queries, module.q_proj), project(states, module.k_proj, module.v_proj)
    if causal:
        mixed = F.scaled_dot_product_attention(asked, keys, contents, is_causal=True)
    else:
        mixed = torch.softmax((asked * module.scaling) @ keys.transpose(-1, -2), -1) @ contents
    return torch.as_tensor(module.out_proj(mixed.transpose(1, 2).flatten(2)))


@torch.no_grad()
def greedy(trainee: Trainee, words: Vocabulary, frames: Tensor, limit: int = 120) -> list[list[int]]:
    """The likeliest tokens of each window without timestamps; without a cache, for short checks during training."""
    prompt = [words.id(name) for name in ("startoftranscript", "en", "transcribe", "notimestamps")]
    states = trainee.encode(frames.to(trainee.letters.weight.dtype))
    tokens = torch.tensor([prompt] * len(frames))
    end = words.id("endoftext")
    done = torch.zeros(len(frames), dtype=torch.bool)
    for _ in range(limit):
        best = trainee.decode(tokens, states)[:, -1, : end + 1].argmax(-1)
        best[done] = end
        tokens = torch.cat([tokens, best[:, None]], 1)
        done |= best == end
        if bool(done.all()):
            break
    return [[token for token in row[len(prompt) :] if token != end] for row in tokens.tolist()]


@torch.no_grad()
def letters(trainee: Trainee, frames: Tensor) -> list[str]:
    """The letters of the encoder alone, by CTC's best path."""
    best = trainee.letters(trainee.encode(frames.to(trainee.letters.weight.dtype))).argmax(-1).tolist()
    return [
        "".join(LETTERS[now] for before, now in zip([0, *row], row, strict=False) if now and now != before)
        for row in best
    ]
