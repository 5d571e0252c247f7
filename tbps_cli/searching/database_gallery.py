"""A gallery that lies in a database, as a search sees it: its name and size, what filters may ask of it, its files.

Its rows stay where they are. What an answer needs of them is fetched (`searching.remote`); what is shown of an answer
later, such as everybody in a frame, is asked for then.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.base import Database
from tbps_cli.databases.opening import open_database
from tbps_cli.databases.urls import is_url, shown
from tbps_cli.errors import DatabaseError, TbpsError, UsageError
from tbps_cli.features.asked import columns_of
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.image_ways import SUFFIXES
from tbps_cli.features.rows import Box, Row, Rows, encoded
from tbps_cli.filtering.columns import Columns, Texts
from tbps_cli.filtering.tree import And, Compare, Tree
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.index_file import other_weights, refuse_batch_dependent
from tbps_cli.trust.population import SAMPLE

logger = logging.getLogger("tbps")
VALUES = 2000
"""Different texts of a field that are asked for: the cameras that a question may name."""
OF_A_TRACK = 5000
"""Rows of a track that are looked at to know when it was seen."""
_DATED = re.compile(r"\d{4}-\d\d-\d\d")
_TRIED = 20
"""Files that are looked for, to find out whether this machine has them."""
REMEMBERED = 5000
"""Rows of former answers that are remembered."""
SAMPLES = 8
"""Filters of which a sample is kept: each takes some megabytes."""


@dataclass(frozen=True)
class DatabaseColumns(Columns):
    """What a filter may ask, without the rows: which fields have values, and which texts there are."""

    names: frozenset[str] = frozenset()

    def knows(self, name: str) -> bool:
        return name in self.names


@dataclass(frozen=True)
class BestRows(Gallery):
    """The best rows of a gallery that lies elsewhere, and a sample that stands for all of them."""

    names: frozenset[str] = frozenset()
    """The fields of which any row of the whole gallery has a value."""
    sample_SE: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1), np.float32))

    @cached_property
    def columns(self) -> Columns:
        return DatabaseColumns(len(self), columns_of(self.rows).makers, names=self.names)

    @property
    def population_GE(self) -> NDArray[Any]:
        return self.sample_SE


@dataclass(frozen=True)
class DrawnRows:
    """Vectors drawn from a database; they stand for all that were not fetched."""

    vector_SE: NDArray[np.float32]

    @cached_property
    def number_of(self) -> dict[bytes, int]:
        """Where a vector stands in the sample, by its bytes."""
        return {row_E.tobytes(): number for number, row_E in enumerate(self.vector_SE)}


@dataclass
class _Known:
    """What was learnt of a database; it may have changed since."""

    size: int
    samples: dict[Tree | None, DrawnRows] = field(default_factory=dict)
    rows: dict[str, tuple[Row, NDArray[np.float32]]] = field(default_factory=dict)
    """The hits so far, by their paths."""
    looked_for_files: bool = False
    told_unfinished: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A server answers several searches at a time."""


