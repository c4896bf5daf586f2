"""The engine's rules: what batches share, what is tried again, what counts as silence, and what may be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.audio_factory import speech
from tests.support.checkpoint_factory import make_checkpoint
from tickertape.checkpoints.prepare import Prepared, prepare
from tickertape.engine.hardware import choose_device
from tickertape.engine.loading import LoadOptions, load_engine, open_prepared
from tickertape.engine.whisper import (
    BEST_OF,
    TRIMMED_SECONDS,
    WhisperEngine,
    _Attempt,
    _fails,
    _is_silence,
)
from tickertape.errors import EngineError, OptionError
from tickertape.types import SAMPLE_RATE, WINDOW_SAMPLES, Decoded, DecodeError, Options, Retry, Window

GREEDY = Options(language="en", temperatures=(0.0,), max_new_tokens=12, no_speech_threshold=None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A tiny checkpoint of random weights that was trained on windows of any length."""
    root = tmp_path_factory.mktemp("engine")
    folder = make_checkpoint(root / "micro", "micro", seed=3, config={"audio_context": "trimmed"})
    return prepare(folder, cache=root / "cache", compute_type="float32")


@pytest.fixture(scope="module")
def engine(prepared: Prepared) -> WhisperEngine:
    """The real engine around it, in float32."""
    return open_prepared(prepared, LoadOptions(device="cpu", precision="f32", threads=1))


def window(seed: int, seconds: float = 2.0) -> Window:
    return Window(speech(seconds, seed=seed))


def text_of(outcome: Decoded | DecodeError) -> Decoded:
    if isinstance(outcome, DecodeError):
        raise outcome
    return outcome


def essence(outcome: Decoded | DecodeError) -> tuple[Any, ...]:
    """All of an outcome that must not depend on its neighbours; scores to four digits."""
    decoded = text_of(outcome)
    parts = [
        (s.start_sample, s.end_sample, s.text, s.tokens, s.words, round(s.avg_logprob, 4)) for s in decoded.segments
    ]
    return decoded.language, round(decoded.no_speech_prob, 4), parts


MIXED = [
    (window(0), GREEDY),
    (window(1), replace(GREEDY, language="de")),
    (window(2, 1.5), replace(GREEDY, task="translate", language="fr")),
    (window(3), replace(GREEDY, prompt="abc de the ledger")),
    (window(4, 3.7), replace(GREEDY, timestamps=False)),
    (window(5), replace(GREEDY, language=None)),
    (window(6), replace(GREEDY, max_new_tokens=5)),
    (window(7), GREEDY),
]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.slow
def test_a_window_gets_what_it_would_get_alone(engine: WhisperEngine, beam: int) -> None:
    """Languages, tasks, prompts, timestamps and lengths mix in a batch, and no window notices."""
    calls = [(heard, replace(options, beam_size=beam)) for heard, options in MIXED]
    together = engine.decode([heard for heard, _ in calls], [options for _, options in calls])
    alone = [engine.decode([heard], [options])[0] for heard, options in calls]
    assert [essence(outcome) for outcome in alone] == [essence(outcome) for outcome in together]
    assert text_of(together[0]).batch_size > text_of(alone[0]).batch_size


def test_the_budget_of_new_tokens_is_exact(engine: WhisperEngine) -> None:
    """`max_new_tokens` is what is made, with a prompt or without."""
    for budget in (1, 5, 9):
        for prompt in (None, "abc " * 300):
            options = replace(GREEDY, max_new_tokens=budget, prompt=prompt)
            state = engine._state(window(0), options)
            engine._decode_group([state])
            assert state.attempt is not None
            assert budget == len(state.attempt.tokens)


def test_a_prompt_is_never_part_of_the_text(engine: WhisperEngine) -> None:
    """Neither the prompt nor special tokens a caller writes into it come out again."""
    for prompt in ("zebra quagga okapi", "<|endoftext|><|translate|> zebra"):
        decoded = text_of(engine.decode([window(0)], [replace(GREEDY, prompt=prompt)])[0])
        assert "zebra" not in decoded.text
        assert "<|" not in decoded.text


