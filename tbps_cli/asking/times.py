"""When somebody was seen: the phrases of time of a question as conditions on `time` and `clock`.

A time of day without a day means that time on every day. With one day it becomes one stretch of time, which may reach
into the next morning. "At" and "around" a time mean a stretch about it, since nobody looks at the watch to the second.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import combinations

from tbps_cli.asking.clocks import Stretch, spelt
from tbps_cli.asking.dates import TWO_READINGS, Days
from tbps_cli.asking.phrases import When, at_minute, phrases
from tbps_cli.asking.understood import Askable, Passage
from tbps_cli.filtering.tree import And, Between, Compare, Not, Or, Tree

_BESIDE = re.compile(r"\s*,?\s*(?:\b(?:or|and)\s+)?", re.IGNORECASE)
OTHER_DAY = "no image can be from then and from the days before: the words stay in the sentence"
ONLY_DAYS = "the images of this gallery have days and no times of day: the words stay in the sentence"


def times(text: str, today: date, known: Askable) -> list[Passage]:
    """When, as a sentence says it; words that could mean a time but do not say which are only remarked on."""
    whens = _combined(text, list(phrases(text, today)))
    if not whens:
        return _unclear(text, [])
    if known.first is None:
        done = "no image of this gallery has a time: the words stay in the sentence"
        left = [Passage(when.start, when.end, "left", done, keep=True) for when in whens]
        return left + _unclear(text, left)
    found = [_read(when, whens[:place], known) for place, when in enumerate(whens)]
    return found + _unclear(text, found)


def _combined(text: str, whens: list[When]) -> list[When]:
    """Phrases that one sentence parts: a day and times of day belong together, wherever they stand.

    Times of day that exclude each other ("at 5 pm or 6 pm") are alternatives; those that overlap ("in the afternoon,
    after 3 pm") count both.
    """
    days = list(dict.fromkeys((when.days.first, when.days.last) for when in whens if when.days))
    stretches = [when.stretch for when in whens if when.stretch]
    plain = all(when.stretch or _is_one_day(when) for when in whens) and not any(when.never for when in whens)
    if not plain or not stretches or len(days) > 1 or (days and days[0][0] != days[0][1]):
        return whens
    apart = any(not one.meets(other) for one, other in combinations(stretches, 2))
    if len(stretches) > 1 and not apart:
        return whens
    day = next((when.days for when in whens if when.days), None)
    said = [replace(when, days=day, stretch=stretches[0], also=tuple(stretches[1:])) for when in whens]
    joined = said[:1]
    for when in said[1:]:
        if _BESIDE.fullmatch(text, joined[-1].end, when.start):
            joined[-1] = replace(joined[-1], end=when.end)
        else:
            joined.append(when)
    return joined


def _read(when: When, before: list[When], known: Askable) -> Passage:
    doubt = (
        OTHER_DAY if not _agrees(when, before) else ONLY_DAYS if _asks_for_clock(when) and not known.clocks else None
    )
    return Passage(when.start, when.end, "left", doubt, keep=True) if doubt else _found(when, known)


def _asks_for_clock(when: When) -> bool:
    return when.stretch is not None or any(isinstance(edge, datetime) for edge in (when.since, when.until))


def _agrees(when: When, before: list[When]) -> bool:
    """Whether an image can be from then and from all that was said before."""
    low, high = _limits(when)
    return all(low <= last and high >= first for first, last in map(_limits, before))


def _limits(when: When) -> tuple[date, date]:
    """The first and the last day that an image can be from; a night may reach into the next."""
    if when.never:
        return date.min, date.max
    if when.days:
        listed = (when.days, *when.others)
        over = when.stretch is not None and when.stretch.wraps
        return min(days.first for days in listed), max(days.last for days in listed) + timedelta(days=over)
    return _day_of(when.since, date.min), _day_of(when.until, date.max)


def _day_of(moment: datetime | date | None, otherwise: date) -> date:
    return moment.date() if isinstance(moment, datetime) else moment or otherwise


def _is_one_day(when: When) -> bool:
    days = when.days
    return days is not None and days.first == days.last and not (when.stretch or when.others or when.never)


# Conditions -----------------------------------------------------------------------------------


def _found(when: When, known: Askable) -> Passage:
    tree, said = condition(when)
    outside = _outside(when, known)
    done = f"only images {said}" + (
        f"; but the times of this gallery go from {known.first} to {known.last}" if outside else ""
    )
    return Passage(when.start, when.end, "time", done, tree)


def condition(when: When) -> tuple[Tree, str]:
    """The filter of a phrase, and how it is said."""
    if when.never:
        tree, said = condition(replace(when, never=False))
        return Not(tree), f"not {said}"
    if when.also:
        found = [condition(replace(when, stretch=stretch, also=())) for stretch in (when.stretch, *when.also)]
        return Or(tuple(tree for tree, _ in found)), " or ".join(said for _, said in found)
    if when.days and when.others:
        listed = (when.days, *when.others)
        return Or(tuple(map(_of_days, listed))), "of " + " or ".join(map(str, listed))
    if when.days and when.stretch:
        return _one_stretch(when.days, when.stretch)
    if when.days:
        return _of_days(when.days), f"of {when.days}"
    if when.stretch:
        return _every_day(when.stretch), f"taken {when.stretch} on any day"
    parts: list[Tree] = []
    edges: list[str] = []
    if when.since:
        parts.append(Compare("time", ">" if when.after else ">=", _iso(when.since)))
        edges.append(f"{'after' if when.after else 'from'} {_iso(when.since)}")
    if when.until:
        parts.append(Compare("time", "<" if when.open_end else "<=", _iso(when.until)))
        edges.append(f"{'before' if when.open_end else 'until'} {_iso(when.until)}")
    return (And(tuple(parts)) if len(parts) > 1 else parts[0]), " ".join(edges)


def _one_stretch(days: Days, stretch: Stretch) -> tuple[Tree, str]:
    if days.first != days.last:
        return And((_of_days(days), _every_day(stretch))), f"of {days}, taken {stretch}"
    first = at_minute(days.first, stretch.low)
    last = at_minute(days.first + timedelta(days=1 if stretch.high is None or stretch.wraps else 0), stretch.high)
    tree = And((Compare("time", ">=", _iso(first)), Compare("time", "<", _iso(last))))
    return tree, f"from {_iso(first)} to {_iso(last)}"


def _of_days(days: Days) -> Tree:
    if days.first == days.last:
        return Compare("time", "==", str(days.first))
    return Between("time", str(days.first), str(days.last))


def _every_day(stretch: Stretch) -> Tree:
    low = Compare("clock", ">=", spelt(stretch.low)) if stretch.low else None
    high = Compare("clock", "<", spelt(stretch.high)) if stretch.high else None
    if low and high:
        return Or((low, high)) if stretch.wraps else And((low, high))
    return low or high or Compare("clock", ">=", "00:00")


def _iso(moment: datetime | date) -> str:
    return moment.isoformat(timespec="minutes") if isinstance(moment, datetime) else moment.isoformat()


def _outside(when: When, known: Askable) -> bool:
    """Whether no image can be from then, as far as days say it."""
    if when.never or when.others:
        return False
    low = when.days.first.isoformat() if when.days else _iso(when.since)[:10] if when.since else None
    high = when.days.last.isoformat() if when.days else _iso(when.until)[:10] if when.until else None
    return bool(known.first and known.last and ((low and low > known.last[:10]) or (high and high < known.first[:10])))


# What is left ---------------------------------------------------------------------------------

_UNCLEAR = (
    (TWO_READINGS, "this date can be read in two ways: write it as 2026-01-31"),
    (
        re.compile(
            r"\b(?:at|around|about|between|before|after)\s+\w+(?:\s+(?:and|to)\s+\w+)?\s+o'clock\b(?!\s+shadow)",
            re.IGNORECASE,
        ),
        "am or pm is not said: write 5 pm or 17:00",
    ),
    (
        re.compile(r"\b(?:half past|quarter past|quarter to)\s+\w+", re.IGNORECASE),
        "am or pm is not said: write 5:30 pm or 17:30",
    ),
    (
        re.compile(
            r"\b(?:in|within|during|for)?\s*(?:the\s+)?(?:last|past)\s+(?:\w+\s+)?(?:hours?|minutes?)\b|\b\w+\s+(?:hours?|minutes?|weeks?|months?)\s+ago\b",
            re.IGNORECASE,
        ),
        "this is not read as a time: give a day or a time of day",
    ),
    (re.compile(r"\btomorrow\b", re.IGNORECASE), "no image is from tomorrow"),
)


def _unclear(text: str, found: list[Passage]) -> list[Passage]:
    """Words that mean a time but do not say which: they stay, and the remark says how to write them."""
    said: list[Passage] = []
    for expression, advice in _UNCLEAR:
        for match in expression.finditer(text):
            if all(match.end() <= entry.start or match.start() >= entry.end for entry in [*found, *said]):
                said.append(
                    Passage(match.start(), match.end(), "left", f"{advice}; the words stay in the sentence", keep=True)
                )
    return said
