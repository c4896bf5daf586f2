"""The engine beside Hugging Face's `generate`, for the same features: the same tokens, scores and silence."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.audio_factory import speech
from tests.support.checkpoint_factory import make_checkpoint
from tickertape.checkpoints.export import export
from tickertape.checkpoints.prepare import prepare
from tickertape.engine.loading import LoadOptions, open_prepared
from tickertape.engine.mel import log_mel
from tickertape.engine.whisper import WhisperEngine
from tickertape.types import WINDOW_SAMPLES, Decoded, Options, Window

torch = pytest.importorskip("torch", reason="the extra `reference` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `reference` is not installed")
jiwer = pytest.importorskip("jiwer", reason="the extra `reference` is not installed")

pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]
DEMO = Path(__file__).parents[1] / "checkpoint"
HELD_OUT = Path(__file__).parents[2] / "recipes" / "demo" / "heldout"
TOKENS = 48
GREEDY = Options(language="en", temperatures=(0.0,), max_new_tokens=TOKENS, no_speech_threshold=None)
SHAPES = {"micro": "micro", "tiny": "tiny", "english": "tiny.en", "128 mels": "micro.v3"}


@dataclass(frozen=True)
class Expected:
    """What the reference makes of one window."""

    tokens: tuple[int, ...]  # up to and without <|endoftext|>
    avg_logprob: float
    no_speech_prob: float


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The reference warns about its own parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of random weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make_checkpoint(root / shape, shape, seed=3) for name, shape in SHAPES.items()}


@cache
def engine(folder: Path, compute_type: str = "float32", precision: str = "f32") -> WhisperEngine:
    prepared = prepare(folder, cache=folder.parent / "cache", compute_type=compute_type)
    return open_prepared(prepared, LoadOptions("cpu", compute_type, precision, threads=2))


@cache
def model(folder: Path) -> Any:
    torch.set_num_threads(2)
    with quiet():
        return transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def window(seed: int, seconds: float = 30.0) -> Window:
    return Window(speech(seconds, seed=seed))


def reference(folder: Path, heard: Window, options: Options, made: WhisperEngine) -> Expected:
    """The reference's answer, read from its scores at each step."""
    whisper = model(folder)
    mel = log_mel(heard.samples, WINDOW_SAMPLES, whisper.config.num_mel_bins)
    prompt = made._tokenizer.prompt(options, options.language or "en", 223)
    settings: dict[str, Any] = {"return_timestamps": options.timestamps, "max_new_tokens": options.max_new_tokens}
    if whisper.generation_config.is_multilingual:
        settings |= {"language": options.language, "task": options.task}
    if options.prompt:
        settings["prompt_ids"] = torch.tensor(prompt[: prompt.index(made._tokenizer.start)])
    features = torch.from_numpy(mel)[None]
    with quiet(), torch.no_grad():
        answer = first_pass(whisper, features, settings)
        first = prompt[: prompt.index(made._tokenizer.start) + 1]
        logits = whisper(features, decoder_input_ids=torch.tensor([first])).logits[0, -1]
    scores = [torch.log_softmax(step[0].float(), dim=-1) for step in answer.scores]
    chosen = [int(step.argmax()) for step in scores]
    length = chosen.index(made._tokenizer.end) if made._tokenizer.end in chosen else len(chosen)
    total = sum(float(step.max()) for step in scores[: length + 1])
    silence = next(
        made._tokenizer._special[n] for n in ("<|nospeech|>", "<|nocaptions|>") if n in made._tokenizer._special
    )
    return Expected(tuple(chosen[:length]), total / (length + 1), float(logits.softmax(-1)[silence]))


def raw(made: WhisperEngine, heard: Sequence[Window], options: Options) -> list[Expected]:
    """The engine's answer with timestamps still among the tokens."""
    states = [made._state(one, options) for one in heard]
    made._decode_group(states)
    return [Expected(state.attempt.tokens, state.attempt.avg_logprob, state.attempt.no_speech_prob) for state in states]


class _FirstPassError(Exception):
    """What the reference's first pass over a window gave."""


