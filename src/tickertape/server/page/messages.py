"""What the server sends to the browser during a transcription: each message holds what is new since the last."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tickertape.audio.demux import HEADERLESS_HINT
from tickertape.errors import TickertapeError
from tickertape.pipeline import Update
from tickertape.transcripts.formats import RENDERERS
from tickertape.transcripts.languages import LANGUAGES
from tickertape.transcripts.subtitles import milliseconds
from tickertape.types import Audio, Segment, Transcript

WAVEFORM_BARS = 240
WAVEFORM_SAMPLES = 2_000_000  # at most this many are looked at; more take time and change no bar
DOWNLOADS = {"txt": "text", "srt": "srt", "vtt": "vtt", "json": "verbose_json"}  # file name ending: format

Json = dict[str, Any]


@dataclass(slots=True)
class Messages:
    """Makes the messages of one transcription.

    Every message repeats a few constant facts, because browsers may skip a message that is followed by another at once.
    Segments are keyed by their index and counted at the end, so that the page notices when it lacks some.
    """

    run: int  # the browser's number of the transcription
    audio_seconds: float = 0.0  # of all channels together
    recording: Json = field(default_factory=dict)  # duration, channels and waveform
    segment_count: int = 0
    done: float = 0.0  # share of the recording that is transcribed, 0 to 1
    started: float = field(default_factory=time.perf_counter)

    async def start(self, audio: Audio) -> Json:
        """The message about a decoded recording."""
        self.audio_seconds = audio.seconds * len(audio.samples)
        bars = await asyncio.to_thread(waveform, audio)
        self.recording = {"duration": round(audio.seconds, 3), "channels": len(audio.samples), "peaks": bars}
        return self._message("running")

    async def add(self, update: Update) -> Json:
        """The message about a pipeline update; the last one holds the text and the files."""
        self.done = round(update.done / max(1, update.total), 4)
        new = {str(index): _segment(segment) for index, segment in enumerate(update.segments, self.segment_count)}
        self.segment_count += len(new)
        if update.transcript is None:
            return self._message("running", segments=new)
        result = await asyncio.to_thread(_result, update.transcript)  # takes a second after hours of speech
        return self._message("done", segments=new, count=self.segment_count, **result)

    def fail(self, error: TickertapeError) -> Json:
        """The message about an error."""
        text = error.message.removesuffix(HEADERLESS_HINT).strip()  # the hint names fields of the API
        return self._message("failed", error={"code": error.code, "message": text})

    def _message(self, state: str, **facts: Any) -> Json:
        elapsed = time.perf_counter() - self.started
        seconds = self.audio_seconds * self.done
        factor = round(elapsed / seconds, 4) if seconds else None
        figures = {"done": self.done, "elapsed": round(elapsed, 3), "factor": factor}
        return {"run": self.run, "state": state, **self.recording, **figures, **facts}


def _segment(segment: Segment) -> Json:
    """A segment with times in seconds."""
    return {
        "start": milliseconds(segment.start_sample) / 1000,
        "end": milliseconds(segment.end_sample) / 1000,
        "text": segment.text.strip(),
        "channel": segment.channel,
        "words": [
            [milliseconds(word.start_sample) / 1000, milliseconds(word.end_sample) / 1000, word.text]
            for word in segment.words
        ],
    }


def _result(transcript: Transcript) -> Json:
    """The complete text, and the files to download."""
    files = {name: RENDERERS[style](transcript) for name, style in DOWNLOADS.items()}
    return {
        "language": LANGUAGES.get(transcript.language, transcript.language),
        "text": files["txt"].strip(),
        "notices": [notice.message for notice in transcript.notices],
        "files": files,
    }


def waveform(audio: Audio) -> list[int]:
    """The loudest sample of each bar, from 0 to 100; 100 is the loudest sample of the recording."""
    loudness = np.abs(audio.samples[:, :: 1 + audio.length // WAVEFORM_SAMPLES]).max(axis=0)
    edges = np.linspace(0, len(loudness), WAVEFORM_BARS, endpoint=False, dtype=np.int64)
    bars = np.maximum.reduceat(loudness, edges)
    return [round(100 * float(bar) / max(float(bars.max()), 1e-4)) for bar in bars]
