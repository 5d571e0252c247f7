"""A filter as an expression of Milvus, with the same meaning as `filtering.masks`; and the fields that it asks.

A text is kept as the hex digits of its UTF-8: their order is the order of bytes, a beginning is a beginning, and an
expression holds nothing but digits that we made, whatever somebody asks for. Beside it stand two fields, whether the
text spells a number and which (`camera_spelt`, `camera_number`), since a text that does is compared as one. An unknown
text is the empty one; an unknown number is 0, and a field beside it says so (`seconds_known`).

Milvus (2.3) finds what begins with something, not what contains it. So a tree becomes two expressions: `lower`, whose
rows certainly pass, and `upper`, outside of which none does. Where they are the same the server decides; otherwise
the rows of `upper` are fetched and asked here.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.asked import columns_of
from tbps_cli.features.rows import Rows
from tbps_cli.filtering.columns import Column, Columns, Numbers, Texts
from tbps_cli.filtering.masks import encoded, mask, span_of
from tbps_cli.filtering.tree import (
    MOMENTS,
    And,
    Between,
    Compare,
    In,
    Leaf,
    Like,
    Not,
    Or,
    Tree,
    Value,
    looks_at,
    number,
)

TEXTS = ("path", "source", "person", "camera", "time", "clock", "track")
"""Fields that are kept as texts."""
KEPT_NUMBERS = ("seconds", "width", "height", "detection")
EVERYTHING, NOTHING = '(path != "")', '(path == "")'
_BEHIND = "g"
"""Comes behind every hex digit: what begins with a text lies between the text and the text with this."""


@dataclass(frozen=True)
class Bounds:
    """Expressions for a part of the rows that pass, and for them and perhaps others."""

    lower: str
    upper: str

    @property
    def exact(self) -> bool:
        """Whether the expression says all that the tree does."""
        return self.lower == self.upper


def bounds(tree: Tree | None) -> Bounds:
    """What a filter is for Milvus."""
    if tree is None:
        return Bounds(EVERYTHING, EVERYTHING)
    if isinstance(tree, And | Or):
        sign = " and " if isinstance(tree, And) else " or "
        parts = [bounds(part) for part in tree.parts]
        return Bounds(f"({sign.join(part.lower for part in parts)})", f"({sign.join(part.upper for part in parts)})")
    if isinstance(tree, Not):
        part = bounds(tree.part)
        return Bounds(f"(not {part.upper})", f"(not {part.lower})")
    if isinstance(tree, Like):
        return _like(tree)
    found = f"({_leaf(tree)})"
    return Bounds(found, found)


def _leaf(leaf: Leaf) -> str:
    if isinstance(leaf, Between):
        return f"{_compared(leaf.field, '>=', leaf.low)} and {_compared(leaf.field, '<=', leaf.high)}"
    if isinstance(leaf, In):
        return _among(leaf)
    assert isinstance(leaf, Compare)
    if leaf.op == "!=":
        return f"not {_compared(leaf.field, '==', leaf.value)}"
    return _compared(leaf.field, leaf.op, leaf.value)


def _among(leaf: In) -> str:
    """Plain texts in one list, since a thousand comparisons are too deep for the server's reader."""
    in_list = leaf.field in TEXTS and leaf.field not in MOMENTS
    plain = [value for value in leaf.values if in_list and value is not None and number(value) is None]
    parts = [_compared(leaf.field, "==", value) for value in leaf.values if value not in plain]
    if plain:
        digits = ", ".join(f'"{encoded(value).hex()}"' for value in plain)
        parts.append(f'({leaf.field} != "" and {leaf.field} in [{digits}])')
    return " or ".join(parts)


def _compared(field: str, op: str, value: Value) -> str:
    """Known values that stand to a literal in this way; `== none` finds the unknown ones."""
    if field in KEPT_NUMBERS:
        if value is None:
            return f"({field}_known == false)"
        wanted = number(value)
        return NOTHING if wanted is None else f"({field}_known == true and {field} {op} {_double(wanted)})"
    if field not in TEXTS:  # the split of a data set: no row here has one
        return EVERYTHING if value is None else NOTHING
    if value is None:
        return f'({field} == "")'
    plain = _ordered(field, op, value)
    wanted = number(value)
    if wanted is not None:
        as_number = f"({field}_spelt == true and {field}_number {op} {_double(wanted)})"
        plain = f"({as_number} or ({field}_spelt == false and {plain}))"
    return f'({field} != "" and {plain})'


