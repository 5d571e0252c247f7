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
EXCLUDED = "no image can be from then and from what is said before: the words stay in the sentence"
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
    found: list[Passage] = []
    agreed: list[When] = []
    for when in whens:
        found.append(_read(when, agreed, known))
        agreed += [] if found[-1].keep else [when]
    return found + _unclear(text, found)


def _combined(text: str, whens: list[When]) -> list[When]:
    """Phrases that one sentence parts: a day and times of day belong together, wherever they stand.

    Times of day that exclude each other ("at 5 pm or 6 pm") are alternatives; those that overlap ("in the afternoon,
    after 3 pm") count both.
    """
    said = {(when.days.first, when.days.last) for when in whens if when.days}
    single = len(said) == 1 and all(first == last for first, last in said)
    day = next((when.days for when in whens if when.days), None) if single else None
    parts = [when for when in whens if not when.never and (when.stretch or _is_one_day(when))]
    if not single:
        parts = [when for when in parts if when.stretch and not when.days]
    stretches = [when.stretch for when in parts if when.stretch]
    if not stretches or (len(stretches) > 1 and all(one.meets(other) for one, other in combinations(stretches, 2))):
        return whens
    changed = {id(when): replace(when, days=day, stretch=stretches[0], also=tuple(stretches[1:])) for when in parts}
    return _beside(text, [changed.get(id(when), when) for when in whens])


def _beside(text: str, whens: list[When]) -> list[When]:
    """Neighbours that say the same, as one phrase."""
    joined = whens[:1]
    for when in whens[1:]:
        before = joined[-1]
        same = replace(when, start=before.start, end=before.end) == before
        if same and _BESIDE.fullmatch(text, before.end, when.start):
            joined[-1] = replace(before, end=when.end)
        else:
            joined.append(when)
    return joined


def _read(when: When, before: list[When], known: Askable) -> Passage:
    """A phrase as a condition, or left where it is because it cannot be one."""
    doubt = None
    if not _possible([*before, when]):
        doubt = EXCLUDED
    elif _asks_for_clock(when) and not known.clocks:
        doubt = ONLY_DAYS
    return Passage(when.start, when.end, "left", doubt, keep=True) if doubt else _found(when, known)


def _asks_for_clock(when: When) -> bool:
    return when.stretch is not None or any(isinstance(edge, datetime) for edge in (when.since, when.until))


def _possible(whens: list[When]) -> bool:
    """Whether one moment fulfils all of them.

    What fits a phrase are stretches of time, so what fits all begins where one of these begins: at the edge of a day
    or at a time of day that is named, on a day that is named or beside one.
    """
    named = [day for when in whens for day in _days_of(when)] or [date(2000, 1, 3)]
    days = {day + timedelta(days=more) for day in named for more in (-1, 0, 1)}
    lows = {0, *(stretch.low or 0 for when in whens for stretch in when.stretches)}
    edges = [edge for when in whens for edge in (when.since, when.until) if isinstance(edge, datetime)]
    moments = [*edges, *(at_minute(day, low) for day in days for low in lows)]
    return any(all(_holds(when, moment) for when in whens) for moment in moments)


def _days_of(when: When) -> list[date]:
    edges = [edge.date() if isinstance(edge, datetime) else edge for edge in (when.since, when.until) if edge]
    return edges + [day for days in (when.days, *when.others) if days for day in (days.first, days.last)]


def _holds(when: When, moment: datetime) -> bool:
    """Whether a moment is what the phrase says; the same as `condition`, for one moment."""
    if when.never:
        return not _holds(replace(when, never=False), moment)
    if when.days and when.stretch and when.days.first == when.days.last:
        spans = [_span(when.days.first, stretch) for stretch in when.stretches]
        return any(first <= moment < last for first, last in spans)
    of_day = any(days.first <= moment.date() <= days.last for days in (when.days, *when.others) if days)
    minutes = moment.hour * 60 + moment.minute + moment.second / 60
    since, until = _side(moment, when.since), _side(moment, when.until)
    return (
        (of_day or not when.days)
        and (not when.stretch or any(stretch.holds(minutes) for stretch in when.stretches))
        and (not when.since or since > 0 or (since == 0 and not when.after))
        and (not when.until or until < 0 or (until == 0 and not when.open_end))
    )


def _side(moment: datetime, edge: datetime | date | None) -> int:
    """-1, 0 or 1: before an edge, in it (a day has many moments), or after it."""
    if edge is None:
        return 0
    if isinstance(edge, datetime):
        return (moment > edge) - (moment < edge)
    return (moment.date() > edge) - (moment.date() < edge)


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
    first, last = _span(days.first, stretch)
    tree = And((Compare("time", ">=", _iso(first)), Compare("time", "<", _iso(last))))
    return tree, f"from {_iso(first)} to {_iso(last)}"


def _span(day: date, stretch: Stretch) -> tuple[datetime, datetime]:
    """A time of day on one day; the night reaches into the next."""
    next_day = stretch.high is None or stretch.wraps
    return at_minute(day, stretch.low), at_minute(day + timedelta(days=next_day), stretch.high)


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
    if not isinstance(moment, datetime):
        return moment.isoformat()
    return moment.isoformat(timespec="seconds" if moment.second else "minutes")


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
