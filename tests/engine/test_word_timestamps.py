"""Word times: monotone, within the window, and made of exactly the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tickertape.engine.word_timestamps import clip_starts, time_words
from tickertape.types import SAMPLES_PER_TOKEN, Word

SECOND = 16_000

Case = tuple[list[tuple[str, tuple[int, ...]]], list[tuple[int, int]], list[float], int]


@st.composite
def aligned(draw: st.DrawFn) -> Case:
    """Words of one to three tokens, an alignment that may skip tokens, and a window's length."""
    texts = draw(
        st.lists(st.sampled_from([" a", " the", ",", ".", " (", ' "', "go", " stop.", "?", " it's"]), max_size=12)
    )
    words = [(text, tuple(range(draw(st.integers(1, 3))))) for text in texts]
    count = sum(len(tokens) for _, tokens in words)
    length = draw(st.integers(1, 30 * SECOND))
    steps = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=60))
    pairs, token, position = [], 0, 0
    for further, later in steps:
        pairs.append((token, position))
        token, position = min(token + further, count), min(position + later, 1500)
    probabilities = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    return words, pairs, probabilities, length


@given(aligned())
def test_words_are_monotone_and_lose_nothing(
    case: Case,
) -> None:
    """Words rise in time within the window, keep every token, and join to the text; probabilities are in [0, 1]."""
    words, alignment, probabilities, length = case
    found = time_words(words, alignment, probabilities, length)
    plain = "".join(text for text, _ in words)
    assert plain.replace(" ", "") == "".join(word.text for word, _ in found).replace(" ", "")
    assert sum(len(tokens) for _, tokens in words) == sum(count for _, count in found)
    times = [time for word, _ in found for time in (word.start_sample, word.end_sample)]
    assert sorted(times) == times
    assert all(0 <= time <= length for time in times)
    assert all(0 <= word.probability <= 1 for word, _ in found)


def pairs(*positions: int) -> list[tuple[int, int]]:
    return list(enumerate(positions))


def test_words_last_from_token_to_token() -> None:
    """A word begins at its first token's position and ends where the next begins."""
    words = [(" one", (1, 2)), (" two", (3,))]
    found = time_words(words, pairs(0, 10, 25, 50), [0.5, 1.0, 0.25], 30 * SECOND)
    assert [
        (" one", 0, 25 * SAMPLES_PER_TOKEN, 0.75),
        (" two", 25 * SAMPLES_PER_TOKEN, 50 * SAMPLES_PER_TOKEN, 0.25),
    ] == [(word.text, word.start_sample, word.end_sample, word.probability) for word, _ in found]


def test_marks_go_to_the_word_they_touch() -> None:
    """Closing marks join the word before, opening marks the word after."""
    words = [(" (", (1,)), (" one", (2,)), (",", (3,)), (" two", (4,)), (".", (5,))]
    found = time_words(words, pairs(0, 5, 10, 11, 20, 21), [0.5] * 5, 30 * SECOND)
    assert [(" (one,", 3), (" two.", 2)] == [(word.text, count) for word, count in found]


def test_a_pause_is_not_part_of_a_word() -> None:
    """The first word of a sentence gives up the pause before it."""
    words = [(f" w{n}", (n,)) for n in range(5)]
    found = time_words(words, pairs(0, 500, 520, 540, 560, 580), [0.5] * 5, 30 * SECOND)
    assert (460 * SAMPLES_PER_TOKEN, 500 * SAMPLES_PER_TOKEN) == (found[0][0].start_sample, found[0][0].end_sample)


def test_no_words_no_times() -> None:
    """An empty text has no words."""
    assert [] == time_words([], [], [], SECOND)


def test_the_first_word_begins_with_its_segment() -> None:
    """The silence before a segment is no part of its first word; a start outside that word changes nothing."""
    words = [Word(" one", 0, SECOND, 0.5), Word(" two", SECOND, 2 * SECOND, 0.5)]
    assert [SECOND // 2, SECOND] == [word.start_sample for word in clip_starts(words, SECOND // 2)]
    assert words == clip_starts(words, 0) == clip_starts(words, SECOND)
    assert [] == clip_starts([], SECOND)
