"""Captions longer than the context, embedded piece by piece.

CLIP's text towers read 77 tokens and cut the rest, which is most of a caption of 80 words. With
`method.long_captions = "chunk"` a long caption is cut at blanks into pieces that fit, each is embedded,
and the unit vectors are averaged, weighted by their tokens. A caption that fits is embedded as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@runtime_checkable
class Cutting(Protocol):
    """A tokenizer that can say how a sentence falls into pieces."""

    def pieces(self, text: str, *, query: bool = False, taken: int = 0) -> list[list[int]]: ...
    def row(self, ids: Sequence[int]) -> NDArray[np.int64]: ...


def embed_pieces(
    encode: Callable[[NDArray[np.int64]], Rows],
    tokenizer: Cutting,
    texts: Sequence[str],
    *,
    query: bool = False,
    taken: int = 0,
) -> Rows:
    """Sentences of any length -> [B, E] unit rows.

    encode: [N, T] ids -> [N, E] unit rows; taken: places of the context that the method fills itself.
    """
    parts = [tokenizer.pieces(text, query=query, taken=taken) for text in texts]
    row_NE = encode(np.stack([tokenizer.row(ids) for pieces in parts for ids in pieces]))
    sums, start = [], 0
    for pieces in parts:
        weight_K = np.array([max(1, len(ids)) for ids in pieces], np.float32)
        part_KE = row_NE[start : start + len(pieces)]
        # one piece stays as it is, to the last bit
        sums.append(part_KE[0] if len(pieces) == 1 else weight_K @ part_KE)
        start += len(pieces)
    sum_BE = np.stack(sums)
    long_B = np.array([len(pieces) > 1 for pieces in parts])
    sum_BE[long_B] /= np.maximum(np.linalg.norm(sum_BE[long_B], axis=1, keepdims=True), 1e-12)
    return sum_BE
