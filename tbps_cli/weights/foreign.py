"""A foreign checkpoint as methods see it: tensors under its own names, and the options that lay beside it.

Options are what other codes happened to save: flat, nested, missing, or of another type than hoped. Whatever
is not usable reads as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class OfficialFiles:
    """A foreign checkpoint, safely read: its tensors and whatever options lay beside it."""

    tensors: Mapping[str, Tensor]
    """Under the names of the file, a common `module.` removed."""
    options: Mapping[str, Any]
    """The options of configs.yaml, or the pickled configuration; empty when there is none."""
    name: str
    """The path, for messages."""

    def at(self, *path: str) -> Any:
        """The option at the end of nested sections, or None."""
        value: Any = self.options
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *path: str) -> float | int | None:
        """A finite number above 0 of the options, or None when it is missing or something else."""
        value = self.at(*path)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        return value if usable else None

    def numbers(self, table: Mapping[str, tuple[str, type]]) -> dict[str, Any]:
        """Our keys for the options that are numbers above 0; table: our key -> (the option, its type)."""
        return {key: kind(value) for key, (option, kind) in table.items() if (value := self.number(option))}

    def losses(self, published: str) -> list[str]:
        """The losses it was trained with; published: what to believe without options, as "sdm+id"."""
        return str(self.options.get("loss_names", published)).split("+")

    def image_size(self) -> tuple[int, int] | None:
        """(height, width) that the option img_size says."""
        return pair_of_sides(self.options.get("img_size"))


def pair_of_sides(value: object) -> tuple[int, int] | None:
    """(height, width) when something read is two whole numbers above 0."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    height, width = value
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(value) > 0 else None