@dataclass(frozen=True)
class DatabaseGallery(Gallery):
    """A gallery in a database; `rows` and `vector_GE` are empty."""

    database: Database = field(kw_only=True)
    known: _Known = field(kw_only=True)

    def __len__(self) -> int:
        return self.known.size

    @cached_property
    def columns(self) -> Columns:
        ask = self.database
        texts = {name: lambda name=name: _texts(ask.values(name, VALUES)) for name in ("camera", "person", "source")}
        times = {"time": lambda: _texts(_times(ask))}
        return DatabaseColumns(len(self), {**texts, **times}, names=frozenset(ask.columns()))

    def drawn(self, tree: Tree | None = None) -> DrawnRows:
        """Vectors that stand for all that pass a filter, drawn once."""
        samples = self.known.samples
        found = samples.get(tree)
        if found is None:
            found = DrawnRows(self.database.sample(SAMPLE, tree))
            with self.known.lock:
                samples[tree] = found
                for other in [one for one in samples if one not in (None, tree)][: max(0, len(samples) - SAMPLES)]:
                    del samples[other]
        return found

    def found(self, path: str) -> BestRows | None:
        """The row of this name, as a gallery of its own; None where there is none (any more)."""
        anything_1E = np.eye(1, self.drawn().vector_SE.shape[1], dtype=np.float32)
        (matches,) = self.database.search(anything_1E, 1, Compare("path", "==", path))
        if not len(matches.rows):
            return None
        made = self.fetched(matches.rows, matches.vector_KE)
        self.remember(made, [row.path for row in matches.rows])
        return made

    def fetched(self, rows: Rows, vector_KE: NDArray[Any]) -> BestRows:
        """Rows that were found, as a gallery of their own."""
        names = frozenset(self.columns.known()) - {"score"}
        return BestRows(self.name, self.roots, rows, vector_KE, self.run, names=names, sample_SE=self.drawn().vector_SE)

    def count(self, tree: Tree) -> int:
        return self.database.count(tree)

    def vector_of(self, path: str) -> NDArray[np.float32]:
        return self.known.rows[path][1].astype(np.float32)

    def content_of(self, path: str) -> str:
        known = self.known.rows.get(path)
        return known[0].content if known else ""

    def boxes_in(self, source: str, seconds: float | None) -> list[Box]:
        there: Tree = Compare("source", "==", source)
        if seconds is not None:
            there = And((there, Compare("seconds", "==", seconds)))
        return [row.box for row in self._some(there) if row.box]

    def duration_of(self, source: str | None, track: str | None, seconds: float | None) -> tuple[float, float]:
        if source is None or track is None or seconds is None:
            return 0.0, 0.0
        same = self._some(And((Compare("source", "==", source), Compare("track", "==", track))))
        moments = [row.seconds for row in same if row.seconds is not None] or [seconds]
        return max(0.0, seconds - min(moments)), max(0.0, max(moments) - seconds)

    def remember(self, found: BestRows, paths: Sequence[str]) -> None:
        """Keep what is known of hits for what is shown later; says once if their files are not on this machine."""
        place = {path: number for number, path in enumerate(found.rows.paths)}
        rows = found.rows.take(np.array([place[path] for path in paths], int))
        with self.known.lock:
            kept = self.known.rows
            for row in rows:
                kept.pop(row.path, None)  # the latest stand last
                kept[row.path] = row, found.vector_GE[place[row.path]].copy()
            for path in list(kept)[: max(0, len(kept) - max(REMEMBERED, len(rows)))]:
                del kept[path]
        if self.known.looked_for_files or not len(rows):
            return
        self.known.looked_for_files = True
        some = [self.file_of(row) for row in rows[:_TRIED]]
        if not any(file.is_file() for file in some):
            logger.warning(
                "%s: its images are not on this machine (for example %s); hits are named, but cannot be shown or "
                "copied. If they lie elsewhere here: --root DIR",
                self.name,
                some[0],
            )

    def tell_unfinished(self) -> None:
        """Say if the newest rows are not found as surely as the others yet: once until they are."""
        count = self.database.unfinished()
        if count and not self.known.told_unfinished:
            logger.warning(
                "%s: %s of %s images came lately and have no index yet. Until the server has built it (`tbps index` "
                "waits for that), a search misses some of the best of them, unless a filter leaves few.",
                self.name,
                f"{count:,}",
                f"{len(self):,}",
            )
        self.known.told_unfinished = bool(count)

    def _some(self, tree: Tree) -> Rows:
        """Rows that pass a filter which few pass."""
        anything_1E = np.eye(1, self.drawn().vector_SE.shape[1], dtype=np.float32)
        return self.database.search(anything_1E, OF_A_TRACK, tree)[0].rows


def open_remote(places: Sequence[str | Path]) -> Database:
    """The database that these places name: a URL, or several that are shards. Raises UsageError for other places."""
    urls = [place for place in places if is_url(place)]
    if len(urls) < len(places):
        raise UsageError(f"--in {shown(urls[0])}: a database is searched alone.", "Leave the other sources out.")
    return open_database(urls)


def database_gallery(database: Database, model: Encoder, root: Path | None = None) -> DatabaseGallery:
    """A database as a gallery; it is closed with it. root: where the images lie on this machine.

    Raises DatabaseError where another model made its vectors.
    """
    try:
        refuse_other_model(f"--in {database.title}", database.fingerprint, database.about, model)
    except TbpsError:
        database.close()
        raise
    made = DatabaseGallery(
        database.title,
        _roots(database, root),
        Rows.of([]),
        np.zeros((0, 1), np.float32),
        str(model.path),
        database=database,
        known=_Known(database.count()),
    )
    weakref.finalize(made, database.close)
    return made


def refuse_other_model(title: str, made_by: str | None, about: Mapping[str, object], model: Encoder) -> None:
    """Raises DatabaseError where the vectors of a gallery were made by another model, TbpsError where none can be.

    made_by: the fingerprint of the gallery; in which precision images were embedded makes no difference here, since
    each way of embedding was compared with float32.
    """
    refuse_batch_dependent(model)
    if made_by not in (None, model.fingerprint, *(model.fingerprint + suffix for suffix in SUFFIXES)):
        run = about.get("run", "unknown")
        if (hint := other_weights(run, model)) is not None:
            raise DatabaseError(f"{title}: its vectors were made with other weights of {run}.", hint)
        raise DatabaseError(
            f"{title}: its vectors were made by another model than {model.path}: {run}.", f"Use that one: --ckpt {run}"
        )


def place_here(folder: Path) -> str:
    """A folder of this machine as databases keep it: `HOST:/FOLDER`, since others have folders of that name too."""
    return f"{os.uname().nodename}:{folder.resolve()}"


def _roots(database: Database, root: Path | None) -> Roots:
    named = database.roots()
    if root is not None:
        below = {name: root / name if (root / name).exists() else root for name in named}
        return Roots(root, below)
    folder = Path(str(database.about.get("folder", ".")))
    return Roots(folder, {name: Path(_folder(place)) for name, place in named.items()})


def _folder(place: str) -> str:
    """The folder in `HOST:/FOLDER`; what has no host is a folder."""
    host, mark, folder = place.partition(":/")
    return f"/{folder}" if mark and "/" not in host else place


def _times(database: Database) -> Sequence[str] | None:
    """The first and the last time; all of them where some are written otherwise and would stand at an end."""
    edges = database.extent("time") or ()
    return edges if all(map(_DATED.match, edges)) else database.values("time", VALUES)


def _texts(values: Sequence[str] | None) -> Texts | None:
    return Texts(np.array([encoded(value) for value in values], "S")) if values else None
