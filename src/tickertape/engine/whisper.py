"""Windows to text: log-mel, encoder, decoder, temperature fallback, word times.

    engine = load_engine("openai/whisper-base")
    outcomes = engine.decode(windows, options)

OpenVINO encodes on a CPU, CTranslate2 decodes; on CUDA CTranslate2 does both. Windows with the same prompt layout and
search parameters share a call of the decoder; each gets exactly the result it would get alone. The rules around the
decoder are those of openai/whisper transcribe.py and decoding.py.
"""

from __future__ import annotations

import contextlib
import math
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tickertape.checkpoints.prepare import Prepared
from tickertape.engine.encoder import Encoder
from tickertape.engine.mel import HOP, log_mel
from tickertape.engine.tokenizer import WhisperTokenizer
from tickertape.engine.word_timestamps import clip_starts, time_words
from tickertape.errors import DecodeError, EngineError
from tickertape.transcripts.languages import SPACELESS
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES, Decoded, ModelInfo, Options, Retry, Segment, Window, Word

# Lengths to which trimmed windows are padded, in seconds: few, so that windows share batches. Silence follows each, as
# in a full window; otherwise the synthetic-voice model's text differs from the full window's more often.
TRIMMED_SECONDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25)
SILENCE_SECONDS = 0.5
BEST_OF = 5  # samples at temperatures above 0, of which the most probable is taken (openai/whisper's `best_of`)
MIN_PROBABILITY = 1e-10  # a probability below this has no useful logarithm
MAX_INITIAL_TIME = 50  # timestamp tokens: the first one is at most 1.0 s (openai/whisper DecodingOptions)

Array = NDArray[np.float32]
T = TypeVar("T")


