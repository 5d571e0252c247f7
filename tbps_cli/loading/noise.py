"""Noisy correspondence: training captions given to wrong images, as RDE (Qin et al., CVPR 2024) tests it.

A published index file is a permutation of the training captions: entry i keeps its identity and image and
gets the caption of entry index[i]. It addresses captions by their place in the official order.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Split
from tbps_cli.errors import DataError

SEED = 123
"""The released code's own, whatever the training's."""


def add_noise(split: Split, rate: float, file: Path | None = None) -> tuple[Split, NDArray[np.int64]]:
    """(the split with captions moved, index of the caption that each place got).

    rate: share of captions that are shuffled among themselves, when no file says which; a few of them
    may stay where they were. Raises DataError when a file moves another share.
    """
    index = read_index(file, len(split)) if file else draw_index(len(split), rate)
    if file:
        _require_rate(index, rate, file)
    moved = replace(
        split,
        captions=[split.captions[other] for other in index],
        back_translations=[split.back_translations[other] for other in index],
        word_ids=[split.word_ids[other] for other in index],
    )
    return moved, index


def _require_rate(index: NDArray[np.int64], rate: float, file: Path) -> None:
    """What a method does may depend on the rate, so it must be that of the file (a few entries stay by chance)."""
    moved = float(np.mean(index != np.arange(len(index))))
    if abs(moved - rate) > 0.01 + 4 / len(index):
        raise DataError(
            f"{file} moves {moved:.0%} of the captions, but data.noise_rate is {rate:.0%}.",
            "State the rate of that file, or take the file of that rate.",
        )


def draw_index(count: int, rate: float) -> NDArray[np.int64]:
    """A permutation that moves about `rate * count` entries."""
    rng = random.Random(SEED)
    index = np.arange(count, dtype=np.int64)
    chosen = rng.sample(range(count), int(rate * count))
    others = chosen.copy()
    rng.shuffle(others)
    index[chosen] = others
    return index


def read_index(path: Path, count: int) -> NDArray[np.int64]:
    """A published index file. Raises DataError unless it is a permutation of the training captions."""
    try:
        index = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} is not an index file of noisy captions: {error}.", "It is a .npy file of whole numbers."
        ) from None
    if not isinstance(index, np.ndarray) or index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(f"{path} is not a list of whole numbers.")
    if len(index) != count:
        raise DataError(
            f"{path} is for {len(index):,} training captions, this split has {count:,}.",
            "Index files belong to one data set, whole and in the official order (no data.exclude).",
        )
    if not np.array_equal(np.sort(index), np.arange(count)):
        raise DataError(f"{path} is not a permutation: some captions are named twice and others not at all.")
    return index.astype(np.int64)
