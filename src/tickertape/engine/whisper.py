"""Windows to text: log-mel, encoder, decoder, temperature fallback, word times.

    engine = WhisperEngine.load(prepare("checkpoint"))
    outcomes = engine.decode(windows, options)

OpenVINO encodes on a CPU, CTranslate2 decodes; on CUDA CTranslate2 does both. Windows that can share a call of the
decoder do, whatever their languages, tasks and texts; each gets exactly what it would get alone. The rules around the
decoder are those of openai/whisper transcribe.py and decoding.py.
"""

from __future__ import annotations

import contextlib
import math
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tickertape.checkpoints import Prepared
from tickertape.encoder import Encoder, Precision
from tickertape.errors import DecodeError, EngineFailed, OptionError, TickertapeError
from tickertape.features import HOP, log_mel
from tickertape.languages import SPACELESS
from tickertape.machine import cores, keep_freed_memory
from tickertape.tokens import Phrase, Tokens
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES, WINDOW_SECONDS, Decoded, Options, Segment, Window, Word
from tickertape.words import Alignment, begun, timed

# Lengths to which trimmed windows are padded, in seconds: few enough that windows meet in a batch, and with silence
# after every window, as there is in a full one. Without it the demo checkpoint's text is the full window's less often.
TRIMMED_SECONDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25)
SILENCE_SECONDS = 0.5
SAMPLED = 5  # samples at temperatures above 0, of which the most probable is taken (openai/whisper's `best_of`)
TINY = 1e-10  # a probability below this has no useful logarithm
MAX_INITIAL_TIME = 50  # timestamp tokens: the first one is at most 1.0 s (openai/whisper DecodingOptions)

Array = NDArray[np.float32]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Job:
    """One window on its way through the engine."""

    window: Window
    options: Options
    length: int  # samples, padded
    features: Array  # mel [n_mels, frames], then encoder states [positions, d_model] where OpenVINO encodes
    language: str = "en"
    language_probability: float = 1.0
    attempt: _Attempt | None = None
    attempts: int = 0
    failed: bool = False  # the last attempt did not pass the checks
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0})
    shared: int = 1


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one pass of the decoder gave."""

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    temperature: float

    @property
    def compression_ratio(self) -> float:
        return compression_ratio(self.text)


def compression_ratio(text: str) -> float:
    """How far the text compresses; above 2.4 it most likely repeats itself. Empty text: 0."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


