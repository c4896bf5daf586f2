"""The values that flow through Tickertape, and its two seams.

Times are integer samples at 16 kHz; the properties `start`, `end` and `duration` of results are seconds. Formats round
samples to milliseconds once, at the end. Values are frozen and picklable, to cross process borders on a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tickertape.errors import DecodeError

SAMPLE_RATE = 16_000  # Hz, the only rate Whisper's features are defined for
WINDOW_SECONDS = 30  # what Whisper's encoder was trained on
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE  # 480,000 samples
SAMPLES_PER_TOKEN = SAMPLE_RATE // 50  # 320 samples: one timestamp token is 0.02 s, one encoder position too

Samples: TypeAlias = NDArray[np.float32]  # full scale is -1.0 to 1.0
Task: TypeAlias = Literal["transcribe", "translate"]
Priority: TypeAlias = Literal["interactive", "batch"]

FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai/whisper transcribe.py: greedy, then five retries


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a recording, in samples: `start` inclusive, `end` exclusive."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Samples in the span."""
        return self.end - self.start


Detect: TypeAlias = Callable[[Samples], Iterable[Span]]  # where speech is


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning about a transcript, such as a damaged frame: a stable code (`corrupt_frames`) and a message."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A decoded recording: finite float32 samples of shape [channels, n] at 16 kHz, and notices."""

    samples: Samples
    notices: tuple[Notice, ...] = ()

    @property
    def length(self) -> int:
        """Samples per channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.length / SAMPLE_RATE


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A piece of one channel, at most 30 s, that is decoded at once."""

    samples: Samples  # shape [n]
    start: int = 0  # of the first sample in the recording
    channel: int = 0
    overlap: int = 0  # leading samples that the previous window of the channel holds too; `Assembler` merges the words
    tail: int = 0  # trailing samples that the next window holds too; 0: the text is final once decoded
    recording: int = 0  # samples of the whole recording, for the scheduler; 0: the window is all of it
    doubtful: bool = False  # no speech was detected: the text counts only if the model is sure of it

    @property
    def length(self) -> int:
        """Samples in the window."""
        return int(self.samples.shape[0])

    @property
    def end(self) -> int:
        """Where the window ends in the recording, in samples."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Options:
    """How one window is decoded. Defaults are openai/whisper's; `Model.check` validates them against the model."""

    language: str | None = None  # ISO 639-1 code; None: detect it in each window
    languages: tuple[str, ...] = ()  # among which a language is detected; empty: all of the model's
    multilingual: bool = False  # keep each window's language; False: windows that are unsure take the recording's
    task: Task = "transcribe"
    prompt: str | None = None  # earlier text or spelling hints; never part of the output
    hotwords: str | None = None  # words to expect, given to the model as a prompt
    timestamps: bool = True  # segment times from timestamp tokens; False: one segment per window
    word_timestamps: bool = False
    logprobs: bool = False  # fill `Segment.token_logprobs` and `token_bytes`

    beam_size: int = 1  # 1 to 10; 1 is greedy
    temperatures: tuple[float, ...] = FALLBACK_TEMPERATURES  # tried in turn until the checks below pass
    max_new_tokens: int | None = None  # None: as many as the model's text context allows

    # the checks of openai/whisper transcribe.py
    compression_ratio_threshold: float | None = 2.4  # above: the text repeats itself
    logprob_threshold: float | None = -1.0  # below: the model is guessing
    no_speech_threshold: float | None = 0.6  # above, with a low log probability: silence

    # for the scheduler; the engine ignores them
    priority: Priority = "interactive"
    deadline: float | None = None  # Unix time after which the window is dropped


@dataclass(frozen=True, slots=True)
class Reading:
    """How a recording is read before it is decoded in windows."""

    channels: Literal["mix", "split"] = "mix"  # "split": transcribe each channel on its own
    vad: bool = True  # False: no speech detection, plain 30 s windows with overlap
    track: int | None = None  # audio track, counted from 0; None: the first that can be decoded
    audio_format: str | None = None  # of headerless data: "mulaw;rate=8000;channels=2"
    max_seconds: float | None = None  # longest recording accepted; None: the default of `audio.limits.Limits`


class _Interval:
    """A stretch of time that is stored in samples."""

    __slots__ = ()
    start_sample: int
    end_sample: int

    @property
    def start(self) -> float:
        """Start in seconds."""
        return self.start_sample / SAMPLE_RATE

    @property
    def end(self) -> float:
        """End in seconds."""
        return self.end_sample / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word(_Interval):
    """A word with its punctuation and its leading space, if it has one. `start` and `end` are seconds."""

    text: str
    start_sample: int
    end_sample: int
    probability: float


@dataclass(frozen=True, slots=True)
class Segment(_Interval):
    """A phrase: the text between two timestamps of the model, or a whole window without timestamps.

    Times count from the start of the window in `Decoded`, else of the recording. `start` and `end` are seconds.
    """

    start_sample: int
    end_sample: int
    text: str
    tokens: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    language: str = "en"
    channel: int = 0
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    token_logprobs: tuple[float, ...] = ()  # one per token, if `Options.logprobs` is set
    token_bytes: tuple[bytes, ...] = ()  # likewise: UTF-8; a character may be divided among tokens


@dataclass(frozen=True, slots=True)
class Decoded:
    """The engine's result for one window. Empty `segments` mean silence."""

    segments: tuple[Segment, ...]
    language: str = "en"
    language_probability: float = 1.0
    no_speech_prob: float = 0.0
    unfinished_from: int | None = None  # samples; from there on the window has to be decoded again; None: it is whole
    attempts: int = 1  # temperatures tried
    batch_size: int = 1  # windows decoded together with this one, itself included
    queue_seconds: float = 0.0
    encode_seconds: float = 0.0  # this window's share of the calls it was in: sums over windows equal the time spent
    decode_seconds: float = 0.0  # likewise

    @property
    def text(self) -> str:
        """The window's text, as the model wrote it."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole recording: its segments in order of time."""

    text: str
    segments: tuple[Segment, ...]
    language: str
    samples: int  # per channel
    task: Task = "transcribe"
    notices: tuple[Notice, ...] = ()
    channels: int = 1  # above 1: each channel was transcribed on its own; see `Segment.channel`

    @property
    def duration(self) -> float:
        """Duration of the recording in seconds."""
        return self.samples / SAMPLE_RATE

    @property
    def words(self) -> tuple[Word, ...]:
        """Every word in order; empty unless `Options.word_timestamps` is set."""
        return tuple(word for segment in self.segments for word in segment.words)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a checkpoint."""

    name: str
    trimmed: bool = False  # trained on windows of any length
    languages: tuple[str, ...] = ("en",)  # ISO 639-1 codes
    translates: bool = True  # False for English-only checkpoints
    created: int = 0  # Unix time of the checkpoint


class Engine(Protocol):
    """Synchronous, takes a batch: the model in this process, or a fake."""

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """Decode each window under its own options. An outcome per window, in order; a failure affects no other."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Retry:
    """A window whose text failed the checks.

    An engine may have a method `decode_once`: `decode` with one temperature a call. It returns a `Retry` for a window
    that needs another, and takes it in place of the window. The caller may decode other windows in between.
    """

    state: object  # the engine's own


class Backend(Protocol):
    """Asynchronous, takes one window: `LocalBackend` or a Ray cluster schedules it."""

    async def decode(self, window: Window, options: Options) -> Decoded:
        """Decode one window; cancelling drops it unless decoding has started. Raises `DecodeError`."""
        ...
