"""The random numbers of training, derived from where training stands instead of from a running state.

Methods draw in the order and with the arithmetic of torchvision's first transforms, so that equal seeds give
the published code's numbers. Torch is imported where a number is drawn: declaring an augmentation needs none.
"""

from __future__ import annotations

import hashlib
import random
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Draws:
    """Every random number that one view of one sample uses.

    `Draws.of` derives both generators from where training stands, so there is no state to save:
    resuming, another number of workers or of ranks changes nothing.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @classmethod
    def of(cls, seed: int, epoch: int, sample: int, view: str = "image") -> Draws:
        """The draws of one view (an image's or a text's name) of one sample in one epoch."""
        key = f"{seed}/{epoch}/{sample}/{view}".encode()
        return cls(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)

    @cached_property
    def torch(self) -> torch.Generator:
        """Seeded as `torch.manual_seed(seed)` would seed the global one."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def python(self) -> random.Random:
        return random.Random(self.seed)

    def share(self) -> float:
        """One draw from [0, 1)."""
        import torch

        return float(torch.rand(1, generator=self.torch))

    def uniform(self, low: float, high: float) -> float:
        """One draw from [low, high)."""
        import torch

        return float(torch.empty(1).uniform_(low, high, generator=self.torch))

    def ratio(self, low: float, high: float) -> float:
        """One draw whose logarithm is uniform between those of low and high."""
        import torch

        ends = torch.log(torch.tensor((low, high)))
        return float(torch.exp(torch.empty(1).uniform_(float(ends[0]), float(ends[1]), generator=self.torch)))

    def whole(self, count: int) -> int:
        """One draw from 0..count-1."""
        import torch

        return int(torch.randint(0, count, (1,), generator=self.torch))

    def order(self, count: int) -> list[int]:
        """A permutation of 0..count-1."""
        import torch

        return [int(index) for index in torch.randperm(count, generator=self.torch)]
