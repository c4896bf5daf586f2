"""The demo recipe: sentences, tokenizer, held-out sets and the checkpoint's files agree with each other."""

from __future__ import annotations

import json
import random
import re
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from recipes.demo import figures
from recipes.demo.call import LINES, VALUES
from recipes.demo.patterns import LISTS
from recipes.demo.sentences import (
    FIGURES,
    PATTERNS,
    Sentence,
    held_out,
    held_out_sentences,
    kept_from_training,
    sentence,
    training_sentences,
)

ROOT = Path(__file__).parents[2]
HELD_OUT = ROOT / "recipes" / "demo" / "heldout"
EXAMPLES = ROOT / "examples" / "audio"
CHECKPOINT = ROOT / "tests" / "checkpoint"
SETS = ("known", "unseen", "telephone", "digits", "pauses")
MEGABYTE = 1_000_000
NUMBER_WORDS = set(figures.ONES) | set(figures.TENS) | {"hundred", "thousand", "double", "triple", "oh"}


def drawn(count: int, seed: int = 3) -> list[Sentence]:
    rng = random.Random(seed)
    return [sentence(rng) for _ in range(count)]


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HELD_OUT / f"{name}.jsonl").read_text().splitlines()]


def settings(name: str) -> dict[str, Any]:
    return dict(json.loads((CHECKPOINT / name).read_text()))


needs_checkpoint = pytest.mark.skipif(
    not (CHECKPOINT / "model.safetensors").exists(), reason="the synthetic-voice model has not been exported yet"
)


@pytest.mark.slow
def test_there_are_well_over_a_hundred_patterns_and_a_hundred_thousand_sentences() -> None:
    """The generator does not repeat itself: 100,000 distinct sentences in fewer than 160,000 draws."""
    assert sum(len(group) for group in PATTERNS[:-1]) > 300
    rng, spoken = random.Random(3), set()
    for _ in range(160_000):
        spoken.add(sentence(rng).spoken)
        if len(spoken) == 100_000:
            break
    assert len(spoken) == 100_000


def test_every_slot_of_every_pattern_can_be_filled() -> None:
    """A pattern names only slots that exist."""
    named = {name for group in PATTERNS for line in group for name in re.findall(r"\{(\w+)\}", line)}
    assert named - set(FIGURES) - set(LISTS) - {"spelled", "lastspelled"} == set()


def test_sentences_are_written_as_people_write_and_spoken_without_figures() -> None:
    """Written text begins with a capital or a figure and ends with punctuation; no digit or sign is spoken."""
    for item in drawn(5_000):
        assert re.match(r"[A-Z$£€\d]", item.written), item
        assert item.written[-1] in ".?", item
        assert not re.search(r"[\d$£€%\[\]{}|]", item.spoken), item
        assert "  " not in item.written, item


@pytest.mark.slow
def test_one_way_of_saying_leads_to_one_way_of_writing() -> None:
    """Two sentences that sound the same are written the same, so a transcript has one right answer."""
    written: dict[str, str] = {}
    for item in drawn(60_000):
        said = re.sub(r"[^a-z']+", " ", item.spoken.lower())
        text = re.sub(r"[.,?]+$", "", item.written)
        assert written.setdefault(said, text).replace(",", "") == text.replace(",", ""), item


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "zero"), (13, "thirteen"), (42, "forty-two"), (250, "two hundred and fifty"), (1_006, "one thousand and six")],
)
def test_cardinals_are_spoken_in_full(value: int, words: str) -> None:
    """Numbers in words, with the British joiner."""
    assert figures.cardinal(value, joiner=True) == words


@pytest.mark.parametrize("name", ["four", "code", "account", "card", "routing", "sort_code", "phone", "postcode"])
def test_digit_strings_are_spoken_digit_for_digit(name: str) -> None:
    """What is said of a number holds exactly its digits, whichever way it is said."""
    rng = random.Random(name)
    for _ in range(300):
        written, spoken = FIGURES[name](rng)
        assert heard(spoken) == re.sub(r"\D", "", written), (written, spoken)


def heard(spoken: str) -> str:
    """Read number words back into digits: one by one, in doubles and triples, or in pairs."""
    units = {word: str(value) for value, word in enumerate(figures.ONES)} | {"oh": "0"}
    tens = {word: str(value * 10) for value, word in enumerate(figures.TENS) if value >= 2}
    digits, times = "", 1
    for word in re.findall(r"[a-z-]+", spoken):
        if word in {"double", "triple"}:
            times = 2 if word == "double" else 3
            continue
        head, _, tail = word.partition("-")
        digits += str(int(tens[head]) + int(units[tail])) if tail else tens.get(head, "") or units[head] * times
        times = 1
    return digits


@pytest.mark.slow
def test_held_out_sentences_never_appear_in_training() -> None:
    """The split is by the spoken words: no overlap by them nor by the written text."""
    training = list(islice(training_sentences(random.Random(1)), 20_000))
    kept = list(islice(held_out_sentences(random.Random(2)), 60))
    assert {item.key for item in training} & {item.key for item in kept} == set()
    assert {item.written for item in training} & {item.written for item in kept} == set()
    assert all(held_out(item) and kept_from_training(item) for item in kept)


