"""A question understood before it is ranked: where, when and how many go to the filter, the rest to the model.

Deterministic and without network: small grammars, a table of words, a list of English words. What is not clear stays in
the sentence. Nothing changes silently: every cut, every condition and every doubt is a remark.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

from tbps_cli.asking.counts import counts
from tbps_cli.asking.language import ADVICE, other_language
from tbps_cli.asking.missing import missing
from tbps_cli.asking.negation import negations
from tbps_cli.asking.spelling import corrected, misspelt
from tbps_cli.asking.understood import Askable, Passage, Remark, Understood, cuts, joined, without

LONGEST = 1_000
"""Characters of a question that is taken apart; models read about 300."""


def understand(
    text: str,
    *,
    today: date,
    known: Askable = Askable(),
    alone: bool = True,
    spoken: Callable[[str], bool] = lambda word: False,
) -> Understood:
    """What a question means.

    today: what "yesterday" is counted from. known: what the gallery can be asked for.
    alone: nothing but the text is searched by (no image), so something must be left of it for the model.
    spoken: whether captions use a word, which is then not doubted.
    """
    if not text.strip():
        return Understood(text, text)
    if len(text) > LONGEST:
        done = f"the question is longer than {LONGEST:,} characters: taken as it is"
        return Understood(text, text, remarks=(Remark("length", "", done),))
    language = other_language(text)
    if language is not None:
        return Understood(text, text, remarks=(Remark("language", "", f"this looks like {language}: {ADVICE}"),))
    placed = [_doubted(text, entry) for entry in _placed(text, today, known)]
    found = cuts(text, _apart([*placed, *negations(text), *counts(text)]))
    if alone and not without(text, _spans(found)).strip(" \t\n,.;:!?-–()"):
        found = _kept(found)
    return _understood(text, found, spoken)


_MAY_BE_TIME = re.compile(
    r"\d|day|night|morning|noon|evening|week|month|year|hour|minute|ago|tomorrow|clock|past|quarter|half|[ap]\.?\s?m\b"
    r"|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve",
    re.IGNORECASE,
)
"""Letters without which no sentence means a time, not even one that is only remarked on."""


def _placed(text: str, today: date, known: Askable) -> list[Passage]:
    """Where and when; the grammars take a moment to compile, so they are not imported for nothing."""
    found: list[Passage] = []
    if known.cameras or "cam" in text.lower():
        from tbps_cli.asking.cameras import cameras

        found += cameras(text, known)
    if _MAY_BE_TIME.search(text):
        from tbps_cli.asking.times import times

        found += times(text, today, known)
    return found


_PLACED = re.compile(
    r"\d|cam|mon|tue|wed|thu|fri|sat|sun|day|night|morning|noon|evening|week|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
    r"|o'clock|[ap]\.?m\b",
    re.IGNORECASE,
)


def may_say_where_or_when(text: str) -> bool:
    """Whether a sentence has letters of a camera or a time at all; otherwise nobody need look what the gallery has."""
    return len(text) <= LONGEST and _PLACED.search(text) is not None


_NOT_THERE = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bnobody|\bno one)\s+"
    r"(?:(?:been|be|was|were|is|are|seen|there|here|around|recorded|filmed|visible|present|"
    r"come|came|go|went|pass|passed|walk|walked|appear|appeared|show|shown|arrive|arrived|before|until)\s+){0,3}$",
    re.IGNORECASE,
)


def _doubted(text: str, entry: Passage) -> Passage:
    """A place or time that somebody was perhaps not seen at ("wasn't there yesterday") is no condition."""
    if entry.keep or not _NOT_THERE.search(text, 0, entry.start):
        return entry
    return Passage(
        entry.start,
        entry.end,
        "left",
        "a negation stands before it: the words stay in the sentence (--where EXPR is clear)",
        keep=True,
    )


def _apart(found: list[Passage]) -> list[Passage]:
    """In the order of the sentence; of two that overlap the one that changes something, then the longer."""
    best = sorted(found, key=lambda entry: (entry.keep, entry.start - entry.end))
    kept: list[Passage] = []
    for entry in best:
        if all(entry.end <= other.start or entry.start >= other.end for other in kept):
            kept.append(entry)
    return sorted(kept, key=lambda entry: entry.start)


def _spans(found: list[Passage]) -> list[tuple[int, int]]:
    return [(entry.start, entry.end) for entry in found if not entry.keep]


def _kept(found: list[Passage]) -> list[Passage]:
    """Where nothing would be left to rank by: conditions count, their words stay; what is only not there stays too."""
    kept = []
    for entry in found:
        if entry.keep:
            kept.append(entry)
        elif entry.minus:
            done = "nothing else is described: the words stay in the sentence"
            kept.append(Passage(entry.start, entry.end, "left", done, keep=True))
        else:
            done = f"{entry.done}; nothing else is described, so the words stay in the sentence too"
            kept.append(Passage(entry.start, entry.end, entry.kind, done, entry.tree, top=entry.top, keep=True))
    return kept


def _understood(text: str, found: list[Passage], spoken: Callable[[str], bool]) -> Understood:
    left = without(text, _spans(found))
    minus = tuple(dict.fromkeys(thing for entry in found for thing in entry.minus))
    remarks = [
        Remark(
            entry.kind,
            text[entry.start : entry.end].strip(" ,;:."),
            entry.done,
            cut=None if entry.keep else (entry.start, entry.end),
        )
        for entry in found
    ]
    offers = [
        offer
        for offer in misspelt(text, spoken)
        if all(offer[1] <= start or offer[0] >= end for start, end in _spans(found))
    ]
    better = corrected(text, offers)
    lost = missing(corrected(left, misspelt(left)), minus)
    if lost is not None:
        remarks.append(Remark("missing", "", lost))
    return Understood(
        text,
        left,
        minus,
        joined(dict.fromkeys(entry.tree for entry in found if entry.tree is not None)),
        next((entry.top for entry in found if entry.top is not None), None),
        tuple(remarks),
        tuple(Remark("spelling", text[start:end], f"{offer}?", offer=better) for start, end, offer in offers),
    )
