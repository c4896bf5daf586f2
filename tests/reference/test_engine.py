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

from tests.audio_factory import speech
from tests.checkpoint_factory import make_checkpoint
from tickertape.checkpoints import prepare
from tickertape.engine import WhisperEngine
from tickertape.features import log_mel
from tickertape.types import WINDOW_SAMPLES, Options, Window

torch = pytest.importorskip("torch", reason="the extra `reference` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `reference` is not installed")

DEMO = Path(__file__).parents[2] / "checkpoint"
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
    return WhisperEngine.load(prepared, device="cpu", precision=precision, compute_type=compute_type, threads=2)


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
    prompt = made._tokens.prompt(options, options.language or "en", 223)
    settings: dict[str, Any] = {"return_timestamps": options.timestamps, "max_new_tokens": options.max_new_tokens}
    if whisper.generation_config.is_multilingual:
        settings |= {"language": options.language, "task": options.task}
    if options.prompt:
        settings["prompt_ids"] = torch.tensor(prompt[: prompt.index(made._tokens.start)])
    features = torch.from_numpy(mel)[None]
    with quiet(), torch.no_grad():
        answer = first_pass(whisper, features, settings)
        first = prompt[: prompt.index(made._tokens.start) + 1]
        logits = whisper(features, decoder_input_ids=torch.tensor([first])).logits[0, -1]
    scores = [torch.log_softmax(step[0].float(), dim=-1) for step in answer.scores]
    chosen = [int(step.argmax()) for step in scores]
    length = chosen.index(made._tokens.end) if made._tokens.end in chosen else len(chosen)
    total = sum(float(step.max()) for step in scores[: length + 1])
    silence = next(made._tokens._special[n] for n in ("<|nospeech|>", "<|nocaptions|>") if n in made._tokens._special)
    return Expected(tuple(chosen[:length]), total / (length + 1), float(logits.softmax(-1)[silence]))


def raw(made: WhisperEngine, heard: Sequence[Window], options: Options) -> list[Expected]:
    """The engine's answer with timestamps still among the tokens."""
    jobs = [made._job(one, options) for one in heard]
    made._decode_group(jobs)
    return [Expected(job.attempt.tokens, job.attempt.avg_logprob, job.attempt.no_speech_prob) for job in jobs]


class _FirstPass(Exception):
    """What the reference's first pass over a window gave."""


def first_pass(whisper: Any, features: Any, settings: dict[str, Any]) -> Any:
    """Generate for one window, once: Hugging Face's `generate` would go on from the last timestamp it wrote."""
    inner = transformers.GenerationMixin.generate

    def once(*args: Any, **kwargs: Any) -> Any:
        raise _FirstPass(inner(*args, **kwargs))

    settings = settings | {"return_dict_in_generate": True, "output_scores": True}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(_FirstPass) as caught:  # noqa: PT012 - patched only here
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


def agreement(expected: Sequence[int], actual: Sequence[int]) -> float:
    """The share of the tokens before the first difference: after it two greedy texts go their own ways."""
    same = next((i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b), None)
    same = min(len(expected), len(actual)) if same is None else same
    return same / max(len(expected), len(actual), 1)


@pytest.mark.parametrize(("compute_type", "precision"), [("float32", "bf16"), ("int8", "f32"), ("int8", "bf16")])
def test_coarser_numbers_are_reported(
    folders: dict[str, Path], compute_type: str, precision: str, record_property: Any
) -> None:
    """How far int8 and bfloat16 follow the reference on random weights is reported; nothing is promised there."""
    made = engine(folders["micro"], compute_type, precision)
    heard = [window(seed) for seed in range(4)]
    expected = [reference(folders["micro"], one, CASES["plain"], made) for one in heard]
    shares = [agreement(a.tokens, b.tokens) for a, b in zip(expected, raw(made, heard, CASES["plain"]), strict=True)]
    record_property("agreement", float(np.mean(shares)))
    print(  # noqa: T201
        f"decoder {compute_type}, encoder {precision}: {np.mean(shares):.0%} of the tokens before the first difference"
    )
    assert all(0 <= share <= 1 for share in shares)


# --- the demo checkpoint


@pytest.mark.skipif(not (DEMO / "model.safetensors").is_file(), reason="the demo checkpoint is not there")
class TestDemo:
    """The same on the checkpoint of this repository and its held-out clips."""

    def compared(self, folder: Path, compute_type: str, precision: str) -> tuple[list[Expected], list[Expected]]:
        """The reference's answers and the engine's, for windows padded to 30 s."""
        prepared = replace(prepare(DEMO, cache=folder, compute_type=compute_type), audio_context="full")
        made = WhisperEngine.load(prepared, device="cpu", precision=precision, compute_type=compute_type, threads=2)
        options = replace(GREEDY, language=made.languages[0], max_new_tokens=None)
        expected = [reference(DEMO, one, options, made) for one in clips()]
        return expected, raw(made, clips(), options)

    def test_greedy_tokens_equal_hugging_faces(self, tmp_path: Path) -> None:
        """In float32, tokens, average log probability and silence are the reference's on real speech."""
        expected, actual = self.compared(tmp_path, "float32", "f32")
        assert [one.tokens for one in expected] == [one.tokens for one in actual]
        assert [pytest.approx(e.avg_logprob, abs=1e-2) for e in expected] == [a.avg_logprob for a in actual]
        assert [pytest.approx(e.no_speech_prob, abs=1e-3) for e in expected] == [a.no_speech_prob for a in actual]

    def test_int8_and_bfloat16_agree_mostly(self, tmp_path: Path, record_property: Any) -> None:
        """The numbers that serve by default write at least nine tokens in ten as the reference does."""
        expected, actual = self.compared(tmp_path, "int8", "auto")
        share = float(np.mean([agreement(a.tokens, b.tokens) for a, b in zip(expected, actual, strict=True)]))
        record_property("agreement", share)
        print(f"int8 and the default encoder: {share:.1%} of the tokens before the first difference")  # noqa: T201 - a figure to report
        assert share > 0.9


def clips(count: int = 12) -> list[Window]:
    """The first held-out clips of the demo checkpoint's recipe."""
    from tickertape.audio import decode

    lines = (HELD_OUT / "unseen.jsonl").read_text().splitlines()[:count]
    found = [decode(HELD_OUT / json.loads(line)["audio"]).samples[0] for line in lines]
    return [Window(samples[:WINDOW_SAMPLES]) for samples in found]