def test_suppressed_tokens_are_never_written(engine: WhisperEngine, prepared: Prepared) -> None:
    """Brackets, notes and special tokens, which the checkpoint suppresses, stay out of the text."""
    suppressed = json.loads((prepared.folder / "config.json").read_text())["suppress_ids"]
    forbidden = {*suppressed, *engine._tokenizer.specials}
    outcomes = engine.decode([window(n) for n in range(4)], [replace(GREEDY, max_new_tokens=60)] * 4)
    written = {token for outcome in outcomes for segment in text_of(outcome).segments for token in segment.tokens}
    assert set() == written & forbidden
    assert all(token < engine._tokenizer.end for token in written)


def test_a_language_is_detected_where_none_is_given(engine: WhisperEngine) -> None:
    """Without a language the window's own is found among the checkpoint's, with a probability."""
    decoded = text_of(engine.decode([window(0)], [replace(GREEDY, language=None)])[0])
    assert decoded.language in engine.info.languages
    assert 0 < decoded.language_probability <= 1


def test_a_language_is_detected_among_those_allowed(engine: WhisperEngine) -> None:
    """Only the languages that the caller allows are found; their probabilities make up the whole."""
    for languages in (("fr", "ja"), ("ja", "sw"), ("cy",)):
        decoded = text_of(engine.decode([window(0)], [replace(GREEDY, language=None, languages=languages)])[0])
        assert decoded.language in languages
        assert 1 / len(languages) <= decoded.language_probability <= 1


def test_words_fill_the_segment(engine: WhisperEngine) -> None:
    """Words join to the segment's text, rise within the window, and have probabilities."""
    options = replace(GREEDY, word_timestamps=True, logprobs=True)
    heard = [window(0, 2.0), window(1, 1.3)]
    for one, outcome in zip(heard, engine.decode(heard, [options] * 2), strict=True):
        segments = text_of(outcome).segments
        assert segments
        assert [s.text for s in segments] == ["".join(word.text for word in s.words) for s in segments]
        times = [time for s in segments for word in s.words for time in (word.start_sample, word.end_sample)]
        assert sorted(times) == times
        assert all(0 <= time <= one.length for time in times)
        assert all(0 <= word.probability <= 1 for s in segments for word in s.words)
        for segment in segments:
            assert len(segment.tokens) == len(segment.token_logprobs) == len(segment.token_bytes)
            assert all(logprob <= 0 for logprob in segment.token_logprobs)
            assert segment.text == b"".join(segment.token_bytes).decode(errors="replace")


def test_trimmed_windows_are_padded_to_the_next_length(engine: WhisperEngine) -> None:
    """A window is padded to the least length of the table that holds it and half a second of silence."""
    assert engine.info.trimmed
    for second in TRIMMED_SECONDS:
        assert (second + 0.5) * SAMPLE_RATE == engine._padded_length(second * SAMPLE_RATE)
    assert 3.5 * SAMPLE_RATE == engine._padded_length(2 * SAMPLE_RATE + 1)
    assert 1.5 * SAMPLE_RATE == engine._padded_length(1)
    assert WINDOW_SAMPLES == engine._padded_length(25 * SAMPLE_RATE + 1)
    assert WINDOW_SAMPLES == engine._padded_length(WINDOW_SAMPLES)


def test_a_window_that_breaks_leaves_its_batch_whole(engine: WhisperEngine) -> None:
    """An unknown language breaks its own window; its neighbours of every length get what they get alone."""
    calls = [(window(0), GREEDY), (window(0), replace(GREEDY, language="xx")), (window(1, 5.0), GREEDY)]
    first, broken, last = engine.decode([heard for heard, _ in calls], [options for _, options in calls])
    assert isinstance(broken, EngineError)
    assert isinstance(broken.__cause__, KeyError)
    alone = [engine.decode([heard], [options])[0] for heard, options in (calls[0], calls[2])]
    assert [essence(outcome) for outcome in alone] == [essence(outcome) for outcome in (first, last)]


def test_no_windows_no_outcomes(engine: WhisperEngine) -> None:
    """An empty batch is an empty answer."""
    assert [] == engine.decode([], [])


