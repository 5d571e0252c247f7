"""What a description could still say: the kinds of things that people are told apart by, and which of them are named.

One short line, and only where less than half is named; whoever has described a person well is left alone.
"""

from __future__ import annotations

import re

from tbps_cli.asking.lexicon import forms

ENOUGH = 4
"""Kinds of `KINDS` that a description names before nothing is missing."""
KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "the person (man, woman, child)": (("persons", "gender"), ("persons", "child"), ("persons", "age")),
    "the upper body (coat, shirt)": (("things", "upper"), ("things", "whole")),
    "the legs (trousers, skirt)": (("things", "lower"), ("things", "whole")),
    "shoes": (("things", "shoes"),),
    "a bag": (("things", "bag"),),
    "hair or hat": (("things", "hair"), ("things", "head")),
}
"""What is named in the line -> the kinds of words that name it."""
MOST = 3
"""So many are named in the line."""
_HEAD_WORDS = frozenset(
    {"bald", "balding", "blond", "blonde", "brunette", "redhead", "redhaired", "bareheaded", "barefoot"}
)


def missing(text: str, minus: tuple[str, ...] = ()) -> str | None:
    """What a description does not name, as a line; None where it names enough, or no person at all.

    What it says is not there counts as named.
    """
    said = _pieces(" . ".join((text, *minus)))
    named = [kind for kind, groups in KINDS.items() if any(said & forms(group, part) for group, part in groups)]
    if said & _HEAD_WORDS and "hair or hat" not in named:
        named.append("hair or hat")
    lost = [kind for kind in KINDS if kind not in named]
    if not named or len(named) >= ENOUGH:
        return None
    return ", ".join(lost[:MOST])


def _pieces(text: str) -> frozenset[str]:
    """The words of a text and its runs of two and three, in lower case."""
    words = re.findall(r"[a-z][a-z'-]*|\.", text.lower())
    runs = {" ".join(words[at : at + count]) for count in (1, 2, 3) for at in range(len(words) - count + 1)}
    return frozenset(runs | {piece for word in words for piece in word.split("-")})
