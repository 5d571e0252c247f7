"""CLIP's byte pairs for many words at once: each round takes the earliest merge of every word, with NumPy.

A loop over single words takes 10 us each; half a million words that nobody has seen before take 6 s so. Here the bytes
of all words lie in one array, with the rank of each neighbouring pair beside them, and every round is a dozen passes
over what is left: about ten rounds, whatever the number of words. The result is that of the definition, word by word:
the merge of the lowest rank first, all its places from left to right, until none is left.

The table of merges is read with array operations too, since a search makes it anew each time it starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

BYTES = 256
FIRST = 2 * BYTES
"""The id of the first merge: before it come the bytes, and the bytes at a word's end."""
NEVER = np.iinfo(np.int32).max
VISIBLE = 188
"""Bytes that Latin-1 shows as a character; the merges file writes these as themselves."""
_SPREAD = np.uint32(2654435769)
"""An odd number near 2^32 divided by the golden ratio: its multiples spread well (Knuth, volume 3, section 6.4)."""


class Merges:
    """The merges of a vocabulary: text of words -> ids."""

    def __init__(self, lines: Sequence[str]) -> None:
        """lines: two symbols each, the earliest merge first; its id is 512 + its place."""
        order = _bytes_in_order()
        self._of_byte = np.empty(BYTES, np.int32)
        self._of_byte[order] = np.arange(BYTES)
        symbols = [*_symbols(order), *"\n".join(lines).replace(" ", "").split("\n")]
        number_of = dict(zip(symbols, range(len(symbols)), strict=True))
        parts = " ".join(lines).split(" ")
        pair_N2 = np.array([number_of[part] for part in parts], np.uint32).reshape(-1, 2)
        self._fill(_keys(pair_N2[:, 0], pair_N2[:, 1]), FIRST + np.arange(len(lines), dtype=np.int32))

    def _fill(self, key_N: NDArray[np.uint32], id_N: Ids) -> None:
        """A table with room for five times as many: a pair lies at its own slot, or at the next free one."""
        self._shift = np.uint32(32 - (5 * len(key_N)).bit_length())
        slots = 1 << (32 - int(self._shift))
        self._key, self._id = np.zeros(slots, np.uint32), np.full(slots, NEVER, np.int32)
        place_N, left = self._slots(key_N), np.arange(len(key_N))
        while len(left):
            place = place_N[left]
            free = self._id[place] == NEVER
            _, first = np.unique(place[free], return_index=True)  # of several that want one slot, one gets it
            settled = left[free][first]
            self._key[place_N[settled]], self._id[place_N[settled]] = key_N[settled], id_N[settled]
            left = left[self._key[place] != key_N[left]]
            place_N[left] = (place_N[left] + 1) & (slots - 1)

    def _slots(self, key: NDArray[np.uint32]) -> NDArray[np.int64]:
        return ((key * _SPREAD) >> self._shift).astype(np.int64)

    def rank(self, left: Ids, right: Ids) -> Ids:
        """The id that each pair becomes, which is also its rank; NEVER where there is no such merge."""
        key = _keys(left, right)
        place = self._slots(key)
        found = self._id[place]
        wrong = np.flatnonzero((self._key[place] != key) & (found != NEVER))
        while len(wrong):
            place[wrong] = (place[wrong] + 1) & (len(self._key) - 1)
            found[wrong] = self._id[place[wrong]]
            wrong = wrong[(self._key[place[wrong]] != key[wrong]) & (found[wrong] != NEVER)]
        return found

    def ids(self, words: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """(ids of all words in order, where each word's begin and the last ends); no word is empty or holds a blank."""
        raw = np.frombuffer(" ".join([*words, ""]).encode(), np.uint8)
        blank = raw == ord(" ")
        symbol = self._of_byte[raw]
        symbol[:-1] += BYTES * blank[1:]  # the last byte of each word
        word = np.cumsum(blank, dtype=np.int32)[~blank]
        return _sorted(self._merged(symbol[~blank], word), len(words))

    def _merged(self, symbol: Ids, word: Ids) -> list[tuple[Ids, Ids]]:
        """(symbols, words) in parts: the words that each round finds finished."""
        parts: list[tuple[Ids, Ids]] = []
        rank = np.full(len(symbol), NEVER, np.int32)
        inner = np.flatnonzero(word[:-1] == word[1:])
        rank[inner] = self.rank(symbol[inner], symbol[inner + 1])
        while len(symbol):
            begins = np.flatnonzero(np.diff(word, prepend=np.int32(-1)))
            lengths = np.diff(begins, append=len(word))
            best = np.repeat(np.minimum.reduceat(rank, begins), lengths)
            done = best == NEVER
            if done.any():
                parts.append((symbol[done], word[done]))
                symbol, word, rank, best = (values[~done] for values in (symbol, word, rank, best))
            place = _apart(np.flatnonzero(rank == best))
            symbol[place] = best[place]
            keep = np.ones(len(symbol), np.bool_)
            keep[place + 1] = False
            symbol, word, rank = symbol[keep], word[keep], rank[keep]
            self._rank_anew(symbol, word, rank, place - np.arange(len(place)))
        return parts

    def _rank_anew(self, symbol: Ids, word: Ids, rank: Ids, joined: NDArray[np.int64]) -> None:
        """The pairs to both sides of joined symbols, in place."""
        left = np.concatenate((joined, joined[joined > 0] - 1))
        rank[left] = NEVER
        left = left[left + 1 < len(symbol)]
        left = left[word[left] == word[left + 1]]
        rank[left] = self.rank(symbol[left], symbol[left + 1])


def _keys(left: NDArray[np.integer], right: NDArray[np.integer]) -> NDArray[np.uint32]:
    """One number a pair; ids are below 2^16."""
    return left.astype(np.uint32) << np.uint32(16) | right.astype(np.uint32)


def _apart(place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of places side by side every second one: what has been joined joins no second time in the same round."""
    follows = np.diff(place, prepend=-2) == 1
    if not follows.any():
        return place
    begins = np.maximum.accumulate(np.where(follows, 0, np.arange(len(place))))
    return place[(np.arange(len(place)) - begins) % 2 == 0]


def _sorted(parts: list[tuple[Ids, Ids]], words: int) -> tuple[Ids, NDArray[np.int64]]:
    """Ids in the order of their words; those of one word stand together in one part."""
    word = np.concatenate([np.zeros(0, np.int32), *(part[1] for part in parts)])
    symbol = np.concatenate([np.zeros(0, np.int32), *(part[0] for part in parts)])
    ends = np.cumsum(np.bincount(word, minlength=words))
    return symbol[np.argsort(word, kind="stable")], np.concatenate(([0], ends))


def _bytes_in_order() -> list[int]:
    """The bytes as CLIP counts them: the visible ones of Latin-1 first, then the others."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return visible + [byte for byte in range(BYTES) if byte not in set(visible)]


def _symbols(order: list[int]) -> list[str]:
    """How the merges file writes the bytes: themselves when visible, else characters from U+0100 on."""
    visible = [chr(byte) for byte in order[:VISIBLE]]
    letters = visible + [chr(256 + number) for number in range(BYTES - VISIBLE)]
    return letters + [letter + "</w>" for letter in letters]
