"""What an English caption says of clothes and bags, and where: nouns, their colours, sides and numbers.

Rules and word lists, no model: what they do not know they leave alone, so a caption that is too clever for them
gives no pair and never a wrong one. Colours and garments come in families, because two words of one family may be
true of the same thing (navy and blue, pants and jeans); families that people confuse are `CLOSE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

COLOURS: dict[str, str] = {
    "black": "black",
    "white": "white",
    **dict.fromkeys(("grey", "gray", "silver"), "grey"),
    **dict.fromkeys(("red", "maroon", "burgundy", "crimson"), "red"),
    **dict.fromkeys(("blue", "navy"), "blue"),
    **dict.fromkeys(("green", "olive"), "green"),
    "yellow": "yellow",
    "orange": "orange",
    "pink": "pink",
    **dict.fromkeys(("purple", "violet", "lavender"), "purple"),
    "brown": "brown",
    **dict.fromkeys(("beige", "tan", "khaki", "cream"), "beige"),
}
"""Word -> family, which is itself the plainest word."""
_CLOSE_TO = {
    "beige": ("brown", "white", "yellow", "grey"),
    "grey": ("white", "black", "green"),
    "red": ("orange", "pink", "brown"),
    "orange": ("yellow", "brown"),
    "purple": ("pink", "blue"),
    "blue": ("black",),
}
CLOSE = frozenset(frozenset((hue, other)) for hue, others in _CLOSE_TO.items() for other in others)
"""Colours that one person calls this and another that: an exchange may leave the caption true."""

_SLOTS: dict[str, dict[str, str]] = {
    "upper": {
        "shirt": "shirt|t-shirt|tshirt|t shirt|tee shirt|tee|blouse|polo",
        "jacket": "jacket|coat|overcoat|blazer|parka",
        "hoodie": "hoodie|sweatshirt|sweater|pullover|jumper",
        "dress": "dress",
        "": "top",
    },
    "lower": {
        "trousers": "trousers|pants|slacks|jeans|leggings|chinos",
        "shorts": "shorts|short pants",
        "skirt": "skirt",
    },
    "shoes": {
        "boots": "boots",
        "sandals": "sandals|slippers|flip flops|flip-flops",
        "sneakers": "sneakers|trainers|sports shoes|running shoes|tennis shoes",
        "": "shoes|footwear|heels",
    },
    "bag": {
        "backpack": "backpack|back pack|rucksack|knapsack",
        "handbag": "handbag|hand bag|purse",
        "suitcase": "suitcase|trolley case",
        "shoulder bag": "shoulder bag|crossbody bag|messenger bag|satchel",
        "": "bag|tote|luggage",
    },
    "hat": {
        "cap": "cap|baseball cap",
        "beanie": "beanie|knit hat",
        "sun hat": "sun hat|wide-brimmed hat|wide brimmed hat",
        "": "hat|helmet",
    },
}
"""Slot -> family -> its nouns; those of the family "" say too little to be exchanged."""
SLOTS = tuple(_SLOTS)
NOUNS = {
    noun: (slot, family)
    for slot, families in _SLOTS.items()
    for family, nouns in families.items()
    for noun in nouns.split("|")
}
PLURAL = frozenset(noun for noun, (slot, _) in NOUNS.items() if slot in ("lower", "shoes") and noun != "skirt")
_UNLIKE_TO = {
    "jacket": ("shirt", "dress"),
    "dress": ("shirt", "hoodie"),
    "shorts": ("trousers", "skirt"),
    "skirt": ("trousers",),
    "boots": ("sandals", "sneakers"),
    "sandals": ("sneakers",),
    "suitcase": ("backpack", "handbag", "shoulder bag"),
    "handbag": ("backpack",),
    "cap": ("beanie", "sun hat"),
    "beanie": ("sun hat",),
}
_UNLIKE = frozenset(frozenset((family, other)) for family, others in _UNLIKE_TO.items() for other in others)
"""Families of one slot that nobody takes for each other; a hoodie, say, passes for a shirt and for a jacket."""
NUMBERS = ("one", "two", "three", "four")
_COUNTED = "bag|handbag|backpack|suitcase|bottle|book|cup|umbrella|phone|thing|item|object|stripe|strap|pocket"
_PARTS = "hand|arm|shoulder|wrist|side|hip|leg|foot|elbow|forearm|knee|ankle"

_SHADES = "dark|light|bright|pale|deep"
_HUES = "|".join(COLOURS)
_COLOUR = rf"(?:(?:{_SHADES})[ -])*(?:{_HUES})(?:[ -](?:{_HUES}))*"
_LOOKS = (
    "striped|stripy|checked|checkered|plaid|plain|printed|floral|dotted|long|short(?![ -]pants)|sleeved|sleeve|"
    "sleeveless|button-up|hooded|denim|leather|cotton|knit(?! hat)|knee-length|rolling|large|big|small|loose|tight|"
    "zip-up|dress(?= (?:shirt|pants|shoes))"
)
_PHRASE = re.compile(
    rf"(?P<before>\b(?:{_HUES})(?:[ -](?:{_HUES}))*(?:,? (?:and|or) |, ?| ?[/&] ?))?"
    rf"(?P<article>\b(?:an?|A|An) )?"
    rf"(?P<first>(?:\b(?:{_LOOKS})[ -])*)"
    rf"(?:(?P<colour>\b{_COLOUR})(?P<joined>(?:,? (?:and|or) | ?[/&] ?)(?:{_HUES})\b)?(?: |, (?=(?:{_LOOKS})\b)))?"
    rf"(?P<then>(?:\b(?:{_LOOKS})[ -])*)"
    rf"\b(?P<noun>{'|'.join(sorted(map(re.escape, NOUNS), key=len, reverse=True))})\b"
    rf"(?P<after> (?:that |which )?(?:is|are) {_COLOUR}\b)?"
    rf"(?P<trim> with (?:an? )?(?:(?:{_LOOKS})[ -])*{_COLOUR}\b)?",
    re.IGNORECASE,
)
_NOT_THE_GARMENT = re.compile(r"[ -](?:shirt|pants|shoes|pocket|sleeve|bag|case|code)s?\b", re.IGNORECASE)
_SIDE = re.compile(rf"\b(?P<side>left|right) (?P<part>{_PARTS})s?\b", re.IGNORECASE)
_ANY_SIDE = re.compile(r"\b(?:left|right|both)\b", re.IGNORECASE)
_SOMETHING = re.compile(r"\b(?:something|thing|item|object)s?\b", re.IGNORECASE)
_NUMBER = re.compile(
    rf"\b(?P<number>{'|'.join(NUMBERS)}) (?P<looks>(?:{_COLOUR} )?)(?P<noun>{_COUNTED})(?P<plural>s?)\b", re.IGNORECASE
)
_WORDS = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")

Span = tuple[int, int]


@dataclass(frozen=True)
class Thing:
    """A garment, shoe, bag or hat that a caption names."""

    slot: str
    family: str
    """"" where the noun says too little."""
    noun: Span
    start: int
    """Where its words begin, behind the article."""
    article: Span | None
    colour: Span | None
    """The words of its one colour, with their shade; None without a colour, or with several."""
    hue: str | None
    """The family of that colour."""
    hues: frozenset[str]
    """All colours that are said of it, stripes and prints too."""


@dataclass(frozen=True)
class Sided:
    """ "left" or "right" of a part of the body."""

    side: str
    part: str
    span: Span


@dataclass(frozen=True)
class Counted:
    """A number of things."""

    number: str
    noun: str
    span: Span
    plural: Span
    """Where the noun's s stands, empty without one."""


