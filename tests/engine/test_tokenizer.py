"""Text to tokens and back: prompts, phrases, words and bytes, with an invented vocabulary of Whisper's size."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoint_factory import make_tokenizer
from tickertape.engine.tokenizer import WhisperTokenizer
from tickertape.types import SAMPLES_PER_TOKEN, WINDOW_SAMPLES, Options

ROOM = 223  # tokens of earlier text: half of the 448 positions, less one for `<|startofprev|>`
calm = settings(deadline=None)


def load(folder: Path, kind: str) -> WhisperTokenizer:
    tokenizer = make_tokenizer(kind)
    path = folder / f"{kind}.json"
    tokenizer.save(str(path))
    special = {token: i for token, i in tokenizer.get_vocab().items() if token.startswith("<|") and "." not in token}
    return WhisperTokenizer(path, special, () if kind == "micro.en" else ("en", "de", "fr"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> WhisperTokenizer:
    """A multilingual tokenizer."""
    return load(tmp_path_factory.mktemp("tokens"), "micro")


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> WhisperTokenizer:
    """An English-only tokenizer."""
    return load(tmp_path_factory.mktemp("tokens"), "micro.en")


def names(tokens: WhisperTokenizer, ids: list[int]) -> list[str]:
    return [tokens._tokenizer.id_to_token(one) for one in ids]


def test_a_prompt_says_language_task_and_timestamps(tokens: WhisperTokenizer) -> None:
    """The prompt holds the language, the task and, without timestamps, the token that says so."""
    plain = tokens.prompt(Options(timestamps=False), "de", ROOM)
    assert ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"] == names(tokens, plain)
    timed = tokens.prompt(Options(task="translate"), "fr", ROOM)
    assert ["<|startoftranscript|>", "<|fr|>", "<|translate|>"] == names(tokens, timed)


def test_english_only_checkpoints_get_no_language(english: WhisperTokenizer) -> None:
    """An English-only checkpoint expects neither a language nor a task."""
    assert ["<|startoftranscript|>"] == names(english, english.prompt(Options(), "en", ROOM))
    assert ("en",) == english.languages


def test_a_long_prompt_keeps_its_end(tokens: WhisperTokenizer) -> None:
    """Earlier text is cut to 223 tokens at its beginning, since its end matters most."""
    whole = tokens.encode(" " + " ".join(["abc"] * 400) + " end")
    prompt = tokens.prompt(Options(prompt=" ".join(["abc"] * 400) + " end"), "en", ROOM)
    assert "<|startofprev|>" == names(tokens, prompt)[0]
    assert whole[-ROOM:] == prompt[1 : 1 + ROOM]
    assert 1 + ROOM + 3 == len(prompt)


def test_hotwords_and_prompt_share_the_room(tokens: WhisperTokenizer) -> None:
    """Hotwords come first and take at most half; the prompt's end fills the rest."""
    prompt = tokens.prompt(Options(hotwords="ab " * 300, prompt="xyz " * 300), "en", ROOM)
    assert 1 + ROOM + 3 == len(prompt)
    assert tokens.encode(" " + ("ab " * 300).strip())[: ROOM // 2] == prompt[1 : 1 + ROOM // 2]


@pytest.mark.parametrize("text", ["", "   ", None])
def test_an_empty_prompt_is_none(tokens: WhisperTokenizer, text: str | None) -> None:
    """White space is no earlier text."""
    assert tokens.prompt(Options(), "en", ROOM) == tokens.prompt(Options(prompt=text, hotwords=text), "en", ROOM)


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "ab<|translate|>cd", "<|startoftranscript|><|de|>", "<|0.00|><|3.00|>"]
)
def test_special_tokens_in_a_prompt_are_inert(tokens: WhisperTokenizer, text: str) -> None:
    """What a caller writes is text, whatever it looks like."""
    assert all(one < tokens.end for one in tokens.encode(text))


@calm
@given(text=st.text(max_size=60))
def test_text_survives(tokens: WhisperTokenizer, text: str) -> None:
    """Any text without special tokens is the same after encoding and decoding, whole and byte by byte."""
    ids = tokens.encode(text)
    if "<|" not in text:
        assert text == tokens.decode(ids)
        assert text.encode() == b"".join(tokens.bytes_of(one) for one in ids)


TEXT = st.integers(300, 20_000)
TIME = st.integers(0, 1500)


