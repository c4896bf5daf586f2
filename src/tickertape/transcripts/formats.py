"""Transcript to text, json, verbose_json, srt, vtt, tsv and stream events.

Samples are rounded to milliseconds here, half up. The JSON shapes are OpenAI's, extended by a word's `probability`,
a segment's `channel` and `language`, and `warnings`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from tickertape.transcripts.assembler import join_text
from tickertape.transcripts.languages import LANGUAGES, separator
from tickertape.transcripts.subtitles import Cue, cues, milliseconds
from tickertape.types import SAMPLE_RATE, Segment, Transcript, Word

Json: TypeAlias = dict[str, Any]

SAMPLES_PER_FRAME = 160  # feature frames are the unit of OpenAI's `seek`
MAX_NUMBER = 1e6  # replaces infinity, which JSON does not have


def text(transcript: Transcript) -> str:
    """The text on one line. A split recording has one line for each turn, with its speaker."""
    if transcript.channels == 1:
        return f"{_one_line(transcript.text)}\n"
    turns = groupby(transcript.segments, key=lambda segment: segment.channel)
    return "".join(f"{speaker(channel)}: {_one_line(join_text(turn))}\n" for channel, turn in turns)


def json_object(transcript: Transcript) -> Json:
    """OpenAI's `json` body."""
    return {"text": transcript.text, **_usage_and_warnings(transcript)}


def verbose_object(transcript: Transcript, *, segments: bool = True, words: bool = True) -> Json:
    """OpenAI's `verbose_json` body, times in seconds. `words` appear only if the transcript has word times."""
    split = transcript.channels > 1
    mixed = len({segment.language for segment in transcript.segments}) > 1
    code = "en" if transcript.task == "translate" else transcript.language  # of the text
    language, duration = LANGUAGES.get(code, code), milliseconds(transcript.samples) / 1000
    body: Json = {"task": transcript.task, "language": language, "duration": duration, "text": transcript.text}
    if segments:
        own = [name for name, told in (("channel", split), ("language", mixed)) if told]
        body["segments"] = [_segment(i, segment, own) for i, segment in enumerate(transcript.segments)]
    if words and transcript.words:
        body["words"] = [
            {"word": word.text.strip(), **_times(word), "probability": _number(word.probability)}
            | ({"channel": segment.channel} if split else {})
            for segment in transcript.segments
            for word in segment.words
        ]
    return body | _usage_and_warnings(transcript)


def srt(transcript: Transcript) -> str:
    """SubRip. Cues of a split recording start with the speaker."""
    names = [f"{speaker(channel)}: " if transcript.channels > 1 else "" for channel in range(transcript.channels)]
    numbered = enumerate(cues(transcript, label_characters=len(names[-1])), 1)
    return "\n".join(f"{n}\n{_cue_times(cue, ',')}\n{names[cue.channel]}{cue.text}\n" for n, cue in numbered)


def vtt(transcript: Transcript) -> str:
    """WebVTT. Cues of a split recording have a voice tag."""
    blocks = ["WEBVTT\n"]
    for cue in cues(transcript):
        voice = f"<v {speaker(cue.channel)}>" if transcript.channels > 1 else ""
        escaped = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_cue_times(cue, '.')}\n{voice}{escaped}\n")
    return "\n".join(blocks)


def tsv(transcript: Transcript) -> str:
    """Tab-separated values: start and end in milliseconds, text, and the channel of a split recording."""
    rows: list[tuple[object, ...]] = [("start", "end", "text", "channel")]
    for segment in transcript.segments:
        times = milliseconds(segment.start_sample), milliseconds(segment.end_sample)
        rows.append((*times, _one_line(segment.text), segment.channel))
    columns = 4 if transcript.channels > 1 else 3
    return "".join("\t".join(map(str, row[:columns])) + "\n" for row in rows)


RENDERERS: dict[str, Callable[[Transcript], str]] = {
    "text": text,
    "json": lambda transcript: _dumps(json_object(transcript)),
    "verbose_json": lambda transcript: _dumps(verbose_object(transcript)),
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
}


def delta_event(segment: Segment, previous: Segment | None = None) -> Json:
    """The stream event for a final segment that follows `previous`. The deltas join to the whole text."""
    before = "" if previous is None else separator(previous.language, segment.language)
    return {"type": "transcript.text.delta", "delta": before + segment.text.strip()}


def done_event(transcript: Transcript) -> Json:
    """The last stream event, with the whole text."""
    return {"type": "transcript.text.done", **json_object(transcript)}


def speaker(channel: int) -> str:
    """The name of a channel's speaker in text and subtitles."""
    return f"Speaker {channel + 1}"


def _segment(number: int, segment: Segment, extensions: Sequence[str]) -> Json:
    figures = ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
    return {
        "id": number,
        "seek": segment.start_sample // SAMPLES_PER_FRAME,
        **_times(segment),
        "text": segment.text,
        "tokens": list(segment.tokens),
        **{name: _number(getattr(segment, name)) for name in figures},
        **{name: getattr(segment, name) for name in extensions},
    }


def _times(timed: Segment | Word) -> Json:
    return {"start": milliseconds(timed.start_sample) / 1000, "end": milliseconds(timed.end_sample) / 1000}


def _usage_and_warnings(transcript: Transcript) -> Json:
    body: Json = {"usage": {"type": "duration", "seconds": -(-transcript.samples // SAMPLE_RATE)}}  # rounded up
    if transcript.notices:
        body["warnings"] = [{"code": notice.code, "message": notice.message} for notice in transcript.notices]
    return body


def _dumps(body: Json) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n"


def _number(value: float) -> float:
    """A finite number with six decimals."""
    return 0.0 if math.isnan(value) else round(max(-MAX_NUMBER, min(MAX_NUMBER, float(value))), 6)


def _one_line(words: str) -> str:
    """Text without line breaks and tabs."""
    return " ".join(words.split())


def _cue_times(cue: Cue, point: str) -> str:
    """Start and end as 00:00:00.000 --> 00:00:00.000."""
    start, end = (
        f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
        for ms in (cue.start, cue.end)
    )
    return f"{start} --> {end}"
