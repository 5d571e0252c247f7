"""What every database that keeps a gallery can do: `add`, `search`, `delete`, `count`, `columns`.

A database holds what an index file holds: rows (`features.rows`) and their vectors, made by one model (`fingerprint`).
An index file itself is one (`databases.local`), so that all of them are tested, moved and searched alike.
A path names a row. In a gallery of several folders it begins with the folder's name (`roots`), as in
`searching.gallery.Roots`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_cli.features.rows import Rows
from tbps_cli.filtering.tree import Tree


@dataclass(frozen=True)
class Matches:
    """The best rows of one query, best first."""

    rows: Rows
    score_K: NDArray[np.float32]
    """Dot products of the query with the stored vectors, computed in float32."""
    vector_KE: NDArray[Any]
    """The stored vectors, in the type in which they are stored."""


class Database(Protocol):
    """A gallery that is kept somewhere. Every method may raise DatabaseError; none shows a password.

    Vectors are unit rows, [N, E]. A filter is a syntax tree (`filtering.tree`), which means the same everywhere;
    it cannot ask for the score.
    """

    @property
    def title(self) -> str:
        """As it is shown: the URL without its password, or the file."""

    @property
    def fingerprint(self) -> str | None:
        """Of the model that made the vectors; None while the gallery is empty and was never given one."""

    @property
    def about(self) -> Mapping[str, object]:
        """What was told of it when it was made: `run` is the checkpoint."""

    @property
    def exact(self) -> bool:
        """Whether `search` looks at every row; otherwise 99 of 100 of the ten best are found (in Milvus: up to 100,000
        rows)."""

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        """Keep rows; when this returns they survive a kill of the server. A path that is known is replaced."""

    def search(self, query_QE: NDArray[np.float32], k: int, where: Tree | None = None) -> list[Matches]:
        """The k best rows of each query among those that a filter lets through (fewer where there are fewer)."""

    def delete(self, paths: Sequence[str]) -> int:
        """Drop rows; returns how many there were."""

    def count(self, where: Tree | None = None) -> int:
        """How many rows a filter lets through."""

    def columns(self) -> tuple[str, ...]:
        """The fields (`filtering.tree.FIELDS`) of which any row has a value."""

    def values(self, field: str, most: int = 1000) -> list[str] | None:
        """The different texts of a text field in byte order ("on camera 3" needs them); None: more than `most`."""

    def extent(self, field: str) -> tuple[str, str] | None:
        """The first and the last text of a text field in byte order; None where no row has one."""

    def sample(self, size: int, where: Tree | None = None) -> NDArray[np.float32]:
        """Vectors of rows drawn at random, all of them where there are not more: the population of scores."""

    def page(self, after: str | None, size: int) -> tuple[Rows, NDArray[Any]]:
        """Rows in the order of their paths (bytes of UTF-8), from the one behind `after` on."""

    def roots(self) -> Mapping[str, str]:
        """Name of a folder, with which paths begin -> where it lies; empty where paths are relative to one folder."""

    def add_root(self, name: str, folder: str) -> str:
        """Make a folder known; returns its name, which differs where another folder has it already."""

    def moment(self) -> AbstractContextManager[None]:
        """Reads within see at least what was kept when it began; where that costs time, they wait for it once."""

    def history(self) -> Sequence[tuple[str, int]]:
        """Of each server: which history its gallery has, and how far it has come; nothing where that is not known.

        Where another history is told later, or one that is not so far, an older state was restored, or another server
        took over: rows that were acknowledged before may be as they were earlier.
        """

    def unfinished(self) -> int:
        """Rows that were added lately, of which a search without a narrow filter misses some so far; mostly 0."""

    def settle(self, watch: Callable[[int, int], None] | None = None) -> bool:
        """Wait until rows that were added are found as surely as all others.

        watch: told how many rows are ready, of how many. False where that is not to be expected.
        """

    def close(self) -> None:
        """End the connection."""
