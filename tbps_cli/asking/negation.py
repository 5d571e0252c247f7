"""What somebody does not wear or have: `no backpack`, `without a hat or glasses`, `isn't carrying a bag`.

Models read past "no" and look for the backpack; so the words go to what the search steers away from. A thing must be
named that can be there or not: "no sleeves" and "no logo" describe a garment and stay. Where two readings are left
("without a hat and a coat"), or two negations meet ("not without a hat"), nothing is changed and the remark says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tbps_cli.asking.lexicon import forms, thing_at
from tbps_cli.asking.understood import Passage

_VERB = (
    r"(?:wear(?:s|ing)?|wore|carr(?:y|ies|ied|ying)|hold(?:s|ing)?|held|hav(?:e|ing)|has|had|us(?:es|ing)|push(?:es|ing)"
    r"|pull(?:s|ing)|riding|with|in|got)"
)
_BE = r"(?:is|was|are|were|does|did|do|has|have|had)"
_NOT = r"(?:n['’]?t|\s+not)"
_WHO = r"(?:(?:,\s*)?\b(?:who|that|which|and|but|he|she|they|it)\s+){0,2}"
_HEADS = {
    "no": r"(?:\b(?:but|and)\s+)?"
    rf"(?:(?:(?:he|she|they|who|that)\s+)?\b(?P<lead>{_VERB}|there\s+(?:is|was)|there's)\s+)?\b(?:no|zero)\s+(?:any\s+)?",
    "without": r"(?:\bbut\s+)?\b(?P<lead>without|w/o)\s+(?:(?:wearing|carrying|having|holding|using)\s+)?(?:any\s+)?",
    "isn't": rf"{_WHO}\b{_BE}{_NOT}\s+(?:(?:got|currently|really|actually)\s+)?{_VERB}\s+(?:got\s+|on\s+)?(?:any\s+)?",
    "not wearing": rf"(?:\b(?:but|and|who|he|she)\s+)?\bnot\s+{_VERB}\s+(?:any\s+)?",
    "not a": r"(?:(?<=[,;(])\s*|\b(?:but|and)\s+)\bnot\s+(?=(?:an?|the|any|his|her)\s)",
    "isn't a": rf"{_WHO}\b(?:is|was|are|were){_NOT}\s+(?=an?\s)",
    "neither": rf"(?:\b(?P<lead>{_VERB})\s+)?\bneither\s+",
}
_EXPRESSIONS = tuple((kind, re.compile(rf"(?<![\w'’-]){head}", re.IGNORECASE)) for kind, head in _HEADS.items())
_MORE = re.compile(r"\s*(?P<joint>,\s*(?:or|nor)\b|\bor\b|\bnor\b|,)\s*(?:any\s+)?", re.IGNORECASE)
_NEGATORS = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bno|\bnobody|\bnone|\bneither|\bwithout|\bnor|\bhardly)\s+(?:[\w'’-]+\s+){0,3}$",
    re.IGNORECASE,
)
_NEGATED_AGAIN = re.compile(
    r"\s+(?:(?:who|that|which)\s+)?(?:(?!and\b|or\b|nor\b|but\b)\w+\s+)?(?:without|not|no|\w+n['’]t)\b", re.IGNORECASE
)
_FRESH = re.compile(r"(?:[,;.]\s*|\b(?:and|or|but|nor)\s+)$", re.IGNORECASE)
_AND = re.compile(r"\s*,?\s*\b(?:and|but)\s+(?P<next>[\w'’-]+)", re.IGNORECASE)
_NEGATING = frozenset({"no", "without", "not", "neither", "w/o", "isn't", "doesn't"})
_ARTICLES = frozenset({"a", "an", "the", "his", "her"})
_ADDED = re.compile(
    r"\s+(?:at all|whatsoever|anywhere|with (?:him|her|them)|to be seen|visible|on(?!\s*\w))(?![\w-])", re.IGNORECASE
)
_OVER = re.compile(
    r"\s+(?:over|under|underneath|beneath|inside|below|except|besides|apart from|other than|like|as|than)\b",
    re.IGNORECASE,
)
_LEFT = re.compile(
    r"\b(?:not|without|never|neither|nor|no)\b(?!\s+(?:one|only|longer|doubt|idea|sure|more|matter|problem|\.|\d|#))|\b\w+n['’]t\b",
    re.IGNORECASE,
)
_OF_A_GARMENT = frozenset({"hair", "one", "only", "else", "body"})
UNCLEAR = "can be read in two ways: the words stay in the sentence (clear: without a hat or bag; no hat, with a bag)"
TWICE = "two negations meet: the words stay in the sentence (--minus TEXT is clear)"
STAYS = "not understood as a thing that is not there: the words stay in the sentence (--minus TEXT is clear)"


@dataclass(frozen=True)
class _Said:
    """A negation: its span, its verb where it has one, and the things."""

    kind: str
    start: int
    end: int
    lead: str
    lead_end: int
    things: tuple[str, ...]
    bare: bool
    """Whether the last thing is a noun alone."""


def negations(text: str) -> list[Passage]:
    """What a sentence says is not there, from left to right; unclear cases are remarked on and keep their words."""
    found: list[Passage] = []
    for said in _sayings(text):
        floor = found[-1].end if found else 0
        if said.start >= floor:
            seen = found[-1].start if found and found[-1].keep else floor
            found.append(_found(text, said, seen))
    return sorted([*found, *_left(text, found)], key=lambda entry: entry.start)


def _sayings(text: str) -> list[_Said]:
    """All readings from left to right, at each place the longest first."""
    listed = []
    for kind, expression in _EXPRESSIONS:
        for match in expression.finditer(text):
            things = _things(text, match.end())
            if things:
                lead = match.groupdict().get("lead") or ""
                spelt = tuple(text[start:end] for start, end, _ in things)
                lead_end = match.end("lead") if lead else match.start()
                listed.append(_Said(kind, match.start(), things[-1][1], lead.lower(), lead_end, spelt, things[-1][2]))
    return sorted(listed, key=lambda said: (said.start, -said.end))


def _things(text: str, place: int) -> list[tuple[int, int, bool]]:
    """The things of a list that "or" or "nor" joins; commas join only where one of these follows."""
    found: list[tuple[int, int, bool]] = []
    certain, joint = 0, ""
    while (thing := thing_at(text, place)) is not None:
        found.append((place, *thing))
        if joint != ",":
            certain = len(found)
        more = _MORE.match(text, thing[0])
        if more is None:
            break
        joint, place = more["joint"], more.end()
    return found[:certain]


def _found(text: str, said: _Said, floor: int) -> Passage:
    twice = _NEGATORS.search(text, floor, said.start) and not _FRESH.search(text, floor, said.start)
    if twice or _NEGATED_AGAIN.match(text, said.end):
        return Passage(said.start, said.end, "left", TWICE, keep=True)
    if _compound(text, said.end) or _OVER.match(text, said.end):
        return Passage(said.start, said.end, "left", STAYS, keep=True)
    added = _ADDED.match(text, said.end)
    start, end = said.start, added.end() if added else said.end
    done = "searched away from: " + ", ".join(said.things)
    joint = _AND.match(text, end)
    following = joint["next"].lower() if joint else ""
    if joint and following not in _NEGATING and thing_at(text, joint.start("next")) is not None:
        described = following in _ARTICLES or not thing_bare(text, joint.start("next"))
        if said.kind not in ("no", "neither") or not described or not said.bare:
            return Passage(start, said.end, "left", UNCLEAR, keep=True)
        if said.lead and not said.lead.startswith("there"):
            return Passage(said.lead_end, joint.start("next") - 1, "minus", done, minus=said.things)
    elif joint and following not in _NEGATING and (said.lead or said.kind != "no"):
        end = joint.start("next") - 1  # "without a hat and walking": the "and" joined two such clauses
    return Passage(start, end, "minus", done, minus=said.things)


def thing_bare(text: str, place: int) -> bool:
    """Whether the thing there is a noun alone."""
    thing = thing_at(text, place)
    return thing is not None and thing[1]


def _compound(text: str, place: int) -> bool:
    """Whether the thing before is only part of a name: a "shirt pocket" is a pocket."""
    after = re.match(r"[ -]([\w'’-]+)", text[place : place + 40])
    return after is not None and after[1].lower() in forms("parts") | forms("things") | forms("looks")


def _left(text: str, found: list[Passage]) -> Iterator[Passage]:
    """Negations that nobody understood. What belongs to a garment or a body is a description like any other."""
    for match in _LEFT.finditer(text):
        if any(entry.start <= match.start() < entry.end for entry in found):
            continue
        words = re.findall(r"[\w'’-]+", text[match.end() : match.end() + 60])[:4]
        if any(word.lower() in forms("parts") or word.lower() in _OF_A_GARMENT for word in words):
            continue
        after = re.compile(r"\s+[\w'’-]+").match(text, match.end())
        yield Passage(match.start(), after.end() if after else match.end(), "left", STAYS, keep=True)