def test_choices_come_with_reasons(engine: WhisperEngine) -> None:
    """Checkpoint, device, threads, encoder, decoder and windows are each explained in a line."""
    subjects = [reason.partition(":")[0] for reason in engine.reasons]
    assert ["checkpoint", "device", "threads", "encoder", "decoder", "windows"] == subjects


def test_a_folder_prepared_for_a_gpu_runs_as_int8_on_a_cpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where the CPU does not compute in float16, the reasons say so and no library writes a warning of its own."""
    folder = prepare(make_checkpoint(tmp_path / "model", "custom"), cache=tmp_path, compute_type="float16").folder
    reasons = load_engine(folder, LoadOptions(device="cpu", threads=1)).reasons
    assert "decoder: ctranslate2 int8 (this CPU does not compute in float16)" in reasons
    assert ("", "") == capfd.readouterr()


def test_devices_that_are_not_there_are_refused() -> None:
    """An unknown device is the caller's mistake."""
    with pytest.raises(OptionError):
        choose_device("abacus")


# --- the checks around the decoder, with a decoder that says what it is told


@dataclass
class FakeDecoder:
    """Writes what `script` says for a language and temperature: tokens and their mean log probability."""

    script: dict[int, dict[float, tuple[list[int], float]]]
    silence: float = 0.0
    calls: list[tuple[float, int]] = field(default_factory=list)

    def generate(self, features: Any, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Any]:
        temperature = settings.get("sampling_temperature", 0.0)
        self.calls.append((temperature, len(prompts)))
        results = []
        for prompt in prompts:
            tokens, score = self.script[prompt[1]][temperature]
            count = settings.get("num_hypotheses", 1)
            sequences = [[0]] * (count - 1) + [tokens]
            scores = [-9.0] * (count - 1) + [score]
            results.append(SimpleNamespace(sequences_ids=sequences, scores=scores, no_speech_prob=self.silence))
        return results


@dataclass
class BreakingDecoder(FakeDecoder):
    """Raises `error` for every call with a prompt in `language`."""

    language: int = 0
    error: type[BaseException] = TypeError

    def generate(self, features: Any, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Any]:
        if any(prompt[1] == self.language for prompt in prompts):
            raise self.error
        return super().generate(features, prompts, **settings)


@pytest.mark.parametrize("error", [TypeError, MemoryError, AttributeError, RuntimeError])
def test_an_exception_of_any_type_belongs_to_its_window(error: type[Exception], engine: WhisperEngine,
                                                        prepared: Prepared) -> None:  # fmt: skip
    """Others of its batch are decoded, at every temperature once, though the batch broke between them."""
    en, de = (prepared.special_tokens[f"<|{code}|>"] for code in ("en", "de"))
    good = prepared.special_tokens["<|notimestamps|>"] + 1
    script = {en: {0.0: ([300] * 60, -0.1), 0.2: ([good, 300, 301], -0.1)}}
    decoder = BreakingDecoder(script, language=de, error=error)
    options = [replace(GREEDY, temperatures=(0.0, 0.2), language=code) for code in ("en", "de", "en")]
    outcomes = faked(engine, prepared, decoder).decode([window(n) for n in range(3)], options)
    assert [Decoded, EngineError, Decoded] == [type(outcome) for outcome in outcomes]
    assert [2, 2] == [text_of(outcomes[n]).attempts for n in (0, 2)]
    assert isinstance(outcomes[1], EngineError)
    assert isinstance(outcomes[1].__cause__, error)


def faked(engine: WhisperEngine, prepared: Prepared, decoder: FakeDecoder) -> WhisperEngine:
    """The engine with its encoder, around another decoder."""
    return WhisperEngine(decoder, engine._encoder, prepared, ())


