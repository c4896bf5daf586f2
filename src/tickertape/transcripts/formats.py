"""Transcript to text, json, verbose_json, srt, vtt, tsv and stream events.

Samples become milliseconds here, once and rounded half up.
The JSON shapes are OpenAI's; a word's `probability`, a segment's `channel` and `warnings` are ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from tickertape.cues import Cue, cues, milliseconds
from tickertape.languages import LANGUAGES, separator
from tickertape.types import SAMPLE_RATE, Segment, Transcript

Json: TypeAlias = dict[str, Any]

HOP = 160  # samples per feature frame, the unit of OpenAI's `seek`
FINITE = 1e6  # what an infinite probability becomes: JSON has no infinity


def text(transcript: Transcript) -> str:
    """The text on one line; of a split recording, a line for each turn with its speaker."""
    if transcript.channels == 1:
        return f"{_line(transcript.text)}\n"
    lines: list[str] = []
    last: Segment | None = None
    for segment in transcript.segments:
        if last is not None and last.channel == segment.channel:
            lines[-1] += separator(last.language, segment.language) + _line(segment.text)
        else:
            lines.append(f"{speaker(segment.channel)}: {_line(segment.text)}")
        last = segment
    return "".join(f"{line}\n" for line in lines)


def json_object(transcript: Transcript) -> Json:
    """OpenAI's `json` body."""
    return {"text": transcript.text, "usage": usage(transcript), **_warnings(transcript)}


def verbose_object(transcript: Transcript, *, segments: bool = True, words: bool = True) -> Json:
    """OpenAI's `verbose_json` body, times in seconds; `words` appear only if the transcript has any."""
    split = transcript.channels > 1
    spoken = "en" if transcript.task == "translate" else transcript.language  # OpenAI names what the text is in
    body: Json = {
        "task": transcript.task,
        "language": LANGUAGES.get(spoken, spoken),
        "duration": _seconds(transcript.duration),
        "text": transcript.text,
    }
    if segments:
        body["segments"] = [_segment(i, segment, split=split) for i, segment in enumerate(transcript.segments)]
    if words and transcript.words:
        body["words"] = [
            {
                "word": word.text.strip(),
                "start": _seconds(word.start),
                "end": _seconds(word.end),
                "probability": _number(word.probability),
                **({"channel": segment.channel} if split else {}),
            }
            for segment in transcript.segments
            for word in segment.words
        ]
    return body | {"usage": usage(transcript)} | _warnings(transcript)


def srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds, the speaker of a split recording before the text."""
    blocks = []
    for number, cue in enumerate(cues(transcript, label=_srt_label(transcript)), 1):
        name = f"{speaker(cue.channel)}: " if transcript.channels > 1 else ""
        blocks.append(f"{number}\n{_span(cue, ',')}\n{name}{cue.text}\n")
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    """WebVTT: `&`, `<` and `>` escaped, the speaker of a split recording in a voice tag."""
    blocks = ["WEBVTT\n"]
    for cue in cues(transcript):
        voice = f"<v {speaker(cue.channel)}>" if transcript.channels > 1 else ""
        escaped = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_span(cue, '.')}\n{voice}{escaped}\n")
    return "\n".join(blocks)


def tsv(transcript: Transcript) -> str:
    """Tab-separated: start and end in milliseconds, text; of a split recording, the channel too."""
    split = transcript.channels > 1
    rows = ["start\tend\ttext" + ("\tchannel" if split else "")]
    for segment in transcript.segments:
        row = f"{milliseconds(segment.start)}\t{milliseconds(segment.end)}\t{_line(segment.text)}"
        rows.append(row + (f"\t{segment.channel}" if split else ""))
    return "".join(f"{row}\n" for row in rows)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": text,
    "json": lambda transcript: _dumped(json_object(transcript)),
    "verbose_json": lambda transcript: _dumped(verbose_object(transcript)),
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
}


def delta_event(segment: Segment, previous: Segment | None = None) -> Json:
    """A stream event for a segment that is final, after `previous`; all deltas together are the text."""
    before = "" if previous is None else separator(previous.language, segment.language)
    return {"type": "transcript.text.delta", "delta": before + segment.text.strip()}


def done_event(transcript: Transcript) -> Json:
    """The last stream event: everything."""
    return {"type": "transcript.text.done", **json_object(transcript)}


def speaker(channel: int) -> str:
    """What subtitles call the speaker on a channel."""
    return f"Speaker {channel + 1}"


def usage(transcript: Transcript) -> Json:
    """OpenAI's usage: seconds begun."""
    return {"type": "duration", "seconds": -(-transcript.duration // SAMPLE_RATE)}


def _segment(number: int, segment: Segment, *, split: bool) -> Json:
    return {
        "id": number,
        "seek": segment.start // HOP,
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": _number(segment.temperature),
        "avg_logprob": _number(segment.avg_logprob),
        "compression_ratio": _number(segment.compression_ratio),
        "no_speech_prob": _number(segment.no_speech_prob),
        **({"channel": segment.channel} if split else {}),
    }


def _warnings(transcript: Transcript) -> Json:
    warnings = [{"code": notice.code, "message": notice.message} for notice in transcript.notices]
    return {"warnings": warnings} if warnings else {}


def _dumped(body: Json) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n"


def _seconds(samples: int) -> float:
    return milliseconds(samples) / 1000


def _number(value: float) -> float:
    """A finite number of six decimals."""
    return 0.0 if math.isnan(value) else round(max(-FINITE, min(FINITE, float(value))), 6)


def _line(words: str) -> str:
    """Text without line breaks and tabs."""
    return " ".join(words.split())


def _srt_label(transcript: Transcript) -> int:
    """Characters that the longest speaker's name takes of a cue's first line."""
    return len(f"{speaker(transcript.channels - 1)}: ") if transcript.channels > 1 else 0


def _span(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}"


def _clock(time: int, point: str) -> str:
    """Milliseconds as 00:00:00.000."""
    seconds, thousandths = divmod(time, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"
