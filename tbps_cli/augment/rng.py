"""The random numbers of training, derived from where training stands instead of from a running state.

`Draws` serves one view of one sample and draws in the order and with the arithmetic of torchvision's first
transforms, so that equal seeds give the published code's numbers. `BatchDraws` serves many samples at once, from the
same seeds. SplitMix64 stands here for both it and dropout (`nn/dropout.py`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = TypeVar("Bits", Tensor, NDArray[np.int64])

GOLDEN = -7046029254386353131
"""How far SplitMix64's counter goes on with each number: 0x9E3779B97F4A7C15 as a signed number."""
_FACTORS = (-4658895280553007687, -7723592293110705685)


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
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def python(self) -> random.Random:
        return random.Random(self.seed)

    def share(self) -> float:
        """One draw from [0, 1)."""
        return float(torch.rand(1, generator=self.torch))

    def uniform(self, low: float, high: float) -> float:
        """One draw from [low, high)."""
        return float(torch.empty(1).uniform_(low, high, generator=self.torch))

    def ratio(self, low: float, high: float) -> float:
        """One draw whose logarithm is uniform between those of low and high."""
        return float(torch.exp(torch.empty(1).uniform_(*_logarithms(low, high), generator=self.torch)))

    def whole(self, count: int) -> int:
        """One draw from 0..count-1."""
        return int(torch.randint(0, count, (1,), generator=self.torch))

    def order(self, count: int) -> list[int]:
        """A permutation of 0..count-1."""
        return [int(index) for index in torch.randperm(count, generator=self.torch)]


@lru_cache(maxsize=64)
def _logarithms(low: float, high: float) -> tuple[float, float]:
    """In float32, as the published code has them."""
    ends = torch.log(torch.tensor((low, high)))
    return float(ends[0]), float(ends[1])


class BatchDraws:
    """The draws of many samples at once: each sample has a sequence of its own, taken from the left.

    seed_B: one seed a sample, as `Draws.of(...).seed` has it.
    """

    def __init__(self, seed_B: Sequence[int]) -> None:
        self.seed_B, self.taken = np.array(seed_B, dtype=np.int64), 0

    def share(self, count: int) -> NDArray[np.float64]:
        """[B, count] independent draws from [0, 1), of 53 bits each.

        Number n of a sequence follows from the seed and n alone, which is what makes SplitMix64 fit here.
        """
        place = np.arange(self.taken + 1, self.taken + count + 1)
        self.taken += count
        bits = mixed(self.seed_B[:, None] + GOLDEN * place)
        return shifted(bits ^ shifted(bits, 31), 11).astype(np.float64) * 2.0**-53

    def uniform(self, low: float, high: float, count: int = 1) -> NDArray[np.float64]:
        """[B, count] from [low, high)."""
        return low + (high - low) * self.share(count)

    def chance(self, p: float) -> NDArray[np.bool_]:
        """[B], true with probability p."""
        happens: NDArray[np.bool_] = self.share(1)[:, 0] < p
        return happens


def mixed(bits: Bits) -> Bits:
    """Both multiplications of SplitMix64's finaliser, on 64 bits that wrap around; the upper 31 are final then.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    for count, factor in zip((30, 27), _FACTORS, strict=True):
        bits = (bits ^ shifted(bits, count)) * factor
    return bits


def shifted(bits: Bits, count: int) -> Bits:
    """To the right by so many places, with zeros from the left; `>>` alone would repeat the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
