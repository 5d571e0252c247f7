"""Tables between the parameter names of published checkpoints and ours.

A method states one table, foreign name to ours; the way back is derived from the same rows, so the
two can never disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_GROUP = re.compile(r"\((?!\?)[^()]*\)")
_REFERENCE = re.compile(r"\\(\d)")


class KeyTable:
    r"""Rows `foreign pattern -> our name`, tried in order; `\1` stands for the first group.

    Patterns are matched whole. A pattern may hold plain text, escaped dots and capturing groups, so
    that each row can be read backwards: the groups of the right side become the pattern's own.
    `drop` lists foreign names that carry nothing for us (counters, unused tables).
    """

    def __init__(self, rows: Mapping[str, str], drop: Iterable[str] = ()) -> None:
        self.rows = [(re.compile(pattern), name) for pattern, name in rows.items()]
        self.dropped = [re.compile(pattern) for pattern in drop]
        self.inverse_rows = [_backwards(pattern, name) for pattern, name in rows.items()]

    def ours(self, foreign: str) -> str | None:
        """Our name for a foreign one, or None when no row fits."""
        return _first(self.rows, foreign)

    def foreign(self, ours: str) -> str | None:
        """The published name of one of our parameters, or None when no row fits."""
        return _first(self.inverse_rows, ours)

    def drops(self, foreign: str) -> bool:
        """Whether a foreign name is known to carry nothing that we need."""
        return any(pattern.fullmatch(foreign) for pattern in self.dropped)

    def sort(self, names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """(our name -> the foreign names that mean it, foreign names that no row knows)."""
        known: dict[str, list[str]] = {}
        unknown: list[str] = []
        for name in names:
            if self.drops(name):
                continue
            ours = self.ours(name)
            if ours is None:
                unknown.append(name)
            else:
                known.setdefault(ours, []).append(name)
        return known, unknown

    def to_ours(self, tensors: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
        """Rename a foreign state: (tensors under our names, foreign names that no row knows)."""
        known, unknown = self.sort(tensors)
        return {ours: tensors[names[-1]] for ours, names in known.items()}, unknown


def _first(rows: list[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, target in rows:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(target)
    return None


def _backwards(pattern: str, name: str) -> tuple[re.Pattern[str], str]:
    """Read a row from right to left: groups become references and references groups."""
    groups = _GROUP.findall(pattern)
    order = [int(number) for number in _REFERENCE.findall(name)]
    if sorted(order) != list(range(1, len(groups) + 1)):
        raise ValueError(f"row {pattern!r} -> {name!r} cannot be read backwards")
    back_pattern = "".join(
        groups[int(piece[1]) - 1] if _REFERENCE.fullmatch(piece) else re.escape(piece)
        for piece in re.split(r"(\\\d)", name)
    )
    number = iter(range(1, len(groups) + 1))
    back_name = _GROUP.sub(lambda _: f"\\{order.index(next(number)) + 1}", pattern)
    return re.compile(back_pattern), back_name.replace(r"\.", ".")