def test_only_failing_windows_are_tried_again(engine: WhisperEngine, prepared: Prepared) -> None:
    """Text that repeats itself is retried at rising temperatures; its neighbours are left alone."""
    code = prepared.special_tokens
    good, repeating = list(range(300, 312)), [300] * 60
    script = {
        code["<|en|>"]: {0.0: (repeating, -0.1), 0.2: (repeating, -0.1), 0.4: (good, -0.2)},
        code["<|de|>"]: {0.0: (good, -0.3)},
        code["<|fr|>"]: {0.0: (good, -1.5), 0.2: (good, -0.4)},
    }
    decoder = FakeDecoder(script)
    options = [Options(language=language) for language in ("en", "de", "fr")]
    outcomes = [text_of(outcome) for outcome in faked(engine, prepared, decoder).decode([window(0)] * 3, options)]
    assert [3, 1, 2] == [outcome.attempts for outcome in outcomes]
    assert [0.4, 0.0, 0.2] == [outcome.segments[0].temperature for outcome in outcomes]
    assert [tuple(good)] * 3 == [outcome.segments[0].tokens for outcome in outcomes]
    assert [(0.0, 3), (0.2, 1), (0.2, 1), (0.4, 1)] == decoder.calls


def test_one_pass_answers_the_windows_that_pass(engine: WhisperEngine, prepared: Prepared) -> None:
    """`decode_once` returns windows that failed as retries, which go on where they stopped, to the same text."""
    code = prepared.special_tokens
    good, repeating = list(range(300, 312)), [300] * 60
    script = {
        code["<|en|>"]: {0.0: (repeating, -0.1), 0.2: (repeating, -0.1), 0.4: (good, -0.2)},
        code["<|de|>"]: {0.0: (good, -0.3)},
    }
    one_by_one, at_once = (faked(engine, prepared, FakeDecoder(script)) for _ in range(2))
    options = [Options(language=language) for language in ("en", "de")]
    retry, answered = one_by_one.decode_once([window(0)] * 2, options)
    assert isinstance(retry, Retry)
    passes = 1
    outcome: Decoded | DecodeError | Retry = retry
    while isinstance(outcome, Retry):
        (outcome,) = one_by_one.decode_once([outcome], options[:1])
        passes += 1
    assert 3 == passes
    whole = [essence(each) for each in at_once.decode([window(0)] * 2, options)]
    assert whole == [essence(outcome), essence(answered)]  # type: ignore[arg-type]


