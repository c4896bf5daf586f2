"""Languages by code and by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tickertape.errors import OptionError
from tickertape.transcripts.languages import (
    ALIASES,
    CODES,
    LANGUAGES,
    OTHER_NAMES,
    SPACELESS,
    language_code,
    separator,
    spoken_languages,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("en", "en"), ("DE", "de"), ("German", "de"), (" haitian creole ", "ht"), ("en-GB", "en"), ("pt_BR", "pt"),
     ("mandarin", "zh"), ("jv", "jw"), ("yue", "yue"), ("nb", "no"), ("fil", "tl"), ("fil-PH", "tl"), ("iw", "he"),
     ("cmn", "zh"), ("cmn-Hans-CN", "zh"), ("ENG", "en"), ("ger", "de"), ("deu", "de"), ("zh-yue", "yue"),
     ("zh-Hant-TW", "zh"), ("zh-yue-HK", "yue"), ("yue-HK", "yue"), ("sr-Latn-RS", "sr"),
     ("Norwegian Bokm\u00e5l", "no"), ("farsi", "fa"), ("swh", "sw"), ("haw", "haw"), ("haitian_creole", "ht")],
)  # fmt: skip
def test_languages_are_known_by_code_and_name(given: str, expected: str) -> None:
    """ISO 639 codes, BCP 47 tags, English names and common aliases, in any case."""
    assert expected == language_code(given)


@pytest.mark.parametrize("given", ["", "xx", "klingon", "e", "english!", "-", "tlh", "sh", "-" * 9999])
def test_unknown_languages_are_refused(given: str) -> None:
    """With a code that clients can rely on, and without repeating what was sent."""
    with pytest.raises(OptionError) as caught:
        language_code(given)
    assert ("invalid_language", "language") == (caught.value.code, caught.value.param)
    assert not given or f"'{given}'" not in caught.value.message


def test_every_code_and_name_leads_to_its_code() -> None:
    """The table is consistent with itself."""
    assert list(LANGUAGES) == [language_code(name) for name in LANGUAGES.values()]
    assert set(ALIASES.values()) | set(OTHER_NAMES.values()) | set(CODES) | SPACELESS <= set(LANGUAGES)
    others = [*OTHER_NAMES, *ALIASES, *" ".join(CODES.values()).split()]
    assert sorted(set(others) - set(LANGUAGES)) == sorted(others)


def test_every_language_has_its_three_letter_codes() -> None:
    """Each of Whisper's languages is known by its codes in ISO 639-2, both of them, and ISO 639-3."""
    table = Path("/usr/share/iso-codes/json/iso_639-2.json")
    if not table.exists():
        pytest.skip("the package iso-codes is not installed")
    (entries,) = json.loads(table.read_text(encoding="utf-8")).values()
    found = {"haw", "yue"}  # which have no two-letter code
    for entry in entries:
        code = entry.get("alpha_2", "").replace("jv", "jw")
        if code in LANGUAGES:
            assert [code, code] == [language_code(entry[kind]) for kind in ("alpha_3", "alpha_2")]
            assert code == language_code(entry.get("bibliographic", code))
            found.add(code)
    assert set(LANGUAGES) == found


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], (None, ())), (["auto"], (None, ())), (["und"], (None, ())), (["de", "AUTO"], (None, ())),
     (["de"], ("de", ())), (["deu", "German"], ("de", ())), (["en-US", "deu"], (None, ("en", "de")))],
)  # fmt: skip
def test_one_language_is_fixed_and_several_are_detected_among(
    names: list[str], expected: tuple[str | None, tuple[str, ...]]
) -> None:
    """One language is the language; several restrict the detection; "auto" restricts nothing."""
    assert expected == spoken_languages(names)


@pytest.mark.reference
def test_the_table_is_the_originals() -> None:
    """Codes, names and their order are those of the reference implementation."""
    reference = pytest.importorskip("transformers.models.whisper.tokenization_whisper", reason="needs transformers")
    assert list(LANGUAGES.items()) == list(reference.LANGUAGES.items())
    assert ALIASES == {
        name: code for name, code in reference.TO_LANGUAGE_CODE.items() if name not in reference.LANGUAGES.values()
    }


def test_only_spaceless_neighbours_join_without_a_space() -> None:
    """A space stands between phrases as soon as one of them is written with spaces."""
    assert ["", "", " ", " ", " "] == [
        separator(*pair) for pair in (("zh", "zh"), ("zh", "ja"), ("zh", "en"), ("en", "th"), ("en", "de"))
    ]
