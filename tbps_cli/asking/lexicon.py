"""The words that people use for persons and what they wear, by kind, and the words of plain English.

`words.toml` holds our own table. The English ones are the frequency list that symspellpy brings along: it only says
which spellings are English words, and how usual they are.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, lru_cache
from importlib import resources

USUAL = 1_000_000
"""Times that a word of the frequency list must have been counted before its spelling is never doubted."""


@cache
def table() -> dict[str, dict[str, tuple[str, ...]]]:
    """Group -> kind -> its words, in lower case, as the file has them."""
    text = resources.files("tbps_cli.asking").joinpath("words.toml").read_text(encoding="utf-8")
    return {
        group: {
            kind: tuple(dict.fromkeys(" ".join(word.split()) for word in listed.split(",")))
            for kind, listed in kinds.items()
        }
        for group, kinds in tomllib.loads(text).items()
    }


def plural(noun: str) -> str:
    """The plural of a noun of the table; what is a plural already stays as it is."""
    if noun.endswith(("trousers", "pants", "jeans", "shorts", "glasses", "tights", "bottoms", "clothes", "feet")):
        return noun
    if noun.endswith(("s", "sh", "ch", "x")):
        return f"{noun}es"
    if noun.endswith("scarf"):
        return f"{noun[:-1]}ves"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


_COUNTED = ("things", "parts", ("persons", "gender"), ("persons", "child"), ("persons", "person"))
"""Groups, and kinds of groups, whose words have a plural."""


@cache
def forms(group: str, *kinds: str) -> frozenset[str]:
    """The words of some kinds of a group (of all where none is named), with the plurals of things and parts."""
    listed = [word for kind, words in table()[group].items() if not kinds or kind in kinds for word in words]
    counted = [
        word
        for kind, words in table()[group].items()
        if (group, kind) in _COUNTED or group in _COUNTED
        for word in words
        if not kinds or kind in kinds
    ]
    return frozenset(listed) | frozenset(map(plural, counted))


def pattern(words: frozenset[str]) -> str:
    """A regular expression for one of the words, the longest first; blanks of a word may be hyphens."""
    listed = sorted(words, key=lambda word: (-len(word), word))
    return "(?:" + "|".join(re.escape(word).replace(r"\ ", "[ -]") for word in listed) + ")"


@cache
def vocabulary() -> dict[str, int]:
    """Every single word of the table -> how much it counts when two are equally near: garments and colours first."""
    weight = {"things": 4, "looks": 3, "persons": 3, "others": 2, "parts": 1}
    found: dict[str, int] = {}
    for group in table():
        for word in forms(group):
            for piece in re.findall(r"[a-z]+", word):
                found[piece] = max(found.get(piece, 0), weight[group])
    return found


@cache
def _counts() -> str:
    """The frequency list, a line `word count` each; a dictionary of it takes longer than questions to it."""
    file = resources.files("symspellpy").joinpath("frequency_dictionary_en_82_765.txt")
    return f"\n{file.read_text(encoding='utf-8-sig')}\n"


@lru_cache(maxsize=10_000)
def counted(word: str) -> int:
    """How often a word of plain English was counted, in lower case; 0 for what is none."""
    line = f"\n{word} "
    text = _counts()
    place = text.find(line) if word.isalpha() else -1
    return 0 if place < 0 else int(text[place + len(line) : text.index("\n", place + 1)])


def is_english(word: str) -> bool:
    """Whether a word in lower case is one that English sentences have, however rare."""
    return word in vocabulary() or counted(word) > 0 or word in _SHORTENED


_SHORTENED = frozenset(
    re.findall(r"\w+", "isn wasn aren weren doesn didn don hasn haven hadn ll ve re won cm mm kg ft pm am st nd rd th")
)
"""What is left of isn't, they'll and the like where words are cut at the apostrophe, and units."""


# Things in a sentence -------------------------------------------------------------------------

_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_DETERMINERS = frozenset({"a", "an", "any", "the", "his", "her", "their", "its"})
_KIND_OF = re.compile(r"(?:kind|sort|type|pair)s?\s+of\s+", re.IGNORECASE)
_TAIL = re.compile(
    r"\s+(?:on|over|in|around|across)\s+(?:his|her|their|the|either|one)\s+(?:left\s+|right\s+)?(?P<part>[a-z]+)(?![\w-])",
    re.IGNORECASE,
)
_LOOKS_AT_MOST = 5
_NO_THINGS = frozenset(
    {
        "hood",
        "hoods",
        "hair",
        "hairs",
        "barefoot",
        "hairstyle",
        "haircut",
        "he",
        "she",
        "him",
        "his",
        "her",
        "hers",
        "couple",
        "group",
        "pair",
    }
)
"""Nouns of the table that "no" and "without" do not take away: without hair, somebody is bald."""


@cache
def _nouns() -> frozenset[str]:
    return (forms("things") | forms("persons", "gender", "child", "person")) - _NO_THINGS


def is_look(word: str) -> bool:
    """Whether a word says how something looks; `dark-blue` does."""
    looks = forms("looks")
    return word in looks or ("-" in word and all(piece in looks for piece in word.split("-")))


def thing_at(text: str, place: int) -> tuple[int, bool] | None:
    """Where a thing that begins there ends (`a big black bag on his back`), and whether it is a noun alone.

    None: none begins there. The end takes in where on the body it would be.
    """
    words = _next_words(text, place)
    at = 1 if words and words[0][0] in _DETERMINERS else 0
    if at == 1 and (kind := _KIND_OF.match(text, words[1][1] if len(words) > 1 else len(text))):
        words, at = _next_words(text, kind.end()), 0
    first = at
    while at < len(words) and at - first <= _LOOKS_AT_MOST:
        end = _noun_end(text, words, at)
        if end is not None:
            tail = _TAIL.match(text, end)
            on_body = tail is not None and tail["part"].lower() in forms("parts", "body")
            return (tail.end() if tail and on_body else end), at == first
        if not is_look(words[at][0]) and words[at][0] != "and":
            return None
        at += 1
    return None


def _next_words(text: str, place: int) -> list[tuple[str, int, int]]:
    """The next words that only blanks part, in lower case, with their spans."""
    found: list[tuple[str, int, int]] = []
    while len(found) < _LOOKS_AT_MOST + 5 and (match := _WORD.match(text, place)) is not None:
        found.append((match[0].lower().rstrip("'’-"), match.start(), match.start() + len(match[0].rstrip("'’-"))))
        place = match.end()
        while place < len(text) and text[place] in " \t":
            place += 1
        if place == match.end():
            break
    return found


def _noun_end(text: str, words: list[tuple[str, int, int]], at: int) -> int | None:
    """Where the longest noun that begins with a word ends. A hyphen in it may be a blank in the table."""
    for count in (3, 2, 1):
        piece = words[at : at + count]
        spelt = " ".join(word for word, _, _ in piece)
        if len(piece) == count and (spelt in _nouns() or spelt.replace("-", " ") in _nouns()):
            return piece[-1][2]
    return None