@pytest.mark.parametrize("name", SETS)
def test_held_out_manifests_describe_their_recordings(name: str) -> None:
    """Every line names a recording that is there, with its text, its duration and its segments in order."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile reads the recordings' lengths")
    for line in lines(name):
        assert line["text"] == " ".join(text for _, _, text in line["segments"])
        edges = [time for start, end, _ in line["segments"] for time in (start, end)]
        assert edges == sorted(edges)
        assert edges[-1] <= line["duration"]
        assert soundfile.info(HELD_OUT / line["audio"]).duration == pytest.approx(line["duration"], abs=0.1)


def test_unseen_voices_are_not_among_the_known() -> None:
    """No recording of the other sets has a voice of the unseen set."""
    voices = {name: {line["voice"] for line in lines(name)} for name in SETS}
    assert all(voices["unseen"] & voices[name] == set() for name in SETS if name != "unseen")


def test_the_call_is_three_minutes_with_turns_in_order() -> None:
    """The two-channel call has its turns, some of them overlapping, and its text by channel."""
    about = json.loads((HELD_OUT / "call.json").read_text())
    turns = about["turns"]
    assert 150 < about["duration"] < 200
    assert {turn["channel"] for turn in turns} == {0, 1}
    assert [turn["start"] for turn in turns] == sorted(turn["start"] for turn in turns)
    assert any(after["start"] < before["end"] for before, after in pairwise(turns))
    assert len(turns) == len(LINES)
    assert {name for _, _, line in LINES for name in re.findall(r"\{(\w+)\}", line)} == set(VALUES)


def test_held_out_sets_stay_small() -> None:
    """All recordings together are at most 6 MB."""
    assert sum(path.stat().st_size for path in HELD_OUT.rglob("*") if path.is_file()) <= 6 * MEGABYTE


def test_there_are_five_examples() -> None:
    """Five short clips, in four formats, each with its text."""
    clips = [json.loads(line) for line in (EXAMPLES / "manifest.jsonl").read_text().splitlines()]
    assert len(clips) == 5
    assert all((EXAMPLES / line["audio"]).is_file() and line["text"] for line in clips)
    assert {Path(line["audio"]).suffix for line in clips} == {".wav", ".flac", ".mp3", ".opus"}


@needs_checkpoint
def test_the_checkpoint_is_small_and_declares_trimmed_windows() -> None:
    """At most 25 MB, and its configuration says what it was trained for."""
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 25 * MEGABYTE
    assert settings("config.json")["audio_context"] == "trimmed"


@needs_checkpoint
def test_the_checkpoints_tokens_stand_in_whispers_order() -> None:
    """Text, endoftext, startoftranscript, languages, tasks, nospeech, notimestamps, then 1,501 times."""
    tokenizer = pytest.importorskip("recipes.demo.tokenizer", reason="the tokenizers package reads the vocabulary")
    words = tokenizer.load(CHECKPOINT)
    assert [words.ids[name] for name in tokenizer.SPECIALS] == list(range(1_000, 1_000 + len(tokenizer.SPECIALS)))
    assert words.id("0.00") == words.id("notimestamps") + 1
    assert words.id("30.00") == words.size - 1 == settings("config.json")["vocab_size"] - 1


@needs_checkpoint
def test_the_checkpoints_generation_settings_fit_its_vocabulary() -> None:
    """The ids that decoders read are this vocabulary's own."""
    tokenizer = pytest.importorskip("recipes.demo.tokenizer", reason="the tokenizers package reads the vocabulary")
    words, generation, network = tokenizer.load(CHECKPOINT), settings("generation_config.json"), settings("config.json")
    assert generation["no_timestamps_token_id"] == words.id("notimestamps")
    assert generation["decoder_start_token_id"] == words.id("startoftranscript") == network["decoder_start_token_id"]
    assert generation["eos_token_id"] == words.id("endoftext") == network["eos_token_id"]
    assert generation["lang_to_id"] == {"<|en|>": words.id("en")}
    assert generation["task_to_id"] == {task: words.id(task) for task in ("transcribe", "translate")}
    assert words.id("endoftext") not in generation["suppress_tokens"]
    heads = [tuple(head) for head in generation["alignment_heads"]]
    assert heads
    assert all(layer < network["decoder_layers"] and head < network["decoder_attention_heads"] for layer, head in heads)


@needs_checkpoint
def test_the_tokenizer_brings_sentences_back() -> None:
    """What is written is what is read, and every digit is a token."""
    tokenizer = pytest.importorskip("recipes.demo.tokenizer", reason="the tokenizers package reads the vocabulary")
    words = tokenizer.load(CHECKPOINT)
    for item in drawn(500):
        tokens = words.text(item.written)
        assert words.decode(tokens) == item.written
        pieces = [words.tokenizer.decode([token]) for token in tokens]
        assert all(len(piece) == 1 for piece in pieces if re.search(r"\d", piece))


@needs_checkpoint
@pytest.mark.reference
def test_transformers_reads_the_tokenizer_alike() -> None:
    """The Whisper tokenizer of transformers, which builds its own from vocabulary and merges, gives the same tokens."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference that the layout is for")
    tokenizer = pytest.importorskip("recipes.demo.tokenizer", reason="the tokenizers package reads the vocabulary")
    words, theirs = tokenizer.load(CHECKPOINT), transformers.WhisperTokenizer.from_pretrained(CHECKPOINT)
    for item in drawn(100):
        assert theirs(" " + item.written, add_special_tokens=False).input_ids == words.text(item.written)


@needs_checkpoint
def test_the_card_shows_the_measured_figures_and_the_limits() -> None:
    """The model card holds every figure of evaluation.json and says what the checkpoint does not know."""
    card = (CHECKPOINT / "README.md").read_text()
    measured = json.loads((CHECKPOINT / "evaluation.json").read_text())["figures"]
    assert all(f"| {figure['name']} | {figure['value']:.1%} |" in card for figure in measured)
    assert "and nothing else" in card
