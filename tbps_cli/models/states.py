"""Tensors into a method, every one accounted for.

What inference needs must be there and of the right shape. Heads that only training uses
(`Method.training_only`) may be absent or of another width: they are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps_cli.errors import WeightsError
from tbps_cli.methods.base import Method


@dataclass(frozen=True)
class Coverage:
    """Which tensors of a file found their place."""

    method: str
    loaded: tuple[str, ...]
    """Our names that were set."""
    needed: int
    """How many inference needs."""
    left_out: tuple[str, ...] = ()
    """Names of the file that nothing took: heads of another width, unknown ones."""

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors matched {self.method}, all {self.needed} that it needs among them"
        if not self.left_out:
            return text
        some = ", ".join(self.left_out[:4]) + (", ..." if len(self.left_out) > 4 else "")
        return f"{text}; {len(self.left_out)} left out: {some}"


def load_into(method: Method, tensors: Mapping[str, Tensor], *, name: str, unknown: tuple[str, ...] = ()) -> Coverage:
    """Copy tensors (under our names, any float type) into the method.

    name: the file, for messages; unknown: names of the file that no key table knew, for the report.
    Raises WeightsError naming the first missing or misshapen tensor.
    """
    own = method.state_dict()
    needed = [key for key in own if not key.startswith(method.training_only)]
    _check(method, own, needed, tensors, name)
    fits = [key for key, tensor in own.items() if key in tensors and tensors[key].shape == tensor.shape]
    with torch.no_grad():
        for key in fits:
            own[key].copy_(tensors[key])
    left_out = tuple(key for key in tensors if key not in set(fits))
    return Coverage(method.config.name, tuple(fits), len(needed), left_out + unknown)


def _check(
    method: Method, own: Mapping[str, Tensor], needed: list[str], tensors: Mapping[str, Tensor], name: str
) -> None:
    kind = method.config.name
    missing = [key for key in needed if key not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(
            f"{name}: {len(needed) - len(missing)} of the {len(needed)} tensors that {kind} needs are there; "
            f"missing: {method.official.foreign(missing[0]) or missing[0]}{more}.",
            "The file is incomplete, or of another method or tower.",
        )
    wrong = [key for key in needed if tensors[key].shape != own[key].shape]
    if wrong:
        first, (height, width) = wrong[0], method.task.image_size
        raise WeightsError(
            f"{name}: {method.official.foreign(first) or first} is {list(tensors[first].shape)}, but {kind} "
            f"with images of {height}x{width} needs {list(own[first].shape)}.",
            "Set what differs, for example --set data.image_size=[384,128] or --set method.stride=16.",
        )