def first_pass(whisper: Any, features: Any, settings: dict[str, Any]) -> Any:
    """Generate for one window, once: Hugging Face's `generate` would go on from the last timestamp it wrote."""
    inner = transformers.GenerationMixin.generate

    def once(*args: Any, **kwargs: Any) -> Any:
        raise _FirstPassError(inner(*args, **kwargs))

    settings = settings | {"return_dict_in_generate": True, "output_scores": True}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(_FirstPassError) as caught:  # noqa: PT012 - patched only here
        patch.setattr(transformers.GenerationMixin, "generate", once)
        whisper.generate(features, num_beams=1, do_sample=False, **settings)
    return caught.value.args[0]


CASES = {
    "plain": replace(GREEDY, timestamps=False),
    "timestamps": GREEDY,
    "German": replace(GREEDY, language="de", timestamps=False),
    "translation": replace(GREEDY, language="fr", task="translate"),
    "prompt": replace(GREEDY, prompt="abcd ef the ledger of Mr. Smith", timestamps=False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_equal_hugging_faces(folders: dict[str, Path], name: str, case: str) -> None:
    """In float32 the engine writes the reference's tokens, with its average log probability and its silence."""
    made, options = engine(folders[name]), CASES[case]
    if name == "english" and case in {"German", "translation"}:
        pytest.skip("an English-only checkpoint knows one language and one task")
    heard = [window(1), window(2, 7.3)]
    expected = [reference(folders[name], one, options, made) for one in heard]
    actual = raw(made, heard, options)
    assert [one.tokens for one in expected] == [one.tokens for one in actual]
    assert min(len(one.tokens) for one in actual) >= 10
    assert [pytest.approx(one.avg_logprob, abs=1e-2) for one in expected] == [one.avg_logprob for one in actual]
    assert [pytest.approx(one.no_speech_prob, abs=1e-3) for one in expected] == [one.no_speech_prob for one in actual]


def agreement(expected: Sequence[Expected], actual: Sequence[Expected]) -> float:
    """The share of the reference's tokens that are written too: one less the edits from one to the other, over all."""
    truth, found = ([" ".join(map(str, one.tokens)) for one in side] for side in (expected, actual))
    return max(0.0, 1.0 - float(jiwer.wer(truth, found)))


@pytest.mark.parametrize(("compute_type", "precision"), [("float32", "bf16"), ("int8", "f32"), ("int8", "bf16")])
def test_coarser_numbers_are_reported(
    folders: dict[str, Path], compute_type: str, precision: str, record_property: Any
) -> None:
    """How far int8 and bfloat16 follow the reference on random weights is reported; nothing is promised there."""
    made = engine(folders["micro"], compute_type, precision)
    heard = [window(seed) for seed in range(4)]
    expected = [reference(folders["micro"], one, CASES["plain"], made) for one in heard]
    share = agreement(expected, raw(made, heard, CASES["plain"]))
    record_property("agreement", share)
    print(f"decoder {compute_type}, encoder {precision}: {share:.0%} of the tokens agree")  # noqa: T201 - a figure
    assert 0 <= share <= 1


# --- an exported checkpoint


@pytest.mark.real
def test_an_exported_model_is_read_by_transformers(
    whisper_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whisper-base from its CTranslate2 folder: transformers loads the exported one and writes the engine's tokens."""
    folder = exported(whisper_base, tmp_path_factory.getbasetemp() / "whisper-base")
    made, options = engine(folder), CASES["timestamps"]
    heard = [window(1), window(2, 7.3)]
    expected = [reference(folder, one, options, made) for one in heard]
    actual = raw(made, heard, options)
    assert [one.tokens for one in expected] == [one.tokens for one in actual]
    assert [pytest.approx(one.avg_logprob, abs=1e-2) for one in expected] == [one.avg_logprob for one in actual]
    assert [pytest.approx(one.no_speech_prob, abs=1e-3) for one in expected] == [one.no_speech_prob for one in actual]


@pytest.mark.real
def test_an_exported_processor_is_read_by_transformers(
    whisper_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The processor has the features and the tokenizer: timestamps and texts are read from the model's own tokens."""
    folder = exported(whisper_base, tmp_path_factory.getbasetemp() / "whisper-base")
    with quiet():
        processor = transformers.WhisperProcessor.from_pretrained(folder)
        made = model(folder)
        audio = window(1).samples
        features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = made.generate(features, return_timestamps=True, max_new_tokens=TOKENS)  # the language is detected
    np.testing.assert_allclose(features[0].numpy(), log_mel(audio, WINDOW_SAMPLES, 80), atol=1e-3)
    assert "<|0.00|>" == processor.decode([50_364], decode_with_timestamps=True)
    assert "Hello" == processor.decode(processor.tokenizer("Hello").input_ids, skip_special_tokens=True)
    assert tokens.shape[-1] > 1


def exported(ctranslate2_folder: Path, folder: Path) -> Path:
    """The folder, exported once."""
    if not folder.exists():
        export(ctranslate2_folder, folder)
    return folder


# --- the synthetic-voice model


@pytest.mark.skipif(not (DEMO / "model.safetensors").is_file(), reason="the synthetic-voice model is not there")
class TestDemo:
    """The same on the checkpoint of this repository and its held-out clips."""

    def test_greedy_tokens_equal_hugging_faces(self, tmp_path: Path) -> None:
        """In float32, tokens, average log probability and silence are the reference's on real speech."""
        expected, actual = compared(tmp_path, "float32", "f32")
        assert [one.tokens for one in expected] == [one.tokens for one in actual]
        assert [pytest.approx(e.avg_logprob, abs=1e-2) for e in expected] == [a.avg_logprob for a in actual]
        assert [pytest.approx(e.no_speech_prob, abs=1e-3) for e in expected] == [a.no_speech_prob for a in actual]

    def test_int8_and_bfloat16_agree_mostly(self, tmp_path: Path, record_property: Any) -> None:
        """The numbers that serve by default write at least 85 % of the reference's tokens.

        Where a checkpoint is unsure of a word any rounding decides: one that errs in every third word agreed by 95 %.
        """
        share = agreement(*compared(tmp_path, "int8", "auto"))
        record_property("agreement", share)
        print(f"int8 and the default encoder: {share:.1%} of the tokens agree")  # noqa: T201 - a figure to report
        assert share >= 0.85

    def test_the_default_numbers_cost_hardly_any_words(self, tmp_path: Path, record_property: Any) -> None:
        """As served, windows trimmed, int8 and the default encoder err in at most 3 points more words than float32."""
        exact, coarse = (word_errors(tmp_path, *numbers) for numbers in (("float32", "f32"), ("int8", "auto")))
        record_property("word error rates", (exact, coarse))
        print(f"word error rate: float32 {exact:.1%}, int8 and the default encoder {coarse:.1%}")  # noqa: T201
        assert exact < 0.6  # else there would be nothing to spoil
        assert coarse <= exact + 0.03


def compared(cache: Path, compute_type: str, precision: str) -> tuple[list[Expected], list[Expected]]:
    """The reference's answers on the synthetic-voice model and the engine's, for windows padded to 30 s."""
    made = demo(cache, compute_type, precision, "full")
    options = replace(GREEDY, language=made.info.languages[0], max_new_tokens=2 * TOKENS)
    heard = clips("unseen", 12) + clips("known", 12)
    return [reference(DEMO, one, options, made) for one in heard], raw(made, heard, options)


def word_errors(cache: Path, compute_type: str, precision: str) -> float:
    """The word error rate on the held-out clips of known voices, normalised as Whisper's authors do."""
    with quiet():
        from recipes.demo.evaluate import normalise
    made = demo(cache, compute_type, precision, "trimmed")
    heard = clips("known")
    outcomes = made.decode(heard, [replace(GREEDY, language=made.info.languages[0])] * len(heard))
    truth = [normalise(line["text"]) for line in manifest("known")]
    return float(jiwer.wer(truth, [normalise(one.text) for one in outcomes if isinstance(one, Decoded)]))


def demo(cache: Path, compute_type: str, precision: str, context: str) -> WhisperEngine:
    """The synthetic-voice model in these numbers, windows `full` or `trimmed`."""
    prepared = replace(prepare(DEMO, cache=cache, compute_type=compute_type), audio_context=context)
    return open_prepared(prepared, LoadOptions("cpu", compute_type, precision, threads=2))


def manifest(name: str) -> list[dict[str, Any]]:
    """What the held-out set of that name holds."""
    return [json.loads(line) for line in (HELD_OUT / f"{name}.jsonl").read_text().splitlines()]


def clips(name: str, count: int | None = None) -> list[Window]:
    """The first clips of a held-out set of the synthetic-voice model's recipe, or all."""
    from tickertape.audio.decode import decode

    found = [decode(HELD_OUT / line["audio"]).samples[0] for line in manifest(name)[:count]]
    return [Window(samples[:WINDOW_SAMPLES]) for samples in found]
