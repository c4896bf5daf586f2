"""Text to tokens and back, by the checkpoint's own tokenizer: prompts in, segments out.

The layout is Whisper's: text tokens first, then `<|endoftext|>`, `<|startoftranscript|>`, the languages, the tasks,
`<|notimestamps|>`, and 1,501 timestamps of 0.02 s each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tickertape.types import SAMPLES_PER_TOKEN, Options

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for a part of a character in decoded text


@dataclass(frozen=True, slots=True)
class Phrase:
    """The text tokens between two timestamps; times in samples from the start of the window."""

    start: int
    end: int
    tokens: tuple[int, ...]


class WhisperTokenizer:
    """A checkpoint's tokenizer and the ids of its special tokens.

    `special` maps the names of special tokens to ids. `languages` are the codes with tokens: none in an English-only
    checkpoint, whose prompt has neither language nor task.
    """

    def __init__(self, path: Path, special: Mapping[str, int], languages: Collection[str]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self._special = special
        self.english_only = not languages
        self.languages = tuple(languages) or ("en",)
        self.end = special["<|endoftext|>"]
        self.start = special["<|startoftranscript|>"]
        self.no_timestamps = special["<|notimestamps|>"]
        self.first_time = self.no_timestamps + 1

    @cached_property
    def specials(self) -> tuple[int, ...]:
        """The tokens that must never be written as text (openai/whisper decoding.py)."""
        names = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "nocaptions")
        return (self.start, *(self._special[f"<|{name}|>"] for name in names if f"<|{name}|>" in self._special))

    def encode(self, text: str) -> list[int]:
        """Text to tokens. Special tokens that a caller writes, such as `<|endoftext|>`, are left out."""
        return [token for token in self._tokenizer.encode(text, add_special_tokens=False).ids if token < self.end]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to text; timestamps and other special tokens are left out."""
        text: str = self._tokenizer.decode([t for t in tokens if t < self.end], skip_special_tokens=False)
        return text

    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 bytes of one text token, possibly a part of a character."""
        piece = self._tokenizer.id_to_token(token) or ""
        return bytes(_BYTES[character] for character in piece if character in _BYTES)

    def task(self, options: Options, language: str) -> list[int]:
        """The prompt's `<|startoftranscript|>`, language and task."""
        if self.english_only:
            return [self.start]
        return [self.start, self._special[f"<|{language}|>"], self._special[f"<|{options.task}|>"]]

    def prompt(self, options: Options, language: str, room: int) -> list[int]:
        """Build the decoder's prompt: at most `room` tokens of hotwords and earlier text, then the task.

        The end of the earlier text matters most, so its beginning is cut.
        """
        hotwords, earlier = (
            self.encode(f" {text.strip()}") if text and text.strip() else []
            for text in (options.hotwords, options.prompt)
        )
        hotwords = hotwords[: room // 2]
        before = hotwords + earlier[max(0, len(earlier) - (room - len(hotwords))) :]
        task = self.task(options, language) + ([] if options.timestamps else [self.no_timestamps])
        return [self._special["<|startofprev|>"], *before, *task] if before else task

    def phrases(self, tokens: Sequence[int], length: int) -> list[Phrase]:
        """Split at the timestamps. `length` is the window's, in samples; text without an end time lasts until there."""
        found: list[Phrase] = []
        start, text = 0, list[int]()
        for token in tokens:
            if token < self.end:
                text.append(token)
            elif token >= self.first_time:
                time = min((token - self.first_time) * SAMPLES_PER_TOKEN, length)
                if text:
                    found.append(Phrase(start, max(start, time), tuple(text)))
                    text = []
                start = time
        if text:
            found.append(Phrase(min(start, length), length, tuple(text)))
        return found

    def finished(self, tokens: Sequence[int], *, truncated: bool) -> tuple[Sequence[int], int | None]:
        """The tokens of whole segments, and the time in samples at which the next one begins; `None` if none does.

        Two timestamps in a row end a segment and begin the next. At the end of the text, or of a text that was
        `truncated`, they say that the window holds more than was written (openai/whisper transcribe.py).
        """
        pairs = [n for n in range(1, len(tokens)) if min(tokens[n - 1 : n + 1]) >= self.first_time]
        if not pairs or (pairs[-1] < len(tokens) - 1 and not truncated):
            return tokens, None
        return tokens[: pairs[-1]], (tokens[pairs[-1]] - self.first_time) * SAMPLES_PER_TOKEN

    def words(self, tokens: Sequence[int], *, spaced: bool) -> list[tuple[str, tuple[int, ...]]]:
        """Group text tokens into words at spaces (`spaced`), else into characters."""
        words: list[tuple[str, tuple[int, ...]]] = []
        for text, group in self._characters(tokens):
            if spaced and words and not text.startswith(" "):
                words[-1] = (words[-1][0] + text, words[-1][1] + group)
            else:
                words.append((text, group))
        return words

    def _characters(self, tokens: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Group tokens so that no group ends within a character."""
        group: list[int] = []
        for token in tokens:
            group.append(token)
            text = self.decode(group)
            if REPLACEMENT not in text:
                yield text, tuple(group)
                group = []
        if group:
            yield self.decode(group), tuple(group)


def _byte_table() -> dict[str, int]:
    """Invert the table by which GPT-2 writes bytes as printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_table()