@calm
@given(data=st.lists(st.one_of(TEXT, TIME.map(lambda t: -t - 1)), max_size=60), length=st.integers(1, WINDOW_SAMPLES))
def test_phrases_keep_every_token(tokens: WhisperTokenizer, data: list[int], length: int) -> None:
    """Phrases hold all text tokens in order, lie within the window, and never end before they start."""
    ids = [one if one > 0 else tokens.first_time - one - 1 for one in data]
    phrases = tokens.phrases(ids, length)
    assert [one for one in data if one > 0] == [one for phrase in phrases for one in phrase.tokens]
    assert all(phrase.tokens for phrase in phrases)
    assert all(0 <= phrase.start <= phrase.end <= length for phrase in phrases)


@calm
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 50), st.lists(TEXT, min_size=1, max_size=5)), max_size=10
    ),
    pause=st.booleans(),
)
@pytest.mark.slow
def test_phrases_lie_where_the_timestamps_say(
    tokens: WhisperTokenizer, steps: list[tuple[int, int, list[int]]], pause: bool
) -> None:
    """A pair of timestamps around text gives its phrase, in samples."""
    at, ids, expected = 0, list[int](), []
    for gap, length, text in steps:
        start = at + gap * pause
        at = start + length
        ids += [tokens.first_time + start, *text, tokens.first_time + at]
        expected.append((start * SAMPLES_PER_TOKEN, at * SAMPLES_PER_TOKEN, tuple(text)))
    found = tokens.phrases(ids, WINDOW_SAMPLES)
    assert expected == [(phrase.start, phrase.end, phrase.tokens) for phrase in found]


def test_an_unfinished_phrase_is_kept(tokens: WhisperTokenizer) -> None:
    """Text after the last timestamp lasts until the window's end."""
    first = tokens.first_time
    found = tokens.phrases([first, 300, first + 50, first + 50, 301, 302], 32_000)
    assert [(0, 16_000, (300,)), (16_000, 32_000, (301, 302))] == [(p.start, p.end, p.tokens) for p in found]


@pytest.mark.parametrize(
    ("text", "truncated", "kept", "next_begins"),
    [
        ([0, None, 50], False, 3, None),  # a single time at the end: nothing follows
        ([0, None, 50, 50], False, 3, 50),  # a pair: another segment begins there
        ([0, None, 50, 50, None], False, 5, None),  # ended by the model, so its last segment lasts until the end
        ([0, None, 50, 60, None], True, 3, 60),  # cut off: its last segment is decoded again
        ([0, None, None], True, 3, None),  # cut off without a place to go on from
        ([None, None], False, 2, None),  # without times
        ([], False, 0, None),
    ],
)
def test_a_pair_of_timestamps_at_the_end_says_that_more_follows(
    tokens: WhisperTokenizer, text: list[int | None], truncated: bool, kept: int, next_begins: int | None
) -> None:
    """The rules of openai/whisper transcribe.py about the place from which a window is decoded again."""
    ids = [300 if time is None else tokens.first_time + time for time in text]
    expected = None if next_begins is None else next_begins * SAMPLES_PER_TOKEN
    assert (ids[:kept], expected) == tokens.finished(ids, truncated=truncated)


def test_text_without_timestamps_is_one_phrase(tokens: WhisperTokenizer) -> None:
    """Without timestamps the whole window is one phrase."""
    assert [(0, 9_999, (300, 301))] == [(p.start, p.end, p.tokens) for p in tokens.phrases([300, 301], 9_999)]


@calm
@given(text=st.text("abc xyz,.'äß語カ ", max_size=40), spaced=st.booleans())
def test_words_lose_nothing(tokens: WhisperTokenizer, text: str, spaced: bool) -> None:
    """Words join to the text and hold every token; where spaces are written, each later word begins with one."""
    ids = tokens.encode(text)
    words = tokens.words(ids, spaced=spaced)
    assert text == "".join(word for word, _ in words)
    assert ids == [one for _, group in words for one in group]
    assert all(word.startswith(" ") for word, _ in words[1:]) or not spaced


def test_characters_are_never_split(tokens: WhisperTokenizer) -> None:
    """A character of several tokens is in one word, even where no spaces are written."""
    words = tokens.words(tokens.encode("語カ"), spaced=False)
    assert ["語", "カ"] == [word for word, _ in words]