class WhisperEngine:
    """An `Engine` around one prepared checkpoint. Not thread-safe: one call at a time."""

    def __init__(
        self, decoder: Any, encoder: Encoder | None, tokens: Tokens, prepared: Prepared, reasons: tuple[str, ...]
    ):
        self._decoder = decoder
        self._encoder = encoder
        self._tokens = tokens
        self._model = prepared
        self.reasons = reasons  # what was chosen, and why, one line each

    @classmethod
    def load(
        cls,
        prepared: Prepared,
        *,
        device: str = "auto",
        compute_type: str = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
    ) -> WhisperEngine:
        """Load a prepared checkpoint.

        `device` is cpu, cuda or auto; `compute_type` the decoder's number format; `precision` the CPU encoder's (f32,
        bf16 or auto); `threads` the cores for each, used in turn.
        """
        device, why_device = choose_device(device)
        compute_type, why_type = _compute_type(compute_type, device, prepared)
        found = cores()
        count = threads or found.value
        keep_freed_memory()
        import ctranslate2

        decoder = ctranslate2.models.Whisper(
            str(prepared.decoder), device, compute_type=compute_type, intra_threads=count, inter_threads=1
        )
        encoder = None
        if device == "cpu" and prepared.encoder is not None:
            frames = None if prepared.audio_context == "trimmed" else WINDOW_SAMPLES // HOP
            encoder = Encoder(prepared.encoder, threads=count, precision=precision, frames=frames)
        reasons = (
            f"device: {device} ({why_device})",
            f"threads: {count} ({'as asked' if threads else found.reason})",
            f"encoder: {encoder.reason if encoder else f'ctranslate2 {compute_type} ({why_type})'}",
            f"decoder: ctranslate2 {compute_type} ({why_type})",
            f"windows: {prepared.audio_context} (declared by the checkpoint)",
        )
        return cls(
            decoder, encoder, Tokens(prepared.tokenizer, prepared.special_tokens, prepared.languages), prepared, reasons
        )

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes the checkpoint knows."""
        return self._tokens.languages

    @property
    def trimmed(self) -> bool:
        """Whether the checkpoint was trained on windows of any length."""
        return self._model.audio_context == "trimmed"

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """Decode each window under its own options; see `types.Engine`."""
        jobs = [self._job(window, wanted) for window, wanted in zip(windows, options, strict=True)]
        outcomes: dict[int, Decoded | DecodeError] = {}
        for group in _grouped(jobs, lambda job: job.length).values():
            outcomes |= self._outcomes(group)
        return [outcomes[id(job)] for job in jobs]

    def _outcomes(self, group: list[_Job]) -> Mapping[int, Decoded | DecodeError]:
        """Decode windows of one padded length; whatever breaks becomes their outcome."""
        try:
            self._decode_group(group)
            decoded = {id(job): self._decoded(job) for job in group}
            self._add_words([job for job in group if job.options.word_timestamps or job.options.logprobs], decoded)
        except (RuntimeError, ValueError, KeyError, TickertapeError) as error:
            failed = EngineFailed(f"The engine failed: {type(error).__name__}.")
            failed.__cause__ = error
            return dict.fromkeys(map(id, group), failed)
        return decoded

    def _job(self, window: Window, options: Options) -> _Job:
        length = self._padded_length(window.length)
        return _Job(window, options, length, log_mel(window.samples, length, self._model.dimensions.n_mels))

    def _padded_length(self, length: int) -> int:
        """Samples that the encoder is given: 30 s, or less for checkpoints trained on trimmed windows."""
        if not self.trimmed:
            return WINDOW_SAMPLES
        seconds = next((s + SILENCE_SECONDS for s in TRIMMED_SECONDS if s * SAMPLE_RATE >= length), WINDOW_SECONDS)
        return int(seconds * SAMPLE_RATE)

    def _decode_group(self, group: list[_Job]) -> None:
        """Encode windows of one length, find their languages, and decode until each passes its checks."""
        with _timed(group, "encode"):
            self._encode(group)
        with _timed(group, "decode"):
            self._find_languages([job for job in group if job.options.language is None])
            for job in group:
                job.language = job.options.language or job.language
            step, waiting = 0, group
            while waiting:
                for same in _grouped(waiting, self._call_key(step)).values():
                    self._attempt(same, step)
                step += 1
                waiting = [job for job in waiting if job.failed and step < len(job.options.temperatures)]

    def _encode(self, group: list[_Job]) -> None:
        if self._encoder is None:
            return
        states = self._encoder.encode(np.stack([job.features for job in group]))
        for job, own in zip(group, states, strict=True):
            job.features = own

    def _input(self, group: list[_Job]) -> Any:
        """The group's features, as the decoder takes them: [batch, ...]."""
        import ctranslate2

        stacked = group[0].features[None] if len(group) == 1 else np.stack([job.features for job in group])
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(stacked))

    def _find_languages(self, group: list[_Job]) -> None:
        if not group or len(self.languages) == 1:
            for job in group:
                job.language = self.languages[0]
            return
        for job, ranked in zip(group, self._decoder.detect_language(self._input(group)), strict=True):
            job.language, job.language_probability = ranked[0][0].strip("<|>"), float(ranked[0][1])

    def _call_key(self, step: int) -> Callable[[_Job], Hashable]:
        """What windows must share to share a call: the layout of the prompt and the way tokens are chosen."""

        def key(job: _Job) -> Hashable:
            prompt = self._prompt(job)
            temperature = job.options.temperatures[step]
            alone = id(job) if temperature > 0 else None
            return (
                len(prompt),
                job.options.timestamps,
                temperature,
                job.options.beam_size,
                job.options.max_new_tokens,
                alone,
            )

        return key

    def _prompt(self, job: _Job) -> list[int]:
        return self._tokens.prompt(job.options, job.language, self._model.dimensions.max_target_positions // 2 - 1)

    def _attempt(self, group: list[_Job], step: int) -> None:
        """Decode windows of equal prompt layout at their options' temperature number `step`."""
        first = group[0].options
        temperature = first.temperatures[step]
        prompts = [self._prompt(job) for job in group]
        results = self._decoder.generate(
            self._input(group),
            prompts,
            **_search(first, temperature),
            max_length=self._max_length(first, len(prompts[0])),
            return_scores=True,
            return_no_speech_prob=True,
            max_initial_timestamp_index=MAX_INITIAL_TIME,
            suppress_tokens=[-1, *self._tokens.specials],
        )
        for job, result in zip(group, results, strict=True):
            job.attempt = self._read(result, temperature)
            job.attempts += 1
            job.failed = _fails(job.attempt, job.options)
            job.shared = max(job.shared, len(group))

    def _max_length(self, options: Options, prompt: int) -> int:
        """CTranslate2's `max_length` for the wanted number of new tokens.

        It generates min(max_length / 2, max_length - prompt + 1) of them (src/models/whisper.cc).
        """
        most = self._model.dimensions.max_target_positions
        wanted = min(options.max_new_tokens or most // 2, most // 2)
        return min(most, max(2 * wanted, wanted + prompt - 1))

    def _read(self, result: Any, temperature: float) -> _Attempt:
        best = max(range(len(result.scores)), key=lambda index: result.scores[index])
        tokens = tuple(result.sequences_ids[best])
        # The score is the mean over the tokens; the original's mean counts `<|endoftext|>` too.
        avg_logprob = result.scores[best] * len(tokens) / (len(tokens) + 1) if tokens else 0.0
        return _Attempt(tokens, self._tokens.decode(tokens), avg_logprob, result.no_speech_prob, temperature)

    def _decoded(self, job: _Job) -> Decoded:
        """Read the last attempt as segments, unless it is silence."""
        attempt = job.attempt
        if attempt is None:
            raise ValueError("no temperature was given")
        segments: tuple[Segment, ...] = ()
        if not _is_silence(attempt, job.options):
            phrases = self._tokens.phrases(attempt.tokens, job.window.length)
            found = (self._segment(phrase, job, attempt) for phrase in phrases)
            segments = tuple(segment for segment in found if segment.text.strip())
        return Decoded(
            segments,
            job.language,
            job.language_probability,
            attempt.no_speech_prob,
            attempts=job.attempts,
            batch_size=job.shared,
            encode_seconds=job.seconds["encode"],
            decode_seconds=job.seconds["decode"],
        )

    def _segment(self, phrase: Phrase, job: _Job, attempt: _Attempt) -> Segment:
        return Segment(
            phrase.start,
            phrase.end,
            self._tokens.decode(phrase.tokens),
            phrase.tokens,
            language=job.language,
            channel=job.window.channel,
            temperature=attempt.temperature,
            avg_logprob=attempt.avg_logprob,
            compression_ratio=attempt.compression_ratio,
            no_speech_prob=attempt.no_speech_prob,
        )

    def _add_words(self, jobs: list[_Job], decoded: dict[int, Decoded]) -> None:
        """Align the text of windows of one length with their audio; fills in words and token probabilities."""
        spoken = [job for job in jobs if decoded[id(job)].segments]
        for same in _grouped(spoken, lambda job: tuple(self._tokens.task(job.options, job.language))).values():
            with _timed(same, "decode"):
                results = self._decoder.align(
                    self._input(same),
                    self._tokens.task(same[0].options, same[0].language),
                    [[token for segment in decoded[id(job)].segments for token in segment.tokens] for job in same],
                    [_content_frames(job) for job in same],
                )
            for job, result in zip(same, results, strict=True):
                alignment = Alignment(result.alignments, result.text_token_probs)
                decoded[id(job)] = replace(
                    decoded[id(job)],
                    segments=tuple(self._aligned(decoded[id(job)].segments, alignment, job)),
                    decode_seconds=job.seconds["decode"],
                )

    def _aligned(self, segments: tuple[Segment, ...], alignment: Alignment, job: _Job) -> Iterator[Segment]:
        """Give each segment its words and its tokens' probabilities."""
        spaced = job.language not in SPACELESS
        texts = [word for segment in segments for word in self._tokens.words(segment.tokens, spaced=spaced)]
        words = deque(timed(texts, alignment, job.window.length))
        seen = reached = 0
        for segment in segments:
            first, seen = seen, seen + len(segment.tokens)
            own: list[Word] = []
            while words and reached < seen:
                word, count = words.popleft()
                own.append(word)
                reached += count
            yield self._with(segment, own, alignment.probabilities[first:seen], job.options)

    def _with(self, segment: Segment, words: list[Word], probabilities: Sequence[float], options: Options) -> Segment:
        if options.logprobs:
            segment = replace(
                segment,
                token_logprobs=tuple(math.log(max(probability, TINY)) for probability in probabilities),
                token_bytes=tuple(self._tokens.bytes_of(token) for token in segment.tokens),
            )
        if options.word_timestamps:
            segment = replace(segment, words=tuple(begun(words, segment.start) if options.timestamps else words))
        if words and not options.timestamps:
            segment = replace(segment, start=words[0].start, end=words[-1].end)
        return segment


def choose_device(wanted: str) -> tuple[str, str]:
    """Choose the device, cpu or cuda, with the reason. Raises `OptionError` for one that is not there."""
    import ctranslate2

    if wanted not in {"auto", "cpu", "cuda"}:
        raise OptionError("The device must be cpu, cuda or auto.", "device", "invalid_device")
    present = ctranslate2.get_cuda_device_count() > 0
    if wanted == "cuda" and not present:
        raise OptionError("No CUDA device is present; leave the device to auto.", "device", "invalid_device")
    if wanted != "auto":
        return wanted, "as asked"
    if present:
        return "cuda", "a CUDA device is present"
    return "cpu", "no CUDA device is present"


def _compute_type(wanted: str, device: str, prepared: Prepared) -> tuple[str, str]:
    """Choose the decoder's number format, with the reason."""
    if wanted != "auto":
        return wanted, "as asked"
    if device == "cuda":
        return "float16", "fastest on CUDA"
    if prepared.compute_type == "as is":  # a CTranslate2 folder: it knows how its weights are stored
        return "default", "as the CTranslate2 model was stored"
    return prepared.compute_type, "as the checkpoint was prepared"


def _search(options: Options, temperature: float) -> dict[str, Any]:
    """CTranslate2's arguments for one temperature: greedy or beam at 0, else the best of a few samples."""
    if temperature > 0:
        return {"beam_size": 1, "num_hypotheses": SAMPLED, "sampling_topk": 0, "sampling_temperature": temperature}
    return {"beam_size": options.beam_size}


def _fails(attempt: _Attempt, options: Options) -> bool:
    """Whether the text should be tried again: it repeats itself or was guessed, and it is not silence."""
    ratio, logprob = options.compression_ratio_threshold, options.logprob_threshold
    repeats = ratio is not None and attempt.compression_ratio > ratio
    guessed = logprob is not None and attempt.avg_logprob < logprob
    silent = options.no_speech_threshold is not None and attempt.no_speech_prob > options.no_speech_threshold
    return (repeats or guessed) and not (silent and guessed)


def _is_silence(attempt: _Attempt, options: Options) -> bool:
    """Whether the model takes the window for silence, and is not sure of its text either."""
    if options.no_speech_threshold is None or attempt.no_speech_prob <= options.no_speech_threshold:
        return False
    return options.logprob_threshold is None or attempt.avg_logprob <= options.logprob_threshold


def _content_frames(job: _Job) -> int:
    """Mel frames that hold the window's own samples: an even number, as two make an encoder position."""
    return max(2, 2 * -(-job.window.length // (2 * HOP)))


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, in order."""
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


@contextlib.contextmanager
def _timed(jobs: list[_Job], what: str) -> Iterator[None]:
    """Add the time that a block takes to each of its windows."""
    started = time.perf_counter()
    yield
    for job in jobs:
        job.seconds[what] += time.perf_counter() - started
