"""The languages that Whisper was trained on, and the separator between their texts."""

from __future__ import annotations

from collections.abc import Iterable

from tickertape.errors import OptionError

# The 100 languages of openai/whisper tokenizer.py: code to lower-case English name, in the order of their tokens.
# fmt: off
LANGUAGES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean", "fr": "french",
    "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan", "nl": "dutch",
    "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi", "fi": "finnish",
    "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay", "cs": "czech",
    "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian", "th": "thai", "ur": "urdu",
    "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian", "la": "latin", "mi": "maori", "ml": "malayalam",
    "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian", "lv": "latvian", "bn": "bengali", "sr": "serbian",
    "az": "azerbaijani", "sl": "slovenian", "kn": "kannada", "et": "estonian", "mk": "macedonian", "br": "breton",
    "eu": "basque", "is": "icelandic", "hy": "armenian", "ne": "nepali", "mn": "mongolian", "bs": "bosnian",
    "kk": "kazakh", "sq": "albanian", "sw": "swahili", "gl": "galician", "mr": "marathi", "pa": "punjabi",
    "si": "sinhala", "km": "khmer", "sn": "shona", "yo": "yoruba", "so": "somali", "af": "afrikaans", "oc": "occitan",
    "ka": "georgian", "be": "belarusian", "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic",
    "yi": "yiddish", "lo": "lao", "uz": "uzbek", "fo": "faroese", "ht": "haitian creole", "ps": "pashto",
    "tk": "turkmen", "nn": "nynorsk", "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish", "my": "myanmar",
    "bo": "tibetan", "tl": "tagalog", "mg": "malagasy", "as": "assamese", "tt": "tatar", "haw": "hawaiian",
    "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese", "su": "sundanese", "yue": "cantonese",
}
# Other names that openai/whisper accepts as well.
ALIASES = {
    "burmese": "my", "castilian": "es", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "mandarin": "zh",
    "moldavian": "ro", "moldovan": "ro", "panjabi": "pa", "pushto": "ps", "sinhalese": "si", "valencian": "ca",
}
# Three-letter codes: ISO 639-3, the bibliographic one of ISO 639-2 where it differs, the standard variety of a
# macrolanguage (cmn: Mandarin), and withdrawn codes.
CODES = {
    "en": "eng", "zh": "zho chi cmn", "de": "deu ger", "es": "spa", "ru": "rus", "ko": "kor", "fr": "fra fre",
    "ja": "jpn", "pt": "por", "tr": "tur", "pl": "pol", "ca": "cat", "nl": "nld dut", "ar": "ara arb", "sv": "swe",
    "it": "ita", "id": "ind", "hi": "hin", "fi": "fin", "vi": "vie", "he": "heb", "uk": "ukr", "el": "ell gre",
    "ms": "msa may zlm zsm", "cs": "ces cze", "ro": "ron rum mol", "da": "dan", "hu": "hun", "ta": "tam",
    "no": "nor nob", "th": "tha", "ur": "urd", "hr": "hrv scr", "bg": "bul", "lt": "lit", "la": "lat", "mi": "mri mao",
    "ml": "mal", "cy": "cym wel", "sk": "slk slo", "te": "tel", "fa": "fas per pes prs", "lv": "lav lvs", "bn": "ben",
    "sr": "srp scc", "az": "aze azj", "sl": "slv", "kn": "kan", "et": "est ekk", "mk": "mkd mac", "br": "bre",
    "eu": "eus baq", "is": "isl ice", "hy": "hye arm", "ne": "nep npi", "mn": "mon khk", "bs": "bos", "kk": "kaz",
    "sq": "sqi alb als", "sw": "swa swh", "gl": "glg", "mr": "mar", "pa": "pan", "si": "sin", "km": "khm", "sn": "sna",
    "yo": "yor", "so": "som", "af": "afr", "oc": "oci", "ka": "kat geo", "be": "bel", "tg": "tgk", "sd": "snd",
    "gu": "guj", "am": "amh", "yi": "yid ydd", "lo": "lao", "uz": "uzb uzn", "fo": "fao", "ht": "hat",
    "ps": "pus pbt pbu", "tk": "tuk", "nn": "nno", "mt": "mlt", "sa": "san", "lb": "ltz", "my": "mya bur",
    "bo": "bod tib", "tl": "tgl fil", "mg": "mlg plt", "as": "asm", "tt": "tat", "ln": "lin", "ha": "hau", "ba": "bak",
    "jw": "jav", "su": "sun",
}
# Names and two-letter codes that other software sends. ISO 639-1 withdrew in, iw, ji, jw and mo; Whisper kept jw.
OTHER_NAMES = {
    "bangla": "bn", "bokmal": "no", "bokmål": "no", "dari": "fa", "farsi": "fa", "filipino": "tl", "in": "id",
    "iw": "he", "ji": "yi", "jv": "jw", "mo": "ro", "nb": "no", "norwegian bokmal": "no", "norwegian bokmål": "no",
    "norwegian nynorsk": "nn", "slovene": "sl", "zh-yue": "yue",
}
# fmt: on
DETECT = frozenset({"auto", "und"})  # und: undetermined, in ISO 639-2 and BCP 47
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # written without spaces between words

_CODES = {name: code for code, name in LANGUAGES.items()} | ALIASES | OTHER_NAMES
_CODES |= {other: code for code in LANGUAGES for other in (code, *CODES.get(code, "").split())}


def spoken_languages(names: Iterable[str]) -> tuple[str | None, tuple[str, ...]]:
    """`Options.language` if there is one name, or `Options.languages` for several; neither for none or "auto".

    Raises `OptionError` (`invalid_language`) for an unknown language.
    """
    names = [name.strip().lower() for name in names]
    codes = () if DETECT.intersection(names) else tuple(dict.fromkeys(map(language_code, names)))
    return (codes[0], ()) if len(codes) == 1 else (None, codes)


def language_code(language: str) -> str:
    """Whisper's code for a code or an English name, in any case ("DE", "deu", "german").

    Script and region are ignored ("zh-Hant-TW", "pt_BR"). Raises `OptionError` (`invalid_language`) for an unknown
    language.
    """
    name = language.strip().lower().replace("_", "-")
    subtags = name.split("-", 2)
    for candidate in (name, "-".join(subtags[:2]), subtags[0]):
        if candidate in _CODES:
            return _CODES[candidate]
    message = "unknown language: give a code such as 'en' or 'eng', an English name such as 'english', or 'auto'"
    raise OptionError(message, "language", "invalid_language")


def separator(left: str, right: str) -> str:
    """The separator between two phrases in these languages: a space if either language is written with spaces."""
    return "" if left in SPACELESS and right in SPACELESS else " "
