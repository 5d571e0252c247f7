"""Misspelt words of persons and clothes, found by symspellpy in our own vocabulary. They are offered, never applied.

A word is doubted only when it is no usual word of English. So "puffer" and "gilet" are left alone, as is everything
that somebody may really mean; "shrit" is offered "shirt", and "redd" (a rare word) "red".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from tbps_cli.asking.lexicon import USUAL, counted, forms, is_english, vocabulary

if TYPE_CHECKING:
    from symspellpy import SymSpell

SHORTEST = 4
"""Letters of a word that is looked at."""
TWO_MISTAKES = 6
"""Letters from which two mistakes are looked for."""
MOST = 5
"""So many words of one question are offered something."""
_WORDS = re.compile(r"[^\W\d_]+")


def misspelt(text: str, spoken: Callable[[str], bool] = lambda word: False) -> list[tuple[int, int, str]]:
    """The words of a sentence that look misspelt: from character to character, and what may be meant.

    spoken: whether a word is one that captions use, so that it is not doubted; asked of few words only.
    """
    found = []
    for match in _WORDS.finditer(text):
        offer = _offer(match[0]) if not _is_a_name(text, match) else None
        if offer is not None and not spoken(match[0]):
            found.append((match.start(), match.end(), offer))
    return found[:MOST]


def corrected(text: str, offers: list[tuple[int, int, str]]) -> str:
    """The sentence with the offered words; capitals at the beginning stay."""
    parts, at = [], 0
    for start, end, offer in offers:
        capital = text[start].isupper()
        parts += [
            text[at:start],
            offer.upper() if text[start:end].isupper() else offer.capitalize() if capital else offer,
        ]
        at = end
    return "".join([*parts, text[at:]])


def _is_a_name(text: str, match: re.Match[str]) -> bool:
    """Whether a word has a capital where a sentence gives it none, as "Millwall" in "a Millwall shirt"."""
    begins = not text[: match.start()].strip() or text[: match.start()].rstrip()[-1:] in ".!?:"
    return match[0].istitle() and not begins and not text.istitle()


@lru_cache(maxsize=10_000)
def _offer(word: str) -> str | None:
    """What may be meant instead of a word, or None where it is fine or nothing is near."""
    plain = word.lower()
    if not SHORTEST <= len(plain) <= 24 or not plain.isascii() or plain in vocabulary():
        return None
    count = counted(plain)
    if count >= USUAL or (count and _is_a_form(plain)):
        return None
    near = _near(plain, rare=count > 0)
    return near if near is not None else _two_words(plain) if not count else None


def _is_a_form(word: str) -> bool:
    """Whether a rare word is made of one of the vocabulary: `striper`, `coated`."""
    endings = ("s", "es", "ed", "er", "ers", "ing", "y", "ly", "ish", "like", "less", "ness")
    stems = (word.removesuffix(ending) for ending in endings if word.endswith(ending))
    return any(map(_stem_is_known, stems)) or (word.endswith("ed") and word[:-1] in vocabulary())


def _stem_is_known(stem: str) -> bool:
    return (
        stem in vocabulary() or f"{stem}e" in vocabulary() or (stem[-1:] == stem[-2:-1] and stem[:-1] in vocabulary())
    )


def _near(word: str, *, rare: bool) -> str | None:
    from symspellpy import Verbosity

    distance = 2 if len(word) >= TWO_MISTAKES and not rare else 1
    found = _symspell().lookup(word, Verbosity.CLOSEST, max_edit_distance=distance)
    if not found and len(word) == TWO_MISTAKES - 1:  # "kakhi": all letters are there
        twice = _symspell().lookup(word, Verbosity.CLOSEST, max_edit_distance=2)
        found = [entry for entry in twice if sorted(entry.term) == sorted(word)]
    fitting = [entry for entry in found if entry.distance == 1 or entry.term[0] == word[0] or len(word) > 7]
    best = max(fitting, key=lambda entry: (_shares(entry.term, word), entry.count, counted(entry.term)), default=None)
    return best.term if best is not None else None


def _shares(term: str, word: str) -> tuple[bool, bool, bool]:
    """Of equally near words the one with the same letters, then the same beginning, then the same end."""
    return sorted(term) == sorted(word), term[0] == word[0], term[-1] == word[-1]


def _two_words(word: str) -> str | None:
    """`redshirt`: two words of the vocabulary that were written as one."""
    splits = [(word[:at], word[at:]) for at in range(3, len(word) - 2)]
    known = [(one, two) for one, two in splits if one in forms("looks") and two in forms("things")]
    return " ".join(max(known, key=lambda pair: min(map(len, pair)))) if known else None


@cache
def _symspell() -> SymSpell:
    from symspellpy import SymSpell

    made = SymSpell(max_dictionary_edit_distance=2, prefix_length=7)
    for word, weight in vocabulary().items():
        made.create_dictionary_entry(word, weight)
    return made


def shares(text: str) -> tuple[float, float]:
    """How much of a sentence's words are words for persons and clothes, and how much English ones at all."""
    words = [match[0].lower() for match in _WORDS.finditer(text)]
    count = max(1, len(words))
    return sum(word in vocabulary() for word in words) / count, sum(map(is_english, words)) / count
