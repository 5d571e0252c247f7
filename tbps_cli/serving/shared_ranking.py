"""Searches of several requests go through a gallery's vectors together.

Reading the vectors is most of what a search costs, and eight searches read them in three times the time of one. Whoever
searches while another does waits, and the next one searches for all who wait: a batch is as large as the load makes it,
and a single request never waits for others to come. Answers are those of a search alone (`retrieval.rank`).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.searching.gallery import Gallery, Places

DEEPEST = 2000
"""Rows up to which searches are ranked together: with one that asks for all, the others would wait for a long list."""
MOST = 64
"""Searches that are ranked together."""

Ranked = tuple[NDArray[Any], Places]


@dataclass(eq=False)
class _Search:
    """One that waits, and what came of it."""

    query_QE: NDArray[np.float32]
    k: int
    found: Ranked | Exception | None = None


class _Turns:
    """One search at a time, for all that wait."""

    def __init__(self) -> None:
        self.waiting: deque[_Search] = deque()
        self.turn = threading.Lock()


@dataclass(frozen=True)
class SharedGallery(Gallery):
    """A gallery whose rows are ranked for several requests at once."""

    @classmethod
    def of(cls, gallery: Gallery) -> SharedGallery:
        """The same gallery."""
        return cls(**{one.name: getattr(gallery, one.name) for one in fields(Gallery)})

    @cached_property
    def _turns(self) -> _Turns:
        return _Turns()

    def best(self, query_QE: NDArray[np.float32], k: int, place_K: Places | None = None) -> Ranked:
        """As `Gallery.best`. Searches of all rows for few of them go together.

        By codes each goes alone: these cost little, and what they leave out depends on how many rows are wanted.
        """
        if place_K is not None or k > DEEPEST or len(query_QE) > 1 or self.cascade is not None:
            return super().best(query_QE, k, place_K)
        mine = _Search(query_QE, k)
        turns = self._turns
        turns.waiting.append(mine)
        with turns.turn:  # those before have answered us, or it is our turn
            while mine.found is None:
                self._rank([turns.waiting.popleft() for _ in range(min(MOST, len(turns.waiting)))])
        if isinstance(mine.found, Exception):
            raise mine.found
        return mine.found

    def _rank(self, batch: list[_Search]) -> None:
        try:
            together_QE = np.concatenate([one.query_QE for one in batch])
            score_QK, place_QK = super().best(together_QE, max(one.k for one in batch))
        except Exception as error:
            if len(batch) == 1:
                batch[0].found = error
                return
            for one in batch:  # only whoever asked for what cannot be answered is told
                self._rank([one])
            return
        for row, one in enumerate(batch):
            one.found = score_QK[row : row + 1, : one.k], place_QK[row : row + 1, : one.k]