def _ordered(field: str, op: str, value: Value) -> str:
    """Texts by their bytes; times are cut to the span of what is asked."""
    span = span_of(field, value) if field in MOMENTS else None
    if span is None:
        return f'{field} {op} "{encoded(value).hex()}"'
    first = span.encode().hex()
    behind = first + _BEHIND
    return {
        "==": f'({field} >= "{first}" and {field} < "{behind}")',
        "<": f'{field} < "{first}"',
        "<=": f'{field} < "{behind}"',
        ">": f'{field} >= "{behind}"',
        ">=": f'{field} >= "{first}"',
    }[op]


def _like(leaf: Like) -> Bounds:
    """What stands before the first * or ? is asked of the server; the rest only where nothing is left of it."""
    if leaf.field not in TEXTS:
        return Bounds(NOTHING, NOTHING)
    first, *rest = re.split(r"[*?]", leaf.pattern, maxsplit=1)
    digits = encoded(first).hex()
    if not rest:
        found = f'({leaf.field} != "" and {leaf.field} == "{digits}")'
        return Bounds(found, found)
    upper = f'({leaf.field} != "" and {leaf.field} >= "{digits}" and {leaf.field} < "{digits}{_BEHIND}")'
    return Bounds(upper if set(leaf.pattern[len(first) :]) == {"*"} else NOTHING, upper)


def _double(value: float) -> str:
    """A number as Milvus reads it; it has no word for what lies beyond 64 bits."""
    return repr(_finite(value))


def _finite(value: float) -> float:
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else float(value)


def asked_fields(tree: Tree) -> list[str]:
    """The fields of a collection that a filter needs to be asked here."""
    asked = looks_at(tree)
    texts = [field for field in TEXTS if field in asked]
    return texts + [name for field in KEPT_NUMBERS if field in asked for name in (field, f"{field}_known")]


def passing(entries: Sequence[Mapping[str, Any]], tree: Tree) -> NDArray[np.bool_]:
    """Which entries, with the fields that `asked_fields` names, a filter lets through: asked here."""

    def texts(field: str) -> Texts:
        return Texts.of(np.array([bytes.fromhex(entry[field]) for entry in entries] or [b""], "S")[: len(entries)])

    def numbers(field: str) -> Numbers:
        value_N = np.array([entry[field] for entry in entries], np.float64)
        return Numbers(np.where([entry[f"{field}_known"] for entry in entries], value_N, np.nan))

    makers: dict[str, Callable[[], Column | None]] = {field: partial(texts, field) for field in TEXTS}
    makers |= {field: partial(numbers, field) for field in KEPT_NUMBERS}
    return mask(tree, Columns(len(entries), {field: makers[field] for field in looks_at(tree) & makers.keys()}))


def kept_fields(rows: Rows) -> list[dict[str, Any]]:
    """What is kept of each row for filters: field -> value."""
    columns = columns_of(rows)
    made: dict[str, list[Any]] = {}
    for field in TEXTS:
        column = columns.column(field)
        made.update(_text_fields(field, column if isinstance(column, Texts) else Texts.same("", len(rows))))
    for field in KEPT_NUMBERS:
        column = columns.column(field)
        value_N = column.value_G.astype(np.float64) if isinstance(column, Numbers) else np.full(len(rows), np.nan)
        known_N = ~np.isnan(value_N)
        made[field] = [_finite(value) for value in np.where(known_N, value_N, 0.0).tolist()]
        made[f"{field}_known"] = known_N.tolist()
    return [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]


def _text_fields(field: str, column: Texts) -> Mapping[str, list[Any]]:
    """A text field and the two beside it."""
    text_V = [bytes(text).hex() for text in column.text_V.tolist()]
    spelt_V = ~np.isnan(column.number_V)
    number_V = [_finite(value) for value in np.where(spelt_V, column.number_V, 0.0).tolist()]
    code_N = range(len(text_V)) if column.code_G is None else column.code_G.tolist()
    return {
        field: [text_V[code] for code in code_N],
        f"{field}_spelt": [bool(spelt_V[code]) for code in code_N],
        f"{field}_number": [number_V[code] for code in code_N],
    }
