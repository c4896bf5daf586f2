"""Real speech with references: the sets that lie beside the checkout, and word error rates on them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[3] / "shared"  # where the workplace has them
SPEECH, CASES = SHARED / "speech", SHARED / "cases"
GSM = "gsm"  # files without a header

needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason="the shared recordings of real speech are not here")


@dataclass(frozen=True)
class Clip:
    """A recording and what is said in it."""

    path: Path
    text: str
    language: str  # ISO 639-1; "zxx": no speech
    seconds: float

    @property
    def audio_format(self) -> str | None:
        """What a file without a header holds."""
        return GSM if self.path.suffix == ".gsm" else None


def clips(name: str, every: int = 1) -> list[Clip]:
    """The clips of a set, or every second, third... of them."""
    rows = [json.loads(line) for line in (SPEECH / name / "manifest.jsonl").read_text().splitlines()]
    return [Clip(SPEECH / name / r["audio"], r["text"], r["language"], r["duration"]) for r in rows[::every]]


def errors(clips: Sequence[Clip], texts: Sequence[str]) -> tuple[int, int]:
    """Wrong, missing and added words, and the words of the references, after Whisper's normalisation.

    Each digit counts as a word, because "661-5064" and "6615064" are the same; where a whole clip is spelled, so does
    each letter.
    """
    import jiwer

    truth, found = [], []
    for clip, text in zip(clips, texts, strict=True):
        words = [normalised(each, clip.language) for each in (clip.text, text)]
        if all(word.isdigit() or len(word) == 1 for word in words[0].replace("one", "1").split()):
            words = [" ".join(each.replace("one", "1").replace(" ", "")) for each in words]
        expected, actual = (re.sub(r"(\d)", r" \1 ", each).strip() for each in words)
        truth.append(expected)
        found.append(actual)
    result = jiwer.process_words(truth, found)
    wrong = result.substitutions + result.deletions + result.insertions
    return wrong, result.hits + result.substitutions + result.deletions


def word_error_rate(clips: Sequence[Clip], texts: Sequence[str]) -> float:
    """Wrong, missing and added words in percent of the words of the references."""
    wrong, words = errors(clips, texts)
    return 100 * wrong / words


def normalised(text: str, language: str) -> str:
    """The text as Whisper's authors compare texts; English in American spelling with digits."""
    return str(_normaliser(language)(text)).strip()


@cache
def _normaliser(language: str) -> Any:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    if language != "en":
        return BasicTextNormalizer(split_letters=language in {"ja", "zh"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves a file open
        return EnglishTextNormalizer()
