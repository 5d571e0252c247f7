"""A filter asked of all rows at once: from a tree and columns to a boolean a row. `tree` says what it means.

Comparisons are numpy operations over the numbers, or over the different texts; there is no call of Python a row. Only
a pattern with ? is tried text by text, on those that hold its letters.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.escape import exact_bytes
from tbps_cli.filtering import moments
from tbps_cli.filtering.columns import Bytes, Columns, Numbers, Texts
from tbps_cli.filtering.tree import MOMENTS, And, Between, Compare, In, Leaf, Like, Not, Or, Tree, Value, number

Mask = NDArray[np.bool_]
FEW = 8
"""Up to so many values of a list are compared one by one."""

_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def mask(tree: Tree, columns: Columns) -> Mask:
    """Which rows a filter lets through, [G]. A tree that asks for the score needs `columns.scored(...)`."""
    if isinstance(tree, And):
        return reduce(operator.and_, (mask(part, columns) for part in tree.parts))
    if isinstance(tree, Or):
        return reduce(operator.or_, (mask(part, columns) for part in tree.parts))
    if isinstance(tree, Not):
        return ~mask(tree.part, columns)
    column = columns.column(tree.field)
    if column is None:
        return np.full(columns.rows, _fits_unknown(tree))
    if isinstance(column, Numbers):
        return _numbers(tree, column.value_G)
    return column.spread(_texts(tree, column))


def _fits_unknown(leaf: Leaf) -> bool:
    """Whether an unknown value passes: == none, != VALUE, and lists with none in them."""
    if isinstance(leaf, Compare):
        return (leaf.op == "==" and leaf.value is None) or (leaf.op == "!=" and leaf.value is not None)
    return isinstance(leaf, In) and None in leaf.values


def _numbers(leaf: Leaf, value_G: NDArray[Any]) -> Mask:
    """NaN, an unknown number, fits no comparison by itself."""
    if isinstance(leaf, Between):
        return np.asarray((value_G >= _spelt(leaf.low)) & (value_G <= _spelt(leaf.high)))
    if isinstance(leaf, In):
        return reduce(operator.or_, (_number_is(value_G, value) for value in leaf.values))
    assert isinstance(leaf, Compare)
    if leaf.op == "!=":
        return ~_number_is(value_G, leaf.value)
    if leaf.op == "==":
        return _number_is(value_G, leaf.value)
    return np.asarray(_ORDER[leaf.op](value_G, _spelt(leaf.value)))


def _number_is(value_G: NDArray[Any], value: Value) -> Mask:
    return np.isnan(value_G) if value is None else np.asarray(value_G == _spelt(value))


def _spelt(value: Value) -> np.float64:
    """A literal as a number; a text that spells none is equal to no number and before or after none.

    In 64 bits: beside a plain number numpy would round it to the 32 bits of scores.
    """
    found = number(value)
    return np.float64(np.nan if found is None else found)


def _texts(leaf: Leaf, column: Texts) -> Mask:
    """Which of the different texts pass, [V]."""
    if isinstance(leaf, Like):
        return column.known_V & _like(column.text_V, leaf.pattern)
    if isinstance(leaf, Between):
        return _compared(leaf.field, column, ">=", leaf.low) & _compared(leaf.field, column, "<=", leaf.high)
    if isinstance(leaf, In):
        return _among(leaf, column)
    if leaf.op == "!=":
        return ~_compared(leaf.field, column, "==", leaf.value)
    return _compared(leaf.field, column, leaf.op, leaf.value)


def _compared(field: str, column: Texts, op: str, value: Value) -> Mask:
    """Known texts that stand to a value in this way; `== none` finds the unknown ones."""
    if value is None:
        return ~column.known_V
    compare, text = _ORDER[op], encoded(value)
    found_V = np.asarray(column.text_V)
    if field in MOMENTS and (span := span_of(field, value)) is not None:
        text = span.encode()
        found_V = found_V.astype(f"S{len(text)}")
    fits_V = np.asarray(compare(found_V, text))
    if (as_number := number(value)) is not None:
        number_V = column.number_V
        fits_V = np.where(np.isnan(number_V), fits_V, compare(number_V, as_number))
    return fits_V & column.known_V


def span_of(field: str, value: Value) -> str | None:
    """What a literal of time or clock stands for: values are cut to its length. None: an ordinary text."""
    try:
        return (moments.clock if field == "clock" else moments.moment)(str(value))
    except ValueError:
        return None


def _among(leaf: In, column: Texts) -> Mask:
    plain = {encoded(value) for value in leaf.values if value is not None and number(value) is None}
    if leaf.field in MOMENTS or len(leaf.values) <= FEW or len(plain) < len(leaf.values):
        return reduce(operator.or_, (_compared(leaf.field, column, "==", value) for value in leaf.values))
    return np.fromiter(map(plain.__contains__, column.text_V.tolist()), bool, len(column.text_V))


def encoded(value: Value) -> bytes:
    """A literal as galleries keep texts."""
    return exact_bytes(str(value))


def _like(text_V: Bytes, pattern: str) -> Mask:
    """Fixed beginning and end over all texts; what stands between them over those that are left."""
    first, *rest = re.split(r"[*?].*", pattern, maxsplit=1, flags=re.DOTALL)
    if not rest:
        return np.asarray(text_V == encoded(pattern))
    last = re.split(r"[*?]", pattern)[-1]
    fits_V = np.ones(len(text_V), bool)
    if first:
        fits_V &= np.strings.startswith(text_V, encoded(first))
    if last:
        fits_V &= np.strings.endswith(text_V, encoded(last))
    if pattern == f"{first}*":
        return fits_V
    left_K = np.flatnonzero(fits_V)
    text_K = text_V if len(left_K) == len(text_V) else text_V[left_K]
    fits_V[left_K] = _like_each(text_K, pattern) if "?" in pattern else _in_turn(text_K, pattern)
    return fits_V


def _in_turn(text_K: Bytes, pattern: str) -> Mask:
    """Whether the pieces between the stars follow each other, in texts that begin and end as they should."""
    first, *middle, last = (encoded(piece) for piece in pattern.split("*"))
    fits_K = np.ones(len(text_K), bool)
    after_K: Any = len(first)
    for piece in filter(None, middle):
        found_K = np.strings.find(text_K, piece, after_K)
        fits_K &= found_K >= 0
        after_K = found_K + len(piece)
    return np.asarray(fits_K & (after_K + len(last) <= np.strings.str_len(text_K))) if last else fits_K


def _like_each(text_K: Bytes, pattern: str) -> Mask:
    """? is one letter, which may be several bytes: tried one by one, where all the letters around are there."""
    fits_K = np.ones(len(text_K), bool)
    for piece in filter(None, re.split(r"[*?]+", pattern)[1:-1]):
        fits_K[fits_K] = np.strings.find(text_K[fits_K], encoded(piece)) >= 0
    matches = re.compile(_expression(pattern), re.DOTALL).fullmatch
    for place in np.flatnonzero(fits_K):
        fits_K[place] = matches(text_K[place].decode("utf-8", "surrogateescape")) is not None
    return fits_K


def _expression(pattern: str) -> str:
    """The pattern as a regular expression that does not go back: a star stops where its next piece first fits."""
    first, *rest = (re.escape(piece).replace(r"\?", ".") for piece in re.sub(r"\*+", "*", pattern).split("*"))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + last
