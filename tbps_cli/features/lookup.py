"""Where texts stand in a column of millions of them: their hashes in order, searched in halves.

A dictionary of a million paths takes a second and 200 MB, however few of them are asked for. Here a text becomes 64
bits, computed for a whole column at once; the sorted bits and the order that sorts them lie beside the column in the
file, are mapped as it is, and looking up one path reads a few pages. A hash only proposes: the texts themselves decide,
so that neither equal hashes nor a file that lies about its order find a wrong row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Texts = NDArray[np.bytes_]
BLOCK = 1 << 16
"""Rows that are hashed at a time, so that memory does not grow with the column."""
SORTED = 1 << 12
"""From so many keys on they are looked up in the order of their hashes, which stays in the processor's cache."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def hashes(text_N: Texts) -> NDArray[np.int64]:
    """64 bits of each text; the same ones in a wider column, since zeros behind a text add nothing."""
    words = -(-max(1, text_N.dtype.itemsize) // 8)
    with np.errstate(over="ignore"):
        salt_W = np.arange(1, words + 1, dtype=np.uint64) * _ODD
    found_N = np.empty(len(text_N), np.int64)
    for start in range(0, len(text_N), BLOCK):
        part = text_N[start : start + BLOCK]
        word_NW = part.astype(f"S{8 * words}").view("<u8").reshape(len(part), words)
        total_N = np.zeros(len(part), np.uint64)
        for place in range(words):
            word_N = word_NW[:, place]
            mixed_N = (word_N ^ salt_W[place]) * _MIX
            mixed_N ^= mixed_N >> np.uint64(31)
            mixed_N *= _ODD
            mixed_N ^= mixed_N >> np.uint64(29)
            mixed_N[word_N == 0] = 0
            total_N += mixed_N
        found_N[start : start + BLOCK] = total_N.view(np.int64)
    return found_N


def coded(text_N: Texts) -> tuple[Texts, NDArray[np.int64]]:
    """The different texts of a column, in no order, and for each row the number of its text."""
    if not len(text_N) or not text_N.strides[0]:  # one text, repeated
        return text_N[:1], np.zeros(len(text_N), np.int64)
    _, first_V, code_N = np.unique(hashes(text_N), return_index=True, return_inverse=True)
    text_V = text_N[first_V]
    if (text_V[code_N] != text_N).any():  # two texts with the same hash
        text_V, code_N = np.unique(text_N, return_inverse=True)
    return text_V, code_N


class Lookup:
    """Finds texts in a column."""

    def __init__(self, text_N: Texts, hash_N: NDArray[np.int64], order_N: NDArray[np.integer[Any]]) -> None:
        """hash_N: the hashes of the column in ascending order; order_N: the rows that have them."""
        self.text_N, self.hash_N, self.order_N = text_N, hash_N, order_N

    @classmethod
    def of(cls, text_N: Texts) -> Lookup:
        """Made of the column itself."""
        hash_N = hashes(text_N)
        order_N = np.argsort(hash_N, kind="stable")
        return cls(text_N, hash_N[order_N], order_N.astype(np.int32 if len(order_N) < 2**31 else np.int64))

    def find(self, key_K: Texts) -> NDArray[np.int64]:
        """The first row that has each text; -1 where none has it."""
        place_K = np.full(len(key_K), -1, np.int64)
        if not len(key_K) or not len(self.hash_N):
            return place_K
        hash_K = hashes(key_K)
        order_K = np.argsort(hash_K) if len(key_K) >= SORTED else np.arange(len(key_K))
        at_K = np.searchsorted(self.hash_N, hash_K[order_K])
        while len(order_K):
            there_K = at_K < len(self.hash_N)
            there_K[there_K] = self.hash_N[at_K[there_K]] == hash_K[order_K[there_K]]
            order_K, at_K = order_K[there_K], at_K[there_K]
            row_K = self._rows(at_K)
            same_K = self.text_N[row_K] == key_K[order_K]
            place_K[order_K[same_K]] = row_K[same_K]
            order_K, at_K = order_K[~same_K], at_K[~same_K] + 1  # another text has the same hash
        return place_K

    def every(self, key_K: Texts) -> NDArray[np.int64]:
        """All rows that have one of the texts, in ascending order."""
        hash_K = np.unique(hashes(key_K))
        first_K = np.searchsorted(self.hash_N, hash_K)
        count_K = np.searchsorted(self.hash_N, hash_K, "right") - first_K
        at_R = np.repeat(first_K - np.cumsum(count_K) + count_K, count_K) + np.arange(count_K.sum())
        row_R = np.unique(self._rows(at_R))
        return row_R[np.isin(self.text_N[row_R], key_K)] if len(row_R) else row_R

    def _rows(self, at_K: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the order says, kept inside the column whatever it says."""
        return np.clip(self.order_N[at_K].astype(np.int64), 0, max(0, len(self.text_N) - 1))
