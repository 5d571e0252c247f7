"""A foreign checkpoint as methods see it: its tensors, under its own names or ours, and the options beside it.

Options are what other codes happened to save: flat, nested, missing, or of another type than hoped. Whatever
is not usable reads as absent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tbps_cli.errors import WeightsError
from tbps_cli.weights.architecture import Architecture
from tbps_cli.weights.key_table import KeyTable

_SHOWN = 4
"""Names in a message; the whole list is in the card and in `tbps convert --json`."""


class Mismatch(WeightsError):
    """Why a checkpoint is not one of a method after all: tensors missing, misshapen or without a place.

    placed: how many of its tensors do have one. Of several methods' mismatches, that of the nearest is shown.
    """

    def __init__(self, message: str, hint: str | None = None, *, placed: int) -> None:
        super().__init__(message, hint)
        self.placed = placed


@dataclass(frozen=True)
class Mapped:
    """A foreign checkpoint through the key table of one method."""

    ours: Mapping[str, Tensor]
    """The tensors under our names."""
    names: Mapping[str, list[str]]
    """Our name -> the names of the file that mean it: two where a tensor was saved twice."""
    unknown: tuple[str, ...]
    """Names of the file that the table does not know."""

    def rename(self, tensors: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
        """The tensors of the same file, now read whole, under our names.

        file: for messages. Raises WeightsError when two that should be the same tensor differ.
        """
        for first, *others in self.names.values():
            for other in others:
                one, two = tensors[first], tensors[other]
                if one.data_ptr() != two.data_ptr() and not torch.equal(one, two):
                    raise WeightsError(
                        f"{file}: {first} and {other} should be equal but differ.", "The file is damaged or edited."
                    )
        return {ours: tensors[first] for ours, (first, *_) in self.names.items()}


@dataclass(frozen=True)
class OfficialFiles:
    """A foreign checkpoint, safely read: its tensors and whatever options lay beside it."""

    tensors: Mapping[str, Tensor]
    """Under the names of the file, a common `module.` removed. Methods look at names and shapes; only single
    numbers need to have values, all others may be on the meta device."""
    options: Mapping[str, Any]
    """The options of configs.yaml, or the pickled configuration; empty when there is none."""
    name: str
    """The path, for messages."""
    stated: Architecture | None = None
    """What open_clip's configuration beside the file, or its catalogue, says of the towers beyond their shapes."""
    wish: str | None = None
    """The method that the user says it belongs to. One that shares every name with another takes it at its word."""
    refusals: list[Mismatch] = field(default_factory=list, init=False, repr=False, compare=False)
    """Why methods that know its names gave it up: they have no place for some of its tensors."""
    _mapped: dict[KeyTable, Mapped] = field(default_factory=dict, init=False, repr=False, compare=False)

    def under(self, table: KeyTable) -> Mapped:
        """The tensors under the names of the method whose key table this is; made once a table."""
        if table not in self._mapped:
            names, unknown = table.sort(self.tensors)
            ours = {own: self.tensors[foreign[-1]] for own, foreign in names.items()}
            self._mapped[table] = Mapped(ours, names, tuple(unknown))
        return self._mapped[table]

    def without(self, names: Collection[str]) -> OfficialFiles:
        """The same checkpoint without some of its tensors."""
        return replace(self, tensors={name: tensor for name, tensor in self.tensors.items() if name not in names})

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


def named_shapes(names: Sequence[str], tensors: Mapping[str, Tensor]) -> str:
    """A few tensors with their shapes, and how many more there are."""
    some = [f"{name} ({'x'.join(map(str, tensors[name].shape)) or 'a number'})" for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(some) + more


def pair_of_sides(value: object) -> tuple[int, int] | None:
    """(height, width) when something read is two whole numbers above 0."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    height, width = value
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(value) > 0 else None