@dataclass(slots=True)
class _State:
    """The state of one window between the passes of the decoder."""

    window: Window
    options: Options
    length: int  # samples, padded
    features: Array  # mel [n_mels, frames], then encoder states [positions, d_model] where OpenVINO encodes
    language: str
    language_probability: float = 1.0
    attempt: _Attempt | None = None
    attempts: int = 0
    failed: bool = False  # the last attempt did not pass the checks
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0})
    shared: int = 1

    @property
    def temperature(self) -> float:
        """The temperature of the next attempt."""
        return self.options.temperatures[self.attempts]

    @property
    def needs_retry(self) -> bool:
        return self.failed and self.attempts < len(self.options.temperatures)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The result of one pass of the decoder."""

    tokens: tuple[int, ...]
    text: str
    avg_logprob: float
    no_speech_prob: float
    temperature: float

    @property
    def compression_ratio(self) -> float:
        """How far the text compresses; above 2.4 it most likely repeats itself. Empty text: 0."""
        raw = self.text.encode("utf-8")
        return len(raw) / len(zlib.compress(raw))


class WhisperEngine:
    """An `Engine` around one prepared checkpoint. Not thread-safe: one call at a time."""

    def __init__(self, decoder: Any, encoder: Encoder | None, prepared: Prepared, reasons: tuple[str, ...]) -> None:
        self._decoder, self._encoder, self.prepared = decoder, encoder, prepared
        tokenizer = prepared.folder / "tokenizer.json"
        self._tokenizer = WhisperTokenizer(tokenizer, prepared.special_tokens, prepared.languages)
        self.reasons = reasons  # device, threads and number formats, each with why it was chosen

    @property
    def info(self) -> ModelInfo:
        """Facts about the checkpoint."""
        return self.prepared.info

    def decode(self, windows: Sequence[Window], options: Sequence[Options]) -> list[Decoded | DecodeError]:
        """Decode each window under its own options; see `types.Engine`."""
        outcomes: list[Any] = list(windows)
        while pending := [number for number, each in enumerate(outcomes) if isinstance(each, Window | Retry)]:
            found = self.decode_once([outcomes[number] for number in pending], [options[number] for number in pending])
            for number, outcome in zip(pending, found, strict=True):
                outcomes[number] = outcome
        return outcomes

    def align(self, window: Window, text: str) -> Decoded | DecodeError:
        """Time the words of a given text in a window, whatever the model would write."""
        try:
            state = self._state(window, Options(word_timestamps=True))
            self._encode([state])
            segment = Segment(0, window.length, text, tuple(self._tokenizer.encode(text)), language=state.language)
            decoded = {id(state): Decoded((segment,), state.language)}
            self._add_words([state], decoded)
        except Exception as error:  # noqa: BLE001 - whatever the libraries raise
            return EngineError.of(error)
        return decoded[id(state)]

    def decode_once(
        self, windows: Sequence[Window | Retry], options: Sequence[Options]
    ) -> list[Decoded | DecodeError | Retry]:
        """Try each window's next temperature; see `types.Retry`."""
        numbered = list(enumerate(zip(windows, options, strict=True)))
        outcomes: dict[int, Decoded | DecodeError | Retry] = {}
        for group in _grouped(numbered, lambda each: self._call_length(each[1][0])).values():
            numbers, calls = zip(*group, strict=True)
            outcomes |= zip(numbers, self._outcomes(calls), strict=True)
        return [outcomes[number] for number in range(len(windows))]

    def _outcomes(self, calls: Sequence[tuple[Window | Retry, Options]]) -> list[Decoded | DecodeError | Retry]:
        """Decode windows of one padded length. After an exception each one is decoded alone, so that it fails alone."""
        try:
            group = [self._state(*call) for call in calls]
            self._decode_group(group)
            decoded = {id(state): self._decoded(state) for state in group if not state.needs_retry}
            self._add_words(group, decoded)
        except Exception as error:  # noqa: BLE001 - whatever the libraries raise, the other windows have an outcome
            if len(calls) == 1:
                return [EngineError.of(error)]
            return [outcome for call in calls for outcome in self._outcomes([call])]
        return [decoded.get(id(state), Retry(state)) for state in group]

    def _state(self, window: Window | Retry, options: Options) -> _State:
        if isinstance(window, Retry):
            state = _own(window)
            return replace(state, seconds=dict(state.seconds))  # the one in `window` stays as it is, if a call fails
        length = self._padded_length(window.length)
        mel = log_mel(window.samples, length, self.prepared.dimensions.n_mels)
        return _State(window, options, length, mel, options.language or self._tokenizer.languages[0])

    def _call_length(self, window: Window | Retry) -> int:
        return _own(window).length if isinstance(window, Retry) else self._padded_length(window.length)

    def _padded_length(self, length: int) -> int:
        """Samples of the encoder's input: 30 s, or less for checkpoints trained on trimmed windows."""
        if self.prepared.audio_context == "full":
            return WINDOW_SAMPLES
        seconds = next((seconds for seconds in TRIMMED_SECONDS if seconds * SAMPLE_RATE >= length), None)
        return int((seconds + SILENCE_SECONDS) * SAMPLE_RATE) if seconds else WINDOW_SAMPLES

    def _decode_group(self, group: list[_State]) -> None:
        """Decode windows of one padded length at each one's next temperature; encode the new ones first."""
        new = [state for state in group if not state.attempts]
        self._encode(new)
        if len(self._tokenizer.languages) > 1:
            self._find_languages([state for state in new if state.options.language is None])
        for same in _grouped(group, self._call_key).values():
            with _measure(same, "decode"):
                self._attempt(same)

    def _encode(self, group: list[_State]) -> None:
        if self._encoder and group:
            with _measure(group, "encode"):
                encoded = self._encoder.encode(np.stack([state.features for state in group]))
            for state, features in zip(group, encoded, strict=True):
                state.features = features

    def _input(self, group: list[_State]) -> Any:
        """The group's features in the decoder's format: [batch, ...]."""
        import ctranslate2

        stacked = group[0].features[None] if len(group) == 1 else np.stack([state.features for state in group])
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(stacked))

    def _find_languages(self, group: list[_State]) -> None:
        if not group:
            return
        with _measure(group, "decode"):
            detected = self._decoder.detect_language(self._input(group))
        for state, ranked in zip(group, detected, strict=True):
            allowed = state.options.languages or self._tokenizer.languages
            found = [(code, probability) for token, probability in ranked if (code := token.strip("<|>")) in allowed]
            state.language = found[0][0]
            state.language_probability = float(found[0][1] / max(sum(each for _, each in found), MIN_PROBABILITY))

    def _call_key(self, state: _State) -> Hashable:
        """Equal for windows that can share a decoder call: prompt layout and search parameters."""
        options = state.options
        alone = id(state) if state.temperature > 0 else None  # sampled tokens depend on the neighbours in a batch
        search = (options.timestamps, state.temperature, options.beam_size, options.max_new_tokens)
        return len(self._prompt(state)), search, alone

    def _prompt(self, state: _State) -> list[int]:
        room = self.prepared.dimensions.max_target_positions // 2 - 1
        return self._tokenizer.prompt(state.options, state.language, room)

    def _attempt(self, group: list[_State]) -> None:
        """Decode windows of equal prompt layout and temperature."""
        first, temperature = group[0].options, group[0].temperature
        prompts = [self._prompt(state) for state in group]
        sampling = {"num_hypotheses": BEST_OF, "sampling_topk": 0, "sampling_temperature": temperature}
        results = self._decoder.generate(
            self._input(group),
            prompts,
            beam_size=1 if temperature > 0 else first.beam_size,
            **(sampling if temperature > 0 else {}),
            max_length=self._max_length(first, len(prompts[0])),
            return_scores=True,
            return_no_speech_prob=True,
            max_initial_timestamp_index=MAX_INITIAL_TIME,
            suppress_tokens=[-1, *self._tokenizer.specials],
        )
        for state, result in zip(group, results, strict=True):
            state.attempt = self._read(result, temperature)
            state.attempts += 1
            state.failed = _fails(state.attempt, state.options)
            state.shared = max(state.shared, len(group))

    def _max_length(self, options: Options, prompt: int) -> int:
        """CTranslate2's `max_length`: it makes min(max_length / 2, max_length - prompt + 1) tokens (whisper.cc)."""
        wanted = self._max_tokens(options)
        return min(self.prepared.dimensions.max_target_positions, max(2 * wanted, wanted + prompt - 1))

    def _max_tokens(self, options: Options) -> int:
        half = self.prepared.dimensions.max_target_positions // 2
        return min(options.max_new_tokens or half, half)

    def _read(self, result: Any, temperature: float) -> _Attempt:
        best = max(range(len(result.scores)), key=lambda index: result.scores[index])
        tokens = tuple(result.sequences_ids[best])
        # The score is the mean over the tokens; the original's mean counts `<|endoftext|>` too.
        avg_logprob = result.scores[best] * len(tokens) / (len(tokens) + 1) if tokens else 0.0
        return _Attempt(tokens, self._tokenizer.decode(tokens), avg_logprob, result.no_speech_prob, temperature)

    def _decoded(self, state: _State) -> Decoded:
        """Read the last attempt as segments, unless it is silence."""
        attempt = state.attempt
        assert attempt is not None  # noqa: S101 - `Model.check` wants a temperature, and a state has one attempt or more
        silent = _is_silence(attempt, state.options)
        truncated = state.options.max_new_tokens is None and len(attempt.tokens) >= self._max_tokens(state.options)
        tokens, unfinished_from = self._tokenizer.finished(attempt.tokens, truncated=truncated)
        phrases = [] if silent else self._tokenizer.phrases(tokens, state.window.length)
        segments = [
            Segment(
                phrase.start,
                phrase.end,
                self._tokenizer.decode(phrase.tokens),
                phrase.tokens,
                language=state.language,
                channel=state.window.channel,
                temperature=attempt.temperature,
                avg_logprob=attempt.avg_logprob,
                compression_ratio=attempt.compression_ratio,
                no_speech_prob=attempt.no_speech_prob,
            )
            for phrase in phrases
        ]
        return Decoded(
            tuple(segment for segment in segments if segment.text.strip()),
            state.language,
            state.language_probability,
            attempt.no_speech_prob,
            None if silent else unfinished_from,
            attempts=state.attempts,
            batch_size=state.shared,
            encode_seconds=state.seconds["encode"],
            decode_seconds=state.seconds["decode"],
        )

    def _add_words(self, states: list[_State], decoded: dict[int, Decoded]) -> None:
        """Align text with audio where words or token probabilities are wanted, and fill them in."""
        wanted = [state for state in states if state.options.word_timestamps or state.options.logprobs]
        spoken = [state for state in wanted if id(state) in decoded and decoded[id(state)].segments]
        for same in _grouped(spoken, lambda state: tuple(self._tokenizer.task(state.options, state.language))).values():
            with _measure(same, "decode"):
                results = self._decoder.align(
                    self._input(same),
                    self._tokenizer.task(same[0].options, same[0].language),
                    [[token for segment in decoded[id(state)].segments for token in segment.tokens] for state in same],
                    [_mel_frames(state) for state in same],
                )
            for state, result in zip(same, results, strict=True):
                segments = tuple(self._aligned(decoded[id(state)].segments, result, state))
                seconds = state.seconds["decode"]
                decoded[id(state)] = replace(decoded[id(state)], segments=segments, decode_seconds=seconds)

    def _aligned(self, segments: tuple[Segment, ...], result: Any, state: _State) -> Iterator[Segment]:
        """Give each segment its words and its tokens' probabilities."""
        spaced = state.language not in SPACELESS
        texts = [word for segment in segments for word in self._tokenizer.words(segment.tokens, spaced=spaced)]
        words = deque(time_words(texts, result.alignments, result.text_token_probs, state.window.length))
        seen = reached = 0
        for segment in segments:
            first, seen = seen, seen + len(segment.tokens)
            own: list[Word] = []
            while words and reached < seen:
                word, count = words.popleft()
                own.append(word)
                reached += count
            yield self._with(segment, own, result.text_token_probs[first:seen], state.options)

    def _with(self, segment: Segment, words: list[Word], probabilities: Sequence[float], options: Options) -> Segment:
        if options.logprobs:
            segment = replace(
                segment,
                token_logprobs=tuple(math.log(max(probability, MIN_PROBABILITY)) for probability in probabilities),
                token_bytes=tuple(self._tokenizer.bytes_of(token) for token in segment.tokens),
            )
        if options.word_timestamps:
            clipped = clip_starts(words, segment.start_sample) if options.timestamps else words
            segment = replace(segment, words=tuple(clipped))
        if words and not options.timestamps:
            segment = replace(segment, start_sample=words[0].start_sample, end_sample=words[-1].end_sample)
        return segment


