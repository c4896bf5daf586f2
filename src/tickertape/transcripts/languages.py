"""The languages that Whisper was trained on, and the separator between their texts."""

from __future__ import annotations

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
    "jv": "jw",  # ISO 639-1 withdrew jw for Javanese; Whisper kept it
}
# fmt: on
SPACELESS = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # written without spaces between words

_CODES = {name: code for code, name in LANGUAGES.items()} | ALIASES


def language_code(language: str) -> str:
    """Whisper's code for a code or an English name, in any case ("DE", "german").

    A region is ignored ("en-GB", "pt_BR"). Raises `OptionError` (`invalid_language`) for an unknown language.
    """
    name = language.strip().lower()
    base = name.replace("_", "-").partition("-")[0]
    for candidate in (name, base):
        code = _CODES.get(candidate, candidate)
        if code in LANGUAGES:
            return code
    message = "unknown language: give an ISO 639-1 code such as 'en', or an English name such as 'english'"
    raise OptionError(message, "language", "invalid_language")


def separator(left: str, right: str) -> str:
    """The separator between two phrases in these languages: a space if either language is written with spaces."""
    return "" if left in SPACELESS and right in SPACELESS else " "
