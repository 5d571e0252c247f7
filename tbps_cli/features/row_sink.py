"""Rows on their way into a feature file: collected into batches, embedded, and written every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from tbps_cli.features.encoder import Embeddings
from tbps_cli.features.rows import Row, texts
from tbps_cli.features.store import FeatureFile

Value = TypeVar("Value")

FLUSH_SECONDS = 5.0
SEEN_SECONDS = 2.0
"""The same where somebody waits for the rows."""
FLUSH_ROWS = 4096
"""New rows are written at least this often."""


@dataclass(frozen=True)
class ReadyRow(Generic[Value]):
    """Something to embed: its row, and what the encoder takes, unless an embedding of its content is known."""

    row: Row
    value: Value | None
    truncated: bool = False
    wide: bool = False


class RowSink(Generic[Value]):
    """Rows on their way to the file: first they wait for a whole batch, then to be written.

    whole: embeddings depend on the rest of the batch, so every row is embedded, also those of equal content.
    written: called whenever new rows are in the file; they are then written more often, for whoever waits for them.
    """

    def __init__(
        self,
        file: FeatureFile,
        encode: Callable[[list[Value]], Embeddings],
        batch: int,
        *,
        whole: bool,
        written: Callable[[], None] | None = None,
    ) -> None:
        self.written, self.wait = written, FLUSH_SECONDS if written is None else SEEN_SECONDS
        self.file, self.encode, self.batch, self.whole = file, encode, batch, whole
        self.path_of: dict[str, str] = {}
        """Content -> a path that has it, of the rows that came since this began."""
        self.batched: dict[str, tuple[list[Row], Value]] = {}
        """Content (or path, where every row counts) -> its rows and what the encoder takes."""
        self.unwritten: dict[str, tuple[Row, Embeddings]] = {}
        """Path -> its row and embedding."""
        self.since = time.monotonic()
        self.added = self.embedded = 0

    def knows(self, content: str) -> bool:
        """Whether an embedding of a content should be there; asked by threads, so that they need not decode."""
        return not self.whole and (content in self.path_of or self._in_file(content) >= 0)

    def add(self, ready: ReadyRow[Value]) -> bool:
        """Take a row. False when it needs its value: the only row of its content was replaced meanwhile."""
        row = ready.row
        key = row.path if self.whole else row.content
        if key in self.batched:
            self.batched[key][0].append(row)
        elif (embedding_E := self._known(row.content)) is not None:
            self._keep(row, embedding_E)
        elif ready.value is None:
            return False
        else:
            self.batched[key] = [row], ready.value
            if len(self.batched) == self.batch:
                self.embed()
        return True

    def embed(self) -> None:
        """Embed what waits, however much it is."""
        if not self.batched:
            return
        row_BE = self.encode([value for _, value in self.batched.values()])
        for (rows, _), embedding_E in zip(self.batched.values(), row_BE, strict=True):
            for row in rows:
                self._keep(row, embedding_E)
        self.embedded += len(self.batched)
        self.batched = {}
        if len(self.unwritten) >= FLUSH_ROWS or time.monotonic() - self.since > self.wait:
            self.flush()

    def flush(self) -> None:
        """Write what is embedded; when this returns it survives a kill."""
        if self.unwritten:
            rows, embeddings = zip(*self.unwritten.values(), strict=True)
            self.file.append(rows, np.stack(embeddings))
            self.unwritten = {}
            if self.written is not None:
                self.written()
        self.since = time.monotonic()

    def _keep(self, row: Row, embedding_E: Embeddings) -> None:
        self.unwritten[row.path] = row, embedding_E
        self.added += 1
        if not self.whole:
            self.path_of[row.content] = row.path

    def _known(self, content: str) -> Embeddings | None:
        """The embedding of a content, from what waits or from the file.

        The row that had it may be gone: its path got another content in this very run, or another process
        replaced or dropped it and the file was merged since.
        """
        path = self.path_of.get(content)
        if path in self.unwritten:
            row, embedding_E = self.unwritten[path]
            if row.content == content:
                return embedding_E
        place = -1 if self.whole else self._in_file(content)
        if place < 0:
            return None
        stored: Embeddings = self.file.vectors(np.array([place]))[0].astype(np.float32)
        return stored

    def _in_file(self, content: str) -> int:
        """Where the file has a row of a content; -1 where it has none."""
        return int(self.file.snapshot.places_of_contents(texts([content]))[0])