def _own(retry: Retry) -> _State:
    """The state that `decode_once` put into a retry."""
    assert isinstance(retry.state, _State)  # noqa: S101
    return retry.state


def _mel_frames(state: _State) -> int:
    """The frames of the window without its padding, an even number: two make one position of the encoder."""
    return max(2, 2 * -(-min(state.window.length, state.length) // (2 * HOP)))


def _fails(attempt: _Attempt, options: Options) -> bool:
    """Whether another temperature should be tried: the text repeats itself or is improbable, and is not silence."""
    ratio, logprob = options.compression_ratio_threshold, options.logprob_threshold
    repeats = ratio is not None and attempt.compression_ratio > ratio
    guessed = logprob is not None and attempt.avg_logprob < logprob
    silent = options.no_speech_threshold is not None and attempt.no_speech_prob > options.no_speech_threshold
    return (repeats or guessed) and not (silent and guessed)


def _is_silence(attempt: _Attempt, options: Options) -> bool:
    """Whether the model detects no speech, and its text is improbable."""
    if options.no_speech_threshold is None or attempt.no_speech_prob <= options.no_speech_threshold:
        return False
    return options.logprob_threshold is None or attempt.avg_logprob <= options.logprob_threshold


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """Items by key, in order."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


@contextlib.contextmanager
def _measure(states: list[_State], what: str) -> Iterator[None]:
    """Divide the duration of a call among its windows."""
    started = time.perf_counter()
    yield
    share = (time.perf_counter() - started) / len(states)
    for state in states:
        state.seconds[what] += share