def test_seconds_of_the_windows_add_up_to_the_time_spent(
    engine: WhisperEngine, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder and decoder seconds are each window's share of its calls, however the batch is split into calls."""
    now = [0.0]

    class TimedDecoder(FakeDecoder):
        def generate(self, features: Any, prompts: Sequence[Sequence[int]], **settings: Any) -> list[Any]:
            now[0] += 1.0
            return super().generate(features, prompts, **settings)

        def detect_language(self, features: Any) -> list[list[tuple[str, float]]]:
            now[0] += 0.5
            return [[("<|de|>", 0.9)]] * features.shape[0]

    class TimedEncoder:
        def encode(self, mel: Any) -> Any:
            now[0] += 0.25 * len(mel)
            return mel

    code = prepared.special_tokens
    good, repeating = list(range(300, 312)), [300] * 60
    script = {
        code["<|en|>"]: {0.0: (repeating, -0.1), 0.2: (good, -0.2)},
        code["<|de|>"]: {0.0: (good, -0.3)},
    }
    made = faked(engine, prepared, TimedDecoder(script))
    made._encoder = TimedEncoder()  # type: ignore[assignment]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    wishes = [Options(language="en"), Options(language="de"), Options(), Options(language="de", timestamps=False)]
    outcomes = [text_of(each) for each in made.decode([window(0), window(1), window(2), window(3, 5.0)], wishes)]
    assert 4 * 0.25 == sum(outcome.encode_seconds for outcome in outcomes)
    # one detection; three windows share a call, of which one has a second pass; one of another length
    assert pytest.approx(0.5 + 1 + 1 + 1) == sum(outcome.decode_seconds for outcome in outcomes)
    assert pytest.approx(1 / 3 + 1) == outcomes[0].decode_seconds


def test_the_last_temperature_is_taken_as_it_is(engine: WhisperEngine, prepared: Prepared) -> None:
    """When every temperature fails, the last attempt stands."""
    decoder = FakeDecoder({prepared.special_tokens["<|en|>"]: dict.fromkeys((0.0, 0.2), ([300] * 60, -0.1))})
    options = Options(language="en", temperatures=(0.0, 0.2))
    decoded = text_of(faked(engine, prepared, decoder).decode([window(0)], [options])[0])
    assert 2 == decoded.attempts
    assert 0.2 == decoded.segments[0].temperature


def test_the_most_probable_sample_is_taken(engine: WhisperEngine, prepared: Prepared) -> None:
    """Above 0, several samples are drawn, and the best of them is the attempt."""
    good = list(range(300, 312))
    decoder = FakeDecoder({prepared.special_tokens["<|en|>"]: {0.6: (good, -0.1)}})
    decoded = text_of(
        faked(engine, prepared, decoder).decode([window(0)], [Options(language="en", temperatures=(0.6,))])[0]
    )
    assert tuple(good) == decoded.segments[0].tokens
    assert BEST_OF > 1


@pytest.mark.parametrize(
    ("silence", "logprob", "ratio", "fails", "silent"),
    [
        (0.1, -0.5, 1.5, False, False),  # speech, and sure of it
        (0.1, -1.5, 1.5, True, False),  # speech, guessed: try again
        (0.1, -0.5, 3.0, True, False),  # speech that repeats: try again
        (0.9, -0.5, 1.5, False, False),  # called silence, yet sure of its text: text
        (0.9, -1.5, 1.5, False, True),  # silence
        (0.9, -1.5, 3.0, False, True),  # silence, whatever it repeats
        (0.9, -0.5, 3.0, True, False),  # sure of a text that repeats: try again
        (0.6, -1.5, 1.5, True, False),  # exactly the threshold is not above it
    ],
)
def test_the_rule_of_silence(silence: float, logprob: float, ratio: float, fails: bool, silent: bool) -> None:
    """Fallback and silence follow openai/whisper transcribe.py, `decode_with_fallback` and what follows it."""
    text = {1.5: "abcdefghijklmnopqrstuvwxyz", 3.0: "ab" * 60}[ratio]
    attempt = _Attempt((300,), text, logprob, silence, 0.0)
    assert (ratio > 2.4) == (attempt.compression_ratio > 2.4)
    assert fails == _fails(attempt, Options())
    assert silent == _is_silence(attempt, Options())


def test_thresholds_can_be_switched_off() -> None:
    """None switches a check off."""
    attempt = _Attempt((300,), "ab" * 60, -3.0, 0.9, 0.0)
    off = Options(compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None)
    assert not _fails(attempt, off)
    assert not _is_silence(attempt, off)
    assert _is_silence(attempt, Options(logprob_threshold=None))


def test_silence_has_no_segments(engine: WhisperEngine, prepared: Prepared) -> None:
    """A window that the model takes for silence gives no text and is not tried again."""
    decoder = FakeDecoder({prepared.special_tokens["<|en|>"]: {0.0: ([300, 301], -1.5)}}, silence=0.9)
    decoded = text_of(faked(engine, prepared, decoder).decode([window(0)], [Options(language="en")])[0])
    assert ((), 1, 0.9) == (decoded.segments, decoded.attempts, decoded.no_speech_prob)


def test_segments_lie_where_the_timestamps_say(engine: WhisperEngine, prepared: Prepared) -> None:
    """Segment times are the model's timestamps; a last phrase without an end lasts to the window's."""
    first = engine._tokenizer.first_time
    words = [first, *engine._tokenizer.encode(" ab cd"), first + 25, first + 30, *engine._tokenizer.encode(" ef")]
    decoder = FakeDecoder({prepared.special_tokens["<|en|>"]: {0.0: (words, -0.1)}})
    decoded = text_of(faked(engine, prepared, decoder).decode([window(0)], [Options(language="en")])[0])
    assert [(0, 8_000, " ab cd"), (9_600, 32_000, " ef")] == [
        (s.start_sample, s.end_sample, s.text) for s in decoded.segments
    ]


def test_empty_text_has_no_ratio() -> None:
    """An empty text compresses to nothing and passes the check."""
    assert 0.0 == _Attempt((), "", 0.0, 0.0, 0.0).compression_ratio


def test_folders_are_opened_by_path(prepared: Prepared) -> None:
    """A prepared folder is all the engine needs."""
    assert isinstance(prepared.folder, Path)
    assert open_prepared(prepared, LoadOptions(threads=1, precision="f32")).info.languages
