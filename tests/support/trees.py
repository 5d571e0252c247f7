"""Filters made by hypothesis: every kind of comparison, with values that rows of a gallery may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from support import galleries

from tbps_cli.filtering.tree import NUMBERS, And, Between, Compare, In, Like, Not, Or, Tree

LETTERS = "ab1-/é写[.*"
TEXTS = st.text(LETTERS, min_size=1, max_size=5) | st.sampled_from(
    ["12", "012", "1e1", "-3", "1.5", "nan", "c1", "c12"]
)
TIMES = st.sampled_from([time for time in galleries.TIMES if time is not None])
ASKED_TIMES = st.sampled_from(
    [
        "2026",
        "2026-01",
        "2026-01-05",
        "2026-01-05T17",
        "2026-01-05T17:05",
        "2026-01-05T17:05:30",
        "2026-01-06",
        "12",
        "dusk",
    ]
)
CLOCKS = st.sampled_from(["17", "17:05", "17:05:30", "18:00", "00", "08:09", "23:59:59", "24:00"])
PLAIN_NUMBERS = st.integers(-20, 20) | st.sampled_from([0.5, 1.5, 10.0, -0.0])
ASKED = ("path", "person", "camera", "time", "clock", "seconds", "score", "track")


def values(field: str) -> st.SearchStrategy[Any]:
    """What a field is compared with."""
    if field in NUMBERS:
        return PLAIN_NUMBERS
    if field == "time":
        return ASKED_TIMES | TEXTS | st.integers(0, 20)
    return CLOCKS if field == "clock" else TEXTS | PLAIN_NUMBERS


@st.composite
def leaves(draw: st.DrawFn, fields: Sequence[str] = ASKED) -> Tree:
    """One comparison."""
    field = draw(st.sampled_from(fields))
    asked = values(field)
    kind = draw(st.sampled_from(["is", "order", "in", "between", "like"]))
    if kind == "is":
        return Compare(field, draw(st.sampled_from(["==", "!="])), draw(asked | st.none()))
    if kind == "order":
        return Compare(field, draw(st.sampled_from(["<", "<=", ">", ">="])), draw(asked))
    if kind == "in":
        return In(field, tuple(draw(st.lists(asked | st.none(), min_size=1, max_size=11))))
    if kind == "between" or field in NUMBERS:
        return Between(field, draw(asked), draw(asked))
    return Like(field, draw(st.text(LETTERS + "?*", max_size=6)))


def joined(part: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """Trees one level higher."""
    several = st.lists(part, min_size=2, max_size=3).map(tuple)
    return several.map(And) | several.map(Or) | part.map(Not)


def trees(fields: Sequence[str] = ASKED) -> st.SearchStrategy[Tree]:
    """Filters of up to six comparisons of these fields."""
    return st.recursive(leaves(fields), joined, max_leaves=6)
