"""A question understood before it is ranked: where, when and how many go to the filter, the rest to the model.

Deterministic and without network: small grammars, a table of words, a list of English words. What is not clear stays in
the sentence. Nothing changes silently: every cut, every condition and every doubt is a remark.
"""

from __future__ import annotations

from datetime import date

from tbps_cli.asking.cameras import cameras
from tbps_cli.asking.counts import counts
from tbps_cli.asking.language import ADVICE, other_language
from tbps_cli.asking.missing import missing
from tbps_cli.asking.negation import negations
from tbps_cli.asking.reading import Found, Known, Remark, Understood, cuts, joined, without
from tbps_cli.asking.spelling import corrected, misspelt
from tbps_cli.asking.times import times

LONGEST = 1_000
"""Characters of a question that is taken apart; models read about 300."""


def understand(text: str, *, today: date, known: Known = Known(), alone: bool = True) -> Understood:
    """What a question means.

    today: what "yesterday" is counted from. known: what the gallery can be asked for.
    alone: nothing but the text is searched by (no image), so something must be left of it for the model.
    """
    if not text.strip():
        return Understood(text, text)
    if len(text) > LONGEST:
        done = f"longer than {LONGEST:,} characters: taken as it is"
        return Understood(text, text, remarks=(Remark("length", "", done),))
    language = other_language(text)
    if language is not None:
        return Understood(text, text, remarks=(Remark("language", "", f"this looks like {language}: {ADVICE}"),))
    found = cuts(text, _apart([*cameras(text, known), *times(text, today, known), *negations(text), *counts(text)]))
    if alone and not without(text, _spans(found)).strip(" \t\n,.;:!?-–()"):
        found = _kept(found)
    return _understood(text, found)


def _apart(found: list[Found]) -> list[Found]:
    """In the order of the sentence; of two that overlap the one that changes something, then the longer."""
    best = sorted(found, key=lambda entry: (entry.keep, entry.start - entry.end))
    kept: list[Found] = []
    for entry in best:
        if all(entry.end <= other.start or entry.start >= other.end for other in kept):
            kept.append(entry)
    return sorted(kept, key=lambda entry: entry.start)


def _spans(found: list[Found]) -> list[tuple[int, int]]:
    return [(entry.start, entry.end) for entry in found if not entry.keep]


def _kept(found: list[Found]) -> list[Found]:
    """Where nothing would be left to rank by: conditions count, their words stay; what is only not there stays too."""
    kept = []
    for entry in found:
        if entry.keep:
            kept.append(entry)
        elif entry.minus:
            done = "nothing else is described: the words stay in the sentence"
            kept.append(Found(entry.start, entry.end, "left", done, keep=True))
        else:
            done = f"{entry.done}; nothing else is described, so the words stay in the sentence too"
            kept.append(Found(entry.start, entry.end, entry.kind, done, entry.tree, top=entry.top, keep=True))
    return kept


def _understood(text: str, found: list[Found]) -> Understood:
    left = without(text, _spans(found))
    minus = tuple(dict.fromkeys(thing for entry in found for thing in entry.minus))
    remarks = [
        Remark(
            entry.kind,
            text[entry.start : entry.end].strip(" ,;"),
            entry.done,
            cut=None if entry.keep else (entry.start, entry.end),
        )
        for entry in found
    ]
    offers = [
        offer for offer in misspelt(text) if all(offer[1] <= start or offer[0] >= end for start, end in _spans(found))
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
