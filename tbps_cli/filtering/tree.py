"""A filter as a tree of small frozen objects, so that every store can make its own question of it.

Meaning, the same in every store:

* Two truth values. An image whose value is unknown fits no comparison, only `== none`, `!= VALUE`, `not in (...)`
  and what `not` makes of a comparison that it does not fit. (SQL: `coalesce(comparison, false)`.)
* Number fields (`NUMBERS`) hold numbers. All other fields hold texts. A text that spells a number is compared as a
  number with a literal that is or spells one, so that person 12 and "12" are one; everything else in byte order of
  UTF-8. (SQL: a second column with the number, or null.)
* Times and times of day (`MOMENTS`) are texts like 2026-01-31T18:05:00 and 18:05:00. A literal stands for its whole
  span: values are cut to its length before they are compared. So `time == 2026-01-31` is that day, `time <= 2026-01-31`
  ends with it and `time > 2026-01-31` begins the day after. (SQL: `left(time, 10)`.)
* `Between` contains both ends.
* `Like` knows * (any characters), ? (one) and nothing else; it compares letters as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

Value = str | int | float | None
"""What a field is compared with; None is what is unknown."""

FIELDS = (
    "path",
    "source",
    "person",
    "camera",
    "time",
    "clock",
    "seconds",
    "track",
    "width",
    "height",
    "detection",
    "split",
    "score",
)
NUMBERS = frozenset({"seconds", "width", "height", "detection", "score"})
"""Fields that hold numbers: seconds into the video, pixels of the box, the detector's score, the cosine."""
MOMENTS = frozenset({"time", "clock"})
"""Fields whose literals stand for a span: a day, an hour, a minute."""
ORDER = ("<", "<=", ">", ">=")
SIGNS = ("==", "!=", *ORDER)

_SPELT = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class And:
    """All of these; two at least."""

    parts: tuple[Tree, ...]

    def __post_init__(self) -> None:
        _check_parts(self.parts)


@dataclass(frozen=True)
class Or:
    """One of these at least; two at least are there."""

    parts: tuple[Tree, ...]

    def __post_init__(self) -> None:
        _check_parts(self.parts)


@dataclass(frozen=True)
class Not:
    """What the part does not let through, those with unknown values too."""

    part: Tree


@dataclass(frozen=True)
class Compare:
    """A field with a value, `op` one of == != < <= > >=."""

    field: str
    op: str
    value: Value

    def __post_init__(self) -> None:
        _check_field(self.field)
        _check_values(self.value)
        if self.op not in SIGNS or (self.value is None and self.op in ORDER):
            raise ValueError(f"{self.field} {self.op} {self.value} is no comparison")


@dataclass(frozen=True)
class In:
    """One of these values."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_field(self.field)
        _check_values(*self.values)
        if not self.values:
            raise ValueError("a list of values is empty")


@dataclass(frozen=True)
class Like:
    """A text that fits a pattern of * and ?."""

    field: str
    pattern: str

    def __post_init__(self) -> None:
        _check_field(self.field)
        _check_values(self.pattern)
        if self.field in NUMBERS:
            raise ValueError(f"{self.field} is a number, which fits no pattern")


@dataclass(frozen=True)
class Between:
    """From `low` to `high`, both included."""

    field: str
    low: str | int | float
    high: str | int | float

    def __post_init__(self) -> None:
        _check_field(self.field)
        _check_values(self.low, self.high)


Tree = And | Or | Not | Compare | In | Like | Between
Leaf = Compare | In | Like | Between


def leaves(tree: Tree) -> Iterator[Leaf]:
    """The comparisons of a tree, from left to right."""
    if isinstance(tree, And | Or):
        for part in tree.parts:
            yield from leaves(part)
    elif isinstance(tree, Not):
        yield from leaves(tree.part)
    else:
        yield tree


def looks_at(tree: Tree) -> frozenset[str]:
    """The fields of a tree."""
    return frozenset(leaf.field for leaf in leaves(tree))


def needs(tree: Tree) -> frozenset[str]:
    """The fields that are compared with a value, not only with `none`."""
    return frozenset(leaf.field for leaf in leaves(tree) if not (isinstance(leaf, Compare) and leaf.value is None))


def number(value: Value) -> float | None:
    """The number that a value is or spells; a text like "nan" is a name."""
    if isinstance(value, str):
        return float(value) if _SPELT.fullmatch(value) else None
    return None if value is None else float(value)


def render(tree: Tree) -> str:
    """The tree as text that `parse` reads back to an equal tree."""
    if isinstance(tree, And):
        return " and ".join(_bracketed(part) if isinstance(part, And | Or) else render(part) for part in tree.parts)
    if isinstance(tree, Or):
        return " or ".join(_bracketed(part) if isinstance(part, Or) else render(part) for part in tree.parts)
    if isinstance(tree, Not):
        return f"not {_bracketed(tree.part) if isinstance(tree.part, And | Or) else render(tree.part)}"
    if isinstance(tree, In):
        return f"{tree.field} in ({', '.join(map(literal, tree.values))})"
    if isinstance(tree, Like):
        return f"{tree.field} like {literal(tree.pattern)}"
    if isinstance(tree, Between):
        return f"{tree.field} between {literal(tree.low)} and {literal(tree.high)}"
    return f"{tree.field} {tree.op} {literal(tree.value)}"


def _bracketed(tree: Tree) -> str:
    return f"({render(tree)})"


def literal(value: Value) -> str:
    """A value as a filter spells it: 12, 0.5, "c1", none."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "none" if value is None else repr(value)


def _check_field(name: str) -> None:
    if name not in FIELDS:
        raise ValueError(f"there is no field {name!r}")


def _check_parts(parts: tuple[Tree, ...]) -> None:
    if len(parts) < 2:
        raise ValueError("at least two parts are joined")


def _check_values(*values: Value) -> None:
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ValueError("a number that is none cannot be compared")
    if any(isinstance(value, str) and "\0" in value for value in values):
        raise ValueError("a text with a NUL cannot be compared")