@lru_cache(maxsize=1 << 15)
def things(caption: str) -> tuple[Thing, ...]:
    """The clothes, shoes, bags and hats of a caption, from left to right. Kept: every kind of change asks again."""
    found = (_thing(match, caption) for match in _PHRASE.finditer(caption))
    return tuple(thing for thing in found if thing is not None)


def _thing(match: re.Match[str], caption: str) -> Thing | None:
    noun = match["noun"].lower()
    if _NOT_THE_GARMENT.match(caption, match.end("noun")):
        return None  # a dress shirt is no dress, a shirt pocket no shirt
    slot, family = NOUNS[noun]
    said = match["colour"] or ""
    before = match["before"] if said and not match["article"] else None
    own = _hues(said)
    single = len(own) == 1 and not (before or match["joined"] or match["after"])
    return Thing(
        slot,
        family,
        match.span("noun"),
        match.start("first"),
        match.span("article") if match["article"] else None,
        match.span("colour") if single else None,
        next(iter(own)) if single else None,
        own.union(*(_hues(part or "") for part in (before, match["joined"], match["after"], match["trim"]))),
    )


def _hues(text: str) -> frozenset[str]:
    return frozenset(COLOURS[word] for word in words(text) if word in COLOURS)


def side(caption: str) -> Sided | None:
    """The one side that a caption names; None where it names none, or several, or does not say what is there."""
    found = list(_SIDE.finditer(caption))
    if len(found) != 1 or len(_ANY_SIDE.findall(caption)) != 1 or _SOMETHING.search(caption):
        return None
    return Sided(found[0]["side"].lower(), found[0]["part"].lower(), found[0].span("side"))


def counted(caption: str) -> list[Counted]:
    """The numbers of things that a caption states."""
    return [
        Counted(match["number"].lower(), match["noun"].lower(), match.span("number"), match.span("plural"))
        for match in _NUMBER.finditer(caption)
        if (match["number"].lower() == "one") == (not match["plural"])
    ]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORDS.findall(text.lower())


def apart(hue: str, others: frozenset[str]) -> bool:
    """Whether a colour is none of the others, and close to none."""
    return hue not in others and not any(frozenset((hue, other)) in CLOSE for other in others)


def unlike(family: str, other: str) -> bool:
    """Whether nobody takes a garment of one family for one of the other."""
    return frozenset((family, other)) in _UNLIKE


def edited(caption: str, changes: dict[Span, str]) -> str:
    """A caption with some of its spans replaced; what stood at the beginning of a sentence keeps its capital."""
    parts, at = [], 0
    for (start, end), new in sorted(changes.items()):
        capital = new[:1].upper() + new[1:] if caption[start : start + 1].isupper() else new
        parts += [caption[at:start], capital]
        at = end
    return "".join([*parts, caption[at:]])


def article(word: str) -> str:
    """The article, with its blank, that goes before a word."""
    return "an " if word[:1].lower() in "aeiou" else "a "


def determined(caption: str, at: int) -> bool:
    """Whether the words that start there have a word before them that takes the place of "a"."""
    before = words(caption[:at])
    return bool(before) and before[-1] in ("his", "her", "their", "the", "its", "of", "some", *NUMBERS[1:])


def bag_of(caption: str) -> list[str]:
    """The words in alphabetical order: equal for captions that differ in word order alone."""
    return sorted(words(caption))
