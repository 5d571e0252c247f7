"""An index file as a database: what the others are compared with, copied from and copied into.

Every row is looked at, and a filter is a mask over all rows, so its answers are exact. A `FeatureFile` is a snapshot;
this takes a new one whenever other processes have changed the file, so that what they keep is seen at once, as in a
server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tbps_cli import files
from tbps_cli.databases.base import Matches
from tbps_cli.errors import DatabaseError
from tbps_cli.features.asked import columns_of
from tbps_cli.features.parts import part_paths
from tbps_cli.features.rows import Rows, encoded
from tbps_cli.features.snapshot import read_fingerprint
from tbps_cli.features.store import FeatureFile
from tbps_cli.filtering.columns import Columns, Texts
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.tree import Tree
from tbps_cli.retrieval.rank import topk

SEED = 20_260_101
"""Of samples: the same gallery gives the same population."""


class _Reading:
    """An index file as it was read, and what was made of its rows."""

    def __init__(self, file: FeatureFile) -> None:
        self.file = file

    @cached_property
    def columns(self) -> Columns:
        return columns_of(self.file.known())

    @cached_property
    def order_N(self) -> NDArray[np.int64]:
        """The places of the rows in the order of their paths."""
        return np.argsort(self.file.known().columns["path"], kind="stable")

    def passing(self, where: Tree | None) -> NDArray[np.int64] | None:
        """The places of the rows that a filter lets through; None: all of them."""
        return None if where is None else np.flatnonzero(mask(where, self.columns))

    def texts(self, field: str) -> list[str]:
        """The different known texts of a field in byte order."""
        column = self.columns.column(field)
        if not isinstance(column, Texts):
            return []
        known_V = np.unique(column.text_V[column.known_V])
        return [text.decode("utf-8", "surrogateescape") for text in known_V.tolist()]


class LocalDatabase:
    """The rows of one index file. Raises CacheError where the file is damaged or cannot be written."""

    exact = True

    def __init__(
        self, path: Path, fingerprint: str | None, about: Mapping[str, object], dtype: DTypeLike = np.float16
    ) -> None:
        self.path, self.fingerprint, self._given, self._new_dtype = path, fingerprint, dict(about), dtype
        self.title = str(path)
        self._reading: _Reading | None = None
        self._seen: object = None
        self._changed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        fingerprint: str | None = None,
        about: Mapping[str, object] | None = None,
        dtype: DTypeLike = np.float16,
    ) -> LocalDatabase:
        """The index at a path. create: one that is not there is begun by the first `add`, with vectors of this dtype.

        Raises DatabaseError without an index there, CacheError for one that was made by another model.
        """
        there = read_fingerprint(path)
        if there is None and not create:
            raise DatabaseError(f"{path}: there is no index.", "Make one: tbps index FOLDER --index FILE")
        database = cls(path, fingerprint or there, about or {}, dtype)
        database._now()
        return database

    @property
    def about(self) -> Mapping[str, object]:
        """What the index was told of itself."""
        return self._now().file.about

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its vectors, or of those that it is going to have."""
        return self._now().file.dtype

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        """Keep rows, on the disk when this returns."""
        if self.fingerprint is None:
            raise DatabaseError(f"{self.title}: the model of its vectors is not known.", "Open it with a fingerprint.")
        reading = self._reading or self._now()  # what others have added meanwhile does not matter here
        reading.file.append(rows, np.asarray(vector_NE))
        self._changed = True

    def search(self, query_QE: NDArray[np.float32], k: int, where: Tree | None = None) -> list[Matches]:
        """The k best rows of each query; of equal ones the earlier in the file. Raises DataError on NaN vectors."""
        reading = self._now()
        file, rows = reading.file, reading.file.known()
        query_QE = np.asarray(query_QE, np.float32)
        vector_NE = file.matrix() if len(rows) else np.empty((0, query_QE.shape[1]), file.dtype)
        score_QK, place_QK = topk(query_QE, vector_NE, k, reading.passing(where))
        pairs = zip(score_QK, place_QK, strict=True)
        return [Matches(rows.take(place_K), score_K, vector_NE[place_K]) for score_K, place_K in pairs]

    def delete(self, paths: Sequence[str]) -> int:
        """Drop rows."""
        file = self._now().file
        gone_N = np.isin(file.known().columns["path"], np.array([encoded(path) for path in paths] or [b""]))
        count = int(gone_N.sum())
        if count:
            file.keep(~gone_N)
        return count

    def count(self, where: Tree | None = None) -> int:
        """How many rows a filter lets through."""
        reading = self._now()
        place_K = reading.passing(where)
        return len(reading.file) if place_K is None else len(place_K)

    def columns(self) -> tuple[str, ...]:
        """The fields of which any row has a value."""
        return tuple(name for name in self._now().columns.known() if name != "score")

    def values(self, field: str, most: int = 1000) -> list[str] | None:
        """The different texts of a field."""
        found = self._now().texts(field)
        return None if len(found) > most else found

    def extent(self, field: str) -> tuple[str, str] | None:
        """The first and the last text of a field."""
        found = self._now().texts(field)
        return (found[0], found[-1]) if found else None

    def sample(self, size: int, where: Tree | None = None) -> NDArray[np.float32]:
        """Vectors drawn at random."""
        reading = self._now()
        place_K = reading.passing(where)
        if place_K is None:
            place_K = np.arange(len(reading.file))
        if len(place_K) > size:
            place_K = np.sort(np.random.default_rng(SEED).choice(place_K, size, replace=False, shuffle=False))
        return reading.file.vectors(place_K).astype(np.float32)

    def page(self, after: str | None, size: int) -> tuple[Rows, NDArray[Any]]:
        """Rows in the order of their paths."""
        reading = self._now()
        rows = reading.file.known()
        path_N, order_N = rows.columns["path"], reading.order_N
        start = 0 if after is None else int(np.searchsorted(path_N, encoded(after), "right", order_N))
        place_K = order_N[start : start + size]
        return rows.take(place_K), reading.file.vectors(place_K)

    def roots(self) -> Mapping[str, str]:
        """Name of a folder -> where it lies."""
        named = self.about.get("sources")
        return {str(name): str(place) for name, place in named.items()} if isinstance(named, dict) else {}

    def add_root(self, name: str, folder: str) -> str:
        """Make a folder known; it reaches the disk with the first rows."""
        named, file = dict(self.roots()), self._now().file
        free, number = name, 1
        while named.get(free, folder) != folder:
            number += 1
            free = f"{name}-{number}"
        if free not in named:
            file.about["sources"] = {**named, free: folder}
            self._given = file.about
            if len(file):
                file.renewed = True
                file.compact()
        return free

    def moment(self) -> AbstractContextManager[None]:
        return nullcontext()

    def history(self) -> Sequence[tuple[str, int]]:
        return ()

    def unfinished(self) -> int:
        return 0

    def settle(self, watch: Callable[[int, int], None] | None = None) -> bool:
        return True

    def close(self) -> None:
        """After changes leave one file, without parts beside it."""
        if self._reading is not None and self._changed:
            self._reading.file.compact()

    def _now(self) -> _Reading:
        """The file as it is at this moment. What belongs together is taken from one of these."""
        seen = self._state()
        if self._reading is None or seen != self._seen:
            there = read_fingerprint(self.path)
            self.fingerprint = self.fingerprint or there
            about = self._given if there is None else None
            file = FeatureFile.open(self.path, self.fingerprint or "", dtype=self._new_dtype, about=about)
            self._reading = _Reading(file)
        self._seen = seen
        return self._reading

    def _state(self) -> object:
        """What differs once somebody has written."""
        return files.identity(self.path), tuple(part.name for part in part_paths(self.path))
