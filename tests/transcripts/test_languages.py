"""Languages by code and by name."""

from __future__ import annotations

import pytest

from tickertape.errors import OptionError
from tickertape.transcripts.languages import ALIASES, LANGUAGES, SPACELESS, language_code, separator


@pytest.mark.parametrize(
    ("given", "expected"),
    [("en", "en"), ("DE", "de"), ("German", "de"), (" haitian creole ", "ht"), ("en-GB", "en"), ("pt_BR", "pt"),
     ("mandarin", "zh"), ("jv", "jw"), ("yue", "yue")],
)  # fmt: skip
def test_languages_are_known_by_code_and_name(given: str, expected: str) -> None:
    """Codes, English names and regional codes, in any case."""
    assert expected == language_code(given)


@pytest.mark.parametrize("given", ["", "xx", "klingon", "e", "english!"])
def test_unknown_languages_are_refused(given: str) -> None:
    """With a code that clients can rely on, and without repeating what was sent."""
    with pytest.raises(OptionError) as caught:
        language_code(given)
    assert ("invalid_language", "language") == (caught.value.code, caught.value.param)
    assert not given or f"'{given}'" not in caught.value.message


def test_every_code_and_name_leads_to_its_code() -> None:
    """The table is consistent with itself."""
    assert list(LANGUAGES) == [language_code(name) for name in LANGUAGES.values()]
    assert set(ALIASES.values()) | SPACELESS <= set(LANGUAGES)


@pytest.mark.reference
def test_the_table_is_the_originals() -> None:
    """Codes, names and their order are those of the reference implementation."""
    reference = pytest.importorskip("transformers.models.whisper.tokenization_whisper", reason="needs transformers")
    assert list(LANGUAGES.items()) == list(reference.LANGUAGES.items())
    assert {name: code for name, code in ALIASES.items() if name != "jv"} == {
        name: code for name, code in reference.TO_LANGUAGE_CODE.items() if name not in reference.LANGUAGES.values()
    }


def test_only_spaceless_neighbours_join_without_a_space() -> None:
    """A space stands between phrases as soon as one of them is written with spaces."""
    assert ["", "", " ", " ", " "] == [
        separator(*pair) for pair in (("zh", "zh"), ("zh", "ja"), ("zh", "en"), ("en", "th"), ("en", "de"))
    ]
